r"""The rules of C4: cut lines that are no sentences, then drop what is left too short.

Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer", section 2.2, with the line
rules that its published code adds (words over 1,000 characters, policy notices, citation marks). Lines are judged stripped and without
citation marks; words are those of `stages.words`, so that lines of scripts without spaces count as many. As in the paper, a page
with a curly bracket or "lorem ipsum" anywhere is dropped (some code looks only at the lines that are left). The bad-words rule is not
here: it belongs to toxicity. Blank lines between kept lines stay, one where lines between them were cut.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from stages.batch import Batch
from stages.quality.rules import CLOSING_QUOTES, SENTENCE_STOPS, TERMINAL, Rule, judge, limits, table
from stages.stage import Decision, Edit, Limit, MapStage, StageConfig, knob, register
from stages.words import UNSPACED_RANGES, batch_words

PAPER = "C4 (Raffel et al. 2020)"
CODE = "C4's code in TensorFlow Datasets; datatrove 0.10"
P = "quality_c4_"
LINE_RULES = ("long_word", "no_terminal_punctuation", "few_words", "javascript", "policy")


class C4Config(StageConfig):
    """Line rules cut lines, the others drop documents; null or false switches a rule off."""

    terminal_punctuation: bool = knob(
        True,
        "cut lines that do not end with terminal punctuation (of any script) or a closing quote, or that end with an ellipsis; "
        "FineWeb turns this off",
        source=PAPER,
    )
    min_line_words: int | None = knob(3, "cut lines with fewer words", source=PAPER, ge=0)
    max_word_length: int | None = knob(
        1000,
        "cut lines with a longer run of characters without white space (scripts without spaces aside)",
        source=CODE,
        ge=1,
    )
    javascript: bool = knob(True, "cut lines with the word javascript", source=PAPER)
    policy_phrases: tuple[str, ...] = knob(
        ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies"),
        "cut lines with one of these phrases (any case)",
        source=CODE,
    )
    citations: bool = knob(True, "remove [1], [], [edit] and [citation needed] from kept lines", source=CODE)
    lorem_ipsum: bool = knob(True, "drop documents with placeholder text", source=PAPER)
    curly_bracket: bool = knob(True, "drop documents with a curly bracket", source=PAPER)
    min_sentences: int | None = knob(5, "drop documents with fewer sentences in the lines kept", source=PAPER, ge=0)


SPAN = pa.struct([("start", pa.int64()), ("end", pa.int64())])


@register
class C4(MapStage):
    """Cuts lines that are not sentences; drops documents with too little left, code or placeholder text."""

    name = "quality.c4"
    config_model = C4Config
    decide_knobs = ("lorem_ipsum", "curly_bracket", "min_sentences")
    config: C4Config
    edits = True

    def provides(self) -> dict[str, pa.DataType]:
        return {}

    def measures(self) -> dict[str, pa.DataType]:
        return {
            P + "lorem_ipsum": pa.bool_(),
            P + "curly_bracket": pa.bool_(),
            P + "sentences": pa.int32(),  # in the lines kept
            P + "lines_kept": pa.int32(),  # not blank
            **{f"{P}lines_{rule}": pa.int32() for rule in LINE_RULES},  # cut by this rule, the first that applied
            P + "citations": pa.int32(),  # removed
            P + "cuts": pa.list_(SPAN),  # code points of the input text to remove: in order, disjoint
        }

    def rules(self) -> list[Rule]:
        knobs = self.config
        return [
            Rule("lorem_ipsum", P + "lorem_ipsum", "max", 0 if knobs.lorem_ipsum else None),
            Rule("curly_bracket", P + "curly_bracket", "max", 0 if knobs.curly_bracket else None),
            Rule("min_sentences", P + "sentences", "min", knobs.min_sentences),
            Rule("no_lines_left", P + "lines_kept", "min", 1),
        ]

    def limits(self) -> list[Limit]:
        return limits(rule for rule in self.rules() if rule.name == "min_sentences")

    def measure(self, batch: Batch) -> pa.Table:
        texts, words = batch.texts(), batch_words(batch)
        found = [
            judge_lines(text, words.start[words.rows[row] : words.rows[row + 1]], self.config)
            for row, text in enumerate(texts)
        ]
        values = {
            P + "lorem_ipsum": ["lorem ipsum" in text.lower() for text in texts],
            P + "curly_bracket": ["{" in text or "}" in text for text in texts],
            P + "sentences": [one.sentences for one in found],
            P + "lines_kept": [one.kept for one in found],
            P + "citations": [one.citations for one in found],
            P + "cuts": [[{"start": start, "end": end} for start, end in one.cuts] for one in found],
        }
        for rule in LINE_RULES:
            values[f"{P}lines_{rule}"] = [one.cut_by[rule] for one in found]
        return table(self.measures(), values)

    def decide(self, values: pa.Table) -> Decision:
        decision = judge(values, self.rules())
        for row, cuts in enumerate(values.column(P + "cuts").to_pylist()):
            if cuts and decision.rule[row] is None:
                decision.edits[row] = [Edit(cut["start"], cut["end"], "") for cut in cuts]
        return decision


CITATION = re.compile(r"\[[0-9]*\]|\[edit\]|\[citation needed\]")
ELLIPSIS = ("...", "…")
NO_SPACES = re.compile("[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in UNSPACED_RANGES) + r"\s]+")

# A sentence ends at a run of stops, and the quotes and brackets that close it, before the end of the line or before white space and
# something other than a small letter (so that "e.g. this" goes on). Stops of scripts that put no space after them end one anywhere.
_STOPS, _CLOSERS, _WIDE = (re.escape(chars) for chars in (SENTENCE_STOPS + "…", CLOSING_QUOTES + ")]）", "。！？｡।॥။៕"))
SENTENCE_END = re.compile(
    rf"[{_STOPS}](?<![{_STOPS}]{{2}})"  # the first of a run: looking back after one character lets the search skip ahead
    rf"(?:[{_STOPS}]*+[{_CLOSERS}]*+(?=\s++[^a-z]|\s*+$)|(?<=[{_WIDE}])[{_STOPS}]*+[{_CLOSERS}]*+)"
)


class Judged(NamedTuple):
    """What the line rules find in one text."""

    cuts: list[tuple[int, int]]
    cut_by: dict[str, int]
    kept: int
    sentences: int
    citations: int


def count_sentences(line: str) -> int:
    """Sentences of a stripped line without newlines: ends, and what is left after the last one."""
    last, count = 0, 0
    for end in SENTENCE_END.finditer(line):
        last, count = end.end(), count + 1
    return count + (last < len(line))


def judge_lines(text: str, word_starts: np.ndarray, knobs: C4Config) -> Judged:
    """Apply the line rules to one text. `word_starts`: where its words begin, ascending."""
    cut_by = dict.fromkeys(LINE_RULES, 0)
    raw = text.split("\n")
    ends = np.cumsum(np.fromiter(map(len, raw), dtype=np.int64, count=len(raw)) + 1)
    words_before = np.searchsorted(word_starts, ends).tolist()
    lower = text.lower()
    banned = [(phrase.lower(), "policy") for phrase in knobs.policy_phrases]
    if knobs.javascript:
        banned.insert(0, ("javascript", "javascript"))
    banned = [pair for pair in banned if pair[0] in lower]
    brackets = knobs.citations and CITATION.search(text) is not None

    cuts: list[tuple[int, int]] = []
    kept = sentences = citations = 0
    start = seen = 0  # where the line begins, words before it
    tail = 0  # end of the last kept line that is not blank
    cut_since = blank_since = False  # since that line: a line was cut, a blank one kept
    for line, end, words in zip(raw, ends.tolist(), words_before, strict=True):
        count, seen = words - seen, words
        stripped = line.strip()
        marks: list[tuple[int, int]] = []
        if not stripped:
            rule = "blank" if cut_since and (blank_since or not kept) else None
            blank_since = True
        else:
            if brackets:
                marks = [mark.span() for mark in CITATION.finditer(line)]
                if marks:
                    count -= sum(CITATION_WORDS.get(line[a + 1 : b - 1], 1) for a, b in marks)
                    stripped = CITATION.sub("", line).strip()
            rule = line_rule(stripped, count, knobs, banned)
            if rule is None:
                kept += 1
                sentences += count_sentences(stripped)
                citations += len(marks)
                cuts += [(start + a, start + b) for a, b in marks]
                tail = min(end - 1, len(text))
                cut_since = blank_since = False
            else:
                cut_by[rule] += 1
                cut_since = True
        if rule is not None:
            cuts.append((start, end))
        start = end
    if cut_since:  # nothing kept follows: cut all that does
        while cuts and cuts[-1][0] >= tail:
            cuts.pop()
        cuts.append((tail, len(text)))
    return Judged(_joined(cuts), cut_by, kept, sentences, citations)


CITATION_WORDS = {"": 0, "citation needed": 2}


def line_rule(line: str, words: int, knobs: C4Config, banned: list[tuple[str, str]]) -> str | None:
    """The first rule that cuts a stripped line, or None. `banned`: (lower-case phrase, rule) pairs."""
    longest = knobs.max_word_length
    if longest is not None and len(line) > longest and has_longer_word(line, longest):
        return "long_word"
    if knobs.terminal_punctuation and (not line.endswith(TERMINAL) or line.endswith(ELLIPSIS)):
        return "no_terminal_punctuation"
    if knobs.min_line_words is not None and words < knobs.min_line_words:
        return "few_words"
    if banned:
        lower = line.lower()
        return next((rule for phrase, rule in banned if phrase in lower), None)
    return None


def has_longer_word(line: str, longest: int) -> bool:
    """Whether a run without white space, and without letters of scripts that use none, is longer than `longest`."""
    return max(map(len, line.split()), default=0) > longest and max(map(len, NO_SPACES.split(line))) > longest


def _joined(cuts: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Adjacent cuts as one; the cuts are in order and disjoint."""
    joined: list[tuple[int, int]] = []
    for start, end in cuts:
        if start == end:
            continue
        if joined and joined[-1][1] == start:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined
