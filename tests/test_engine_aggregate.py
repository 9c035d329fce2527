"""An aggregate stage from end to end: a summary of the whole corpus decides about every document."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from tests.support import tree, write_config
from tests.toy_stages import run_toy, write_rows

PROMISED = ("documents", "ledger", "samples")


def config(folder: Path, texts: list[str], sources: int = 1, **knobs: object) -> Path:
    entries = []
    for number in range(sources):
        write_rows(folder / f"in-{number}.jsonl", texts[number::sources])
        entries.append({"source": f"s{number}", "format": "jsonl", "paths": [str(folder / f"in-{number}.jsonl")]})
    return write_config(
        folder / "config.yaml",
        name="aggregate",
        input=entries,
        stages=[{"toy.length": {"shortest": 3}}, {"toy.median": knobs}, {"toy.length": {"as": "late", "shortest": 0}}],
        engine={"shard_bytes": "2kB"},
    )


def kept(out: Path) -> list[dict]:
    return [row for path in sorted((out / "documents").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_documents_at_least_as_long_as_the_median(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    texts = ["x" * int(n) for n in rng.integers(0, 90, 199)]
    path = config(tmp_path, texts)
    assert run_toy(path, tmp_path / "out", debug=True)[0] == 0
    long_enough = [text for text in texts if len(text) >= 3]
    median = float(np.median([len(text) for text in long_enough]))
    documents = kept(tmp_path / "out")
    assert [row["text"] for row in documents] == [text for text in long_enough if len(text) >= median]
    assert {row["toy_median"] for row in documents} == {median}
    ledger = pq.read_table(tmp_path / "out/ledger").to_pylist()
    assert len(ledger) == 199
    for row in ledger:
        if row["stage"] == "toy.median":
            assert row["rule"] == "short" and row["threshold"] == median and row["value"] < median
    facts = json.loads((tmp_path / "out/run.json").read_text())
    assert [phase["kind"] for phase in facts["phases"]] == ["map", "aggregate", "map"]
    counts = {stage["stage"]: stage for stage in facts["stages"]}
    assert counts["toy.length"]["rows_out"] == counts["toy.median"]["rows_in"] == len(long_enough)
    assert counts["toy.median"]["rows_out"] == counts["late"]["rows_in"] == len(documents)

    assert run_toy(path, tmp_path / "one", "engine.shard_bytes=1MB", debug=True)[0] == 0
    assert kept(tmp_path / "one") == documents, "the summary depends on how the input is cut"


def test_a_changed_corpus_changes_every_decision(tmp_path: Path) -> None:
    """One more document moves the median: every unit behind the summary runs again, none before it."""
    texts = ["a" * n for n in range(10, 90)]
    path = config(tmp_path, texts)
    assert run_toy(path, tmp_path / "out", debug=True)[0] == 0
    before = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out/journal/00-toy.length").iterdir()}
    with (tmp_path / "in-0.jsonl").open("a") as file:
        file.write(json.dumps({"text": "b" * 200}) + "\n")
        file.write(json.dumps({"text": "b" * 201}) + "\n")
    assert run_toy(path, tmp_path / "out", debug=True)[0] == 0
    assert {row["toy_median"] for row in kept(tmp_path / "out")} == {float(np.median([*range(10, 90), 200, 201]))}
    assert run_toy(path, tmp_path / "fresh", debug=True)[0] == 0
    assert tree(tmp_path / "out", *PROMISED) == tree(tmp_path / "fresh", *PROMISED)
    assert before.keys() == {p.name for p in (tmp_path / "out/journal/00-toy.length").iterdir()}


def test_only_some_sources_and_nothing_left(tmp_path: Path) -> None:
    texts = ["x" * (n % 50) for n in range(100)]
    path = config(tmp_path, texts, sources=2, only={"source": ["s1"]}, factor=1000.0)
    assert run_toy(path, tmp_path / "out", debug=True)[0] == 0
    documents = kept(tmp_path / "out")
    assert {row["source"] for row in documents} == {"s0"} and all(row["toy_median"] is None for row in documents)
    facts = json.loads((tmp_path / "out/run.json").read_text())
    counts = {stage["stage"]: stage for stage in facts["stages"]}
    assert counts["toy.median"]["skipped"] == {"only": len(documents)}
    assert counts["toy.median"]["dropped"] == {"short": counts["toy.median"]["rows_in"] - len(documents)}

    assert run_toy(path, tmp_path / "none", "toy.median.only=null", debug=True)[0] == 0
    assert kept(tmp_path / "none") == []
    assert len(pq.read_table(tmp_path / "none/ledger")) == 100
