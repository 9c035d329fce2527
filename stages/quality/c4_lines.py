"""C4's rules for lines, in one compiled loop over a batch; `tests/c4_plain.py` says the same in plain Python.

Citation marks (`[1]`, `[]`, `[edit]`, `[citation needed]`) are taken out first; lines are judged without them. A sentence ends at a run
of stops, and the quotes and brackets that close it, before the end of the line or before white space and something other than a
small letter (so that "e.g. this" goes on); stops of scripts that put no space after them end one anywhere. What is left after the last
end is a sentence, too.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np

from stages.batch import encoded
from stages.characters import RUN_ON, SPACE, TERMINAL, Bools, Bytes, Ints, Table, classes
from stages.jit import kernel
from stages.lines import sentence_end
from stages.words import Words, decode, tokenise

LINE_RULES = ("long_word", "no_terminal_punctuation", "few_words", "javascript", "policy")
CITATION = re.compile(r"\[[0-9]*\]|\[edit\]|\[citation needed\]")

Span = tuple[int, int]


class LineKnobs(NamedTuple):
    """The knobs of the line rules; None switches a rule off."""

    terminal_punctuation: bool
    min_line_words: int | None
    max_word_length: int | None
    javascript: bool
    policy_phrases: tuple[str, ...]
    citations: bool


class Judged(NamedTuple):
    """What the line rules find in one text."""

    cuts: list[Span]  # code points to remove, in order and disjoint
    cut_by: dict[str, int]
    kept: int  # lines
    sentences: int  # in them
    citations: int  # marks in the whole text


def judge_all(texts: Sequence[str], data: Bytes, bounds: Ints, words: Words, knobs: LineKnobs) -> list[Judged]:
    """Apply the line rules to texts, which are also given as UTF-8 (`Batch.utf8`)."""
    found = _judge_texts(data, bounds, words, knobs)
    if knobs.citations:
        bracketed = np.flatnonzero(holds_any(data, bounds, ("[",))).tolist()
        marks = {row: spans for row in bracketed if (spans := [mark.span() for mark in CITATION.finditer(texts[row])])}
        clean = [_without(texts[row], spans) for row, spans in marks.items()]
        again = _judge_texts(*encoded(clean), tokenise(clean), knobs)
        for (row, spans), one in zip(marks.items(), again, strict=True):
            found[row] = _with_marks(one, spans)
    return found


def _without(text: str, marks: Sequence[Span]) -> str:
    bounds = [0, *(place for mark in marks for place in mark), len(text)]
    return "".join(text[start:end] for start, end in zip(bounds[::2], bounds[1::2], strict=True))


def _with_marks(judged: Judged, marks: Sequence[Span]) -> Judged:
    """What was found in a text without its citation marks, for the text that has them: they are cut as well."""
    before = [0, *accumulate(end - start for start, end in marks)]  # characters in the marks before each
    places = [
        start - size for (start, _), size in zip(marks, before, strict=False)
    ]  # of the marks, in the text without

    def there(place: int) -> int:
        return place + before[bisect.bisect_left(places, place)]

    cuts = [(there(start), there(end)) for start, end in judged.cuts]
    return judged._replace(cuts=_joined(sorted([*cuts, *marks])), citations=len(marks))


def _joined(cuts: Sequence[Span]) -> list[Span]:
    """Sorted cuts that touch or overlap as one."""
    joined: list[Span] = []
    for start, end in cuts:
        if joined and start <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    return joined


def _judge_texts(data: Bytes, bounds: Ints, words: Words, knobs: LineKnobs) -> list[Judged]:
    rows = len(bounds) - 1
    cuts = np.empty((int(np.count_nonzero(data == 10)) + 2 * rows, 2), np.int64)
    counts, cut_rows = np.zeros((rows, 2 + len(LINE_RULES)), np.int64), np.zeros(rows + 1, np.int64)
    fewest = -1 if knobs.min_line_words is None else knobs.min_line_words
    longest = -1 if knobs.max_word_length is None else knobs.max_word_length
    javascript = phrase_table(["javascript"] if knobs.javascript else [])
    policy = phrase_table(knobs.policy_phrases)
    _judge(
        data, bounds, classes(), words.start, words.rows, knobs.terminal_punctuation, fewest, longest, javascript, policy,
        cuts, cut_rows, counts,
    )  # fmt: skip
    found = []
    for row in range(rows):
        kept, sentences, *cut_by = counts[row].tolist()
        pairs = [(start, end) for start, end in cuts[cut_rows[row] : cut_rows[row + 1]].tolist()]
        found.append(Judged(pairs, dict(zip(LINE_RULES, cut_by, strict=True)), kept, sentences, 0))
    return found


def count_sentences(line: str) -> int:
    """Sentences of a stripped line."""
    data, _ = encoded([line])
    return _sentences(data, 0, len(data), classes()) if line else 0


class Phrases(NamedTuple):
    """Phrases as bytes in small letters, end to end, and which of them begin with a byte."""

    data: Bytes
    bounds: Ints
    first: Ints  # [256]: a phrase that begins with the byte, -1 for none
    after: Ints  # the next one that begins with the same byte


def phrase_table(phrases: Iterable[str]) -> Phrases:
    """A table to look phrases up by; capitals of ASCII count as small letters."""
    data, bounds = encoded([phrase for phrase in map(ascii_lower, phrases) if phrase])
    first, after = np.full(256, -1, np.int64), np.full(len(bounds), -1, np.int64)
    for phrase in range(len(bounds) - 2, -1, -1):
        head = data[bounds[phrase]]
        after[phrase], first[head] = first[head], phrase
    return Phrases(data, bounds, first, after)


def ascii_lower(text: str) -> str:
    """Capitals of ASCII as small letters; the others stay."""
    return text.translate(_LOWER)


_LOWER = {code: code + 32 for code in range(65, 91)}


def holds_any(data: Bytes, bounds: Ints, phrases: Iterable[str]) -> Bools:
    """Which texts in UTF-8 hold one of the phrases, in any case of ASCII letters."""
    return _rows_that_hold(data, bounds, phrase_table(phrases))


@kernel
def _rows_that_hold(data: Bytes, bounds: Ints, phrases: Phrases) -> Bools:
    found = np.zeros(len(bounds) - 1, np.bool_)
    for row in range(len(found)):
        found[row] = _holds(data, bounds[row], bounds[row + 1], phrases)
    return found


@kernel
def _holds(data: Bytes, start: Any, stop: Any, phrases: Phrases) -> bool:
    for at in range(start, stop):
        byte = data[at]
        byte = byte + 32 if 65 <= byte <= 90 else byte
        phrase = phrases.first[byte]
        while phrase >= 0:
            begin, end = phrases.bounds[phrase], phrases.bounds[phrase + 1]
            same = at + end - begin <= stop
            place = 1
            while same and place < end - begin:
                byte = data[at + place]
                byte = byte + 32 if 65 <= byte <= 90 else byte
                same = byte == phrases.data[begin + place]
                place += 1
            if same:
                return True
            phrase = phrases.after[phrase]
    return False


@kernel
def _judge(
    data: Bytes,
    bounds: Ints,
    table: Table,
    word_start: Ints,
    word_rows: Ints,
    terminal: bool,
    fewest: int,
    longest: int,
    javascript: Phrases,
    policy: Phrases,
    cuts: Ints,
    cut_rows: Ints,
    counts: Ints,
) -> None:
    """Write each row's cuts, and its counts: lines kept, sentences in them, lines cut by each of LINE_RULES.

    Limits below 0 are off. `cuts`: [newlines + 2 * rows, 2]; `counts`: [rows, 7].
    """
    total = 0  # cuts
    for row in range(len(bounds) - 1):
        own = total
        at, stop = bounds[row], bounds[row + 1]
        word, words_end = word_rows[row], word_rows[row + 1]
        place = start = np.int64(0)  # of the character and of the line, in code points
        tail = np.int64(0)  # end of the last kept line that is not blank
        cut_since = blank_since = False  # since that line: a line was cut, a blank one kept
        kept = sentences = np.int64(0)
        while True:
            first: Any = np.int64(-1)
            last: Any = np.int64(-1)  # bytes of the line without white space around it
            run: Any = np.int64(0)  # without white space
            widest: Any = np.int64(0)
            dots: Any = np.int64(0)
            final_dots: Any = np.int64(0)
            final: Any = np.int64(0)
            while at < stop and data[at] != 10:
                code: Any = np.int64(data[at])
                after: Any = at + 1
                if code >= 0x80:
                    code, after = decode(data, at, stop)
                kind = table[code]
                if kind & SPACE:
                    run = dots = np.int64(0)
                else:
                    run = np.int64(0) if kind & RUN_ON else run + 1
                    widest = max(widest, run)
                    dots = dots + 1 if code == 46 else np.int64(0)
                    if first < 0:
                        first = at
                    last, final, final_dots = after, code, dots
                place += 1
                at = after
            end = place + 1  # after the newline
            words = 0
            while word < words_end and word_start[word] < end:
                words += 1
                word += 1
            cut = False
            if first < 0:
                cut = cut_since and (blank_since or kept == 0)
                blank_since = True
            else:
                rule = -1
                if 0 <= longest < widest:
                    rule = 0
                elif terminal and ((table[final] & TERMINAL) == 0 or final_dots >= 3 or final == 0x2026):
                    rule = 1
                elif words < fewest:
                    rule = 2
                elif _holds(data, first, last, javascript):
                    rule = 3
                elif _holds(data, first, last, policy):
                    rule = 4
                if rule < 0:
                    kept += 1
                    sentences += _sentences(data, first, last, table)
                    tail = place
                    cut_since = blank_since = False
                else:
                    counts[row, 2 + rule] += 1
                    cut = cut_since = True
            if cut:
                if total > own and cuts[total - 1, 1] == start:
                    cuts[total - 1, 1] = end
                else:
                    cuts[total, 0], cuts[total, 1] = start, end
                    total += 1
            start = end
            if at >= stop:
                break
            at += 1
            place += 1
        if cut_since:  # nothing kept follows: cut all that does
            while total > own and cuts[total - 1, 0] >= tail:
                total -= 1
            if total > own and cuts[total - 1, 1] == tail:
                cuts[total - 1, 1] = place
            elif tail < place:
                cuts[total, 0], cuts[total, 1] = tail, place
                total += 1
        counts[row, 0], counts[row, 1] = kept, sentences
        cut_rows[row + 1] = total


@kernel
def _sentences(data: Bytes, at: Any, stop: Any, table: Table) -> int:
    """`count_sentences` of a stripped line."""
    count = 0
    while at < stop:
        at, _ = sentence_end(data, at, stop, 0, table)
        count += 1
    return count
