"""Compiled loops of `dedup.substring`: anchors that equal runs of words have in common, and keys of all runs of k words.

Winnowing (Schleimer, Wilkerson and Aiken 2003): of the hashes of all runs of h words inside a run of k words, the smallest (of equal
ones the last) is its anchor. It depends on nothing outside those k words, so equal runs have equal anchors at equal places.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.characters import Bytes, Ints, Keys
from stages.jit import kernel
from stages.words import BASE, decode, mix

_SECOND, _THIRD = np.uint64(0xD6E8FEB86659FD93), np.uint64(0x9FB21C651E98DF25)  # odd


def anchor_words(k: int) -> int:
    """How many words an anchor has, for runs of k: about half, so that one in k / 4 words or fewer begins one."""
    return (k + 1) // 2


def anchors(words: Keys, k: int) -> tuple[Ints, Keys]:
    """For each run of k of a document's words (as keys) the word at which its anchor begins; and keys, (n, 2), of the runs of h words."""
    h = anchor_words(k)
    if len(words) < k:
        return np.empty(0, np.int64), np.empty((0, 2), np.uint64)
    chosen, grams = np.empty(len(words) - k + 1, np.int64), np.empty((len(words) - h + 1, 2), np.uint64)
    _winnow(words, k, h, chosen, grams, np.empty(len(grams), np.int64))
    return chosen, grams


@kernel
def _winnow(words: Keys, k: int, h: int, chosen: Ints, grams: Keys, queue: Ints) -> None:
    first, second = np.uint64(0), np.uint64(0)
    first_power, second_power = np.uint64(1), np.uint64(1)
    for _ in range(h):
        first_power *= BASE
        second_power *= _SECOND
    head = tail = 0  # the queue's candidates: places of ascending hashes
    for place in range(len(words)):
        first = first * BASE + words[place]
        second = second * _SECOND + words[place]
        if place >= h:
            first -= words[place - h] * first_power
            second -= words[place - h] * second_power
        gram = place - h + 1
        if gram < 0:
            continue
        value = mix(first)
        grams[gram, 0], grams[gram, 1] = value, mix(second)
        while tail > head and grams[queue[tail - 1], 0] >= value:
            tail -= 1
        queue[tail] = gram
        tail += 1
        window = place - k + 1
        if window >= 0:
            while queue[head] < window:
                head += 1
            chosen[window] = queue[head]


def run_keys(data: Bytes, begin: Ints, end: Ints, k: int) -> Keys:
    """Keys, (n, 2), of the text of each run of k words, from the first byte of the first word to the last byte of the last.

    `begin` and `end` are the bytes of the words in `data`.
    """
    keys = np.empty((max(0, len(begin) - k + 1), 2), np.uint64)
    if len(keys):
        _run_keys(data, begin, end, k, np.empty((len(begin) + 1, 2), np.uint64), keys)
    return keys


@kernel
def _run_keys(data: Bytes, begin: Ints, end: Ints, k: int, sums: Keys, keys: Keys) -> None:
    """Polynomials over hashes of words: the last word of a run by itself, the others with what stands behind them."""
    first_power, second_power = np.uint64(1), np.uint64(1)
    for _ in range(k - 1):
        first_power *= BASE
        second_power *= _SECOND
    sums[0, 0], sums[0, 1] = np.uint64(0), np.uint64(0)
    for word in range(len(begin)):
        first, second = np.uint64(0), np.uint64(0)
        for at in range(begin[word], end[word]):
            first, second = _absorb(first, second, data[at])
        size = np.uint64(end[word] - begin[word])
        run = word - k + 1
        if run >= 0:
            before = sums[word, 0] - sums[run, 0] * first_power
            keys[run, 0] = mix(before * BASE + mix(first + size))
            before = sums[word, 1] - sums[run, 1] * second_power
            keys[run, 1] = mix(before * _SECOND + mix(second ^ size))
        behind = begin[word + 1] if word + 1 < len(begin) else end[word]
        for at in range(end[word], behind):
            first, second = _absorb(first, second, data[at])
        size = np.uint64(behind - begin[word])
        sums[word + 1, 0] = sums[word, 0] * BASE + mix(first + size)
        sums[word + 1, 1] = sums[word, 1] * _SECOND + mix(second ^ size)


@kernel
def _absorb(first: np.uint64, second: np.uint64, byte: Any) -> tuple[np.uint64, np.uint64]:
    first = (first ^ np.uint64(byte + 1)) * _SECOND
    first ^= first >> np.uint64(29)
    second = (second + np.uint64(byte + 1)) * _THIRD
    second ^= second >> np.uint64(32)
    return first, second


@kernel
def byte_places(data: Bytes, places: Ints) -> Ints:
    """The bytes at which code points begin; `places` ascend, and may end with the number of code points."""
    out = np.empty(len(places), np.int64)
    at = place = 0
    for index in range(len(places)):
        while place < places[index]:
            if data[at] < 0x80:
                at += 1
            else:
                _, at = decode(data, at, len(data))
            place += 1
        out[index] = at
    return out
