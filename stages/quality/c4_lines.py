"""C4's rules for lines, one text at a time in plain Python, and a compiled loop that does the same for texts without citation marks
and without phrases that cut a line, which is most of them.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from stages.batch import encoded
from stages.characters import (
    CLOSER,
    CLOSING_QUOTES,
    RUN_ON,
    SENTENCE_STOPS,
    SPACE,
    STOP,
    TERMINAL,
    UNSPACED_RANGES,
    WIDE_STOP,
    Bools,
    Bytes,
    Ints,
    Table,
    classes,
)
from stages.jit import kernel
from stages.words import Words, decode

LINE_RULES = ("long_word", "no_terminal_punctuation", "few_words", "javascript", "policy")


class LineKnobs(NamedTuple):
    """The knobs of the line rules; None switches a rule off."""

    terminal_punctuation: bool
    min_line_words: int | None
    max_word_length: int | None
    javascript: bool
    policy_phrases: tuple[str, ...]
    citations: bool


CITATION = re.compile(r"\[[0-9]*\]|\[edit\]|\[citation needed\]")
_TERMINAL = tuple(SENTENCE_STOPS + CLOSING_QUOTES)
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


def judge_lines(text: str, word_starts: np.ndarray, knobs: LineKnobs) -> Judged:
    """Apply the line rules to one text. `word_starts`: where its words begin, ascending."""
    cut_by = dict.fromkeys(LINE_RULES, 0)
    raw = text.split("\n")
    ends = np.cumsum(np.fromiter(map(len, raw), dtype=np.int64, count=len(raw)) + 1)
    words_before = np.searchsorted(word_starts, ends).tolist()
    lower = ascii_lower(text)
    banned = [pair for pair in banned_phrases(knobs).items() if pair[0] in lower]
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


def line_rule(line: str, words: int, knobs: LineKnobs, banned: list[tuple[str, str]]) -> str | None:
    """The first rule that cuts a stripped line, or None. `banned`: (lower-case phrase, rule) pairs."""
    longest = knobs.max_word_length
    if longest is not None and len(line) > longest and has_longer_word(line, longest):
        return "long_word"
    if knobs.terminal_punctuation and (not line.endswith(_TERMINAL) or line.endswith(ELLIPSIS)):
        return "no_terminal_punctuation"
    if knobs.min_line_words is not None and words < knobs.min_line_words:
        return "few_words"
    if banned:
        lower = ascii_lower(line)
        return next((rule for phrase, rule in banned if phrase in lower), None)
    return None


def ascii_lower(text: str) -> str:
    """Capitals of ASCII as small letters; the others stay."""
    return text.translate(_LOWER)


_LOWER = {ord(letter): letter.lower() for letter in string.ascii_uppercase}


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


def judge_all(texts: Sequence[str], data: Bytes, bounds: Ints, words: Words, knobs: LineKnobs) -> list[Judged]:
    """Apply the line rules to texts, which are also given as UTF-8 (`Batch.utf8`)."""
    plain = holds_any(data, bounds, banned_phrases(knobs))  # rows that the compiled loop leaves to plain Python
    if knobs.citations:
        for row in np.flatnonzero(holds_any(data, bounds, ("[",)) & ~plain).tolist():
            plain[row] = CITATION.search(texts[row]) is not None
    most = int(np.count_nonzero(data == 10)) + 2 * len(texts)
    cuts, counts = np.empty((most, 2), np.int64), np.zeros((len(texts), 5), np.int64)
    cut_rows = np.zeros(len(texts) + 1, np.int64)
    fewest = -1 if knobs.min_line_words is None else knobs.min_line_words
    longest = -1 if knobs.max_word_length is None else knobs.max_word_length
    _judge(
        data,
        bounds,
        classes(),
        plain,
        words.start,
        words.rows,
        knobs.terminal_punctuation,
        fewest,
        longest,
        cuts,
        cut_rows,
        counts,
    )
    found = []
    for row, text in enumerate(texts):
        if plain[row]:
            found.append(judge_lines(text, words.start[words.rows[row] : words.rows[row + 1]], knobs))
            continue
        kept, sentences, *cut_by = counts[row].tolist()
        pairs = [(start, end) for start, end in cuts[cut_rows[row] : cut_rows[row + 1]].tolist()]
        found.append(Judged(pairs, dict(zip(LINE_RULES, [*cut_by, 0, 0], strict=True)), kept, sentences, 0))
    return found


def banned_phrases(knobs: LineKnobs) -> dict[str, str]:
    """Phrases that cut a line, in small letters, and by which rule."""
    policy = dict.fromkeys((phrase.lower() for phrase in knobs.policy_phrases), "policy")
    return {"javascript": "javascript", **policy} if knobs.javascript else policy


def holds_any(data: Bytes, bounds: Ints, phrases: Iterable[str]) -> Bools:
    """Which texts in UTF-8 hold one of the phrases, which are in small letters; capitals of ASCII count as small ones."""
    found = np.zeros(len(bounds) - 1, np.bool_)
    heads, places = encoded([phrase for phrase in phrases if phrase])
    first = np.full(256, -1, np.int64)  # the first phrase that begins with a byte
    after = np.full(len(places), -1, np.int64)  # and the next one that does
    for phrase in range(len(places) - 2, -1, -1):
        head = heads[places[phrase]]
        after[phrase], first[head] = first[head], phrase
    _holds(data, bounds, heads, places, first, after, found)
    return found


@kernel
def _holds(data: Bytes, bounds: Ints, heads: Bytes, places: Ints, first: Ints, after: Ints, found: Bools) -> None:
    for row in range(len(found)):
        stop = bounds[row + 1]
        for at in range(bounds[row], stop):
            byte = data[at]
            byte = byte + 32 if 65 <= byte <= 90 else byte
            phrase = first[byte]
            while phrase >= 0:
                size = places[phrase + 1] - places[phrase]
                same = at + size <= stop
                place = 1
                while same and place < size:
                    byte = data[at + place]
                    byte = byte + 32 if 65 <= byte <= 90 else byte
                    same = byte == heads[places[phrase] + place]
                    place += 1
                if same:
                    found[row] = True
                    break
                phrase = after[phrase]
            if found[row]:
                break


@kernel
def _judge(
    data: Bytes,
    bounds: Ints,
    table: Table,
    plain: Bools,
    word_start: Ints,
    word_rows: Ints,
    terminal: bool,
    fewest: int,
    longest: int,
    cuts: Ints,
    cut_rows: Ints,
    counts: Ints,
) -> None:
    """Write each row's cuts, and its counts: lines kept, sentences in them, lines cut by the first three of LINE_RULES.

    Limits below 0 are off. `cuts`: [newlines + 2 * rows, 2]; `counts`: [rows, 5].
    """
    total = 0  # cuts
    for row in range(len(bounds) - 1):
        own = total
        if not plain[row]:
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
    last = at  # end of the last sentence
    behind_stop = False
    while at < stop:
        code: Any = np.int64(data[at])
        after: Any = at + 1
        if code >= 0x80:
            code, after = decode(data, at, stop)
        kind = table[code]
        if (kind & STOP) == 0 or behind_stop:
            behind_stop = (kind & STOP) != 0
            at = after
            continue
        end, closing = after, False  # of the run of stops and of what closes it
        while end < stop:
            next_code, next_after = decode(data, end, stop)
            bits = table[next_code]
            if not closing and (bits & STOP) != 0:
                end = next_after
            elif (bits & CLOSER) != 0:
                end, closing = next_after, True
            else:
                break
        ends = end >= stop or (kind & WIDE_STOP) != 0
        if not ends:
            beyond, spaces = end, 0
            next_code, next_after = decode(data, beyond, stop)
            while (table[next_code] & SPACE) != 0:  # the line is stripped: something follows
                beyond, spaces = next_after, spaces + 1
                next_code, next_after = decode(data, beyond, stop)
            ends = spaces > 0 and not 97 <= next_code <= 122
        if ends:
            count += 1
            last = at = end
            behind_stop = not closing
        else:
            behind_stop = True
            at = after
    return count + (1 if last < stop else 0)
