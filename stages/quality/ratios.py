"""Ratios of characters: pages of numbers, of links, of symbols, and text that compresses too well or not at all.

The first six are NeMo Curator's English recipe, told in every script: alphanumeric means letters, marks and numbers, and `? ! , .` and
newlines with them; white space is what `str.isspace` says. Its shares of unique lines and paragraphs are `quality.gopher_repetition`'s.
zlib's ratio and the entropy of words have no published thresholds; they are off, and measured.
"""

from __future__ import annotations

import re
import zlib
from itertools import pairwise

import numpy as np
import pyarrow as pa

from stages.batch import Batch
from stages.lines import batch_lines
from stages.quality.c4_lines import holds_any
from stages.quality.marks import KINDS, kinds
from stages.quality.rules import Rule, RuleConfig, RuleStage, ratio, table, thresholds
from stages.stage import knob, register
from stages.words import Words, batch_words

NEMO = "NeMo Curator, English heuristic recipe"
P = "quality_ratios_"
POLICY = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")

_URL = re.compile(r"(?:https?://|www\.)\S+")
_COMPRESSED = 1 << 16  # bytes of a text that are compressed


class RatiosConfig(RuleConfig):
    """Thresholds; null switches a rule off."""

    max_non_alphanumeric: float | None = knob(
        0.25, "largest share of characters that are not alphanumeric; spaces are not", NEMO, ge=0, le=1
    )
    max_numbers: float | None = knob(0.15, "largest share of characters that are numbers", NEMO, ge=0, le=1)
    max_urls: float | None = knob(0.2, "largest share of characters in URLs", NEMO, ge=0, le=1)
    max_white_space: float | None = knob(0.25, "largest share of white space", NEMO, ge=0, le=1)
    max_parentheses: float | None = knob(0.1, "largest share of round brackets", NEMO, ge=0, le=1)
    max_unpunctuated_lines: float | None = knob(
        0.85, "largest share of lines that do not end with terminal punctuation or a closing quote", NEMO, ge=0, le=1
    )
    max_boilerplate_lines: float | None = knob(
        0.4, "largest share of lines with a phrase of policy notices (terms of use, cookies)", NEMO, ge=0, le=1
    )
    max_word_length: int | None = knob(1000, "longest word, in characters", NEMO, ge=1)
    min_zlib: float | None = knob(
        None, "smallest ratio of compressed to plain bytes: below, a text repeats itself", ge=0
    )
    max_zlib: float | None = knob(None, "largest ratio of compressed to plain bytes: above, it is no language", ge=0)
    min_word_entropy: float | None = knob(None, "smallest entropy of the text's words, in bits a word", ge=0)


@register
class Ratios(RuleStage):
    """Drops text whose characters, lines or words are not those of prose."""

    name = "quality.ratios"
    prefix = P
    config_model = RatiosConfig
    decide_knobs = thresholds(RatiosConfig)
    config: RatiosConfig

    def counted(self) -> dict[str, pa.DataType]:
        return {rule.column: pa.float64() for rule in self.rules()}

    def rules(self) -> list[Rule]:
        names = [name for name in RatiosConfig.model_fields if name.startswith("max_")]
        rules = [Rule(name, P + name.removeprefix("max_"), "max", getattr(self.config, name)) for name in names]
        least = [name for name in RatiosConfig.model_fields if name.startswith("min_")]
        return rules + [Rule(name, P + name.removeprefix("min_"), "min", getattr(self.config, name)) for name in least]

    def count(self, batch: Batch) -> pa.Table:
        data, bounds = batch.utf8()
        texts, lines, words = batch.texts(), batch_lines(batch), batch_words(batch)
        found = dict(zip(KINDS, kinds(data, bounds[:-1], bounds[1:]).T, strict=True))
        size = lines.characters
        spans = np.column_stack([lines.begin, lines.end]).reshape(-1)
        policy = _held(data, spans, POLICY)
        values = {
            "non_alphanumeric": ratio(found["other"] + found["white"] - lines.newlines, size),
            "numbers": ratio(found["numbers"], size),
            "urls": ratio([sum(len(url) for url in _URL.findall(text)) for text in texts], size),
            "white_space": ratio(found["white"], size),
            "parentheses": ratio(found["parentheses"], size),
            "unpunctuated_lines": ratio(lines.total(~lines.terminal), lines.counts),
            "boilerplate_lines": ratio(lines.total(policy), lines.counts),
            "word_length": _longest(words),
            "zlib": np.array([zlib_ratio(data[a:b]) for a, b in pairwise(bounds)], np.float64),
            "word_entropy": word_entropy(words),
        }
        return table(self.counted(), {P + name: value for name, value in values.items()})


def _held(data: np.ndarray, spans: np.ndarray, phrases: tuple[str, ...]) -> np.ndarray:
    """Which of the stretches [spans[2i], spans[2i + 1]) hold a phrase."""
    return holds_any(data, spans, phrases)[::2] if len(spans) else np.zeros(0, np.bool_)


def _longest(words: Words) -> np.ndarray:
    longest = np.zeros(len(words.rows) - 1, np.float64)
    np.maximum.at(longest, words.row, words.length)
    return longest


def zlib_ratio(data: np.ndarray) -> float:
    """Compressed size (zlib, level 6) over size, of the first 64 KiB; 0 for no bytes."""
    part = data[:_COMPRESSED].tobytes()
    return len(zlib.compress(part, 6)) / len(part) if part else 0.0


def word_entropy(words: Words) -> np.ndarray:
    """Shannon entropy of each row's words by their frequencies, in bits; 0 for one word or none."""
    order = np.lexsort((words.key, words.row))
    row, key = words.row[order], words.key[order]
    first = np.flatnonzero(np.concatenate([[True], (row[1:] != row[:-1]) | (key[1:] != key[:-1])])) if len(row) else row
    times = np.diff(np.append(first, len(row))).astype(np.float64)
    share = times / words.counts[row[first]] if len(row) else times
    return np.asarray(np.bincount(row[first], weights=-share * np.log2(share), minlength=len(words.rows) - 1) + 0.0)
