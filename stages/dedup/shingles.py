r"""Sets of word n-grams as arrays of 64-bit hashes, and how similar two sets are.

A word is a run of `\w` in the lower-case text. With `letters`, each letter of a script written without spaces (Han, Hiragana, Thai,
Lao, Khmer, Myanmar) is a word of its own, where else a clause of Chinese is one word.
One compiled loop over the bytes of many texts finds them; no word becomes a Python object.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from stages.batch import encoded
from stages.characters import UNSPACED_RANGES, Bytes, Ints, Keys
from stages.dedup.hashing import mix as mix64
from stages.jit import kernel
from stages.words import BASE, decode, mix

CHUNK = 4 << 20  # bytes of texts hashed at a time, unless one text has more
_CODE_POINTS = 0x110000
_IN_WORD, _ALONE = 1, 2
_WORD = re.compile(r"\w+")
_NGRAM_BASE = np.uint64(0xD6E8FEB86659FD93)  # odd


@cache
def _kinds(letters: bool) -> npt.NDArray[np.uint8]:
    r"""For each code point 0 (between words), `_IN_WORD` (in `\w`) or, with `letters`, `_ALONE` (a word of its own)."""
    kinds = np.zeros(_CODE_POINTS, dtype=np.uint8)
    for word in _WORD.finditer("".join(map(chr, range(_CODE_POINTS)))):
        kinds[word.start() : word.end()] = _IN_WORD
    for first, last in UNSPACED_RANGES if letters else ():
        alone = [code for code in range(first, last + 1) if kinds[code] and chr(code).isalpha()]
        kinds[alone] = _ALONE
    kinds.flags.writeable = False
    return kinds


def shingles(texts: Sequence[str], ngram: int, letters: bool = False) -> Iterator[Keys]:
    """For each text the distinct hashes (uint64, never 0) of its word n-grams, in the order in which they first appear.

    A text of fewer than `ngram` words has one shingle, of all its words; a text without words has none.
    """
    for group in _groups([text.lower() for text in texts]):
        values, bounds = _shingles(*encoded(group), _kinds(letters), ngram)
        for start, end in pairwise(bounds.tolist()):
            yield values[start:end]


def _groups(texts: list[str]) -> Iterator[list[str]]:
    """The texts in runs of at most about `CHUNK` characters, or of one text."""
    group: list[str] = []
    size = 0
    for text in texts:
        if group and size + len(text) > CHUNK:
            yield group
            group, size = [], 0
        group.append(text)
        size += len(text)
    if group:
        yield group


def digests(sets: Sequence[Keys]) -> Keys:
    """A 64-bit digest (uint64) of each set, none of them empty: equal for equal sets, whatever their order."""
    starts = np.cumsum([0] + [len(values) for values in sets[:-1]])
    found: Keys = np.add.reduceat(mix64(np.concatenate(sets)), starts) if sets else np.empty(0, dtype=np.uint64)
    return found


def jaccard(a: Keys, b: Keys) -> float:
    """Intersection over union of two sets given as arrays of distinct hashes, not both empty."""
    bounds = np.array([0, len(a), len(a) + len(b)])
    return float(similarities(np.concatenate([a, b]), bounds, np.array([0]), np.array([1]))[0])


def similarities(values: Keys, bounds: Ints, first: Ints, second: Ints) -> npt.NDArray[np.float64]:
    """Jaccard similarity of pairs of sets: set s is `values[bounds[s]:bounds[s + 1]]`, distinct hashes that are not 0.

    Fastest where pairs with the same `first` stand together: its table is made once.
    """
    found: npt.NDArray[np.float64] = _similarities(values, bounds, first, second)
    return found


@kernel
def _slots(count: int) -> int:
    """Slots of a hash table for `count` values: a power of two, at most half full."""
    slots = 4
    while slots < 2 * count:
        slots *= 2
    return slots


@kernel
def _shingles(
    data: Bytes, bounds: Ints, kinds: npt.NDArray[np.uint8], ngram: int, base: Any = BASE, ngram_base: Any = _NGRAM_BASE
) -> tuple[Keys, Ints]:
    rows = len(bounds) - 1
    longest = 0
    for row in range(rows):
        longest = max(longest, bounds[row + 1] - bounds[row])
    out, ends = np.empty(len(data), np.uint64), np.zeros(rows + 1, np.int64)
    words = np.empty(longest, np.uint64)
    table = np.empty(4, np.uint64)
    outgoing = np.uint64(1)  # what the word that leaves an n-gram was multiplied by
    for _ in range(ngram):
        outgoing *= ngram_base
    written = 0
    for row in range(rows):
        at, stop = bounds[row], bounds[row + 1]
        count = 0
        state, inside = np.uint64(0), False
        while at < stop:
            code = np.int64(data[at])
            if code < 0x80:
                at += 1
            else:
                code, at = decode(data, at, stop)
            kind = kinds[code]
            if kind == _IN_WORD:
                state = (state + np.uint64(code) + np.uint64(1)) * base
                inside = True
                continue
            if inside:
                words[count] = mix(state)
                count += 1
                inside, state = False, np.uint64(0)
            if kind == _ALONE:
                words[count] = mix((np.uint64(code) + np.uint64(1)) * base)
                count += 1
        if inside:
            words[count] = mix(state)
            count += 1
        slots = _slots(count)
        if slots > len(table):
            table = np.empty(slots, np.uint64)
        table[:slots] = np.uint64(0)
        mask = np.uint64(slots - 1)
        rolling = np.uint64(0)
        for word in range(count):
            rolling = rolling * ngram_base + words[word]
            if word >= ngram:
                rolling -= words[word - ngram] * outgoing
            if word < ngram - 1 and word < count - 1:
                continue
            value = mix(rolling)
            if value == np.uint64(0):
                value = np.uint64(1)
            slot = value & mask
            while table[slot] != np.uint64(0) and table[slot] != value:
                slot = (slot + np.uint64(1)) & mask
            if table[slot] != value:
                table[slot] = value
                out[written] = value
                written += 1
        ends[row + 1] = written
    return out[:written].copy(), ends


@kernel
def _similarities(values: Keys, bounds: Ints, first: Ints, second: Ints) -> npt.NDArray[np.float64]:
    found = np.empty(len(first), np.float64)
    table = np.empty(4, np.uint64)
    mask = np.uint64(0)
    host = np.int64(-1)
    for pair in range(len(first)):
        if first[pair] != host:
            host = first[pair]
            slots = _slots(bounds[host + 1] - bounds[host])
            if slots > len(table):
                table = np.empty(slots, np.uint64)
            table[:slots] = np.uint64(0)
            mask = np.uint64(slots - 1)
            for at in range(bounds[host], bounds[host + 1]):
                slot = values[at] & mask
                while table[slot] != np.uint64(0):
                    slot = (slot + np.uint64(1)) & mask
                table[slot] = values[at]
        start, end = bounds[second[pair]], bounds[second[pair] + 1]
        common = 0
        for at in range(start, end):
            slot = values[at] & mask
            while table[slot] != np.uint64(0) and table[slot] != values[at]:
                slot = (slot + np.uint64(1)) & mask
            common += table[slot] == values[at]
        found[pair] = common / (bounds[host + 1] - bounds[host] + end - start - common)
    return found
