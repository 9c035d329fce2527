"""`quality.classifier`: scores, the three ways to keep, models with and without settings; and the quantile of a corpus."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.cli import main
from pipeline.config import resolve
from pipeline.yamlfile import ConfigError, parse
from stages.batch import Batch
from stages.fasttext_classifier import Settings, write_settings
from stages.quality.classifier import ClassifierConfig, QualityClassifier, pareto, uniform
from stages.quality.quantile import ClassifierQuantile, QuantileConfig, rounded
from stages.stage import StageError
from tests.support import write_config
from tests.web_stages import ready, run

SCORE, DRAW = "quality_classifier_score", "quality_classifier_draw"
PROSE = (
    "The committee met again last week, and most of its members agreed that the old bridge should be repaired before the winter. "
    "Nobody could say what that would cost, but the engineers were asked to find out. They will report in the spring."
)
MENU = "Home\nAbout\nContact\nLogin\nCart (0)\nTerms\nPrivacy\n1 2 3 4 Next »\nTable of Contents\n1.1\n1.2\nIndex"


def test_the_bundled_model_tells_sentences_from_menus() -> None:
    values, decision = run(ready(QualityClassifier(ClassifierConfig())), id=["a", "b"], text=[PROSE, MENU])
    good, bad = values.column(SCORE).to_pylist()
    assert good > 0.9 and bad < 0.1
    assert decision.rule == [None, "low_score"] and (decision.value[1], decision.threshold[1]) == (bad, 0.5)


def test_bad_input_has_a_score() -> None:
    texts = [None, "", "\0\0", "\n", "a" * 1_000_000, "__label__prose", "</s>", "🙂", "\u202e", "1 " * 500_000]
    stage = ready(QualityClassifier(ClassifierConfig()))
    values, _ = run(stage, id=[str(n) for n in range(len(texts))], text=pa.array(texts, pa.string()))
    scores = values.column(SCORE).to_pylist()
    assert all(0 <= score <= 1 for score in scores) and scores[:4] == [0.0] * 4


def test_another_model_and_its_settings(tmp_path: Path) -> None:
    import fasttext

    lines = tmp_path / "lines.txt"
    lines.write_text("__label__hq Good Words\n__label__cc bad words\n" * 50)
    path = tmp_path / "other.bin"
    fasttext.train_supervised(
        str(lines), thread=1, epoch=20, lr=1.0, dim=4, minCount=1, bucket=100, verbose=0
    ).save_model(str(path))
    stage = ready(QualityClassifier(ClassifierConfig(model=str(path))))
    values, _ = run(stage, id=["a", "b", "c"], text=["Good", "bad", "good"])
    upper, bad, lower = values.column(SCORE).to_pylist()
    assert upper > 0.9 and bad < 0.1 and lower < 0.9, "without settings texts are read as they are"
    write_settings(path, Settings("cc", lower_case=True))
    (one, two), _ = _scores(ClassifierConfig(model=str(path)), ["BAD", "Good"])
    assert one > 0.9 > two
    (one, two), _ = _scores(ClassifierConfig(model=str(path), label="hq", lower_case=False), ["BAD", "Good"])
    assert one < 0.9 < two, "knobs go before settings"
    with pytest.raises(StageError, match=r"no label 'prose'; its labels: .*hq.*set `label`"):
        ready(QualityClassifier(ClassifierConfig(model=str(path), label="prose")))
    Path(f"{path}.json").write_text('{"format": 2}')
    with pytest.raises(StageError, match=r"settings .* newer release"):
        ready(QualityClassifier(ClassifierConfig(model=str(path))))
    Path(f"{path}.json").unlink()
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(StageError, match="ends too early"):
        ready(QualityClassifier(ClassifierConfig(model=str(path))))


def test_languages_that_the_model_was_not_taught_are_skipped() -> None:
    languages = pa.array(["en", "eng_Latn", "de", "xx", None])
    for keep in ("threshold", "pareto"):
        stage = ready(QualityClassifier(ClassifierConfig(keep=keep)))
        values, decision = run(stage, id=list("abcde"), text=[MENU] * 5, language=languages)
        assert [score is None for score in values.column(SCORE).to_pylist()] == [False, False, True, True, False]
        rule = "low_score" if keep == "threshold" else "not_drawn"
        assert decision.rule == [rule, rule, None, None, rule] and decision.skipped == {rule: 2}
    stage = ready(QualityClassifier(ClassifierConfig(languages=())))
    assert None not in run(stage, id=list("abcde"), text=[MENU] * 5, language=languages)[0].column(SCORE).to_pylist()


def _scores(config: ClassifierConfig, texts: list[str]) -> tuple[list[float], list[str | None]]:
    values, decision = run(ready(QualityClassifier(config)), id=[str(n) for n in range(len(texts))], text=texts)
    return values.column(SCORE).to_pylist(), decision.rule


def test_pareto_keeps_as_many_as_numpys_draws_would() -> None:
    stage = QualityClassifier(ClassifierConfig(keep="pareto", alpha=9))
    count = 20_000
    draws = [uniform(f"document {n}", 0) for n in range(count)]
    assert abs(np.mean(draws) - 0.5) < 0.01 and min(draws) >= 0 and max(draws) < 1
    rng = np.random.default_rng(3)
    for score in (0.1, 0.5, 0.9, 1.0):
        decision = stage.decide(pa.table({SCORE: [score] * count, DRAW: draws}))
        kept = decision.rule.count(None) / count
        assert kept == pytest.approx(float(np.mean(rng.pareto(9, 200_000) > 1 - score)), abs=0.012)
        assert kept == pytest.approx((2 - score) ** -9 if score < 1 else 1.0, abs=0.012)
    dropped = decision_of(stage, 0.5, 0.5)
    assert dropped.rule == ["not_drawn"] and dropped.value == [0.5]
    assert dropped.threshold[0] == pytest.approx(1 - pareto(np.array(0.5), 9))


def decision_of(stage: QualityClassifier, score: float, draw: float):
    return stage.decide(pa.table({SCORE: [score], DRAW: [draw]}))


def test_draws_depend_on_id_and_seed_alone() -> None:
    texts = [PROSE + str(n) for n in range(30)]
    ids = [f"id{n}" for n in range(30)]
    stage = ready(QualityClassifier(ClassifierConfig(keep="pareto")))
    one = stage.measure(Batch(pa.table({"id": ids, "text": texts}))).column(DRAW).to_pylist()
    back = stage.measure(Batch(pa.table({"id": ids[::-1], "text": texts}))).column(DRAW).to_pylist()
    assert one == back[::-1] and len(set(one)) == 30
    other = ready(QualityClassifier(ClassifierConfig(keep="pareto", seed=1)))
    assert other.measure(Batch(pa.table({"id": ids, "text": texts}))).column(DRAW).to_pylist() != one


@pytest.mark.parametrize(
    ("knobs", "message"),
    [("keep: all, threshold: 0.3", "not looked at with keep: all"), ("alpha: 3", "need keep: pareto")],
)
def test_knobs_that_would_do_nothing_are_refused(knobs: str, message: str) -> None:
    text = f"name: x\ninput: {{source: a, format: jsonl, paths: [a]}}\nstages:\n  - quality.classifier: {{{knobs}}}\n"
    with pytest.raises(ConfigError, match=message):
        resolve(parse(text, "config.yaml"))


def summary_of(stage: ClassifierQuantile, parts: list[pa.Table]) -> pa.Table:
    return stage.merge(stage.summarise(Batch(part)) for part in parts)


def test_the_quantile_is_that_of_the_whole_corpus() -> None:
    rng = np.random.default_rng(1)
    scores = np.round(rng.beta(0.3, 0.8, 5000), 6)
    table = pa.table({SCORE: scores})
    stage = ClassifierQuantile(QuantileConfig(share=0.1))
    summary = summary_of(stage, [table])
    cut_up = summary_of(stage, [table.slice(at, 321) for at in range(0, 5000, 321)])
    assert summary.equals(cut_up), "the summary depends on how the corpus is cut"
    nested = stage.merge(iter([summary_of(stage, [table.slice(0, 2000)]), summary_of(stage, [table.slice(2000)])]))
    assert nested.equals(summary), "merging is not associative"
    assert summary.num_rows < 4000
    decision, _ = stage.decide(Batch(table), summary)
    kept = np.array([rule is None for rule in decision.rule])
    assert kept.mean() == pytest.approx(0.1, abs=0.002)
    assert scores[kept].min() >= scores[~kept].max() * 0.998
    assert decision.threshold[int(np.flatnonzero(~kept)[0])] == stage.cuts(summary)[""]


def test_each_language_for_itself_low_values_and_ties() -> None:
    rows = {
        "quality_perplexity": [1.0, 2, 3, 4, 100, 200, 300, 400, None],
        "language": ["en"] * 4 + ["de"] * 4 + ["de"],
    }
    table = pa.table(rows)
    stage = ClassifierQuantile(QuantileConfig(share=0.5, column="quality_perplexity", best="low", per="language"))
    assert stage.needs == ("quality_perplexity", "language")
    decision, _ = stage.decide(Batch(table), summary_of(stage, [table]))
    assert [rule is None for rule in decision.rule] == [True, True, False, False] * 2 + [True]
    assert decision.skipped == {"below_quantile": 1}
    ties = pa.table({SCORE: [0.5, 0.5, 0.5, 0.1]})
    best = ClassifierQuantile(QuantileConfig(share=0.1))
    assert Counter(best.decide(Batch(ties), summary_of(best, [ties]))[0].rule) == {None: 3, "below_quantile": 1}
    empty = pa.table({SCORE: pa.array([], pa.float64())})
    assert best.decide(Batch(empty), summary_of(best, []))[0].rule == []


def test_rounding_keeps_order_and_sees_differences_near_both_ends() -> None:
    rng = np.random.default_rng(2)
    values = np.sort(
        np.concatenate([rng.random(2000), 10.0 ** rng.uniform(-6, 6, 2000), 1 - 10.0 ** rng.uniform(-6, -1, 500)])
    )
    assert (np.diff(rounded(values)) >= 0).all()
    near = rounded(np.array([0.99999, 0.99998, 0.00001, 0.00002, 0.0, 1.0, 0.5]))
    assert len(set(near.tolist())) == 7 and near[4:].tolist() == [0.0, 1.0, 0.5]
    assert np.isnan(rounded(np.array([np.nan]))).all() and np.isinf(rounded(np.array([np.inf]))).all()


def test_a_run_keeps_the_best_share_and_says_why(tmp_path: Path) -> None:
    texts = [PROSE + f" Number {n}." if n % 4 == 0 else MENU + f"\n{n}" for n in range(80)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    path = write_config(
        tmp_path / "config.yaml",
        name="best",
        input={"source": "a", "format": "jsonl", "paths": [str(tmp_path / "in.jsonl")]},
        stages=[{"quality.classifier": {"keep": "all"}}, {"quality.classifier_quantile": {"share": 0.25}}],
        engine={"shard_bytes": "4kB"},
    )
    assert main(["run", str(path), "--output", str(tmp_path / "out"), "--debug"]) == 0
    documents = pa.concat_tables(pq.read_table(part) for part in sorted((tmp_path / "out/documents").glob("*.parquet")))
    assert documents.column("text").to_pylist() == texts[::4]
    ledger = pq.read_table(tmp_path / "out/ledger").to_pylist()
    reasons = Counter((row["stage"], row["rule"]) for row in ledger)
    assert reasons == {(None, None): 20, ("quality.classifier_quantile", "below_quantile"): 60}


def test_the_quantile_needs_its_column() -> None:
    text = "name: x\ninput: {source: a, format: jsonl, paths: [a]}\nstages: [quality.classifier_quantile]\n"
    with pytest.raises(ConfigError, match=r"needs `quality_classifier_score`, .*put `quality.classifier` before it"):
        resolve(parse(text, "config.yaml"))
