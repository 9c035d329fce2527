"""Training a classifier: bytes that come again, a split without leaks, figures worked out by hand, and the user's mistakes."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from pipeline.classifier_figures import auc, auc_interval, calibration, thresholds
from pipeline.cli import main
from pipeline.corpora import read_training
from pipeline.train_classifier import ClassifierTraining, _Lines
from stages.fasttext_classifier import Settings, line_of, load_classifier, read_settings
from tests.support import pipeline, tree

GOOD = ["river", "mountain", "forest", "harbour", "meadow", "island", "valley", "orchard", "garden", "glacier"]
OTHER = ["click", "offer", "login", "menu", "cookie", "basket", "coupon", "share", "subscribe", "banner"]


def texts(words: list[str], count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices([*words, "the", "of", "and"], k=12)) + "." for _ in range(count)]


def corpora(folder: Path, good_texts: list[str], other_texts: list[str], **knobs: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, some in (("good", good_texts), ("other", other_texts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in some))
    small = {"dimensions": 8, "buckets": 1000, "epochs": 10, "learning_rate": 0.5, "held_out": 0.3}
    path = folder / "config.yaml"
    content = {
        "name": "toy",
        "good": {"paths": [str(folder / "good.jsonl")], "licence": "own"},
        "ordinary": {"paths": [str(folder / "other.jsonl")]},
        **small,
        **knobs,
    }
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.parametrize("quantize", [False, True])
def test_two_trainings_give_equal_bytes_whatever_the_order_of_rows(tmp_path: Path, quantize: bool) -> None:
    good, other = texts(GOOD, 150, 1), texts(OTHER, 150, 2)
    config = corpora(tmp_path, good, other, quantize=quantize)
    assert main(["train-classifier", str(config), "--output", str(tmp_path / "a")]) == 0
    done = pipeline("train-classifier", config, "--output", tmp_path / "b")  # in a process of its own
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "a", ".") == tree(tmp_path / "b", ".")
    model = "model.ftz" if quantize else "model.bin"
    assert {path.name for path in (tmp_path / "a").iterdir()} == {model, f"{model}.json", "report.json", "README.md"}
    corpora(tmp_path, good[::-1] + good[:5], other[::-1], quantize=quantize)
    assert main(["train-classifier", str(config), "--output", str(tmp_path / "c")]) == 0
    assert (tmp_path / "c" / model).read_bytes() == (tmp_path / "a" / model).read_bytes()
    assert main(["train-classifier", str(config), "--set", "seed=1", "--output", str(tmp_path / "d")]) == 0
    assert (tmp_path / "d" / model).read_bytes() != (tmp_path / "a" / model).read_bytes()


def test_the_model_tells_the_corpora_apart_and_the_report_says_how_well(tmp_path: Path) -> None:
    config = corpora(tmp_path, texts(GOOD, 200, 1), texts(OTHER, 200, 2), languages=["en", "de"])
    assert main(["train-classifier", str(config), "--output", str(tmp_path / "model")]) == 0
    report = json.loads((tmp_path / "model/report.json").read_text())
    held_out = report["held_out"]
    assert held_out["roc_auc"] > 0.99 and held_out["roc_auc_95"][0] < held_out["roc_auc"] <= held_out["roc_auc_95"][1]
    for side in ("good", "ordinary"):
        facts = report["corpora"][side]
        assert facts["train"] + facts["held_out"] == facts["read"] == 200
        assert held_out["documents"][side] == facts["held_out"] > 30
        assert len(facts["corpora"][0]["files"][0]["sha256"]) == 64
    card = (tmp_path / "model/README.md").read_text()
    assert facts["corpora"][0]["files"][0]["sha256"] in card and report["model"]["sha256"] in card and "own" in card
    settings = read_settings(tmp_path / "model/model.bin.json", "test")
    assert settings == Settings("hq", True, True, 10_000, ("en", "de"))
    model = load_classifier(tmp_path / "model/model.bin", "test", settings)
    assert model.score("The river and the valley of the glacier") > 0.9 > 0.1 > model.score("login menu coupon banner")
    assert model.score("") == 0.0


def test_a_text_is_never_on_both_sides(tmp_path: Path) -> None:
    good, other = texts(GOOD, 60, 1), texts(OTHER, 60, 2)
    shared = ["Shared by both corpora.", "  shared BY both\tcorpora.\n"]  # one line, once prepared
    config = read_training(ClassifierTraining, corpora(tmp_path, good * 3 + shared[:1] + [""], other + shared[1:]), [])
    lines = _Lines(tmp_path / "lines", config)
    train, held_out = list(lines.of(held_out=False)), list(lines.of(held_out=True))
    assert not {line for line, _ in train} & {line for line, _ in held_out}
    assert len(train) + len(held_out) == 120 and len({line for line, _ in train + held_out}) == 120
    assert not any("shared" in line for line, _ in train + held_out)
    counts = lines.counts(True)
    assert (counts["read"], counts["empty"], counts["in_both"]) == (182, 1, 1)
    assert 15 < lines.counts(False)["held_out"] + counts["held_out"] < 60
    fewer = read_training(ClassifierTraining, tmp_path / "config.yaml", ["max_documents=20"])
    lines = _Lines(tmp_path / "lines", fewer)
    assert sum(lines.counts(True)[side] for side in ("train", "held_out")) == 20
    assert set(lines.of(held_out=False)) <= set(train), "a sample is of the same sides"


def test_corpora_of_every_format(tmp_path: Path) -> None:
    good, other = texts(GOOD, 30, 1), texts(OTHER, 30, 2)
    config = corpora(tmp_path, good, other)
    run = tmp_path / "run" / "documents"
    run.mkdir(parents=True)
    pq.write_table(pa.table({"id": [str(n) for n in range(30)], "text": good}), run / "part-00000.parquet")
    pq.write_table(pa.table({"body": other}), tmp_path / "other.parquet")
    (tmp_path / "plain").mkdir()
    for number, text in enumerate(other):
        (tmp_path / "plain" / f"{number}.txt").write_text(text)
    expected = sorted(good), sorted(other)
    for ordinary in (
        {"format": "parquet", "paths": [str(tmp_path / "other.parquet")], "text_field": "body"},
        {"format": "text", "paths": [str(tmp_path / "plain" / "*.txt")]},
    ):
        content = yaml.safe_load(config.read_text()) | {
            "good": [{"documents": str(tmp_path / "run")}],
            "ordinary": ordinary,
        }
        config.write_text(yaml.safe_dump(content))
        sides = read_training(ClassifierTraining, config, []).corpora()
        found = tuple(sorted(text for corpus in sides[side] for text in corpus.texts()) for side in sides)
        assert found == expected


def test_bad_rows_do_not_end_a_training(tmp_path: Path) -> None:
    bad = ["\0", "", " \n", "__label__hq offer", "</s>", "é" * 100_000, "\u202e\ufeff", "__label__ordinary"]
    config = corpora(tmp_path, texts(GOOD, 60, 1) + bad, texts(OTHER, 60, 2))
    with (tmp_path / "other.jsonl").open("ab") as file:
        file.write(b'{"text": 7}\n{"no": 1}\n{"text": "\\ud800 x"}\nnot json\n\xff\xfe\n')
    assert main(["train-classifier", str(config), "--output", str(tmp_path / "model")]) == 0
    report = json.loads((tmp_path / "model/report.json").read_text())
    assert report["corpora"]["good"]["empty"] == 3 and report["corpora"]["ordinary"]["empty"] == 4


def test_lines_hold_nothing_that_fasttext_would_take_apart() -> None:
    settings = Settings("hq", lower_case=True, split_punctuation=True, max_characters=40)
    assert line_of("A\u00a0b,\n(C)\0d", settings) == "a b , ( c ) d"
    assert line_of("x" * 100, settings) == "x" * 40
    for text in ("__label__hq", "____label____", "a __LABEL__b", "</s>", "<</s>/s>", "\ud800"):
        words = line_of(text, Settings("hq", lower_case=True)).split()
        assert words and not any(word.startswith("__label__") or word == "</s>" for word in words)


def test_figures_by_hand() -> None:
    scores = np.array([0.9, 0.8, 0.8, 0.3, 0.8, 0.2, 0.1])
    good = np.array([True, True, True, True, False, False, False])
    pairs = [(0.5 if g == o else float(g > o)) for g in scores[good] for o in scores[~good]]
    assert auc(scores, good) == pytest.approx(sum(pairs) / len(pairs))
    assert auc(scores, ~good) == pytest.approx(1 - sum(pairs) / len(pairs))
    with pytest.raises(ValueError, match="both classes"):
        auc(scores, np.ones(7, dtype=bool))
    facts = calibration(scores, good)
    assert facts["brier"] == pytest.approx(float(np.mean((scores - good) ** 2)), abs=1e-6)
    eighth = facts["reliability"][8]
    assert (eighth["documents"], eighth["share_good"]) == (3, 0.6667)
    rows = {row["threshold"]: row for row in thresholds(scores, good)}
    assert rows[0.8]["good_kept"] == 0.75 and rows[0.8]["ordinary_kept"] == 0.3333 and rows[0.8]["precision"] == 0.75


def test_the_interval_has_a_width_at_the_ends_and_covers() -> None:
    low, high = auc_interval(1.0, 50, 50)
    assert 0.9 < low < 1 == high
    assert auc_interval(0.0, 50, 50) == pytest.approx((0.0, 1 - low))
    low, high = auc_interval(0.8, 40, 60)
    assert low < 0.8 < high and auc_interval(0.8, 400, 600)[0] > low
    rng = np.random.default_rng(5)
    truth, hits = 0.760250, 0  # of two normal classes one standard deviation apart: Phi(1 / sqrt 2)
    for _ in range(200):
        scores = np.concatenate([rng.normal(1, 1, 40), rng.normal(0, 1, 40)])
        low, high = auc_interval(auc(scores, np.arange(80) < 40), 40, 40)
        hits += low <= truth <= high
    assert hits >= 182  # of 200: 95% and what chance allows


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"god": {}}, "unknown key 'god'; did you mean 'good'"),
        ({"good": {"paths": ["no/such.jsonl"]}}, "good: .*no such file"),
        ({"good": {}}, "either `paths` or `documents`"),
        ({"ordinary_label": "hq"}, "the labels must differ"),
        ({"quantize": True, "buckets": 1}, "set quantize: false"),
        ({"cutoff": 10}, "needs quantize: true"),
        ({"held_out": 0}, "held_out: expected more than 0"),
        ({"seed": True}, "seed: expected a number"),
        ({"good": {"documents": "x", "format": "text"}}, "documents are Parquet"),
        ({"held_out": 0.0001}, "held out, of .*; at least 2 of each"),
        ({"good": {"documents": "no/run"}}, "good: .*no/run/documents"),
    ],
)
def test_mistakes_name_the_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], message: str
) -> None:
    config = corpora(tmp_path, texts(GOOD, 40, 1), texts(OTHER, 40, 2), **change)
    assert main(["train-classifier", str(config), "--output", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert not (tmp_path / "out").exists()


def test_other_peoples_folders_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = corpora(tmp_path, texts(GOOD, 60, 1), texts(OTHER, 60, 2))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("precious")
    assert main(["train-classifier", str(config), "--output", str(tmp_path / "mine")]) == 2
    assert "holds other files" in capsys.readouterr().err and (tmp_path / "mine/thesis.txt").exists()
