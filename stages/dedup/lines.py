"""`dedup.lines`: lines or paragraphs that stand in too many documents are cut, or count against their documents."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import AfterValidator

from stages.batch import Batch
from stages.dedup.folding import FOLDS, Fold, check
from stages.dedup.repeated_units import RepeatedUnits, Runs, UnitsConfig, first_equal, scoped
from stages.dedup.units import KINDS, batch_units
from stages.stage import knob, register


class LinesConfig(UnitsConfig):
    """Knobs of `dedup.lines`."""

    unit: Literal["line", "paragraph"] = knob(
        "line",
        "line: what stands between newlines; paragraph: lines up to a blank one",
        "CCNet (Wenzek et al. 2020) compares lines and calls them paragraphs",
    )
    normalize: Annotated[tuple[Fold, ...], AfterValidator(check)] = knob(
        ("case", "digits", "punctuation", "whitespace"), FOLDS, "CCNet, on deduplication: case, digits, punctuation"
    )
    max_documents: int = knob(
        1,
        "in how many documents a passage may stand; in more, it is boilerplate",
        "CCNet, Dolma (Soldaini et al. 2024): 1",
        ge=1,
    )
    min_words: int = knob(4, "a passage of fewer words (a heading, an answer) is never boilerplate", ge=1)
    min_chars: int = knob(0, "a passage of fewer characters is never boilerplate", ge=0)


@register
class Lines(RepeatedUnits):
    """Counts in how many documents each line (or paragraph) stands; above `max_documents`, one copy stays or none.

    A document's own repetitions count once, and stay or go together. Blank lines are never counted, nor lines of which nothing is
    left when they are normalised. `trim` cuts the lines, `little_left` drops what has too few words after it; `drop` drops
    documents with too much of it (`repeated_lines`, value = share of their characters).
    """

    name = "dedup.lines"
    config_model = LinesConfig
    column = "dup_lines_share"
    rule = "repeated_lines"
    config: LinesConfig

    def run(self) -> int:
        """One unit."""
        return 1

    def most(self) -> int:
        """As many documents as a passage may have."""
        return self.config.max_documents

    def runs(self, batch: Batch, scope: np.ndarray) -> Runs:
        """The first of each document's equal units that are long enough."""
        config = self.config
        units = batch_units(batch, KINDS.index(config.unit), config.normalize)
        looked = (units.folded > 0) & (units.words >= config.min_words) & (units.end - units.start >= config.min_chars)
        same = first_equal(units, looked, units.key)
        first = np.flatnonzero(looked & (same == np.arange(len(same))))
        return Runs(units, first, scoped(units.key[first], scope[units.row[first]]), same)
