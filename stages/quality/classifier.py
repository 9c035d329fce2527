"""`quality.classifier`: a fastText model's opinion of each document, kept by threshold or by Pareto sampling.

By quantile: `quality.classifier_quantile` after it (`stages/quality/quantile.py`), which needs a summary of the whole corpus.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import model_validator

from stages.batch import Batch
from stages.fasttext_classifier import Classifier, classifier_of, model_assets
from stages.quality.rules import column, table
from stages.stage import ASSETS, Decision, Limit, MapStage, Resources, StageConfig, knob, register

DEFAULT_MODEL = ASSETS / "quality" / "prose.ftz"
SCORE, DRAW = "quality_classifier_score", "quality_classifier_draw"


class ClassifierConfig(StageConfig):
    """Knobs of `quality.classifier`. What is null is read from `<model>.json`, which `train-classifier` writes beside a model."""

    model: str | None = knob(
        None,
        "path of a fastText classifier (.bin, .ftz), best one of your own (`python -m pipeline train-classifier`); null is prose.ftz, "
        "which ships: English running text against lists, menus and reference pages, no judge of what a text says",
    )
    keep: Literal["threshold", "pareto", "all"] = knob(
        "threshold",
        "threshold: drop what scores below it (`low_score`); pareto: keep at random, the better the likelier (`not_drawn`); all: only "
        "add the score, for `quality.classifier_quantile`",
    )
    threshold: float = knob(
        0.5,
        "lowest score that is kept; where it belongs depends on the model: its card has a table of what stays. DCLM's own model: 0.018112",
        "the usual cut of a two-class model",
        ge=0,
        le=1,
    )
    alpha: float = knob(
        9.0,
        "shape of the Pareto rule: a document stays when a Pareto number is above 1 - score; larger keeps fewer of the low ones",
        "GPT-3 (Brown et al. 2020, appendix A)",
        gt=0,
    )
    seed: int = knob(0, "another seed draws other documents")
    label: str | None = knob(None, "the label whose probability is the score; without settings beside the model: hq")
    lower_case: bool | None = knob(None, "whether the model reads lower case; without settings: false")
    split_punctuation: bool | None = knob(
        None, "whether punctuation marks are words of their own; without settings: false"
    )
    languages: tuple[str, ...] | None = knob(
        None,
        "languages that the model was taught; documents with another label have no score and stay (skipped). Without settings: any; "
        "prose.ftz: English",
    )
    max_characters: int | None = knob(
        None, "how much of each text is read, from its beginning; without settings: 10,000", ge=1
    )

    @model_validator(mode="after")
    def _consistent(self) -> ClassifierConfig:
        if self.keep != "threshold" and "threshold" in self.model_fields_set:
            raise ValueError(f"threshold: is not looked at with keep: {self.keep}; leave one of them out")
        if self.keep != "pareto" and self.model_fields_set & {"alpha", "seed"}:
            raise ValueError("alpha: it and `seed` need keep: pareto")
        return self


@register
class QualityClassifier(MapStage):
    """Scores each document by a fastText model, 0 to 1, and drops low ones by threshold or by Pareto sampling.

    A document in a language that the model was not taught has no score and stays. Whether a document is drawn depends on its id, the seed and its score alone: never on shards, workers or order.
    """

    name = "quality.classifier"
    config_model = ClassifierConfig
    needs = ("id", "text")
    decide_knobs = ("keep", "threshold", "alpha")
    libraries: ClassVar[tuple[str, ...]] = ("fasttext-community",)
    resources = Resources(memory=512 << 20)
    config: ClassifierConfig

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__(config)
        self._model: Classifier

    def provides(self) -> dict[str, pa.DataType]:
        return {SCORE: pa.float64()}

    def measures(self) -> dict[str, pa.DataType]:
        """The score, and a number drawn uniformly from [0, 1) by a hash of the document's id and the seed."""
        return {SCORE: pa.float64(), DRAW: pa.float64()}

    def limits(self) -> list[Limit]:
        return [Limit(SCORE, "low_score", self.config.threshold)] if self.config.keep == "threshold" else []

    def assets(self) -> dict[str, str]:
        """The model, and its settings where there are any."""
        return model_assets(self.config.model or str(DEFAULT_MODEL))

    def setup(self, assets: Mapping[str, Path]) -> None:
        """Load the model. Raises `StageError` for a broken file or a label that it does not have."""
        self._model = classifier_of(assets, self.name, self.config)

    def measure(self, batch: Batch) -> pa.Table:
        labels = batch.values("language")
        known = {label: self._model.settings.knows(label) for label in set(labels)}
        scores = [
            self._model.score(text) if known[label] else None for text, label in zip(batch.texts(), labels, strict=True)
        ]
        draws = [uniform(str(one), self.config.seed) for one in batch.values("id")]
        return table(self.measures(), {SCORE: scores, DRAW: draws})

    def decide(self, values: pa.Table) -> Decision:
        """`low_score` shows the score and the threshold, `not_drawn` the score and the least one that would have been kept."""
        decision = Decision.keep(values.num_rows)
        score = column(values, SCORE)
        skipped = int(np.isnan(score).sum())
        if skipped and self.config.keep != "all":
            decision.skipped["low_score" if self.config.keep == "threshold" else "not_drawn"] = skipped
        if self.config.keep == "threshold":
            decision.drop_where(score < self.config.threshold, "low_score", score, self.config.threshold)
        elif self.config.keep == "pareto":
            least = 1.0 - pareto(column(values, DRAW), self.config.alpha)
            for row in np.flatnonzero(score <= least).tolist():
                decision.drop(row, "not_drawn", score[row], least[row])
        return decision


def uniform(name: str, seed: int) -> float:
    """A number in [0, 1) from a hash of a document's id and a seed."""
    digest = hashlib.sha256(f"{seed}\n{name}".encode("utf-8", "replace")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / (1 << 53)


def pareto(draw: np.ndarray, alpha: float) -> np.ndarray:
    """The Pareto II (Lomax) number at each uniform one, distributed as `numpy.random.pareto(alpha)` is."""
    return np.asarray((1.0 - draw) ** (-1.0 / alpha) - 1.0)
