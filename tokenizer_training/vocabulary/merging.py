"""Merging pairs of tokens in the order of their counts: the queue, and one merge. See `pairs.py` for what is where."""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.jit import bare_kernel
from tokenizer_training.vocabulary.pairs import (
    ARENA,
    DONE,
    FIRST,
    HEAP,
    LEVEL,
    LONGEST,
    MERGES,
    MIN_FREQUENCY,
    NEED_ARENA,
    NEED_HEAP,
    NEED_SLOTS,
    SLOTS,
    enqueue,
    find_stretch,
    worth_keeping,
)


@bare_kernel
def settle(s: Any, pairs: int, events: int) -> None:
    """Give each new pair of a step that is frequent enough its slot, list and bucket; forget the others."""
    base = s.now[SLOTS]
    kept = base
    used = s.now[ARENA]
    least = s.now[MIN_FREQUENCY]
    for pair in range(pairs):
        at = base + pair
        key = s.key[at]
        s.marks[key >> 32, 0] = 0
        s.marks[key & 0xFFFFFFFF, 1] = 0
        if not worth_keeping(s.forbidden, least, s.frequency[at], key):
            s.final[pair] = 0
            continue
        s.final[pair] = kept
        size = s.size[at]
        s.frequency[kept], s.key[kept], s.start[kept] = s.frequency[at], key, used
        s.size[kept] = 0
        used += size
        enqueue(s.heads, s.link, kept, s.frequency[kept])
        kept += 1
    for i in range(events):
        pair = s.events[i, 0]
        p = s.events[i, 1]
        if s.node[p, 1] == -pair:
            slot = s.final[pair - 1]
            s.node[p, 1] = slot
            if slot > 0:
                s.arena[s.start[slot] + s.size[slot]] = p
                s.size[slot] += 1
    s.now[SLOTS] = kept
    s.now[ARENA] = used


@bare_kernel
def before(count: int, key: int, other_count: int, other_key: int) -> bool:
    """Whether a pair is merged before another one."""
    return count > other_count or (count == other_count and key < other_key)


@bare_kernel
def sift_down(s: Any, count: int, slot: int) -> None:
    """Put a slot in the place of the heap's first."""
    size = s.now[HEAP]
    key = s.key[slot]
    at = 0
    while True:
        child = 2 * at + 1
        if child >= size:
            break
        if child + 1 < size and before(
            s.heap_count[child + 1], s.key[s.heap_slot[child + 1]], s.heap_count[child], s.key[s.heap_slot[child]]
        ):
            child += 1
        if not before(s.heap_count[child], s.key[s.heap_slot[child]], count, key):
            break
        s.heap_count[at] = s.heap_count[child]
        s.heap_slot[at] = s.heap_slot[child]
        at = child
    s.heap_count[at] = count
    s.heap_slot[at] = slot


@bare_kernel
def drop_top(s: Any) -> None:
    """Take the first slot off the heap."""
    s.now[HEAP] -= 1
    last = s.now[HEAP]
    if last > 0:
        sift_down(s, s.heap_count[last], s.heap_slot[last])


@bare_kernel
def bring_top(s: Any) -> int:
    """Bring the next pair to merge to the top of the heap: 1; 0 if none is left, -1 if the heap needs more room."""
    while True:
        level = s.now[LEVEL]
        while s.heads[level] != 0:  # drain the bucket of this level into the heap
            slot = s.heads[level]
            count = s.frequency[slot]
            if count < s.now[MIN_FREQUENCY]:
                s.heads[level] = s.link[slot]
                continue
            if count >> level == 0:
                s.heads[level] = s.link[slot]
                enqueue(s.heads, s.link, slot, count)
                continue
            if s.now[HEAP] == len(s.heap_slot):
                return -1
            s.heads[level] = s.link[slot]
            at = s.now[HEAP]
            s.now[HEAP] += 1
            key = s.key[slot]
            while at > 0:
                up = (at - 1) >> 1
                if not before(count, key, s.heap_count[up], s.key[s.heap_slot[up]]):
                    break
                s.heap_count[at] = s.heap_count[up]
                s.heap_slot[at] = s.heap_slot[up]
                at = up
            s.heap_count[at] = count
            s.heap_slot[at] = slot
        if s.now[HEAP] == 0:
            if level == 0:
                return 0
            s.now[LEVEL] -= 1
            continue
        slot = s.heap_slot[0]
        count = s.frequency[slot]
        if count == s.heap_count[0]:
            return 1
        if count >> level != 0 and count >= s.now[MIN_FREQUENCY]:
            sift_down(s, count, slot)
            continue
        drop_top(s)
        if count >= s.now[MIN_FREQUENCY]:
            enqueue(s.heads, s.link, slot, count)


@bare_kernel
def apply_merge(s: Any, slot: int, key: int) -> int:
    """Merge a slot's pair, wherever it still stands, to the next token; how often it did.

    The caller has made sure of room for it. Slot 0, for a pair that does not occur, merges nothing but makes the token.
    """
    made = s.now[MERGES]
    token = np.int32(s.now[FIRST] + made)
    a, b = np.int32(key >> 32), np.int32(key & 0xFFFFFFFF)
    s.merges[made, 0] = a
    s.merges[made, 1] = b
    s.now[MERGES] = made + 1
    base = s.now[SLOTS]
    s.born[token] = base
    first = s.spans[a]
    both = first + s.spans[b]
    width = s.widths[a] + s.widths[b]
    s.spans[token] = both
    s.widths[token] = width
    room = s.now[LONGEST] - width  # for a neighbour
    pairs, events, stretch, total = 0, 0, 0, 0
    for i in range(s.start[slot], s.start[slot] + s.size[slot]):
        p = s.arena[i]
        if s.node[p, 1] != slot:
            continue
        if p >= s.ends[stretch]:
            stretch = find_stretch(s.ends, stretch, p)
        count = s.times[stretch]
        total += count
        second = p + first
        after = p + both
        left = s.node[p - 1, 0]
        if left >= 0:
            q = p - s.spans[left]
            broken = s.node[q, 1]
            s.frequency[broken if broken >= 0 else base - broken - 1] -= count
            pair = 0
            if s.widths[left] <= room:
                pair = s.marks[left, 0]
                if pair == 0:
                    pairs += 1
                    pair = pairs
                    s.marks[left, 0] = pair
                    s.frequency[base + pair - 1] = 0
                    s.size[base + pair - 1] = 0
                    s.key[base + pair - 1] = (np.int64(left) << 32) | token
                s.frequency[base + pair - 1] += count
                s.size[base + pair - 1] += 1
                s.events[events, 0] = pair
                s.events[events, 1] = q
                events += 1
            s.node[q, 1] = -pair
        right = s.node[after, 0]
        pair = 0
        if right >= 0:
            broken = s.node[second, 1]
            s.frequency[broken if broken >= 0 else base - broken - 1] -= count
            if s.widths[right] <= room:
                pair = s.marks[right, 1]
                if pair == 0:
                    pairs += 1
                    pair = pairs
                    s.marks[right, 1] = pair
                    s.frequency[base + pair - 1] = 0
                    s.size[base + pair - 1] = 0
                    s.key[base + pair - 1] = (np.int64(token) << 32) | right
                s.frequency[base + pair - 1] += count
                s.size[base + pair - 1] += 1
                s.events[events, 0] = pair
                s.events[events, 1] = p
                events += 1
        s.node[second, 1] = 0
        s.node[p, 1] = -pair
        s.node[p, 0] = token
        s.node[after - 1, 0] = token
    s.size[slot] = 0
    s.frequency[slot] = 0
    settle(s, pairs, events)
    return total


@bare_kernel
def room_for(s: Any, slot: int) -> int:
    """Whether a merge of this slot fits: DONE, else what is needed."""
    most = 2 * s.size[slot]
    if s.now[SLOTS] + most > len(s.frequency):
        return NEED_SLOTS
    if s.now[ARENA] + most > len(s.arena):
        return NEED_ARENA
    return DONE


@bare_kernel
def run_merges(s: Any, goal: int) -> int:
    """Merge until there are `goal` merges or no pair is left (DONE), or there is no room (NEED_...: `grow`, call again)."""
    while s.now[MERGES] < goal:
        found = bring_top(s)
        if found == 0:
            return DONE
        if found < 0:
            return NEED_HEAP
        slot = s.heap_slot[0]
        status = room_for(s, slot)
        if status != DONE:
            return status
        drop_top(s)
        apply_merge(s, slot, s.key[slot])
    return DONE


@bare_kernel
def find_slot(s: Any, key: int) -> int:
    """The slot of a pair; 0 if it does not occur (or was too rare when it arose)."""
    left, right = key >> 32, key & 0xFFFFFFFF
    younger = left if left > right else right
    low, high = np.int64(1), s.born[s.now[FIRST]]
    if younger >= s.now[FIRST]:
        low, high = s.born[younger], s.now[SLOTS]
        if younger + 1 < s.now[FIRST] + s.now[MERGES]:
            high = s.born[younger + 1]
    elif s.now[MERGES] == 0:
        high = s.now[SLOTS]
    for slot in range(low, high):
        if s.key[slot] == key:
            return slot
    return 0


@bare_kernel
def replay(s: Any, pairs: Any) -> int:
    """Make the merges `pairs` (int32[M, 2]) in their order, from the first not made; DONE, or what is needed."""
    while s.now[MERGES] < len(pairs):
        made = s.now[MERGES]
        key = (np.int64(pairs[made, 0]) << 32) | pairs[made, 1]
        slot = find_slot(s, key)
        status = room_for(s, slot)
        if status != DONE:
            return status
        apply_merge(s, slot, key)
    return DONE
