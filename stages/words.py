r"""One tokenisation of a document, shared by every stage that counts words.

Words are those of UAX #29 (Unicode text segmentation), simplified, that hold a letter or a number:

- a word is a run of letters, numbers, combining marks and connectors (`_`);
- it goes on over one apostrophe, full stop or middle dot between two letters (`don't`, `l'eau`, `e.g`, `col·lega`), over one full
  stop, comma or apostrophe between two numbers (`3.14`, `1,000`), and over joiners (ZWJ, ZWNJ, soft hyphen) between any two;
- scripts written without spaces have no word boundaries to go by: each Han, Hiragana, Thai, Lao, Khmer or Myanmar letter, with its
  marks, is one word. Katakana and Hangul are runs, as in UAX #29.

Punctuation alone is never a word. Differences from UAX #29: no colon and no Hebrew quotation rule, no dictionary, and emoji are not
words. Offsets are code points. Unicode data is that of the running Python.

One compiled loop over the bytes of a batch finds them, which is what makes counting cheap: a word is a pair of offsets and a
64-bit key, not a string. Equal words have equal keys; different words have different keys except by accident (about 2^-64 a pair).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.batch import Batch, encoded
from stages.characters import (
    CONNECTOR,
    CORE,
    JOINER,
    LETTER,
    MARK,
    MID_LETTER,
    MID_NUMBER,
    NUMBER,
    UNSPACED,
    Bools,
    Bytes,
    Ints,
    Keys,
    Table,
    classes,
)
from stages.jit import kernel


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


def batch_words(batch: Batch) -> Words:
    """The words of the batch's texts, computed once for all stages."""
    return batch.derived("words", lambda: _words(*batch.utf8()))


def tokenise(texts: Sequence[str]) -> Words:
    """The words of several texts. Linear in their length; the result of a text does not depend on the others."""
    return _words(*encoded(texts))


def word_key(word: str) -> int:
    """The key that `tokenise` gives this word. Raises `ValueError` if it is not exactly one word."""
    found = tokenise([word])
    if len(found.start) != 1 or found.start[0] != 0 or found.end[0] != len(word):
        raise ValueError(f"{word!r} is not one word")
    return int(found.key[0])


def _words(data: Bytes, bounds: Ints) -> Words:
    most = len(data)  # no word is shorter than a byte; memory that is not written is not taken
    start, end = np.empty(most, np.int64), np.empty(most, np.int64)
    key, alphabetic, unspaced = np.empty(most, np.uint64), np.empty(most, np.bool_), np.empty(most, np.bool_)
    rows = np.zeros(len(bounds), np.int64)
    count = _find_words(data, bounds, classes(), start, end, key, alphabetic, unspaced, rows)
    return Words(
        rows,
        start[:count].copy(),
        end[:count].copy(),
        key[:count].copy(),
        alphabetic[:count].copy(),
        unspaced[:count].copy(),
    )


BASE = np.uint64(0x9E3779B97F4A7C15)  # odd
_LETTER_OR_MARK = LETTER | MARK
_MIDDLE = JOINER | MID_LETTER | MID_NUMBER
_LETTER_OR_NUMBER = LETTER | NUMBER
_OWN_START = LETTER | NUMBER | CONNECTOR


@kernel
def mix(value: np.uint64) -> np.uint64:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): spreads every bit of a key over all of them."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


@kernel
def decode(data: Bytes, at: Any, stop: Any) -> tuple[Any, Any]:
    """The code point at a byte, and the byte after it; a byte that begins none stands for U+FFFD."""
    first: Any = np.int64(data[at])
    if first < 0x80:
        return first, at + 1
    if 0xC0 <= first < 0xE0 and at + 2 <= stop:
        return (first & 0x1F) << 6 | (np.int64(data[at + 1]) & 0x3F), at + 2
    if 0xE0 <= first < 0xF0 and at + 3 <= stop:
        return (first & 0x0F) << 12 | (np.int64(data[at + 1]) & 0x3F) << 6 | (np.int64(data[at + 2]) & 0x3F), at + 3
    if 0xF0 <= first < 0xF5 and at + 4 <= stop:
        high = (first & 0x07) << 18 | (np.int64(data[at + 1]) & 0x3F) << 12
        return min(high | (np.int64(data[at + 2]) & 0x3F) << 6 | (np.int64(data[at + 3]) & 0x3F), 0x10FFFF), at + 4
    return 0xFFFD, at + 1


@kernel
def _find_words(
    data: Bytes,
    bounds: Ints,
    table: Table,
    start: Ints,
    end: Ints,
    key: Keys,
    alphabetic: Bools,
    unspaced: Bools,
    rows: Ints,
) -> int:
    """Write the words of all rows, and where each row's begin; how many there are. Lengths of the arrays: bytes, and rows + 1."""
    count = 0
    for row in range(len(bounds) - 1):
        at, stop = bounds[row], bounds[row + 1]
        place = 0  # of the character, in code points
        within = False  # a word is open
        before = np.uint16(0)  # classes of the character before
        real = letters = own = False
        first = 0
        total, power = np.uint64(0), np.uint64(1)
        while at < stop:
            code: Any = np.int64(data[at])
            after: Any = at + 1
            if code >= 0x80:
                code, after = decode(data, at, stop)
            kind = table[code]
            if kind & CORE:
                alone = (kind & UNSPACED) != 0 and (kind & MARK) == 0
                if within and (
                    alone or ((kind & UNSPACED) == 0 and (kind & _OWN_START) != 0 and (before & UNSPACED) != 0)
                ):
                    if real:
                        start[count], end[count], alphabetic[count], unspaced[count] = first, place, letters, own
                        key[count] = mix(total + np.uint64(place - first))
                        count += 1
                    within = False
                if not within:
                    within, first, own, real, letters = True, place, alone, False, False
                    total, power = np.uint64(0), np.uint64(1)
                letters |= (kind & LETTER) != 0
                real |= (kind & _LETTER_OR_NUMBER) != 0
                total += np.uint64(code + 1) * power
                power *= BASE
                while after < stop:  # the rest of a run of ASCII letters, which is most of most texts
                    code = np.int64(data[after])
                    if not (97 <= code <= 122 or 65 <= code <= 90) or (kind & UNSPACED) != 0:
                        break
                    total += np.uint64(code + 1) * power
                    power *= BASE
                    letters = real = True
                    kind = LETTER
                    place += 1
                    after += 1
            elif within:
                joined = False
                if (kind & _MIDDLE) != 0 and after < stop and (before & CORE) != 0 and (before & UNSPACED) == 0:
                    next_code, _ = decode(data, after, stop)
                    behind = table[next_code]
                    if (behind & CORE) != 0 and (behind & UNSPACED) == 0:
                        both_letters = (before & _LETTER_OR_MARK) != 0 and (behind & _LETTER_OR_MARK) != 0
                        joined = (
                            (kind & JOINER) != 0
                            or ((kind & MID_LETTER) != 0 and both_letters)
                            or ((kind & MID_NUMBER) != 0 and (before & behind & NUMBER) != 0)
                        )
                if joined:
                    total += np.uint64(code + 1) * power
                    power *= BASE
                else:
                    if real:
                        start[count], end[count], alphabetic[count], unspaced[count] = first, place, letters, own
                        key[count] = mix(total + np.uint64(place - first))
                        count += 1
                    within = False
            before = kind
            place += 1
            at = after
        if within and real:
            start[count], end[count], alphabetic[count], unspaced[count] = first, place, letters, own
            key[count] = mix(total + np.uint64(place - first))
            count += 1
        rows[row + 1] = count
    return count
