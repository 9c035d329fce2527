"""FineWeb's own quality rules: menus, lists and templates that pass Gopher's and C4's.

Penedo et al. 2024, "The FineWeb Datasets: Decanting the Web for the Finest Text Data at Scale", and datatrove, where paper
and code differ: the paper drops at 0.1 or more characters in duplicate lines, datatrove's default above 0.01; the paper calls a line
short below 30 characters, datatrove up to 30; the paper's comparisons include the threshold, datatrove's do not. We follow the paper;
`max_newline_ratio` is in the code only. Lines are non-blank lines, stripped.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from stages.batch import Batch
from stages.quality.gopher_repetition import duplicate_shares
from stages.quality.rules import TERMINAL, Rule, judge, limits, ratio, table, thresholds
from stages.stage import Decision, Limit, MapStage, StageConfig, knob, register
from stages.words import batch_lines, batch_words

PAPER = "FineWeb (Penedo et al. 2024)"
P = "quality_fineweb_"


class FineWebConfig(StageConfig):
    """Thresholds; null switches a rule off."""

    min_punctuated_lines: float | None = knob(
        0.12,
        "drop at this share, or less, of lines that end with terminal punctuation or a closing quote",
        PAPER,
        ge=0,
        le=1,
    )
    max_short_lines: float | None = knob(0.67, "drop at this share, or more, of short lines", PAPER, ge=0, le=1)
    short_line_length: int = knob(30, "a line with fewer characters is short", PAPER, ge=1)
    max_duplicate_line_characters: float | None = knob(
        0.1,
        "drop at this share, or more, of characters in lines that repeat an earlier line",
        PAPER + "; datatrove: 0.01",
        ge=0,
        le=1,
    )
    max_newline_ratio: float | None = knob(0.3, "drop above this many newlines for each word", "datatrove 0.10", ge=0)


@register
class FineWeb(MapStage):
    """Drops lists, menus and templates."""

    name = "quality.fineweb"
    config_model = FineWebConfig
    decide_knobs = thresholds(FineWebConfig)
    config: FineWebConfig

    def provides(self) -> dict[str, pa.DataType]:
        return {}

    def measures(self) -> dict[str, pa.DataType]:
        return {rule.column: pa.float64() for rule in self.rules()}

    def rules(self) -> list[Rule]:
        knobs = self.config
        repeated = P + "duplicate_line_characters"
        return [
            Rule("min_punctuated_lines", P + "punctuated_lines", "above", knobs.min_punctuated_lines),
            Rule("max_short_lines", P + "short_lines", "below", knobs.max_short_lines),
            Rule("max_duplicate_line_characters", repeated, "below", knobs.max_duplicate_line_characters),
            Rule("max_newline_ratio", P + "newline_ratio", "max", knobs.max_newline_ratio),
        ]

    def limits(self) -> list[Limit]:
        return limits(self.rules())

    def measure(self, batch: Batch) -> pa.Table:
        lines = batch_lines(batch)
        count = [len(some) for some in lines]
        short = self.config.short_line_length
        return table(
            self.measures(),
            {
                P + "punctuated_lines": ratio([sum(line.endswith(TERMINAL) for line in some) for some in lines], count),
                P + "short_lines": ratio([sum(len(line) < short for line in some) for some in lines], count),
                P + "duplicate_line_characters": np.array(
                    [duplicate_shares(some)[1] for some in lines], dtype=np.float64
                ),
                P + "newline_ratio": ratio([text.count("\n") for text in batch.texts()], batch_words(batch).counts),
            },
        )

    def decide(self, values: pa.Table) -> Decision:
        return judge(values, self.rules())
