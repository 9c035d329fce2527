"""RefinedWeb's corrections line by line: what is left of menus and counters around a text is cut, and texts that are full of it are dropped.

Penedo et al. 2023, "The RefinedWeb Dataset for Falcon LLM", appendix G.2. The paper names kinds of lines; what exactly is one of them is
from DCLM's reproduction of it, where it says more. Lines are non-blank lines, stripped; words are those of `stages.words`.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa

from stages.batch import Batch
from stages.lines import Lines, batch_lines
from stages.quality.c4 import SPAN, edits_of, spans
from stages.quality.c4_lines import Span
from stages.quality.marks import KINDS, kinds
from stages.quality.rules import Rule, RuleConfig, RuleStage, ratio, table
from stages.stage import Decision, StageConfig, knob, register
from stages.words import batch_words

PAPER = "RefinedWeb (Penedo et al. 2023), G.2"
P = "quality_refinedweb_"
LINE_RULES = ("few_words", "uppercase", "numeric", "counter", "menu")

_COUNTER = re.compile(
    r"\W*\d[\d.,]*[KMBkmb]?\s+(?:likes?|shares?|comments?|retweets?|reposts?|quotes?|bookmarks?|upvotes?|downvotes?|downloads?|views?"
    r"|followers?)\W*"
)
_MENU = re.compile(r"sign[- ]?in\b.*|.*\bread more\W*|.*\bitems in cart\b.*", re.IGNORECASE)


class RefinedWebConfig(RuleConfig):
    """Line rules cut lines; null or false switches a rule off."""

    max_words_cut: float | None = knob(
        0.05, "drop documents of which a larger share of words stands in cut lines", PAPER, ge=0, le=1
    )
    min_line_words: int | None = knob(2, "cut lines with fewer words", PAPER, ge=0)
    max_uppercase: float | None = knob(
        0.5, "cut lines of whose letters a larger share is capital", PAPER + "; the share is DCLM's", ge=0, le=1
    )
    numeric: bool = knob(True, "cut lines with numbers but no letters", PAPER)
    counters: bool = knob(True, "cut lines that count reactions (3 likes), in English", PAPER)
    menus: bool = knob(
        True,
        "cut lines of at most `menu_words` words that begin with sign in, end with read more, or hold items in cart",
        PAPER,
    )
    menu_words: int = knob(10, "longest line of a menu, in words", PAPER, ge=1)


@register
class RefinedWeb(RuleStage):
    """Cuts leftovers of pages; drops documents that are full of them."""

    name = "quality.refinedweb"
    prefix = P
    config_model = RefinedWebConfig
    decide_knobs = ("max_words_cut",)
    config: RefinedWebConfig

    def __init__(self, config: StageConfig) -> None:
        super().__init__(config)
        self.edits = self.config.mode == "drop"

    def counted(self) -> dict[str, pa.DataType]:
        return {
            P + "words_cut": pa.float64(),  # share of the text's words
            P + "lines_kept": pa.int32(),
            **{f"{P}lines_{rule}": pa.int32() for rule in LINE_RULES},  # cut by this rule, the first that applied
            P + "cuts": pa.list_(SPAN),  # code points of the input text to remove: in order, disjoint
        }

    def rules(self) -> list[Rule]:
        return [
            Rule("max_words_cut", P + "words_cut", "max", self.config.max_words_cut),
            Rule("no_lines_left", P + "lines_kept", "min", 1),
        ]

    def count(self, batch: Batch) -> pa.Table:
        lines = batch_lines(batch)
        rows = np.repeat(np.arange(len(batch)), lines.counts)
        words = line_words(batch)
        rule = self._cut_by(batch, lines, words)
        values: dict[str, Any] = {
            P + "words_cut": ratio(lines.total(words * (rule >= 0)), batch_words(batch).counts),
            P + "lines_kept": lines.total(rule < 0),
            P + "cuts": spans(
                line_cuts(batch.texts(), np.bincount(rows[rule >= 0], minlength=len(batch)) > 0, lines, rule >= 0)
            ),
        }
        for number, name in enumerate(LINE_RULES):
            values[f"{P}lines_{name}"] = lines.total(rule == number)
        return table(self.counted(), values)

    def _cut_by(self, batch: Batch, lines: Lines, words: np.ndarray) -> np.ndarray:
        """The first of LINE_RULES that cuts each line, -1 for none."""
        knobs, (data, _) = self.config, batch.utf8()
        found = dict(zip(KINDS, kinds(data, lines.begin, lines.end).T, strict=True))
        rule = np.full(len(words), -1)
        short = np.flatnonzero(words <= knobs.menu_words).tolist() if knobs.counters or knobs.menus else []
        strings = {
            line: data[lines.begin[line] : lines.end[line]].tobytes().decode("utf-8", "replace") for line in short
        }
        if knobs.menus:
            rule[[line for line, string in strings.items() if _MENU.fullmatch(string)]] = 4
        if knobs.counters:
            rule[[line for line, string in strings.items() if _COUNTER.fullmatch(string)]] = 3
        if knobs.numeric:
            rule[(found["letters"] == 0) & (found["numbers"] > 0)] = 2
        if knobs.max_uppercase is not None:
            rule[found["capitals"] > knobs.max_uppercase * np.maximum(found["letters"], 1)] = 1
        if knobs.min_line_words is not None:
            rule[words < knobs.min_line_words] = 0
        return rule

    def decide(self, values: pa.Table) -> Decision:
        decision = super().decide(values)
        return decision if self.config.mode == "tag" else edits_of(decision, values.column(P + "cuts"))


def line_words(batch: Batch) -> np.ndarray:
    """How many words each of the batch's lines holds."""
    lines, words = batch_lines(batch), batch_words(batch)
    counts = []
    for row, text in enumerate(batch.texts()):
        start = words.start[words.rows[row] : words.rows[row + 1]]
        ends = [place for place, _ in _line_ends(text)]
        before = np.searchsorted(start, [0, *ends])
        counts.append(np.diff(before)[[solid for _, solid in _line_ends(text)]])
    return np.concatenate(counts) if counts else np.zeros(len(lines.key), np.int64)


def _line_ends(text: str) -> list[tuple[int, bool]]:
    """After each line with its newline, in code points, and whether the line is not blank."""
    ends, at = [], 0
    for line in text.split("\n"):
        at += len(line) + 1
        ends.append((at, not (line.isspace() or not line)))
    return ends


def line_cuts(texts: list[str], some: np.ndarray, lines: Lines, cut: np.ndarray) -> list[list[Span]]:
    """For each text the stretches of its cut lines, newlines included; at the end of a text the newline before goes instead."""
    found: list[list[Span]] = []
    for row, text in enumerate(texts):
        own: list[Span] = []
        if some[row]:
            marks = iter(cut[lines.rows[row] : lines.rows[row + 1]].tolist())
            start = 0
            for end, solid in _line_ends(text):
                if solid and next(marks):
                    if own and own[-1][1] == start:
                        own[-1] = (own[-1][0], end)
                    else:
                        own.append((start, end))
                start = end
            if own and own[-1][1] > len(text):
                own[-1] = (max(0, own[-1][0] - 1), len(text))
        found.append([span for span in own if span[0] < span[1]])
    return found
