"""Compiled loops: numbering the words of items, and finding their n-grams in a document.

A document's words become the numbers of the items' words (-1 for a word that no item has). Every run of known words
is looked up in a hash table of the items' n-grams and short items; what is found is compared word by word. With a gap,
shorter runs (seeds) are looked up, and each place of the items where the seed stands is tried: outward from the seed, the
fewest changed words are counted on both sides, and every n-gram around the seed whose changes are at most `gap` is a match.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from stages.decontaminate.fold import Codes, Ints, Keys, Small, finish, folding, same_word, words
from stages.jit import kernel

if TYPE_CHECKING:
    from stages.decontaminate.index import Index

SEED, WHOLE = 0, 1  # kinds of entries
MOST_POSTINGS = 1000  # with a gap, a seed that stands at more places of the items than this starts no search
BASE = np.uint64(0xD6E8FEB86659FD93)


@kernel
def place_words(letters: Small, starts: Ints, keys: Keys, slots: Small, numbers: Small, first: Ints) -> int:
    """Number words: equal letters, equal number. `first` takes each number's first word. Returns how many numbers there are."""
    count = 0
    low = np.uint64(len(slots) - 1)
    for word in range(len(keys)):
        slot = keys[word] & low
        while True:
            known = slots[slot]
            if known < 0:
                slots[slot] = count
                first[count] = word
                numbers[word] = count
                count += 1
                break
            other = first[known]
            size = starts[word + 1] - starts[word]
            if keys[other] == keys[word] and starts[other + 1] - starts[other] == size:
                same = True
                for place in range(size):
                    if letters[starts[other] + place] != letters[starts[word] + place]:
                        same = False
                        break
                if same:
                    numbers[word] = known
                    break
            slot = (slot + np.uint64(1)) & low
    return count


@kernel
def number_words(
    codes: Codes,
    start: Ints,
    end: Ints,
    key: Keys,
    table: Small,
    expansions: Small,
    letters: Small,
    word_start: Ints,
    word_key: Keys,
    slots: Small,
    out: Small,
) -> None:
    """The number of each word of a document, -1 where no item has it."""
    low = np.uint64(len(slots) - 1)
    for word in range(len(start)):
        slot = key[word] & low
        out[word] = -1
        while slots[slot] >= 0:
            known = slots[slot]
            if word_key[known] == key[word] and same_word(
                codes, start[word], end[word], table, expansions, letters, word_start[known], word_start[known + 1]
            ):
                out[word] = known
                break
            slot = (slot + np.uint64(1)) & low


@kernel
def window_hash(prefix: Keys, at: int, size: int, power: np.uint64, kind: int) -> np.uint64:
    """Hash of `size` words from `at`, of their polynomial prefix sums; `power` is BASE to the power of `size`."""
    return finish(prefix[at + size] - prefix[at] * power + np.uint64(2 * size + kind))


@kernel
def place_entries(stream: Small, at: Small, size: Small, kind: Small, slots: Small) -> None:
    """Put entries, all different, into the hash table."""
    low = np.uint64(len(slots) - 1)
    for entry in range(len(at)):
        state = np.uint64(0)
        for place in range(at[entry], at[entry] + size[entry]):
            state = state * BASE + np.uint64(stream[place] + 1)
        slot = finish(state + np.uint64(2 * size[entry] + kind[entry])) & low
        while slots[slot] >= 0:
            slot = (slot + np.uint64(1)) & low
        slots[slot] = entry


@kernel
def extend(
    words: Small, at: int, step: int, stream: Small, position: int, most: int, gap: int, cost: Small, used: Small
) -> None:
    """The fewest changed words between items and document, outward from a place where they agree.

    cost[k]: to match k words of the item (the k-th, outermost one exactly) from `position`, in direction `step`; more
    than `gap` where that takes more. used[k]: words of the document that it takes.
    """
    cost[0] = 0
    used[0] = 0
    for k in range(1, most + 1):
        cost[k] = gap + 1
        used[k] = 0
    width = 2 * gap + 1
    before = np.empty(width, np.int32)  # changes to match the item's words so far and k + b - gap words of the document
    now = np.empty(width, np.int32)
    for b in range(width):
        before[b] = b - gap if b >= gap else gap + 1
    for k in range(1, most + 1):
        least = gap + 1
        wanted = stream[position + step * (k - 1)]
        for b in range(width):
            j = k + b - gap
            place = at + step * (j - 1)
            best = gap + 1
            if j >= 1 and 0 <= place < len(words):
                same = words[place] == wanted
                if same and before[b] < cost[k]:
                    cost[k] = before[b]
                    used[k] = j
                best = before[b] + (0 if same else 1)  # equal, or one put for the other
                if b > 0 and now[b - 1] + 1 < best:
                    best = now[b - 1] + 1  # a word of the document more
            if j >= 0 and b < width - 1 and before[b + 1] + 1 < best:
                best = before[b + 1] + 1  # a word of the item left out
            now[b] = min(best, gap + 1)
            least = min(least, now[b])
        if least > gap:
            return
        for b in range(width):
            before[b] = now[b]


@kernel
def put(out: Ints, count: int, gram: int, first: int, last: int) -> Ints:
    """`out` (count rows are in use) with one row more; with twice the rows where it would not fit."""
    if count == len(out):
        larger = np.empty((2 * count, 3), np.int64)
        larger[:count] = out
        out = larger
    out[count, 0] = gram
    out[count, 1] = first
    out[count, 2] = last
    return out


@kernel
def find(
    words: Small,
    stream: Small,
    item_start: Ints,
    item_of: Small,
    window: Small,
    n: int,
    gap: int,
    entry_at: Small,
    entry_size: Small,
    entry_kind: Small,
    entry_gram: Small,
    posting: Small,
    posting_first: Small,
    slots: Small,
    sizes: Small,
    kinds: Small,
) -> Ints:
    """Rows of (gram, first word, word after the last) for each match in a document's words."""
    out = np.empty((16, 3), np.int64)
    count = 0
    total = len(words)
    if len(sizes) == 0:
        return out[:0]
    prefix = np.empty(total + 1, np.uint64)
    prefix[0] = 0
    run = np.empty(total + 1, np.int32)  # known words from a place on
    run[total] = 0
    for place in range(total):
        prefix[place + 1] = prefix[place] * BASE + np.uint64(words[place] + 1)
    for place in range(total - 1, -1, -1):
        run[place] = run[place + 1] + 1 if words[place] >= 0 else 0
    powers = np.empty(len(sizes), np.uint64)
    for which in range(len(sizes)):
        power = np.uint64(1)
        for _ in range(sizes[which]):
            power *= BASE
        powers[which] = power
    low = np.uint64(len(slots) - 1)
    left_cost, left_used = np.empty(n + 1, np.int32), np.empty(n + 1, np.int32)
    right_cost, right_used = np.empty(n + 1, np.int32), np.empty(n + 1, np.int32)
    for place in range(total):
        for which in range(len(sizes)):
            size = sizes[which]
            if run[place] < size:
                continue
            slot = window_hash(prefix, place, size, powers[which], kinds[which]) & low
            while slots[slot] >= 0:
                entry = slots[slot]
                slot = (slot + np.uint64(1)) & low
                if entry_size[entry] != size or entry_kind[entry] != kinds[which]:
                    continue
                same = True
                for k in range(size):
                    if words[place + k] != stream[entry_at[entry] + k]:
                        same = False
                        break
                if not same:
                    continue
                if entry_kind[entry] == WHOLE:
                    out = put(out, count, entry_gram[entry], place, place + size)
                    count += 1
                    break
                first, last = posting_first[entry], posting_first[entry + 1]
                if last - first > MOST_POSTINGS:
                    break
                rest = n - size
                for at in range(first, last):
                    position = posting[at]
                    item = item_of[position]
                    left = min(rest, position - item_start[item])
                    right = min(rest, item_start[item + 1] - position - size)
                    extend(words, place - 1, -1, stream, position - 1, left, gap, left_cost, left_used)
                    extend(words, place + size, 1, stream, position + size, right, gap, right_cost, right_used)
                    for k in range(max(0, rest - right), left + 1):
                        gram = window[position - k]
                        if gram >= 0 and left_cost[k] + right_cost[rest - k] <= gap:
                            out = put(out, count, gram, place - left_used[k], place + size + right_used[rest - k])
                            count += 1
                break
    return out[:count]


class Hits(NamedTuple):
    """Matches in a text, each once: the gram, and the code points [start, end) that match it; sorted by start."""

    gram: Ints
    start: Ints
    end: Ints


def hits(index: Index, text: str) -> Hits:
    """The grams of the index that stand in a text."""
    found = words(text)
    numbers = np.empty(len(found.start), np.int32)
    number_words(
        *found,
        *folding(),
        index.letters,
        index.word_start,
        index.word_key,
        index.word_slots,
        numbers,
    )
    rows = find(
        numbers,
        index.stream,
        index.item_start,
        index.item_of,
        index.window,
        index.rules.n,
        index.rules.gap,
        index.entry_at,
        index.entry_size,
        index.entry_kind,
        index.entry_gram,
        index.posting,
        index.posting_first,
        index.entry_slots,
        index.sizes,
        index.size_kinds,
    )
    if len(rows) > 1:
        rows = np.unique(rows, axis=0)
        rows = rows[np.lexsort((rows[:, 0], rows[:, 2], rows[:, 1]))]
    gram, first, last = rows.T
    return Hits(gram, found.start[first], found.end[last - 1])
