"""Kernels of byte-pair merging: the ids of a word from those of its bytes.

The pair table is open addressing, two int64 a slot: left id << 32 | right id (-1: free), and rank << 32 | merged id.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.jit import bare_kernel, kernel

NONE: Any = np.int64(2**63 - 1)  # no merge; above every rank
FREE: Any = np.int64(-1)
PAIR_MIX: Any = np.int64(0x1E3779B97F4A7C15)  # odd, for multiplicative hashing


@bare_kernel
def pair_of(pairs: Any, left: Any, right: Any) -> Any:
    """`rank << 32 | merged id` of two neighbouring ids, or NONE."""
    mask = (pairs.shape[0] >> 1) - 1
    key = (np.int64(left) << 32) | np.int64(right)
    slot = ((key * PAIR_MIX) >> 28) & mask
    while True:
        found = pairs[2 * slot]
        if found == key:
            return pairs[2 * slot + 1]
        if found == FREE:
            return NONE
        slot = (slot + 1) & mask


@kernel
def put_pairs(pairs: Any, lefts: Any, rights: Any, merged: Any) -> None:
    """Fill the pair table; of a pair listed twice the last rank holds, as in `tokenizers`."""
    mask = (pairs.shape[0] >> 1) - 1
    for rank in range(lefts.shape[0]):
        key = (np.int64(lefts[rank]) << 32) | np.int64(rights[rank])
        slot = ((key * PAIR_MIX) >> 28) & mask
        while pairs[2 * slot] != FREE and pairs[2 * slot] != key:
            slot = (slot + 1) & mask
        pairs[2 * slot] = key
        pairs[2 * slot + 1] = (np.int64(rank) << 32) | np.int64(merged[rank])


@bare_kernel
def merge_scanning(pairs: Any, symbols: Any, count: Any, ranks: Any) -> Any:
    """Merge `symbols[:count]` in place, always the leftmost of the lowest rank; returns how many remain."""
    for i in range(count - 1):
        ranks[i] = pair_of(pairs, symbols[i], symbols[i + 1])
    while count > 1:
        lowest, at = NONE, 0
        for i in range(count - 1):
            if ranks[i] < lowest:
                lowest = ranks[i]
                at = i
        if lowest == NONE:
            break
        symbols[at] = lowest & 0xFFFFFFFF
        for i in range(at + 1, count - 1):
            symbols[i] = symbols[i + 1]
            ranks[i - 1] = ranks[i]
        count -= 1
        if at > 0:
            ranks[at - 1] = pair_of(pairs, symbols[at - 1], symbols[at])
        if at < count - 1:
            ranks[at] = pair_of(pairs, symbols[at], symbols[at + 1])
    return count


@bare_kernel
def push(heap: Any, size: Any, value: Any) -> Any:
    """Add to a binary heap of int64, smallest first; returns its new size."""
    at = size
    while at > 0:
        above = (at - 1) >> 1
        if heap[above] <= value:
            break
        heap[at] = heap[above]
        at = above
    heap[at] = value
    return size + 1


@bare_kernel
def pop(heap: Any, size: Any) -> Any:
    """Take the smallest away; returns it. The heap is then one smaller."""
    smallest = heap[0]
    size -= 1
    value = heap[size]
    at = 0
    while 2 * at + 1 < size:
        below = 2 * at + 1
        if below + 1 < size and heap[below + 1] < heap[below]:
            below += 1
        if heap[below] >= value:
            break
        heap[at] = heap[below]
        at = below
    heap[at] = value
    return smallest


@bare_kernel
def merge_by_heap(pairs: Any, symbols: Any, count: Any, before: Any, after: Any, heap: Any) -> Any:
    """The same for long words: a heap of rank and place over a linked list. `heap` has room for 3 * count."""
    size = 0
    for i in range(count):
        before[i] = i - 1
        after[i] = i + 1
    for i in range(count - 1):
        found = pair_of(pairs, symbols[i], symbols[i + 1])
        if found != NONE:
            size = push(heap, size, ((found >> 32) << 32) | i)
    while size > 0:
        top = pop(heap, size)
        size -= 1
        at = top & 0xFFFFFFFF
        if symbols[at] < 0 or after[at] == count:
            continue
        right = after[at]
        found = pair_of(pairs, symbols[at], symbols[right])
        if found == NONE or found >> 32 != top >> 32:
            continue  # one of the two has been merged since
        symbols[at] = found & 0xFFFFFFFF
        symbols[right] = -1
        after[at] = after[right]
        if after[at] < count:
            before[after[at]] = at
            found = pair_of(pairs, symbols[at], symbols[after[at]])
            if found != NONE:
                size = push(heap, size, ((found >> 32) << 32) | at)
        if before[at] >= 0:
            found = pair_of(pairs, symbols[before[at]], symbols[at])
            if found != NONE:
                size = push(heap, size, ((found >> 32) << 32) | before[at])
    left = 0
    for i in range(count):
        if symbols[i] >= 0:
            symbols[left] = symbols[i]
            left += 1
    return left


def pair_table(merges: list[tuple[int, int, int]]) -> np.ndarray:
    """The pair table of merges (left, right, merged id) in order of rank."""
    columns = np.array(merges, np.int64).reshape(-1, 3)
    pairs = np.full(2 * slots(2 * len(merges)), FREE, np.int64)
    put_pairs(pairs, columns[:, 0].copy(), columns[:, 1].copy(), columns[:, 2].copy())
    return pairs


def slots(wanted: int) -> int:
    """A power of two above `wanted`."""
    return 1 << max(wanted, 8).bit_length()


@kernel
def merge_each(data: Any, ends: Any, byte_ids: Any, pairs: Any, counts: Any, firsts: Any) -> None:
    """How many ids merging makes of each word, and the first of them."""
    longest = 0
    at = 0
    for i in range(ends.shape[0]):
        if ends[i] - at > longest:
            longest = ends[i] - at
        at = ends[i]
    symbols = np.empty(longest + 1, np.int64)
    before = np.empty(longest, np.int64)
    after = np.empty(longest, np.int64)
    heap = np.empty(3 * longest + 1, np.int64)
    at = 0
    for i in range(ends.shape[0]):
        for k in range(ends[i] - at):
            symbols[k] = byte_ids[data[at + k]]
        counts[i] = merge_by_heap(pairs, symbols, ends[i] - at, before, after, heap)
        firsts[i] = symbols[0]
        at = ends[i]
