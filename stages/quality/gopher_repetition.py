"""The repetition rules of Gopher: does this document say the same thing over and over?

Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", table A1. The table gives thresholds;
what is counted differs from system to system (`definition`):

- `paper`: lines are non-blank lines, paragraphs the blocks between blank lines, both stripped. A duplicate is a later copy of an
  earlier one; shares are of the number of lines (paragraphs), and of their characters. Words are those of `stages.words`, case
  kept, and characters those of words. The share of the top n-gram is (times it occurs) x (its characters) / (characters of all
  words), at most 1; an n-gram that occurs once is no repetition; of several equally frequent the longest counts. The share of
  duplicate n-grams is the characters of all words that stand in any n-gram that occurs more than once, each word counted once.
- `dclm` (its RefinedWeb baseline) counts n-grams so, too; of lines and paragraphs (cut at two newlines) every copy is a duplicate, the
  first one included, and a document of one line (paragraph) has none.
- `datatrove` (0.10): lines are cut at newlines and not stripped; all shares of characters are of the whole text; top n-grams
  count with the spaces between their words, the first of the most frequent; of duplicate n-grams only later copies count, read left
  to right, advancing by n after a copy. The same document scores lower.
- `dolma` (its Gopher tagger): every copy of a line is a duplicate, blank lines are lines, their characters are compared with those
  of words; it has no paragraphs (null: skipped). Duplicate n-grams are all occurrences of repeated ones, of all occurrences, in
  characters. Use `words: whitespace` for its words.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import pyarrow as pa

from stages.batch import Batch
from stages.lines import batch_lines
from stages.quality import peers
from stages.quality.repeats import DUPLICATE, TOP, all_ngram_characters, later_copies, ngram_characters
from stages.quality.rules import Rule, RuleConfig, RuleStage, ratio, table, thresholds
from stages.quality.tokens import WordKnob, counted_words, word_knob
from stages.stage import knob, register
from stages.words import Words

PAPER = "Gopher (Rae et al. 2021), table A1"
P = "quality_repetition_"
NGRAMS = [f"top_{n}_gram" for n in TOP] + [f"duplicate_{n}_grams" for n in DUPLICATE]


class RepetitionConfig(RuleConfig):
    """Thresholds; null switches a rule off."""

    definition: Literal["paper", "datatrove", "dolma", "dclm"] = knob(
        "paper", "what is counted: as the paper's words say, or as the code of another system does", source=PAPER
    )
    words: WordKnob = word_knob()
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
class GopherRepetition(RuleStage):
    """Drops documents that repeat their own lines, paragraphs or phrases."""

    name = "quality.gopher_repetition"
    version = 2
    prefix = P
    config_model = RepetitionConfig
    decide_knobs = thresholds(RepetitionConfig)
    config: RepetitionConfig

    def counted(self) -> dict[str, pa.DataType]:
        return {rule.column: pa.float64() for rule in self.rules()}

    def rules(self) -> list[Rule]:
        parts = ("lines", "paragraphs", "line_characters", "paragraph_characters")
        names = ["duplicate_" + name for name in parts] + NGRAMS
        return [Rule("max_" + name, P + name, "max", getattr(self.config, "max_" + name)) for name in names]

    def count(self, batch: Batch) -> pa.Table:
        values = self._parts(batch)
        if self.config.definition == "datatrove" and self.config.words == "spacy":
            words = peers.spacy_words(batch)  # whose n-grams are compared as strings
            shares = [peers.ngram_shares(text, some) for text, some in zip(batch.texts(), words, strict=True)]
            ngrams = np.array(shares, np.float64).reshape(len(batch), len(NGRAMS))
        else:
            ngrams = self._ngrams(counted_words(batch, self.config.words), batch_lines(batch).characters)
        values |= {P + name: ngrams[:, place] for place, name in enumerate(NGRAMS)}
        return table(self.counted(), values, {name: np.isnan(column) for name, column in values.items()})

    def _parts(self, batch: Batch) -> dict[str, np.ndarray]:
        """Shares of duplicate lines and paragraphs, and of their characters."""
        names = [f"{P}duplicate_{name}" for name in ("lines", "line_characters", "paragraphs", "paragraph_characters")]
        if self.config.definition != "paper":
            count = {
                "datatrove": peers.datatrove_copies,
                "dolma": peers.dolma_copies,
                "dclm": peers.dclm_copies,
            }[self.config.definition]
            shares = np.array([count(text) for text in batch.texts()], np.float64).reshape(len(batch), 4)
            return {name: shares[:, place] for place, name in enumerate(names)}
        lines = batch_lines(batch)
        copies, repeated = later_copies(lines.rows, lines.key, lines.length)
        blocks = np.diff(lines.paragraph_rows)
        block_copies, block_repeated = later_copies(lines.paragraph_rows, lines.paragraph_key, lines.paragraph_length)
        sums = np.concatenate([[0], np.cumsum(lines.paragraph_length)])
        whole = sums[lines.paragraph_rows[1:]] - sums[lines.paragraph_rows[:-1]]
        columns = (
            ratio(copies, lines.counts),
            ratio(repeated, lines.total(lines.length)),
            ratio(block_copies, blocks),
            ratio(block_repeated, whole),
        )
        return dict(zip(names, columns, strict=True))

    def _ngrams(self, words: Words, text_length: np.ndarray) -> np.ndarray:
        """The shares of top and duplicate n-grams: [rows, NGRAMS]."""
        definition = self.config.definition
        counted = ngram_characters(words, "paper" if definition == "dclm" else definition)
        whole = np.broadcast_to(
            (text_length if definition == "datatrove" else words.total(words.length))[:, None], counted.shape
        ).astype(np.float64)
        if definition == "dolma":
            for place, n in enumerate(DUPLICATE):
                whole[:, len(TOP) + place] = all_ngram_characters(words, n)
        return np.minimum(ratio(counted, whole), 1.0)
