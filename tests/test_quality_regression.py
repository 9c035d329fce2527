"""`quality.regression`: a small random BERT made here; its scores beside transformers' own pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    pipeline,
)

from stages.batch import Batch
from stages.quality.regression import Regression, RegressionConfig
from stages.stage import StageError
from tests.tiny_scorer import TEXTS, save
from tests.web_stages import ready, run

SCORE = "quality_regression_score"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model") / "bert")


def test_scores_are_those_of_transformers_own_pipeline(folder: Path) -> None:
    stage = ready(Regression(RegressionConfig(model=str(folder), max_tokens=128, batch_tokens=512, device="cpu")))
    values, decision = run(stage, text=TEXTS)  # also: equal whether rows are measured together or one by one
    theirs = pipeline(
        "text-classification",
        model=AutoModelForSequenceClassification.from_pretrained(folder),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        function_to_apply="none",
        device="cpu",
    )
    expected = [theirs(text, truncation=True, max_length=128)[0]["score"] for text in TEXTS]
    assert values.column(SCORE).to_pylist() == pytest.approx(expected, abs=2e-4)
    assert np.std(expected) > 0.01 and decision.rule == [None] * len(TEXTS)


def test_a_threshold_and_any_batching(folder: Path) -> None:
    knobs = {"model": str(folder), "max_tokens": 128, "device": "cpu"}
    scores = []
    for tokens in (64, 512, 2048):
        stage = ready(Regression(RegressionConfig(**knobs, batch_tokens=tokens)))
        scores.append(stage.measure(Batch(pa.table({"text": TEXTS * 3}))).column(SCORE).to_numpy())
    assert np.abs(scores[0] - scores[1]).max() < 2e-4 > np.abs(scores[0] - scores[2]).max()
    assert (scores[2][: len(TEXTS)] == scores[2][len(TEXTS) : 2 * len(TEXTS)]).all()
    middle = float(np.median(scores[2]))
    values, decision = run(ready(Regression(RegressionConfig(**knobs, threshold=middle))), text=TEXTS)
    assert [rule == "low_score" for rule in decision.rule] == (values.column(SCORE).to_numpy() < middle).tolist()


def test_bad_input_has_a_score(folder: Path) -> None:
    texts = [None, "", "\0", "\n", "🙂" * 1000, "a" * 1_000_000, "[CLS] [SEP] [PAD] [MASK]"]
    stage = ready(Regression(RegressionConfig(model=str(folder), max_tokens=128, device="cpu", batch_tokens=256)))
    values, _ = run(stage, text=pa.array(texts, pa.string()))
    scores = values.column(SCORE).to_numpy()
    assert np.isfinite(scores).all() and scores[0] == scores[1] == scores[3]


def test_unfit_folders_say_what_to_do(folder: Path, tmp_path: Path) -> None:
    def fails(path: Path, **knobs: object) -> str:
        with pytest.raises(StageError) as error:
            ready(Regression(RegressionConfig(model=str(path), **{"max_tokens": 128, **knobs})))
        return str(error.value)

    assert "holds no config.json; give `model` the folder" in fails(tmp_path)
    assert "has 3 outputs, expected 1" in fails(save(tmp_path / "three", outputs=3))
    assert "max_tokens: the model in" in fails(folder, max_tokens=512)
    if not torch.cuda.is_available():
        assert "PyTorch finds no GPU" in fails(folder, device="cuda")
    headless = save(tmp_path / "headless")
    BertModel(BertConfig.from_pretrained(headless)).save_pretrained(headless)
    assert "lacks weights (classifier" in fails(headless)
    broken = save(tmp_path / "broken")
    (broken / "config.json").write_text(json.dumps({"model_type": "no such"}))
    assert "cannot be loaded" in fails(broken)
