"""Counting what repeats within a document: lines, paragraphs, and n-grams of words; compiled, by keys instead of strings.

An n-gram can repeat only if both (n-1)-grams inside it repeat, so each length looks only at places that survived the one before: the
cost is that of finding the repeated words.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from stages.characters import Ints, Keys
from stages.jit import kernel
from stages.words import Words, mix

STEP = np.uint64(0xD6E8FEB86659FD93)  # odd
TOP, DUPLICATE = (2, 3, 4), (5, 6, 7, 8, 9, 10)
LONGEST = DUPLICATE[-1]

Floats = npt.NDArray[np.float64]


def later_copies(rows: Ints, keys: Keys, lengths: Ints) -> tuple[Ints, Ints]:
    """For each row, how many of its parts (lines, paragraphs) repeat an earlier one, and the characters in those."""
    return _later_copies(rows, keys, lengths)


def ngram_characters(words: Words, definition: str) -> Ints:
    """Characters in repeated n-grams: [rows, n from 2 to 10], of the top one up to 4, of all duplicates above.

    `paper`: the most frequent n-gram, the longest among equals, counts (occurrences x characters), 0 if none repeats; duplicates are
    all words that stand in a repeated n-gram, each once. `datatrove`: spaces inside the top n-gram count, the first among equals is the
    top, one that occurs once too; duplicates are later copies, read left to right and advancing by n after a copy. `dolma`: the
    first among the most frequent, without spaces; duplicates are all occurrences of repeated n-grams, words counted as often
    as they stand in one.
    """
    return _ngram_characters(words.rows, words.key, words.length, ("paper", "datatrove", "dolma").index(definition))


def all_ngram_characters(words: Words, n: int) -> Ints:
    """Characters of all n-grams of each row, a word counted as often as it stands in one."""
    before = np.concatenate([[0], np.cumsum(words.length)])
    sums = np.concatenate([[0], np.cumsum(before)])
    first, last = words.rows[:-1], words.rows[1:]
    enough = last - first >= n
    found = (sums[last + 1] - sums[np.minimum(first + n, last)]) - (sums[np.maximum(last - n + 1, first)] - sums[first])
    return np.asarray(np.where(enough, found, 0))


@kernel
def _slots(count: int) -> int:
    """Size of a hash table for so many keys: a power of two, at most half full."""
    size = 16
    while size < 2 * count:
        size *= 2
    return size


@kernel
def _later_copies(rows: Ints, keys: Keys, lengths: Ints) -> tuple[Ints, Ints]:
    copies, characters = np.zeros(len(rows) - 1, np.int64), np.zeros(len(rows) - 1, np.int64)
    held, stamp = np.empty(16, np.uint64), np.zeros(16, np.int64)  # a slot is taken if its stamp is the row's
    for row in range(len(rows) - 1):
        size = _slots(rows[row + 1] - rows[row])
        if size > len(held):
            held, stamp = np.empty(size, np.uint64), np.zeros(size, np.int64)
        last = np.uint64(size - 1)
        for part in range(rows[row], rows[row + 1]):
            slot = keys[part] & last
            while stamp[slot] == row + 1 and held[slot] != keys[part]:
                slot = (slot + np.uint64(1)) & last
            if stamp[slot] == row + 1:
                copies[row] += 1
                characters[row] += lengths[part]
            else:
                held[slot], stamp[slot] = keys[part], row + 1
    return copies, characters


@kernel
def _ngram_characters(rows: Ints, word_keys: Keys, lengths: Ints, definition: int) -> Ints:
    out = np.zeros((len(rows) - 1, 9), np.int64)
    most = 0
    for row in range(len(rows) - 1):
        most = max(most, rows[row + 1] - rows[row])
    size = _slots(most)
    held, stamp = np.empty(size, np.uint64), np.zeros(size, np.int64)
    times, first = np.empty(size, np.int64), np.empty(size, np.int64)  # of the n-gram in a slot
    places, keys, where = np.empty(most, np.int64), np.empty(most, np.uint64), np.empty(most, np.int64)
    before = np.zeros(most + 1, np.int64)  # characters of the words before each word
    turn = 0
    for row in range(len(rows) - 1):
        base, count = rows[row], rows[row + 1] - rows[row]
        size = _slots(count)
        last = np.uint64(size - 1)
        for word in range(count):
            places[word], keys[word] = word, word_keys[base + word]
            before[word + 1] = before[word] + lengths[base + word]
        alive = count
        for n in range(1, LONGEST + 1):
            if n > 1:  # from repeated (n-1)-grams at ascending places to the n-grams that could repeat
                kept = 0
                for one in range(alive - 1):
                    if places[one + 1] == places[one] + 1 and places[one] + n <= count:
                        places[kept] = places[one]
                        keys[kept] = mix(keys[one] * STEP + word_keys[base + places[one] + n - 1])
                        kept += 1
                alive = kept
                if definition > 0 and n <= 4 and count >= n:  # where nothing repeats the top is the first n-gram
                    out[row, n - 2] = before[n] + (n - 1 if definition == 1 else 0)
            turn += 1
            for one in range(alive):
                slot = keys[one] & last
                while stamp[slot] == turn and held[slot] != keys[one]:
                    slot = (slot + np.uint64(1)) & last
                if stamp[slot] != turn:
                    held[slot], stamp[slot], times[slot], first[slot] = keys[one], turn, 0, places[one]
                times[slot] += 1
                where[one] = slot
            if 2 <= n <= 4:
                out[row, n - 2] = _top(alive, n, places, where, times, first, before, definition, out[row, n - 2])
            elif n >= 5:
                out[row, n - 2] = _duplicates(alive, n, places, where, times, first, before, definition)
            kept = 0
            for one in range(alive):
                if times[where[one]] > 1:
                    places[kept], keys[kept] = places[one], keys[one]
                    kept += 1
            alive = kept
    return out


@kernel
def _top(
    alive: int, n: int, places: Ints, where: Ints, times: Ints, first: Ints, before: Ints, definition: int, single: int
) -> int:
    """Occurrences x characters of the most frequent n-gram; `single` if none repeats."""
    best, best_size, found = 1, 0, single
    for one in range(alive):
        slot = where[one]
        if first[slot] != places[one]:
            continue
        size = before[places[one] + n] - before[places[one]]
        if times[slot] > best or (definition == 0 and times[slot] == best and best > 1 and size > best_size):
            best, best_size = times[slot], size
            found = best * (size + (n - 1 if definition == 1 else 0))
    return found


@kernel
def _duplicates(
    alive: int, n: int, places: Ints, where: Ints, times: Ints, first: Ints, before: Ints, definition: int
) -> int:
    """Characters in duplicate n-grams."""
    total = free = 0  # free: the first word that is not counted yet, or at which reading may go on
    for one in range(alive):
        place = places[one]
        if times[where[one]] < 2:
            continue
        if definition == 0:
            total += before[place + n] - before[max(place, free)]
            free = place + n
        elif definition == 2:
            total += before[place + n] - before[place]
        elif place >= free:
            if first[where[one]] < 0:
                total += before[place + n] - before[place]
                free = place + n
            else:
                first[where[one]] = -1
    return total
