r"""Sets of word n-grams as sorted arrays of 64-bit hashes, computed on whole batches at once.

A word is a run of `\w` in the lower-case text, exactly as `stages.words.lower_words` finds it; here no word becomes a Python object.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from itertools import pairwise

import numpy as np

from stages.dedup.hashing import mix
from stages.words import WORD

CHUNK = 1 << 17  # code points hashed at a time: the arrays stay in the processor's cache
_CODE_POINTS = 0x110000
_POSITIONS = 1 << 10  # multipliers kept in a table; words longer than this are rare
_CHARACTER_SALT, _POSITION_SALT, _SLOT_SALT = (np.uint64(salt) << np.uint64(40) for salt in (1, 2, 3))


@cache
def _character_values() -> np.ndarray:
    r"""For each code point a random-looking odd value if it is in `\w`, else 0."""
    values = np.zeros(_CODE_POINTS, dtype=np.uint64)
    for word in WORD.finditer("".join(map(chr, range(_CODE_POINTS)))):
        values[word.start() : word.end()] = 1
    values *= mix(np.arange(_CODE_POINTS, dtype=np.uint64) + _CHARACTER_SALT) | np.uint64(1)
    return values


def _multipliers(positions: np.ndarray) -> np.ndarray:
    """A random-looking odd multiplier for each position (int64) in a word."""
    if len(positions) and positions.max() >= _POSITIONS:
        return mix(positions.astype(np.uint64) + _POSITION_SALT) | np.uint64(1)
    return _first_multipliers()[positions]


@cache
def _first_multipliers() -> np.ndarray:
    return mix(np.arange(_POSITIONS, dtype=np.uint64) + _POSITION_SALT) | np.uint64(1)


def word_hashes(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Hashes (uint64) of the words of a text that is already lower case, and where each begins (int64).

    A word's hash is multilinear: the sum over its characters of value times multiplier of the position, then mixed.
    """
    sums, starts = [np.empty(0, dtype=np.uint64)], [np.empty(0, dtype=np.int64)]
    open_start, open_sum = -1, np.uint64(0)  # the word that the chunk before ended in, -1 for none
    for low in range(0, len(text), CHUNK):
        codes = np.frombuffer(text[low : low + CHUNK].encode("utf-32-le", "surrogatepass"), dtype="<u4")
        values = _character_values()[codes]
        in_word = values != 0
        begins = in_word.copy()
        begins[1:] &= ~in_word[:-1]
        begins[0] &= open_start < 0
        local = np.flatnonzero(begins)
        heads = local + low
        if open_start >= 0:
            local, heads = np.insert(local, 0, 0), np.insert(heads, 0, open_start)
        if not len(local):
            continue
        first = int(local[0])
        positions = np.arange(low + first, low + len(codes)) - np.repeat(heads, np.diff(local, append=len(codes)))
        # characters between words have value 0, so that their positions do not matter
        found = np.add.reduceat(values[first:] * _multipliers(positions), local - first)
        if open_start >= 0:
            found[:1] += open_sum
        open_start = -1
        if in_word[-1]:
            open_start, open_sum = int(heads[-1]), found[-1]
            found, heads = found[:-1], heads[:-1]
        sums.append(found)
        starts.append(heads)
    if open_start >= 0:
        sums.append(np.array([open_sum]))
        starts.append(np.array([open_start]))
    return mix(np.concatenate(sums)), np.concatenate(starts)


def shingles(texts: Sequence[str], ngram: int) -> Iterator[np.ndarray]:
    """For each text the sorted distinct hashes (uint64) of its word n-grams.

    A text of fewer than `ngram` words has one shingle, of all its words; a text without words has none.
    """
    for group in _groups([text.lower() for text in texts]):
        # a line break before each text ends the word before it
        words, starts = word_hashes("\n" + "\n".join(group))
        begins = np.cumsum([0] + [len(text) + 1 for text in group])
        bounds = np.searchsorted(starts, begins).tolist()
        slots = mix(np.arange(ngram, dtype=np.uint64) + _SLOT_SALT) | np.uint64(1)
        windows = np.zeros(max(0, len(words) - ngram + 1), dtype=np.uint64)
        for slot in range(ngram):
            windows += words[slot : slot + len(windows)] * slots[slot]
        for first, end in pairwise(bounds):
            if end - first >= ngram:
                yield distinct(windows[first : end - ngram + 1])
            elif end > first:
                yield (words[first:end] * slots[: end - first]).sum(keepdims=True)
            else:
                yield words[:0]


def _groups(texts: list[str]) -> Iterator[list[str]]:
    """The texts in runs of at most `CHUNK` code points, or of one text."""
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


def distinct(values: np.ndarray) -> np.ndarray:
    """The distinct values, sorted."""
    values = np.sort(values)
    keep = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=keep[1:])
    return values[keep]


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two sets given as sorted arrays of distinct values, not both empty."""
    both = np.concatenate([a, b])
    both.sort()
    common = int(np.count_nonzero(both[1:] == both[:-1]))
    return common / (len(both) - common)
