"""Documents with one address: what is a group, which address counts, and which visit is kept."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pytest

from stages.dedup.url import Url, UrlConfig
from stages.stage import StageError
from tests.group_runner import run_group
from tests.support import pipeline


def shard(urls: list[str | None], **columns: object) -> pa.Table:
    rows = len(urls)
    given = {
        "id": [f"a{row}" for row in range(rows)],
        "url": pa.array(urls, pa.string()),
        "text": [f"text {row}" for row in range(rows)],
        "source": ["s"] * rows,
        "date": pa.array(range(rows), pa.timestamp("s", "UTC")),
    }
    return pa.table({**given, **columns})


def kept(table: pa.Table, **knobs: object) -> list[str]:
    (found,) = run_group(Url(UrlConfig(**knobs)), [table])
    return [row["id"] for row in found.to_pylist() if row["rule"] is None]


def test_spellings_of_one_address_are_one_group_and_the_latest_visit_stays() -> None:
    urls = [
        "http://Example.com:80/a?utm_source=x",
        "http://example.com/a#part",
        "https://example.com/a",
        "example.com/a",
        "http://example.com/a/",
    ]
    assert kept(shard(urls)) == ["a2", "a3", "a4"]
    (found,) = run_group(Url(UrlConfig()), [shard(urls)])
    row = found.to_pylist()[0]
    assert (row["rule"], row["kept_id"], row["similarity"], row["dup_cluster_size"]) == ("duplicate", "a3", 1.0, 3)


def test_survivors() -> None:
    table = shard(["http://e.org/a"] * 3, text=["long text", "longer text", "x"], score=[1.0, None, 2.0])
    assert kept(table) == ["a2"]
    assert kept(table, survivor=("earliest",)) == ["a0"]
    assert kept(table, survivor=("longest",)) == ["a1"]
    assert kept(table, survivor=("best:score",)) == ["a2"]
    assert kept(table, mode="tag") == ["a0", "a1", "a2"]
    bare = table.drop_columns(["date"])
    assert kept(bare) == ["a0"]
    with pytest.raises(StageError, match="needs the column 'date'"):
        kept(bare, survivor=("latest",))
    undated = shard(["http://e.org/a"] * 3, date=pa.array([None, 5, None], pa.timestamp("s", "UTC")))
    assert kept(undated) == ["a1"]


def test_what_names_no_host_is_in_no_group() -> None:
    odd = [None, None, "", "", "  ", "  ", "mailto:a@b.c", "mailto:a@b.c", "http://", "http://", "\x00", "\x00"]
    assert len(kept(shard(odd))) == len(odd)
    assert kept(shard(["http://e.org/\ud800".encode("utf-8", "replace").decode()] * 2)) == ["a1"]
    assert kept(shard(["http://e.org/" + "a" * 1_000_000] * 2)) == ["a1"]
    assert kept(shard([None, None]).set_column(1, "url", pa.array([7, 7]))) == ["a0", "a1"]


def test_the_address_that_a_page_names_itself() -> None:
    urls = ["http://m.e.org/a", "http://e.org/a", "http://e.org/b", "http://e.org/c", "http://e.org/d"]
    named = ["http://e.org/a", None, "http://e.org/", "http://e.org/", "mailto:x@e.org"]
    table = shard(urls, canonical_url=pa.array(named))
    assert kept(table) == ["a1", "a2", "a3", "a4"]  # a front page that other pages name tells nothing
    assert kept(table, prefer="url") == ["a0", "a1", "a2", "a3", "a4"]
    fronts = shard(["http://www.e.org", "http://e.org/"], canonical_url=["http://e.org/", None])
    assert kept(fronts) == ["a1"]
    unknown = shard([None, None], canonical_url=["http://e.org/a", "http://e.org/a"])
    assert kept(unknown) == ["a1"]
    with pytest.raises(ValueError, match="prefer"):
        UrlConfig(prefer="best")


def test_apply(tmp_path: Path) -> None:
    rows = [{"url": f"http://e.org/{n % 2}", "date": f"2024-01-0{n + 1}T00:00:00Z"} for n in range(4)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = pipeline("apply", "dedup.url", tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert done.returncode == 0, done.stderr
    out = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["verdict"] for row in out] == ["dedup.url:duplicate"] * 2 + ["keep"] * 2
    assert [row["dup_cluster"] for row in out] == ["2", "3", "2", "3"]
