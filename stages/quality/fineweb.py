"""FineWeb's own quality rules: menus, lists and templates that pass Gopher's and C4's.

Penedo et al. 2024, "The FineWeb Datasets: Decanting the Web for the Finest Text Data at Scale", and datatrove, where paper
and code differ: the paper drops at 0.1 or more characters in duplicate lines, datatrove's default above 0.01; the paper calls a line
short below 30 characters, datatrove up to 30; the paper's comparisons include the threshold, datatrove's do not. We follow the paper;
`max_newline_ratio` is in the code only. Lines are non-blank lines, stripped.
"""

from __future__ import annotations

from typing import Any, Literal

import pyarrow as pa

from stages.batch import Batch
from stages.lines import batch_lines
from stages.quality import peers
from stages.quality.repeats import later_copies
from stages.quality.rules import Rule, RuleConfig, RuleStage, ratio, table, thresholds
from stages.quality.tokens import WordKnob, counted_words, word_knob
from stages.stage import knob, register

PAPER = "FineWeb (Penedo et al. 2024)"
P = "quality_fineweb_"


class FineWebConfig(RuleConfig):
    """Thresholds; null switches a rule off."""

    definition: Literal["paper", "datatrove"] = knob(
        "paper",
        "datatrove counts lines as they stand, not stripped, ends them with its own list of stops, without quotes, calls a "
        "line of 30 characters short, and drops beyond the thresholds, not at them; its threshold for duplicate lines is 0.01",
        PAPER,
    )
    words: WordKnob = word_knob()

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
class FineWeb(RuleStage):
    """Drops lists, menus and templates."""

    name = "quality.fineweb"
    version = 2
    prefix = P
    config_model = FineWebConfig
    decide_knobs = thresholds(FineWebConfig)
    config: FineWebConfig

    def counted(self) -> dict[str, pa.DataType]:
        return {rule.column: pa.float64() for rule in self.rules()}

    def rules(self) -> list[Rule]:
        knobs = self.config
        included = knobs.definition == "paper"
        least: Literal["above", "min"] = "above" if included else "min"
        most: Literal["below", "max"] = "below" if included else "max"
        repeated = P + "duplicate_line_characters"
        return [
            Rule("min_punctuated_lines", P + "punctuated_lines", least, knobs.min_punctuated_lines),
            Rule("max_short_lines", P + "short_lines", most, knobs.max_short_lines),
            Rule("max_duplicate_line_characters", repeated, most, knobs.max_duplicate_line_characters),
            Rule("max_newline_ratio", P + "newline_ratio", "max", knobs.max_newline_ratio),
        ]

    def count(self, batch: Batch) -> pa.Table:
        lines, words = batch_lines(batch), counted_words(batch, self.config.words)
        values: dict[str, Any] = {P + "newline_ratio": ratio(lines.newlines, words.counts)}
        if self.config.definition == "datatrove":
            shares = [peers.fineweb_lines(text, self.config.short_line_length) for text in batch.texts()]
            names = (P + "punctuated_lines", P + "short_lines", P + "duplicate_line_characters")
            values |= {name: [row[place] for row in shares] for place, name in enumerate(names)}
        else:
            _, repeated = later_copies(lines.rows, lines.key, lines.length)
            values |= {
                P + "punctuated_lines": ratio(lines.total(lines.terminal), lines.counts),
                P + "short_lines": ratio(lines.total(lines.length < self.config.short_line_length), lines.counts),
                P + "duplicate_line_characters": ratio(repeated, lines.total(lines.length)),
            }
        return table(self.counted(), values)
