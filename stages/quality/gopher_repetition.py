"""The repetition rules of Gopher: does this document say the same thing over and over?

Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", table A1. What is counted:

- Lines are non-blank lines, paragraphs the blocks between blank lines, both stripped. A duplicate is a later copy of an earlier one.
  Shares are of the number of lines (paragraphs), and of their characters.
- Words are those of `stages.words`, case kept; characters are those of words. By the paper's definition (`definition: paper`) the
  share of the top n-gram is (times it occurs) x (its characters) / (characters of all words), at most 1; an n-gram that occurs once
  is no repetition; of several equally frequent the longest counts. The share of duplicate n-grams is the characters of all words
  that stand in any n-gram that occurs more than once, first occurrence included, each word counted once.
- `definition: datatrove` counts as datatrove 0.10 does: only later copies of duplicate n-grams, read left to right and
  advancing by n after a copy, over the characters of the whole text; top n-grams with the spaces between their words, the first of
  the most frequent. The same document scores lower. (Words remain ours.)
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa

from stages.batch import Batch
from stages.quality import ngrams
from stages.quality.rules import Rule, judge, limits, ratio, table, thresholds
from stages.stage import Decision, Limit, MapStage, StageConfig, knob, register
from stages.words import Words, batch_lines, batch_words, paragraphs

PAPER = "Gopher (Rae et al. 2021), table A1"
P = "quality_repetition_"
TOP, DUPLICATE = (2, 3, 4), (5, 6, 7, 8, 9, 10)


class RepetitionConfig(StageConfig):
    """Thresholds; null switches a rule off."""

    definition: Literal["paper", "datatrove"] = knob(
        "paper", "how n-gram repetition is counted: the paper's words, or datatrove's code", source=PAPER
    )
    max_duplicate_lines: float | None = knob(0.30, "largest share of lines that repeat an earlier line", PAPER, ge=0)
    max_duplicate_paragraphs: float | None = knob(
        0.30, "largest share of paragraphs that repeat an earlier one", PAPER, ge=0
    )
    max_duplicate_line_characters: float | None = knob(
        0.20, "largest share of characters in repeated lines", PAPER, ge=0
    )
    max_duplicate_paragraph_characters: float | None = knob(
        0.20, "largest share of characters in repeated paragraphs", PAPER, ge=0
    )
    max_top_2_gram: float | None = knob(0.20, "largest share of characters in the most frequent 2-gram", PAPER, ge=0)
    max_top_3_gram: float | None = knob(0.18, "largest share of characters in the most frequent 3-gram", PAPER, ge=0)
    max_top_4_gram: float | None = knob(0.16, "largest share of characters in the most frequent 4-gram", PAPER, ge=0)
    max_duplicate_5_grams: float | None = knob(0.15, "largest share of characters in repeated 5-grams", PAPER, ge=0)
    max_duplicate_6_grams: float | None = knob(0.14, "largest share of characters in repeated 6-grams", PAPER, ge=0)
    max_duplicate_7_grams: float | None = knob(0.13, "largest share of characters in repeated 7-grams", PAPER, ge=0)
    max_duplicate_8_grams: float | None = knob(0.12, "largest share of characters in repeated 8-grams", PAPER, ge=0)
    max_duplicate_9_grams: float | None = knob(0.11, "largest share of characters in repeated 9-grams", PAPER, ge=0)
    max_duplicate_10_grams: float | None = knob(0.10, "largest share of characters in repeated 10-grams", PAPER, ge=0)


@register
class GopherRepetition(MapStage):
    """Drops documents that repeat their own lines, paragraphs or phrases."""

    name = "quality.gopher_repetition"
    config_model = RepetitionConfig
    decide_knobs = thresholds(RepetitionConfig)
    config: RepetitionConfig

    def provides(self) -> dict[str, pa.DataType]:
        return {}

    def measures(self) -> dict[str, pa.DataType]:
        return {rule.column: pa.float64() for rule in self.rules()}

    def rules(self) -> list[Rule]:
        names = [
            "duplicate_lines",
            "duplicate_paragraphs",
            "duplicate_line_characters",
            "duplicate_paragraph_characters",
        ]
        names += self._ngram_names()
        return [Rule("max_" + name, P + name, "max", getattr(self.config, "max_" + name)) for name in names]

    def limits(self) -> list[Limit]:
        return limits(self.rules())

    def measure(self, batch: Batch) -> pa.Table:
        values: dict[str, np.ndarray] = {}
        blocks = [paragraphs(text) for text in batch.texts()]
        for name, parts in (("line", batch_lines(batch)), ("paragraph", blocks)):
            shares = np.array([duplicate_shares(some) for some in parts]).reshape(len(batch), 2)
            values[f"{P}duplicate_{name}s"], values[f"{P}duplicate_{name}_characters"] = shares[:, 0], shares[:, 1]
        for name in self._ngram_names():
            values[P + name] = np.zeros(len(batch))
        texts = batch.texts()
        for rows, words in ngrams.blocks(batch_words(batch)):
            for name, share in zip(self._ngram_names(), self._ngram_shares(words, texts[rows]), strict=True):
                values[P + name][rows] = share
        return table(self.measures(), values)

    def _ngram_shares(self, words: Words, texts: list[str]) -> list[np.ndarray]:
        """The shares of top and duplicate n-grams, one array for each of `_ngram_names`, one entry a text."""
        repeated = list(ngrams.repeats(words, max(DUPLICATE)))
        if self.config.definition == "paper":
            whole = words.total(words.length)
            top = ngrams.top_characters(words, repeated, TOP)
            duplicate = ngrams.covered_characters(words, repeated, DUPLICATE)
        else:
            whole = np.array([len(text) for text in texts], dtype=np.int64)
            top = ngrams.first_top_characters(words, repeated, TOP)
            duplicate = ngrams.later_copy_characters(words, repeated, DUPLICATE)
        return [np.minimum(ratio(part[n], whole), 1.0) for part in (top, duplicate) for n in part]

    @staticmethod
    def _ngram_names() -> list[str]:
        return [f"top_{n}_gram" for n in TOP] + [f"duplicate_{n}_grams" for n in DUPLICATE]

    def decide(self, values: pa.Table) -> Decision:
        return judge(values, self.rules())


def duplicate_shares(parts: list[str]) -> tuple[float, float]:
    """The share of parts that repeat an earlier part, and the share of characters in those."""
    first = set(parts)
    if len(first) == len(parts):
        return 0.0, 0.0
    characters = sum(map(len, parts))
    return 1 - len(first) / len(parts), 1 - sum(map(len, first)) / characters
