"""Most pre-tokens are a short word of ASCII letters, mostly with a space before: found eight bytes at a time, without a loop.

Bytes are held as int64, the first one lowest; a mask has the highest bit of each byte that it means.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.jit import inlined_kernel
from tokenizer_training.vocabulary.split_kernels import GPT2, HEADS, O200K

_ONES = 0x0101_0101_0101_0101
_LOW7 = 0x7F7F_7F7F_7F7F_7F7F
_HIGH = -0x7F7F_7F7F_7F7F_7F80  # 0x80 in each byte
_CASE = 0x2020_2020_2020_2020
_FROM_LOWER, _PAST_LOWER = (
    0x1F * _ONES,
    0x05 * _ONES,
)  # to carry into the highest bit from "a" on, and from behind "z" on
_FROM_UPPER, _PAST_UPPER = 0x3F * _ONES, 0x25 * _ONES
_SHIFTED = (1 << 57) - 1  # drops what a shift by seven draws down from the sign


@inlined_kernel
def eight(data: Any, at: Any) -> Any:
    """The eight bytes from `at` on as a number, the first one lowest. There must be as many."""
    here = np.uint64(at)  # of an unsigned place it is not asked whether it counts from the end, so this is one load
    return (
        np.int64(data[here])
        | np.int64(data[here + np.uint64(1)]) << 8
        | np.int64(data[here + np.uint64(2)]) << 16
        | np.int64(data[here + np.uint64(3)]) << 24
        | np.int64(data[here + np.uint64(4)]) << 32
        | np.int64(data[here + np.uint64(5)]) << 40
        | np.int64(data[here + np.uint64(6)]) << 48
        | np.int64(data[here + np.uint64(7)]) << 56
    )


@inlined_kernel
def up_to_eight(data: Any, at: Any, end: Any) -> Any:
    """The bytes from `at` to `end`, at most the first eight, as a number; 0 if there are none."""
    if end <= at:
        return np.int64(0)
    if at + 8 <= len(data):
        word = eight(data, at)
        if end - at < 8:
            word &= (np.int64(1) << (8 * (end - at))) - 1
        return word
    word = np.int64(0)
    for place in range(at, end if end < at + 8 else at + 8):
        word |= np.int64(data[place]) << (8 * (place - at))
    return word


@inlined_kernel
def no_letters(word: Any) -> Any:
    """A mask of the bytes that are no ASCII letters."""
    folded = (word | _CASE) & _LOW7
    return ~((folded + _FROM_LOWER) & ~(folded + _PAST_LOWER) & ~word) & _HIGH


@inlined_kernel
def no_lowers(word: Any) -> Any:
    """A mask of the bytes that are not a to z."""
    low = word & _LOW7
    return ~((low + _FROM_LOWER) & ~(low + _PAST_LOWER) & ~word) & _HIGH


@inlined_kernel
def no_uppers(word: Any) -> Any:
    """A mask of the bytes that are not A to Z."""
    low = word & _LOW7
    return ~((low + _FROM_UPPER) & ~(low + _PAST_UPPER) & ~word) & _HIGH


@inlined_kernel
def bytes_below(bit: Any) -> Any:
    """All bits of the bytes below the one whose highest bit is `bit`, and how many bytes they are."""
    below = ((bit >> 7) & _SHIFTED) - 1
    return below, ((below & _ONES) * _ONES) >> 56


@inlined_kernel
def short_word(data: Any, at: Any, stop: Any, style: int) -> Any:
    """The pre-token at `at`, if it is surely a word of ASCII of at most fifteen bytes: its end, its first and its last
    eight bytes as numbers; else `at` and zeros.

    Arguments as of `next_end`, which gives the same end.
    """
    none = np.int64(0)
    if at + 16 > stop:
        return at, none, none
    word = eight(data, at)
    first = word & 0xFF
    mask = np.int64(-1)
    if first == 0x20 or (style != GPT2 and first < 0x40 and (HEADS >> first) & 1):
        mask = np.int64(-0x81)  # what may head a word counts as part of it
    if style >= O200K:
        others = no_uppers(word) & mask
        bit = others & -others
        if bit == 0:
            return at, none, none
        others = no_lowers(word) & mask & -bit
    else:
        others = no_letters(word) & mask
    if others != 0:
        bit = others & -others
        below, size = bytes_below(bit)
        # beside a character that is not ASCII, or a contraction, others decide; so do they if there is no letter
        if word & bit != 0 or size < 1 or (size == 1 and mask != -1):
            return at, none, none
        if style == O200K and (word >> (8 * size)) & 0xFF == 0x27:
            return at, none, none
        return at + size, word & below, none
    more = eight(data, at + 8)
    others = no_lowers(more) if style >= O200K else no_letters(more)
    bit = others & -others
    if bit == 0 or more & bit != 0:
        return at, none, none
    below, size = bytes_below(bit)
    if style == O200K and (more >> (8 * size)) & 0xFF == 0x27:
        return at, none, none
    return at + 8 + size, word, more & below
