"""Counting repeated n-grams of words in a whole batch at once.

An n-gram can repeat only if both (n-1)-grams inside it repeat, so each length looks only at places that survived the one before: the
cost is that of finding the repeated words. Repetition never crosses rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from stages.words import Ints, Keys, Words, mix

STEP = np.uint64(0xD6E8FEB86659FD93)  # odd


@dataclass(frozen=True)
class Repeats:
    """The n-grams of one length that occur more than once in their row.

    `at` has the places (word indexes) of all their occurrences, group by group and ascending in each; group g is
    `[group[g], group[g + 1])`.
    """

    n: int
    at: Ints
    group: Ints

    @property
    def counts(self) -> Ints:
        return np.diff(self.group)


BLOCK = 1 << 16  # words looked at together, so that the work stays in the processor's cache


def blocks(words: Words) -> Iterator[tuple[slice, Words]]:
    """The rows in runs of about BLOCK words (a longer row is alone), and their words."""
    first, rows = 0, len(words.rows) - 1
    while first < rows:
        last = int(np.searchsorted(words.rows, words.rows[first] + BLOCK, side="right")) - 1
        last = min(max(last, first + 1), rows)
        a, b = int(words.rows[first]), int(words.rows[last])
        yield (
            slice(first, last),
            Words(
                words.rows[first : last + 1] - a,
                words.start[a:b],
                words.end[a:b],
                words.key[a:b],
                words.alphabetic[a:b],
                words.unspaced[a:b],
            ),
        )
        first = last


def repeats(words: Words, longest: int) -> Iterator[Repeats]:
    """`Repeats` for n = 2, 3, ... `longest`."""
    row = words.row
    at: Ints = np.arange(len(row), dtype=np.int64)
    keys = words.key
    for n in range(2, longest + 1):
        at, keys = _longer(at, keys, row, words.key, n)
        order = equal_together(keys)
        places, ordered = at[order], keys[order]
        new = np.ones(len(order), dtype=np.bool_)
        new[1:] = (ordered[1:] != ordered[:-1]) | (row[places[1:]] != row[places[:-1]])
        first = np.flatnonzero(new)
        size = np.diff(np.append(first, len(order)))
        keep = np.repeat(size > 1, size)
        yield Repeats(n, places[keep], np.concatenate([[0], np.cumsum(size[size > 1])]))
        again = np.zeros(len(at), dtype=np.bool_)
        again[order[keep]] = True
        at, keys = at[again], keys[again]


def equal_together(keys: Keys) -> Ints:
    """An order in which equal keys stand together, each group in its present order."""
    bits = np.uint64(max(1, (len(keys) - 1).bit_length()))
    if bits <= 18:  # sorting numbers is much faster than sorting indexes: put the index in the low bits
        low = (np.uint64(1) << bits) - np.uint64(1)
        order = (np.sort((keys & ~low) | np.arange(len(keys), dtype=np.uint64)) & low).astype(np.int64)
        ordered = keys[order]
        differs = ordered[1:] ^ ordered[:-1]
        if not np.any((differs != 0) & ((differs >> bits) == 0)):
            return order
    return np.argsort(keys, kind="stable")  # two different keys agree in all but the low bits, or there are too many


def _longer(at: Ints, keys: Keys, row: Ints, word_keys: Keys, n: int) -> tuple[Ints, Keys]:
    """From repeated (n-1)-grams at ascending places to the n-grams that could repeat, and their keys."""
    keep = np.zeros(len(at), dtype=np.bool_)
    keep[:-1] = (at[1:] == at[:-1] + 1) & (row[at[1:] + n - 2] == row[at[:-1]]) if len(at) else False
    at = at[keep]
    return at, mix(keys[keep] * STEP + word_keys[at + n - 1])


def _characters(words: Words) -> Ints:
    """Characters of all words before each word (one more entry than words)."""
    return np.concatenate([[0], np.cumsum(words.length)])


def _zeros(words: Words, lengths: Iterable[int]) -> dict[int, Ints]:
    return {n: np.zeros(len(words.rows) - 1, dtype=np.int64) for n in lengths}


def top_characters(words: Words, repeated: Sequence[Repeats], lengths: tuple[int, ...]) -> dict[int, Ints]:
    """For each n, a row's (count x characters) of its most frequent n-gram, the longest among equals; 0 if none repeats."""
    before, row, out = _characters(words), words.row, _zeros(words, lengths)
    for found in repeated:
        if found.n in out and len(found.at):
            first, counts = found.at[found.group[:-1]], found.counts
            size = before[first + found.n] - before[first]
            order = np.lexsort((size, counts, row[first]))  # the last of a row is its top
            out[found.n][row[first[order]]] = (counts * size)[order]
    return out


def covered_characters(words: Words, repeated: Sequence[Repeats], lengths: tuple[int, ...]) -> dict[int, Ints]:
    """For each n, a row's characters in words that stand in a repeated n-gram, each word once."""
    out = _zeros(words, lengths)
    for found in repeated:
        if found.n in out and len(found.at):
            depth = np.zeros(len(words.key) + 1, dtype=np.int64)
            depth[found.at] += 1  # places are distinct
            depth[found.at + found.n] -= 1
            out[found.n] = words.total(words.length * (np.cumsum(depth[:-1]) > 0))
    return out


def first_top_characters(words: Words, repeated: Sequence[Repeats], lengths: tuple[int, ...]) -> dict[int, Ints]:
    """As `top_characters` in datatrove's way: spaces inside the n-gram count, and the first among equals is the top.

    An n-gram that occurs once is the top where none repeats.
    """
    before, row, out = _characters(words), words.row, _zeros(words, lengths)
    for n in lengths:  # where nothing repeats the top is the row's first n-gram
        some = np.flatnonzero(words.counts >= n)
        first = words.rows[some]
        out[n][some] = before[first + n] - before[first] + n - 1
    for found in repeated:
        if found.n in out and len(found.at):
            first, counts = found.at[found.group[:-1]], found.counts
            size = before[first + found.n] - before[first] + found.n - 1
            order = np.lexsort((-first, counts, row[first]))
            out[found.n][row[first[order]]] = (counts * size)[order]
    return out


def later_copy_characters(words: Words, repeated: Sequence[Repeats], lengths: tuple[int, ...]) -> dict[int, Ints]:
    """For each n, a row's characters in later copies of n-grams, read left to right, advancing by n after a copy."""
    before, row, out = _characters(words), words.row, _zeros(words, lengths)
    for found in repeated:
        if found.n not in out or not len(found.at):
            continue
        back = np.argsort(found.at)
        places = found.at[back]
        groups = np.repeat(np.arange(len(found.counts)), found.counts)[back]
        seen: set[int] = set()
        free = 0  # the first place at which reading may go on
        for place, group in zip(places.tolist(), groups.tolist(), strict=True):
            if place < free:
                continue
            if group in seen:
                out[found.n][row[place]] += before[place + found.n] - before[place]
                free = place + found.n
            else:
                seen.add(group)
    return out
