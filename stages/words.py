r"""One tokenisation of a document, shared by every stage that counts words.

Words are those of UAX #29 (Unicode text segmentation), simplified, that hold a letter or a number:

- a word is a run of letters, numbers, combining marks and connectors (`_`);
- it goes on over one apostrophe, full stop or middle dot between two letters (`don't`, `l'eau`, `e.g`, `col·lega`), over one full
  stop, comma or apostrophe between two numbers (`3.14`, `1,000`), and over joiners (ZWJ, ZWNJ, soft hyphen) between any two;
- scripts written without spaces have no word boundaries to go by: each Han, Hiragana, Thai, Lao, Khmer or Myanmar letter, with its
  marks, is one word. Katakana and Hangul are runs, as in UAX #29.

Punctuation alone is never a word. Differences from UAX #29: no colon and no Hebrew quotation rule, no dictionary, and emoji are not
words. Offsets are code points. Unicode data is that of the running Python.

Everything is computed for a whole batch in a few array operations, which is what makes counting cheap: a word is a pair of offsets
and a 64-bit key, not a string. Equal words have equal keys; different words have different keys except by accident (about 2^-64 a pair).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from stages.batch import Batch

WORD = re.compile(r"\w+")

Ints: TypeAlias = npt.NDArray[np.int64]
Keys: TypeAlias = npt.NDArray[np.uint64]
Bools: TypeAlias = npt.NDArray[np.bool_]


def lower_words(text: str) -> list[str]:
    r"""The lower-case `\w+` runs of a text: the words of dedup's shingles."""
    return WORD.findall(text.lower())


# Bits of a code point's class.
LETTER, NUMBER, MARK, UNSPACED, CONNECTOR, JOINER, MID_LETTER, MID_NUMBER = (np.uint8(1 << bit) for bit in range(8))
CORE = LETTER | NUMBER | MARK | CONNECTOR

UNSPACED_RANGES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # ideographic iteration and closing marks, zero
    (0x3021, 0x3029),  # Hangzhou numerals
    (0x3040, 0x309F),  # Hiragana
    (0x3400, 0x4DBF),  # Han, extension A
    (0x4E00, 0x9FFF),  # Han
    (0xA9E0, 0xA9FF),  # Myanmar, extended B
    (0xAA60, 0xAA7F),  # Myanmar, extended A
    (0xF900, 0xFAFF),  # Han, compatibility
    (0x1B000, 0x1B16F),  # historic kana
    (0x20000, 0x323AF),  # Han, extensions B to H
)
# Word_Break = MidNumLet, MidLetter and MidNum of UAX #29, but for the colon (Swedish writes words with it, but so do "key:value" lists).
BETWEEN_LETTERS = "'.·‘’․﹒＇．·՟״‧"
BETWEEN_NUMBERS = "'.’․﹒＇．,;،٬，；"
JOINERS = "\u00ad\u200c\u200d\u2060"


@cache
def classes() -> npt.NDArray[np.uint8]:
    """The class bits of every code point (1.1 MB, a fifth of a second, once a process)."""
    table = np.zeros(0x110000, dtype=np.uint8)
    bits = {"L": LETTER, "M": MARK, "N": NUMBER}
    category = unicodedata.category
    for first, last in ((0, 0x323B0), (0xE0100, 0xE01F0)):  # the planes between hold no characters
        for code in range(first, last):
            kind = category(chr(code))
            if kind[0] in bits:
                table[code] = bits[kind[0]]
            elif kind == "Pc":
                table[code] = CONNECTOR
    for first, last in UNSPACED_RANGES:
        span = table[first : last + 1]
        span[(span & (LETTER | MARK)) != 0] |= UNSPACED
    table[[ord(char) for char in BETWEEN_LETTERS]] |= MID_LETTER
    table[[ord(char) for char in BETWEEN_NUMBERS]] |= MID_NUMBER
    table[[ord(char) for char in JOINERS]] |= JOINER
    table.flags.writeable = False
    return table


@dataclass(frozen=True)
class Words:
    """The words of several documents, end to end: row r's words are `[rows[r], rows[r + 1])` in the other arrays."""

    rows: Ints
    start: Ints  # code points within the row's text
    end: Ints
    key: Keys  # equal for equal words (case counts)
    alphabetic: Bools  # holds a letter
    unspaced: Bools  # one letter of a script without spaces

    @property
    def counts(self) -> Ints:
        """Words a row."""
        return np.diff(self.rows)

    @property
    def row(self) -> Ints:
        """The row of each word."""
        return np.repeat(np.arange(len(self.rows) - 1, dtype=np.int64), self.counts)

    @property
    def length(self) -> Ints:
        """Code points of each word."""
        return self.end - self.start

    def total(self, values: npt.NDArray[np.generic]) -> Ints:
        """The sum over each row of one integer (or bool) a word."""
        sums = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
        return sums[self.rows[1:]] - sums[self.rows[:-1]]


PIECE = 1 << 18  # code points tokenised at a time, so that the work stays in the processor's cache
SPACE = re.compile(r"\s")


def batch_words(batch: Batch) -> Words:
    """The words of the batch's texts, computed once for all stages."""
    return batch.derived("words", lambda: tokenise(batch.texts()))


def tokenise(texts: Sequence[str]) -> Words:
    """The words of several texts. Linear in their length; the result of a text does not depend on the others."""
    counts = np.zeros(len(texts), dtype=np.int64)
    found: list[tuple[npt.NDArray[np.generic], ...]] = []
    for joined, rows, places, offsets in _pieces(texts):
        start, end, key, alphabetic, unspaced = _words_of(joined)
        if len(start) == 0:
            continue
        part = np.searchsorted(places, start, side="right") - 1
        shift = (offsets - places)[part]
        counts += np.bincount(rows[part], minlength=len(texts))
        found.append((start + shift, end + shift, key, alphabetic, unspaced))
    start, end, key, alphabetic, unspaced = (
        [np.concatenate(column) for column in zip(*found, strict=True)] if found else _words_of("")
    )
    return Words(np.concatenate([[0], np.cumsum(counts)]), start, end, key, alphabetic, unspaced)


def _pieces(texts: Sequence[str]) -> Iterator[tuple[str, Ints, Ints, Ints]]:
    """Texts joined (or cut at white space) into strings of about PIECE code points.

    Yields the string, and for each part of it: its row, its place in the string, its offset in the row's text.
    """
    held: list[str] = []
    rows, places, offsets, size = [], [], [], 0
    for row, text in enumerate(texts):
        at = 0
        while at < len(text):
            stop = _cut(text, at)
            part = text[at:stop] if at or stop < len(text) else text
            held.append(part)
            rows.append(row)
            places.append(size)
            offsets.append(at)
            size += len(part) + 1
            at = stop
            if size >= PIECE:
                yield "\n".join(held), np.array(rows), np.array(places), np.array(offsets)
                held, rows, places, offsets, size = [], [], [], [], 0
    if held:
        yield "\n".join(held), np.array(rows), np.array(places), np.array(offsets)


def _cut(text: str, at: int) -> int:
    """Where a piece that begins at `at` ends: at white space, so never inside a word."""
    if len(text) - at <= 2 * PIECE:
        return len(text)
    space = SPACE.search(text, at + PIECE)
    return space.start() + 1 if space else len(text)


def code_points(text: str) -> npt.NDArray[np.uint32]:
    """A text as an array of code points; lone surrogates pass as themselves."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def _words_of(text: str) -> tuple[Ints, Ints, Keys, Bools, Bools]:
    """Start, end, key, alphabetic and unspaced of each word of one string."""
    codes = code_points(text)
    kind = classes()[codes]
    inside = (kind & CORE) != 0
    spaced = inside & ((kind & UNSPACED) == 0)
    _bridge(kind, inside, spaced)

    unspaced = (kind & UNSPACED) != 0
    starts = inside.copy()
    starts[1:] &= ~inside[:-1]
    own = unspaced & ((kind & MARK) == 0)  # a letter that is a word of its own
    starts |= own
    starts[1:] |= spaced[1:] & ((kind[1:] & (LETTER | NUMBER | CONNECTOR)) != 0) & unspaced[:-1]
    ends = np.zeros_like(inside)  # last code point of a word
    ends[:-1] = inside[:-1] & (~inside[1:] | starts[1:])
    if len(ends):
        ends[-1] = inside[-1]
    start, end = np.flatnonzero(starts), np.flatnonzero(ends) + 1
    if len(start) == 0:
        return start, end, np.zeros(0, np.uint64), np.zeros(0, np.bool_), np.zeros(0, np.bool_)

    alphabetic = np.add.reduceat((kind & LETTER) != 0, start, dtype=np.int64) > 0
    real = alphabetic | (np.add.reduceat((kind & NUMBER) != 0, start, dtype=np.int64) > 0)
    power, inverse = _powers(len(codes))
    terms = np.where(inside, (codes + np.uint32(1)).astype(np.uint64) * power, np.uint64(0))
    key = mix(np.add.reduceat(terms, start) * inverse[start] + (end - start).astype(np.uint64))
    return start[real], end[real], key[real], alphabetic[real], own[start[real]]


def _bridge(kind: npt.NDArray[np.uint8], inside: Bools, spaced: Bools) -> None:
    """Mark (in `inside`) the apostrophes, points and joiners that stand between two characters of one word."""
    mid = np.flatnonzero((kind & (JOINER | MID_LETTER | MID_NUMBER)) != 0)
    mid = mid[(mid > 0) & (mid < len(kind) - 1)]
    mid = mid[spaced[mid - 1] & spaced[mid + 1]]
    before, here, after = kind[mid - 1], kind[mid], kind[mid + 1]
    both = before & after
    letters = ((before & (LETTER | MARK)) != 0) & ((after & (LETTER | MARK)) != 0)
    joins = (here & JOINER) != 0
    joins |= ((here & MID_LETTER) != 0) & letters
    joins |= ((here & MID_NUMBER) != 0) & ((both & NUMBER) != 0)
    inside[mid[joins]] = True


BASE = 0x9E3779B97F4A7C15 | 1  # an odd number, so that it has an inverse modulo 2^64


@cache
def _power_tables(size: int) -> tuple[Keys, Keys]:
    tables = []
    for base in (BASE, pow(BASE, -1, 1 << 64)):
        table = np.full(size, base, dtype=np.uint64)
        table[:1] = 1
        tables.append(np.cumprod(table))  # wraps modulo 2^64
    return tables[0], tables[1]


def _powers(size: int) -> tuple[Keys, Keys]:
    """BASE^i and BASE^-i modulo 2^64 for i < size (more are kept than asked for, in a few sizes)."""
    if size <= 4 * PIECE:
        power, inverse = _power_tables(4 * PIECE)
    else:  # one run without white space that is longer: rare, so not kept
        power, inverse = _power_tables.__wrapped__(size)
    return power[:size], inverse[:size]


def mix(values: Keys) -> Keys:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): spreads every bit of a key over all of them."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def word_key(word: str) -> int:
    """The key that `tokenise` gives this word. Raises `ValueError` if it is not exactly one word."""
    start, end, key, _, _ = _words_of(word)
    if len(start) != 1 or start[0] != 0 or end[0] != len(word):
        raise ValueError(f"{word!r} is not one word")
    return int(key[0])


def lines(text: str) -> list[str]:
    """The non-blank lines of a text, stripped of white space; blank lines are never counted as lines."""
    return [line for line in map(str.strip, text.split("\n")) if line]


def batch_lines(batch: Batch) -> list[list[str]]:
    """`lines` of every row, computed once for all stages."""
    return batch.derived("lines", lambda: [lines(text) for text in batch.texts()])


PARAGRAPH_BREAK = re.compile(r"\n[^\S\n]*\n\s*")


def paragraphs(text: str) -> list[str]:
    """The blocks between blank lines, stripped, without blank ones."""
    return [block for block in map(str.strip, PARAGRAPH_BREAK.split(text)) if block]
