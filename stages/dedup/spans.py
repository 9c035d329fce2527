"""`dedup.spans`: of any run of three sentences that stands more than once in the corpus, all but one are cut (C4)."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator

from stages.batch import Batch
from stages.dedup.folding import FOLDS, Fold, check
from stages.dedup.hashing import hash_columns
from stages.dedup.repeated_units import RepeatedUnits, Runs, UnitsConfig
from stages.dedup.units import SENTENCE, batch_units
from stages.stage import knob, register


class SpansConfig(UnitsConfig):
    """Knobs of `dedup.spans`."""

    sentences: int = knob(3, "sentences of a span", "C4 (Raffel et al. 2020, section 2.2): three", ge=1, le=100)
    normalize: Annotated[tuple[Fold, ...], AfterValidator(check)] = knob(
        ("case", "digits", "punctuation", "accents", "whitespace"), FOLDS, "datatrove, `TextNormConfig`"
    )
    min_words: int = knob(0, "a span of fewer words is not looked at", "datatrove, `min_words_to_remove_span`: 0", ge=0)
    min_left: int = knob(
        50,
        "trim: a document that lost something and has fewer words left is dropped",
        "datatrove, `min_doc_words`",
        ge=1,
    )
    min_left_sentences: int = knob(
        3,
        "trim: the same in sentences",
        "datatrove, `min_num_sentences`; C4: pages of fewer than three are dropped",
        ge=0,
    )
    scope: Literal["source", "domain", "global"] = knob(
        "global",
        "where copies are looked for: within an input source, a registrable domain, or everywhere",
        "C4: the data set",
    )

    def of_mode(self) -> dict[str, str]:
        """Knobs that have a meaning in one mode only."""
        return {**super().of_mode(), "min_left_sentences": "trim"}


@register
class Spans(RepeatedUnits):
    """Cuts every run of three sentences that stands earlier in the corpus, also earlier in the same document.

    A sentence that is cut as part of one span may belong to the kept copy of another, as in C4: each sentence stays in some
    document, not each span. `little_left` and `few_sentences` drop what has too little left; `drop` drops documents with too
    many of them (`repeated_spans`, value = share of their characters).
    """

    name = "dedup.spans"
    config_model = SpansConfig
    column = "dup_spans_share"
    rule = "repeated_spans"
    config: SpansConfig

    def run(self) -> int:
        """Sentences of a span."""
        return self.config.sentences

    def most(self) -> int:
        """One place of each span."""
        return 1

    def runs(self, batch: Batch, scope: np.ndarray) -> Runs:
        """Each run of sentences of one document."""
        config = self.config
        units = batch_units(batch, SENTENCE, config.normalize)
        same = np.arange(len(units.start), dtype=np.int64)
        count = len(same) - config.sentences + 1
        if count <= 0:
            return Runs(units, same[:0], np.empty((0, 2), np.uint64), same)
        row, ends = units.row, np.arange(config.sentences - 1, len(same))
        words, folded = (np.concatenate([[0], np.cumsum(one)]) for one in (units.words, units.folded))
        long = words[ends + 1] - words[:count] >= config.min_words
        looked = (row[:count] == row[ends]) & long & (folded[ends + 1] > folded[:count])
        first = np.flatnonzero(looked)
        halves = [units.key[first + place, half] for place in range(config.sentences) for half in (0, 1)]
        return Runs(units, first, hash_columns(*halves, scope[row[first]]), same)

    def limits(self, left: np.ndarray) -> tuple[tuple[str, int, int], ...]:
        """Sentences."""
        return (("few_sentences", len(left), self.config.min_left_sentences),)
