"""Words as decontamination compares them, found and hashed in one pass over a text's code points.

A word is a run of letters and numbers. Two words are equal if they are so after Unicode's compatibility normalisation
(NFKC) and case folding, without the accents of Latin, Greek and Cyrillic letters; soft hyphens, joiners and variation
selectors are not there at all. Everything else - punctuation, apostrophes, hyphens, underscores, symbols - only
separates. Each letter of a script that is written without spaces is a word (see `UNSPACED`).
The words are not those of `stages.words`: there case and punctuation inside a word count, since rules count them.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from stages.jit import kernel

Codes: TypeAlias = npt.NDArray[np.uint32]
Ints: TypeAlias = npt.NDArray[np.int64]
Small: TypeAlias = npt.NDArray[np.int32]
Keys: TypeAlias = npt.NDArray[np.uint64]

# Entries of the table: 0 separates; SKIPPED is not there; else a folded code point, with ALONE where the letter is a
# word by itself; or EXPANDED and a place in the list of expansions (a count, then so many code points).
SKIPPED = -1
ALONE = 1 << 22
EXPANDED = 1 << 23
CODE = ALONE - 1
LAST = 0x110000

UNSPACED = (  # (first, last) code points
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # ideographic iteration and closing marks, zero
    (0x3040, 0x309F),  # Hiragana
    (0x3400, 0x4DBF),  # Han, extension A
    (0x4E00, 0x9FFF),  # Han
    (0xF900, 0xFAFF),  # Han, compatibility
    (0x20000, 0x323AF),  # Han, extensions B to H
)
_PLAIN = ((0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xAC00, 0xD7A3), (0x20000, 0x323AF))  # many, and folded to themselves
_ACCENTED = ((0x00C0, 0x052F), (0x1E00, 0x1FFF))  # Latin, Greek, Cyrillic letters that may be composed with accents
_INVISIBLE = (0x00AD, 0x200B, 0x200C, 0x200D, 0x2060, 0xFEFF, *range(0xFE00, 0xFE10), *range(0x0300, 0x0370))
_STEP = np.uint64(0x9E3779B97F4A7C15)


class Folding(NamedTuple):
    """`table`: int32, an entry for each code point; `expansions`: int32."""

    table: Small
    expansions: Small


@cache
def folding() -> Folding:
    """The tables, 4.5 MB, made once a process from the running Python's Unicode data."""
    table = np.zeros(LAST, dtype=np.int32)
    expansions: list[int] = []
    for first, last in _PLAIN:
        table[first : last + 1] = np.arange(first, last + 1)
    for first, last in ((0, 0x3400), (0xA000, 0xAC00), (0xD7B0, 0xD800), (0xF900, 0x20000)):
        for code in range(first, last):
            if unicodedata.category(chr(code))[0] not in "LMN":  # also what is not assigned
                continue
            parts = [ord(part) for part in _folded(code)]
            if len(parts) == 1:
                table[code] = parts[0]
            elif parts:
                table[code] = EXPANDED | len(expansions)
                expansions += [len(parts), *parts]
    for first, last in UNSPACED:
        span = table[first : last + 1]
        span[(span > 0) & (span < ALONE)] |= ALONE
    table[list(_INVISIBLE)] = SKIPPED
    table.flags.writeable = False
    return Folding(table, np.array([*expansions, 0], dtype=np.int32))


def _folded(code: int) -> str:
    """A letter, mark or number, normalised; only letters, marks and numbers are left of it."""
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", chr(code)).casefold())
    if any(first <= ord(part) <= last for part in text for first, last in (*_ACCENTED, (0x300, 0x36F))):
        text = "".join(part for part in unicodedata.normalize("NFD", text) if not 0x300 <= ord(part) < 0x370)
    return "".join(part for part in text if unicodedata.category(part)[0] in "LMN")


def code_points(text: str) -> Codes:
    """A text as code points; lone surrogates pass as themselves (they separate)."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


@kernel
def find_words(codes: Codes, table: Small, expansions: Small, start: Ints, end: Ints, key: Keys) -> int:
    """Write where each word stands (code points) and its hash; the arrays hold `len(codes)` or more. Returns the count."""
    count = 0
    open_ = False
    state = np.uint64(0)
    for place in range(len(codes)):
        code = codes[place]
        entry = table[code] if code < LAST else 0
        if entry == SKIPPED:
            continue
        if entry == 0 or entry & ALONE:
            if open_:
                key[count] = finish(state)
                count += 1
                open_ = False
            if entry == 0:
                continue
        if not open_:
            start[count] = place
            state = np.uint64(0)
            open_ = True
        if entry & EXPANDED:
            at = entry & CODE
            for part in range(at + 1, at + 1 + expansions[at]):
                state = (state ^ np.uint64(expansions[part])) * _STEP
                state ^= state >> np.uint64(29)
        else:
            state = (state ^ np.uint64(entry & CODE)) * _STEP
            state ^= state >> np.uint64(29)
        end[count] = place + 1
        if entry & ALONE:
            key[count] = finish(state)
            count += 1
            open_ = False
    if open_:
        key[count] = finish(state)
        count += 1
    return count


@kernel
def finish(state: np.uint64) -> np.uint64:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014)."""
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


@kernel
def fold_words(codes: Codes, table: Small, expansions: Small, start: Ints, end: Ints, out: Small, offsets: Ints) -> int:
    """The folded code points of some words, one after the other, in `out`; word w is [offsets[w], offsets[w + 1]).

    Returns how many there are; where that is more than `out` holds, `out` was too short and the call is to be repeated.
    """
    size = 0
    for word in range(len(start)):
        offsets[word] = size
        for place in range(start[word], end[word]):
            entry = table[codes[place]]
            if entry <= 0:
                continue
            if entry & EXPANDED:
                at = entry & CODE
                for part in range(at + 1, at + 1 + expansions[at]):
                    if size < len(out):
                        out[size] = expansions[part]
                    size += 1
            else:
                if size < len(out):
                    out[size] = entry & CODE
                size += 1
    offsets[len(start)] = size
    return size


@kernel
def same_word(
    codes: Codes, start: int, end: int, table: Small, expansions: Small, letters: Small, first: int, last: int
) -> bool:
    """Whether the word codes[start:end] is, folded, letters[first:last]."""
    at = first
    for place in range(start, end):
        entry = table[codes[place]]
        if entry <= 0:
            continue
        if entry & EXPANDED:
            head = entry & CODE
            for part in range(head + 1, head + 1 + expansions[head]):
                if at >= last or letters[at] != expansions[part]:
                    return False
                at += 1
        else:
            if at >= last or letters[at] != entry & CODE:
                return False
            at += 1
    return at == last


class Found(NamedTuple):
    """The words of one text: where each stands in code points, and its hash."""

    codes: Codes
    start: Ints
    end: Ints
    key: Keys


def words(text: str) -> Found:
    """The words of a text."""
    codes = code_points(text)
    start, end = np.empty(len(codes), np.int64), np.empty(len(codes), np.int64)
    key = np.empty(len(codes), np.uint64)
    count = find_words(codes, *folding(), start, end, key)
    return Found(codes, start[:count], end[:count], key[:count])


def folded(found: Found) -> tuple[Small, Ints]:
    """The folded code points of the words, and where each word begins in them (one more entry than words)."""
    out, offsets = np.empty(len(found.codes), np.int32), np.empty(len(found.start) + 1, np.int64)
    while (size := fold_words(found.codes, *folding(), found.start, found.end, out, offsets)) > len(out):
        out = np.empty(size, np.int32)
    return out[:size], offsets
