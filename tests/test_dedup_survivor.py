"""Scopes, and sources that win: what every deduplication shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from pipeline.config import resolve
from pipeline.run import Options, run
from pipeline.yamlfile import ConfigError, Located
from stages.batch import Batch
from stages.dedup.exact import Exact, ExactConfig
from stages.dedup.survivor import ranks, scope_keys
from stages.stage import StageError
from tests.group_runner import run_group


def table(**columns: Any) -> pa.Table:
    rows = len(next(iter(columns.values())))
    return pa.table({"id": [f"a{row}" for row in range(rows)], "text": ["the same"] * rows, **columns})


def kept(rows: pa.Table, **knobs: Any) -> list[str]:
    (found,) = run_group(Exact(ExactConfig(**knobs)), [rows])
    return [row["id"] for row in found.to_pylist() if row["rule"] is None]


def same(rows: pa.Table, scope: str) -> list[int]:
    """Which rows share a scope: for each row the first row of its scope."""
    keys = scope_keys(Batch(rows), scope)
    assert keys.dtype == np.uint64 and len(keys) == rows.num_rows
    return [keys.tolist().index(key) for key in keys.tolist()]


def test_sources_and_everything() -> None:
    rows = table(source=["p", "q", "p", None, ""])
    assert same(rows, "source") == [0, 1, 0, 3, 3]
    assert same(rows, "global") == [0] * 5
    assert kept(rows) == ["a0", "a1", "a3"] and kept(rows, scope="global") == ["a0"]


def test_a_dump_by_the_path_of_its_files() -> None:
    files = [
        "CC-MAIN-2024-10/segments/1/a.warc.gz",
        "CC-MAIN-2024-18/segments/1/a.warc.gz",
        "x/CC-MAIN-2024-10/segments/2/b.warc.gz",
        "other/a.warc.gz",
        "other/b.warc.gz",
        None,
    ]
    rows = table(source=["p", "p", "q", "p", "q", "p"], _file=files)
    assert same(rows, r"file:CC-MAIN-\d{4}-\d\d") == [0, 1, 0, 3, 4, 3]
    assert same(rows, r"file:segments/(\d)") == [0, 0, 2, 3, 4, 3]
    assert same(rows, r"file:(CC)?-?MAIN|(b)") == [0, 0, 0, 3, 4, 3]  # a first group that matched nothing
    assert kept(rows, scope=r"file:CC-MAIN-\d{4}-\d\d") == ["a0", "a1", "a3", "a4"]
    with pytest.raises(StageError, match="needs the files of a run's input"):
        scope_keys(Batch(table(source=["p"])), "file:x")


def test_a_dump_in_a_run(tmp_path: Path) -> None:
    """What the pattern has of a path is what the scope sees."""
    for dump, segment in (("2024-10", 1), ("2024-10", 2), ("2024-18", 1)):
        file = tmp_path / f"CC-MAIN-{dump}" / f"{segment}.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.write_text('{"text": "the same in all"}\n' * 2)
    data = {
        "name": "dumps",
        "input": {"source": "crawl", "format": "jsonl", "paths": [f"{tmp_path}/CC-MAIN-*/*.jsonl"]},
        "stages": [{"dedup.exact": {"scope": r"file:CC-MAIN-\d{4}-\d\d"}}],
        "engine": {"executor": "inline"},
    }
    assert run(resolve(Located(data, "c.yaml", {})), Options(str(tmp_path / "run")), lambda line: None) == 0
    ledger = pq.read_table(tmp_path / "run" / "ledger").to_pylist()
    kept = [row["file"] for row in ledger if row["fate"] == "kept"]
    assert len(ledger) == 6 and kept == ["CC-MAIN-2024-10/1.jsonl", "CC-MAIN-2024-18/1.jsonl"]


def test_a_dump_by_a_column() -> None:
    rows = table(source=["p", "q", "p", "q"], dump=["1", None, "1", None], year=[1, 2, 2, None], score=[0.5] * 4)
    assert same(rows, "column:dump") == [0, 1, 0, 1]
    assert same(rows, "column:year") == [0, 1, 1, 3]
    assert kept(rows, scope="column:dump") == ["a0", "a1"]
    surrogate = table(source=["p", "p"], dump=["\x00", "\ufffd"])
    assert same(surrogate, "column:dump") == [0, 1]
    with pytest.raises(StageError, match=r"needs the column 'crawl'.*the documents have id, text, source"):
        scope_keys(Batch(rows), "column:crawl")
    with pytest.raises(StageError, match="strings or whole numbers, but it is double"):
        scope_keys(Batch(rows), "column:score")


@pytest.mark.parametrize("scope", ["dump", "file:", "column:", "file:(", "", "sources"])
def test_scopes_that_are_none_are_refused(scope: str) -> None:
    with pytest.raises(ValidationError, match=r"no scope; use source, global, file:REGEX|no regular expression"):
        ExactConfig(scope=scope)


def test_protected_sources_win_in_the_order_given() -> None:
    rows = table(source=["web", "wiki", "books", "wiki"], score=[9, 1, 5, 2])
    assert kept(rows, scope="global", survivor=("protected:wiki",)) == ["a1"]
    assert kept(rows, scope="global", survivor=("protected:wiki", "best:score")) == ["a3"]
    assert kept(rows, scope="global", survivor=("protected:books", "protected:wiki", "best:score")) == ["a2"]
    assert kept(rows, scope="global", survivor=("best:score", "protected:books")) == ["a0"]
    (of_wiki, *_) = ranks(Batch(rows), ("protected:wiki",)).values()
    assert of_wiki.tolist() == [1, 0, 1, 0]


def test_a_protected_source_that_can_decide_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match="set scope: global"):
        ExactConfig(survivor=("protected:wiki",))
    with pytest.raises(ValidationError, match="no survivor criterion"):
        ExactConfig(scope="global", survivor=("protected:",))
    data = {
        "name": "p",
        "input": {"source": "wiki", "format": "jsonl", "paths": ["x"]},
        "stages": [{"dedup.exact": {"scope": "global", "survivor": ["protected:wikki"]}}],
    }
    with pytest.raises(ConfigError, match=r"dedup\.exact: no input has the source 'wikki'.*'wiki'"):
        resolve(Located(data, "c.yaml", {}))
