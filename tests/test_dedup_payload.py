"""Documents with the same payload: what is a group, and what the stage asks of its place and its knobs."""

from __future__ import annotations

import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline.config import RunConfig, resolve
from pipeline.engine.rows import PAYLOAD_HASH, payload_hash
from pipeline.plan import plan, warnings
from pipeline.yamlfile import ConfigError, Located
from stages.dedup.exact import Exact, ExactConfig
from stages.dedup.payload import Payload, PayloadConfig
from stages.stage import GroupStage, register
from tests.group_runner import run_group


def shard(prefix: str, pages: list[bytes | None], sources: list[str] | None = None, **columns: object) -> pa.Table:
    hashes = [None if page is None else payload_hash(page) for page in pages]
    return pa.table(
        {
            "id": [f"{prefix}{row}" for row in range(len(pages))],
            "text": pa.nulls(len(pages), pa.large_string()),
            "source": sources or ["s"] * len(pages),
            "payload_hash": pa.array(hashes, PAYLOAD_HASH),
            **columns,
        }
    )


def kept(tables: list[pa.Table], **knobs: object) -> list[str]:
    found = run_group(Payload(PayloadConfig(**knobs)), tables)
    return [row["id"] for table in found for row in table.to_pylist() if row["rule"] is None]


def test_the_same_bytes_are_one_group_and_every_other_byte_counts() -> None:
    tables = [shard("a", [b"<p>one", b"<p>One", b"<p>one", b"<p>one "]), shard("b", [b"<p>one", b"\x00", b"\x00"])]
    assert kept(tables) == ["a0", "a1", "a3", "b1"]
    (first, second) = run_group(Payload(PayloadConfig()), tables)
    copy = second.to_pylist()[0]
    assert (copy["rule"], copy["kept_id"], copy["similarity"], copy["dup_cluster_size"]) == ("duplicate", "a0", 1.0, 3)
    assert first.column("dup_cluster_size").to_pylist() == [3, 1, 3, 1]


def test_texts_and_pages_of_no_bytes_are_in_no_group() -> None:
    assert kept([shard("a", [None, None, b"", b"", b"x", b"x"])]) == ["a0", "a1", "a2", "a3", "a4"]
    texts = pa.table({"id": ["a", "b"], "text": ["same", "same"], "source": ["s", "s"]})  # an input without HTML
    assert kept([texts]) == ["a", "b"]
    wrong = pa.table({"id": ["a", "b"], "text": ["same", "same"], "source": ["s", "s"], "payload_hash": [7, 7]})
    assert kept([wrong]) == ["a", "b"]


def test_scope_and_survivor() -> None:
    table = shard("a", [b"x"] * 4, ["p", "q", "p", "q"], date=pa.array([4, 3, 2, 1], pa.timestamp("s", "UTC")))
    assert kept([table]) == ["a0", "a1"]
    assert kept([table], scope="global") == ["a0"]
    assert kept([table], survivor=("earliest",)) == ["a2", "a3"]
    assert kept([table], mode="tag") == ["a0", "a1", "a2", "a3"]
    with pytest.raises(ValidationError, match=r"longest.*decides nothing"):
        PayloadConfig(survivor=("longest",))


def test_a_later_stage_carries_sizes_on() -> None:
    first = run_group(Payload(PayloadConfig()), [shard("a", [b"x", b"x", b"y", b"z"])])[0]
    left = first.filter(pa.array([rule is None for rule in first.column("rule").to_pylist()]))
    left = left.set_column(left.column_names.index("text"), "text", pa.array(["one", "one", "two"]))
    left = left.drop_columns(["rule", "value", "threshold", "kept_id", "similarity", "payload_hash"])
    second = run_group(Exact(ExactConfig()), [left])[0].to_pylist()
    assert [(row["id"], row["dup_cluster"], row["dup_cluster_size"]) for row in second] == [
        ("a0", "a0", 3), ("a2", "a0", 3), ("a3", "a3", 1)
    ]  # fmt: skip


def config(*stages: object, format: str = "warc") -> RunConfig:
    data = {"name": "p", "input": {"source": "s", "format": format, "paths": ["x"]}, "stages": list(stages)}
    return resolve(Located(data, "c.yaml", {}))


def test_its_place() -> None:
    with pytest.raises(
        ConfigError, match=r"dedup\.payload needs `payload_hash`, which ends with `extract`: put `dedup.payload` before"
    ):
        config("extract", "dedup.payload")
    notes = warnings(config("dedup.payload", "url_filter", "opt_out", {"language_guess": {"keep": ["en"]}}, "extract"))
    assert [note.split(" ")[0] for note in notes] == ["url_filter", "opt_out"], notes
    assert warnings(config("url_filter", "dedup.payload", "extract", "quality.c4", "dedup.exact")) == []
    (note,) = warnings(config("dedup.payload", format="wet"))
    assert note.startswith("dedup.payload has nothing to do: no input holds HTML")


def test_phases_that_leave_payloads_and_read_them_again() -> None:
    def marks(*stages: object, pages: bool = True) -> list[tuple[str, bool, bool]]:
        return [(p.name, p.leaves_payload, p.reads_again) for p in plan(config(*stages, format="jsonl").stages, pages)]

    assert marks("url_filter", "dedup.payload", "extract", "pii") == [
        ("00-url_filter", True, False), ("01-dedup.payload", False, False), ("02-extract", False, True), ("03-pii", False, False)
    ]  # fmt: skip
    assert marks("dedup.payload", "extract", pages=False) == [
        ("00-read", False, False), ("01-dedup.payload", False, False), ("02-extract", False, False)
    ]  # fmt: skip
    assert not any(leaves or again for _, leaves, again in marks("opt_out", "extract", "dedup.exact", "pii"))
    assert not any(leaves or again for _, leaves, again in marks("normalize", "dedup.exact", "pii"))


def test_a_group_stage_cannot_ask_for_payloads() -> None:
    with pytest.raises(ValueError, match="never given `html`; `payload_hash` stands for it"):

        @register
        class Wants(GroupStage):
            name = "test.wants"
            needs = ("html",)
