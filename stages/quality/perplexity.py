"""`quality.perplexity`: how surprising an n-gram model of good text finds each document (CCNet, Wenzek et al. 2020)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from stages.batch import Batch
from stages.ngram.arpa import read_arpa
from stages.ngram.model import Model, sentences
from stages.quality.rules import Rule, judge, limits, ratio, table
from stages.stage import Decision, Limit, MapStage, Resources, StageConfig, StageError, knob, register

PERPLEXITY, UNKNOWN = "quality_perplexity", "quality_perplexity_unknown"


class PerplexityConfig(StageConfig):
    """Knobs of `quality.perplexity`; `by_language` gives each language a model of its own."""

    model: str = knob(
        ..., "path of an ARPA file (.arpa, .arpa.gz): `python -m pipeline train-perplexity`, KenLM's lmplz, SRILM"
    )
    tokens: Literal["words", "whitespace"] = knob(
        "words",
        "how the model's training text was cut. words: lower case, marks apart, digits as 0 (`train-perplexity`); whitespace: as it is",
    )
    max_perplexity: float | None = knob(
        1500.0, "drop texts that surprise the model more; null switches the rule off", "data-juicer 1.4 (English)", gt=0
    )
    min_perplexity: float | None = knob(
        None, "drop texts that surprise it less: repetitions, boilerplate; null switches the rule off", gt=0
    )
    max_unknown: float | None = knob(
        None,
        "drop texts with a larger share of words that the model does not know; null switches the rule off",
        ge=0,
        le=1,
    )
    max_characters: int | None = knob(20_000, "how much of each text is read, from its beginning; null: all", ge=1)


@register
class Perplexity(MapStage):
    """Perplexity of each document under an n-gram model: 10 to the mean negative log10 probability of its words and line ends.

    Null for texts without words: they are skipped. `quality.classifier_quantile` with `column: quality_perplexity, best: low` keeps the best
    share, as CCNet's head.
    """

    name = "quality.perplexity"
    config_model = PerplexityConfig
    decide_knobs = ("max_perplexity", "min_perplexity", "max_unknown")
    resources = Resources(memory=1 << 30)
    config: PerplexityConfig

    def __init__(self, config: PerplexityConfig) -> None:
        super().__init__(config)
        self._model: Model

    def provides(self) -> dict[str, pa.DataType]:
        return {PERPLEXITY: pa.float64()}

    def measures(self) -> dict[str, pa.DataType]:
        """The perplexity, rounded to 3 digits after the point, and the share of words (not line ends) that the model does not know."""
        return {PERPLEXITY: pa.float64(), UNKNOWN: pa.float64()}

    def rules(self) -> list[Rule]:
        knobs = self.config
        return [
            Rule("max_perplexity", PERPLEXITY, "max", knobs.max_perplexity),
            Rule("min_perplexity", PERPLEXITY, "min", knobs.min_perplexity),
            Rule("max_unknown", UNKNOWN, "max", knobs.max_unknown),
        ]

    def limits(self) -> list[Limit]:
        return limits(self.rules())

    def assets(self) -> dict[str, str]:
        return {"model": self.config.model}

    def setup(self, assets: Mapping[str, Path]) -> None:
        """Read the model. Raises `StageError` for a file that is none."""
        path = assets["model"]
        try:
            self._model = read_arpa(path)
        except (OSError, ValueError) as error:
            raise StageError(
                f"{self.name}: the model {path} cannot be used: {error}; give `model` an ARPA file"
            ) from error

    def measure(self, batch: Batch) -> pa.Table:
        knobs = self.config
        cut = [sentences(text, knobs.tokens, knobs.max_characters) for text in batch.texts()]
        total, count, unknown = self._model.score(cut)
        none = count == 0
        mean = -total / np.maximum(count, 1)
        words = count - np.array([len(lines) for lines in cut], dtype=np.int64)
        return table(
            self.measures(),
            {PERPLEXITY: np.round(10.0 ** np.minimum(mean, 99.0), 3), UNKNOWN: ratio(unknown, words)},
            {PERPLEXITY: none, UNKNOWN: none},
        )

    def decide(self, values: pa.Table) -> Decision:
        return judge(values, self.rules())
