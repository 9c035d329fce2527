"""What two texts differ in, word by word."""

from __future__ import annotations

import re
from collections.abc import Iterator
from difflib import SequenceMatcher
from typing import Literal, NamedTuple

MOST_WORDS = 3_000  # of each text; what comparing them takes grows faster than their number
CONTEXT = 10  # equal words shown on both sides of a difference
# Scripts without spaces count by character: Thai, Lao, Burmese, Khmer, kana, Han.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"([{_UNSPACED}]|[^\s{_UNSPACED}]+)(\s*)")


class Piece(NamedTuple):
    """A stretch of text: in both (`same`), in the first or the second alone, or equal words that are left out (`gap`)."""

    kind: Literal["same", "first", "second", "gap"]
    text: str
    words: int


class Difference(NamedTuple):
    """The pieces in order, how many words differ, and how many of each text were not compared for their number."""

    pieces: list[Piece]
    changed: int
    unread: tuple[int, int]


def difference(first: str, second: str) -> Difference:
    """The words that one text has and the other has not; white space between words is not compared."""
    ours, theirs = list(_words(first)), list(_words(second))
    unread = (max(len(ours) - MOST_WORDS, 0), max(len(theirs) - MOST_WORDS, 0))
    ours, theirs = ours[:MOST_WORDS], theirs[:MOST_WORDS]
    a, b = [word for word, _ in ours], [word for word, _ in theirs]
    pieces: list[Piece] = []
    changed = 0
    steps = _steps(a, b)
    for place, (kind, start, end, other, other_end) in enumerate(steps):
        if kind == "equal":
            pieces += _equal(ours[start:end], place > 0, place + 1 < len(steps))
            continue
        changed += max(end - start, other_end - other)
        if end > start:
            pieces.append(Piece("first", _text(ours[start:end]), end - start))
        if other_end > other:
            pieces.append(Piece("second", _text(theirs[other:other_end]), other_end - other))
    return Difference(pieces, changed, unread)


def _words(text: str) -> Iterator[tuple[str, str]]:
    """Each word with the white space behind it."""
    for match in _WORD.finditer(text):
        yield match[1], match[2]


def _text(words: list[tuple[str, str]]) -> str:
    return "".join(word + space for word, space in words)


def _steps(a: list[str], b: list[str]) -> list[tuple[str, int, int, int, int]]:
    """As `SequenceMatcher.get_opcodes`, with what is equal at both ends taken off first: most of two near-duplicates.

    `autojunk`: words that make up more than a hundredth of a long text begin no match, only go on with one; without it a text of
    three words over and over takes minutes.
    """
    head = 0
    while head < min(len(a), len(b)) and a[head] == b[head]:
        head += 1
    tail = 0
    while tail < min(len(a), len(b)) - head and a[-1 - tail] == b[-1 - tail]:
        tail += 1
    inner = SequenceMatcher(None, a[head : len(a) - tail], b[head : len(b) - tail], autojunk=True).get_opcodes()
    steps = [("equal", 0, head, 0, head)] if head else []
    steps += [(kind, s + head, e + head, o + head, p + head) for kind, s, e, o, p in inner]
    if tail:
        steps.append(("equal", len(a) - tail, len(a), len(b) - tail, len(b)))
    return steps


def _equal(words: list[tuple[str, str]], before: bool, after: bool) -> Iterator[Piece]:
    """Equal words; of many, those next to a difference before or after them."""
    head, tail = CONTEXT if before else 0, CONTEXT if after else 0
    if len(words) <= head + tail + CONTEXT:
        yield Piece("same", _text(words), len(words))
        return
    if head:
        yield Piece("same", _text(words[:head]), head)
    yield Piece("gap", "", len(words) - head - tail)
    if tail:
        yield Piece("same", _text(words[len(words) - tail :]), tail)
