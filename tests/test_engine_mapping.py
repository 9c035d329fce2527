"""Map stages over batches: only, by_language, edits, rows that fail alone, and nothing that depends on where batches end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config import stage_spec
from pipeline.engine.mapping import AggregateRunner, MapRunner, apply_edits
from pipeline.yamlfile import Located
from stages.batch import Batch
from stages.stage import Edit
from tests import toy_stages

LANGUAGES = ["en", "de", "fr", None]
TEXTS = ["", "a", "an apple a day", "keep  the doctor", "[[raise]] this", "verboten hier", "x " * 30, "naïve 𝔞𝔟 text"]


def runner(stage: str, **knobs: Any) -> MapRunner:
    built = MapRunner(stage_spec(stage, knobs, Located({}, "test", {}), ()), 5.0)
    built.setup(lambda path: pytest.fail("toy stages have no assets"))
    return built


def batch(rows: list[tuple[str, str | None, str]]) -> Batch:
    texts, languages, sources = zip(*rows, strict=True) if rows else ((), (), ())
    return Batch(
        pa.table(
            {
                "id": pa.array([f"id{n:04d}" for n in range(len(rows))]),
                "text": pa.array(texts, pa.large_string()),
                "language": pa.array(languages, pa.string()),
                "source": pa.array(sources, pa.string()),
            }
        )
    )


def judged(stage: MapRunner, rows: Batch, size: int) -> dict[str, Any]:
    """Everything that a stage says of rows given `size` at a time, as plain data."""
    parts = [stage(Batch(rows.table.slice(start, size))) for start in range(0, len(rows), size)]
    return {
        "kept": [row for part in parts for row in part.kept.table.to_pylist()],
        "dropped": [row for part in parts for row in part.dropped.table.to_pylist()],
        "verdicts": [verdict for part in parts for verdict in part.verdicts],
        "measured": [row for part in parts for row in part.measured.to_pylist()],
        "after": [row for part in parts for row in part.after.table.to_pylist()],
        "rules": [rule for part in parts for rule in part.rules],
        "counts": {k: v for k, v in stage.counts.to_dict().items() if k != "seconds"},
    }


ROWS = st.lists(st.tuples(st.sampled_from(TEXTS), st.sampled_from(LANGUAGES), st.sampled_from(["s", "t"])), max_size=24)
KNOBS = st.sampled_from(
    [
        {},
        {"forbidden": "verboten"},
        {"only": {"language": ["en", "de"]}},
        {"only": {"source": ["t"], "language": ["fr"]}, "forbidden": "an"},
        {"by_language": {"de": {"mark": "!!", "words": 1}, "fr": {"forbidden": "a"}}},
        {"only": {"source": ["s"]}, "by_language": {"en": {"words": 0}, "de": {"forbidden": "verboten", "mark": ""}}},
    ]
)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, knobs=KNOBS, size=st.integers(1, 25))
def test_nothing_depends_on_where_batches_end(rows, knobs, size) -> None:
    whole = batch(rows)
    assert judged(runner("toy.tags", **knobs), whole, size) == judged(runner("toy.tags", **knobs), whole, 1000)


@settings(max_examples=60, deadline=None)
@given(rows=ROWS, knobs=KNOBS)
def test_each_row_is_judged_as_if_it_were_alone_under_its_own_knobs(rows, knobs) -> None:
    """The engine's scattering and gathering against a plain loop with a plain stage a row."""
    outcome = runner("toy.tags", **knobs)(batch(rows))
    only, variants = knobs.get("only", {}), knobs.get("by_language", {})
    plain = {name: value for name, value in knobs.items() if name not in ("only", "by_language")}
    for row, (text, language, source) in enumerate(rows):
        after = outcome.after.table.slice(row, 1).to_pylist()[0]
        passed_by = ("language" in only and language not in only["language"]) or (
            "source" in only and source not in only["source"]
        )
        if passed_by:
            assert outcome.rules[row] is None and after["text"] == text and after["toy_tags"] is None
            continue
        if "[[raise]]" in text:
            assert outcome.rules[row] == "error" and after["toy_tags"] is None
            continue
        mine = toy_stages.TagsConfig(**{**plain, **variants.get(language, {})})
        words = text.split()[: mine.words]
        tags = [{"word": w, "places": [i for i, c in enumerate(w) if c == "a"] or None} for w in words] or None
        assert after["toy_tags"] == tags
        assert after["toy_tags_first"] == (words[0] + mine.mark if words else None)
        assert after["toy_tags_large"] == text[::-1]
        assert after["toy_tags_bytes"] == (text.encode()[:4] or None)
        assert after["toy_tags_when"].timestamp() == len(text)
        forbidden = mine.forbidden is not None and mine.forbidden in words
        assert outcome.rules[row] == ("forbidden" if forbidden else None)
        if not forbidden:
            assert after["text"] == text.replace(" ", mine.mark)


def test_rows_that_are_passed_by_keep_what_they_had() -> None:
    rows = batch([("an apple", "en", "s"), ("ein Apfel", "de", "s"), ("une pomme", "fr", "s")])
    first = runner("toy.tags", mark="_")(rows).after
    second = runner("toy.tags", mark="+", words=1, only={"language": ["de"]})
    outcome = second(first)
    assert outcome.after.values("toy_tags_first") == ["an_", "ein_Apfel+", "une_"]
    assert [len(tags) for tags in outcome.after.values("toy_tags")] == [2, 1, 2]
    assert second.counts.skipped == {"only": 2}
    assert outcome.measured.column("id").to_pylist() == ["id0001"]


def test_one_bad_row_fails_alone() -> None:
    texts = [f"text {n}" for n in range(64)]
    texts[17], texts[40] = "[[raise]]", "[[sysexit]]"
    stage = runner("toy.length", shortest=7)
    rows = batch([(f"[[length]]{text}" if "[[" in text else text, "en", "s") for text in texts])
    outcome = stage(rows)
    assert stage.counts.failed == {"error": 2} and stage.counts.dropped == {"short": 10}
    bad = [verdict for verdict in outcome.verdicts if verdict["fate"] == "failed"]
    assert [v["detail"] for v in bad] == ["ValueError", "SystemExit"]
    assert len(outcome.kept) == 52
    assert outcome.measured.num_rows == 62, "a row that could not be measured has no scores"


def test_a_full_disk_is_no_fault_of_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Any, rows: Batch) -> pa.Table:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(toy_stages.Length, "measure", full)
    with pytest.raises(OSError, match="No space left"):
        runner("toy.length")(batch([("text", "en", "s")]))


def test_a_loop_is_cut_short_whatever_it_catches() -> None:
    stage = runner("toy.poison")
    stage.seconds = 0.2
    outcome = stage(batch([("fine", "en", "s"), ("[[loop]]", "en", "s")]))
    assert outcome.rules == [None, "timeout"]
    (verdict,) = outcome.verdicts
    assert verdict["fate"] == "failed" and verdict["threshold"] == 0.2


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, known=st.sets(st.integers(0, 23)), knobs=st.sampled_from([{}, {"only": {"language": ["en", None]}}]))
def test_known_scores_change_nothing(rows, known, knobs) -> None:
    """Rows with scores of an earlier run, at any places, get the verdicts that measuring gives; failed rows have none."""
    knobs = {name: value for name, value in knobs.items() if None not in value.get("language", [])}
    rows = [(text.replace("[[raise]]", "[[length]][[raise]]"), language, source) for text, language, source in rows]
    whole = batch(rows)
    fresh = judged(runner("toy.length", shortest=3, longest=15, **knobs), whole, 1000)
    scores = pa.Table.from_pylist(
        [row for row in fresh["measured"] if int(row["id"][2:]) in known],
        schema=pa.schema([("id", pa.string()), ("toy_length_units", pa.int64())]),
    )
    reusing = runner("toy.length", shortest=3, longest=15, **knobs)
    reusing.reuse(scores)
    assert judged(reusing, whole, 7) == fresh


@pytest.mark.parametrize(
    "edits", [[Edit(3, 2, "")], [Edit(0, 2, ""), Edit(1, 3, "")], [Edit(0, 9, "")], [Edit(-1, 1, "")]]
)
def test_edits_that_make_no_sense(edits: list[Edit]) -> None:
    with pytest.raises(ValueError, match="out of order or outside"):
        apply_edits("short", edits)


def test_edits_count_code_points() -> None:
    assert apply_edits("𝔞𝔟 naïve", [Edit(0, 1, "A"), Edit(1, 1, "-"), Edit(3, 8, "")]) == "A-𝔟 "


def test_an_aggregate_stage_passes_by_what_only_leaves_out() -> None:
    spec = stage_spec("toy.median", {"only": {"language": ["en"]}}, Located({}, "test", {}), ())
    rows = batch([("long enough text", "en", "s"), ("no", "de", "s"), ("no", "en", "s")])
    stage = toy_stages.Median(spec.config)
    judge = AggregateRunner(spec, stage.merge(iter([stage.summarise(rows.take(np.array([0, 2])))])))
    outcome = judge(rows)
    assert outcome.rules == [None, None, "short"]
    assert outcome.after.values("toy_median") == [9.0, None, 9.0]
    assert judge.counts.skipped == {"only": 1} and judge.counts.rows_in == 3 and judge.counts.rows_out == 2
