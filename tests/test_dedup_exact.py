from __future__ import annotations

import datetime

import pyarrow as pa
import pytest
from pydantic import ValidationError

from stages.dedup.exact import Exact, ExactConfig
from stages.stage import StageError
from tests.group_runner import run_group


def shard(prefix: str, texts: list[str | None], source: str | list[str] = "s", **columns) -> pa.Table:
    sources = source if isinstance(source, list) else [source] * len(texts)
    ids = [f"{prefix}{i}" for i in range(len(texts))]
    return pa.table({"id": ids, "text": pa.array(texts, pa.string()), "source": sources, **columns})


def run(tables, config=None, **runner) -> list[dict]:
    return [
        row for table in run_group(Exact(ExactConfig(**(config or {}))), tables, **runner) for row in table.to_pylist()
    ]


def kept(rows: list[dict]) -> list[str]:
    return [row["id"] for row in rows if row["rule"] is None]


def test_the_first_of_equal_texts_stays_and_counts_its_copies():
    rows = run([shard("a", ["one", "two", "one"]), shard("b", ["two", "one", "three"])])
    assert kept(rows) == ["a0", "a1", "b2"]
    by_id = {row["id"]: row for row in rows}
    assert by_id["b1"]["rule"] == "duplicate"
    assert by_id["b1"]["kept_id"] == by_id["b1"]["duplicate_of"] == by_id["b1"]["dup_cluster"] == "a0"
    assert by_id["b1"]["similarity"] == by_id["b1"]["dup_similarity"] == 1.0
    assert [by_id[i]["dup_cluster_size"] for i in ("a0", "a1", "a2", "b2")] == [3, 2, 3, 1]
    assert by_id["a0"]["duplicate_of"] is None and by_id["a0"]["dup_cluster"] == "a0"
    assert by_id["b2"]["dup_cluster"] == "b2" and by_id["b2"]["dup_similarity"] is None


def test_normalisation_decides_what_is_equal():
    texts = ["Ab\n\n c", " Ab c\u00a0", "ab c", "Ab\n\n c"]
    assert kept(run([shard("a", texts)], {"normalize": []})) == ["a0", "a1", "a2"]
    assert kept(run([shard("a", texts)])) == ["a0", "a2"]
    assert kept(run([shard("a", texts)], {"normalize": ["case", "whitespace"]})) == ["a0"]


def test_empty_documents_are_never_duplicates():
    rows = run([shard("a", ["", "", None, None, " \n", " \n", "x", "x"])])
    assert kept(rows) == [f"a{i}" for i in range(7)]
    assert run([shard("a", [])]) == []
    assert kept(run([shard("a", ["", None])])) == ["a0", "a1"]


def test_scope_keeps_sources_apart_even_where_source_and_text_run_together():
    table = shard("a", ["bc", "c", "bc", "bc"], ["a", "ab", "a", "z"])
    assert kept(run([table])) == ["a0", "a1", "a3"]
    assert kept(run([table], {"scope": "global"})) == ["a0", "a1"]


def test_survivor_criteria_are_composed_in_order_and_missing_values_lose():
    day = [None, datetime.datetime(2024, 1, 2), datetime.datetime(2024, 1, 1), datetime.datetime(2024, 1, 1)]
    dates = pa.array(day, pa.timestamp("s", "UTC"))
    scores = pa.array([None, float("nan"), 0.5, 2.0])
    table = shard("a", ["x  y", "x y", "x y", "x    y"], date=dates, score=scores)

    def survivor(*criteria):
        return kept(run([table], {"survivor": list(criteria)}))

    assert survivor() == survivor("first") == ["a0"]
    assert survivor("longest") == ["a3"]
    assert survivor("earliest") == ["a2"]
    assert survivor("earliest", "longest") == ["a3"]
    assert survivor("latest") == ["a1"]
    assert survivor("best:score") == ["a3"]
    negative = table.set_column(4, "score", pa.array([-2.0, -1.0, -0.5, -3.0]))
    assert kept(run([negative], {"survivor": ["best:score"]})) == ["a2"]
    whole = table.set_column(4, "score", pa.array([1, 7, -7, 3]))
    assert kept(run([whole], {"survivor": ["best:score"]})) == ["a1"]


@pytest.mark.parametrize("criteria", [["biggest"], ["best:"], ["first", "longest"], ["longest", "longest"]])
def test_criteria_that_cannot_decide_are_refused(criteria):
    with pytest.raises(ValidationError, match="survivor"):
        ExactConfig(survivor=criteria)


def test_a_criterion_without_its_column_names_the_column():
    with pytest.raises(StageError, match=r"quality_score.*id, text, source"):
        run([shard("a", ["x"])], {"survivor": ["best:quality_score"]})
    with pytest.raises(StageError, match="numeric"):
        run([shard("a", ["x"])], {"survivor": ["best:id"]})
    with pytest.raises(StageError, match="timestamp"):
        run([shard("a", ["x"], date=["2024"])], {"survivor": ["latest"]})


def test_tag_mode_drops_nothing_and_a_second_stage_does_not_count_twice():
    table = shard("a", ["x", "x", "x", "y"])
    tagged = run_group(Exact(ExactConfig(mode="tag")), [table])[0]
    assert tagged.column("rule").null_count == tagged.column("kept_id").null_count == 4
    assert tagged.column("duplicate_of").to_pylist() == [None, "a0", "a0", None]
    assert tagged.column("dup_cluster_size").to_pylist() == [3, 3, 3, 1]
    again = run_group(
        Exact(ExactConfig()), [tagged.drop_columns(["rule", "value", "threshold", "kept_id", "similarity"])]
    )[0]
    assert again.column("dup_cluster_size").to_pylist() == [3, 3, 3, 1]


def test_sizes_add_up_over_stages():
    table = shard("a", ["x y", "x  y", "X y", "z"])
    names = ["rule", "value", "threshold", "kept_id", "similarity"]
    first = run_group(Exact(ExactConfig()), [table])[0]
    left = first.filter(pa.array([rule is None for rule in first.column("rule").to_pylist()])).drop_columns(names)
    second = run_group(Exact(ExactConfig(normalize=["whitespace", "case"])), [left])[0]
    assert second.select(["id", "dup_cluster", "dup_cluster_size"]).to_pylist() == [
        {"id": "a0", "dup_cluster": "a0", "dup_cluster_size": 3},
        {"id": "a2", "dup_cluster": "a0", "dup_cluster_size": 3},
        {"id": "a3", "dup_cluster": "a3", "dup_cluster_size": 1},
    ]


def test_partitions_batches_and_cuts_change_nothing(monkeypatch):
    monkeypatch.setattr("stages.dedup.equal.PIECE", 5)
    monkeypatch.setattr("stages.dedup.columns.PIECE", 3)
    texts = [f"text {i * i % 17}" if i % 3 else "boilerplate" + " " * (i % 5) for i in range(120)]
    tables = [shard(f"s{s}-", texts[s * 40 : s * 40 + 40], source="one") for s in range(3)]
    config = {"survivor": ["longest"]}
    expected = run(tables, config, partitions=1, chunk=1000)
    assert sum(row["rule"] is None for row in expected) == len({" ".join(text.split()) for text in texts})
    for partitions, chunk, batch in ((1, 1, 7), (2, 3, 40), (8, 11, 1)):
        assert run(tables, config, partitions=partitions, chunk=chunk, batch=batch) == expected


def test_broken_text_is_compared_like_any_other():
    rows = run([shard("a", ["a\x00b", "a\x00b", "\ufffd", "\ufffd", "x" * 3_000_000, "x" * 3_000_000])])
    assert kept(rows) == ["a0", "a2", "a4"]
