"""The machine that merges pairs of tokens in a table of words: compiled, without a hash table, never looking at a word twice in vain.

Facts that it rests on. A pair holds the younger of its tokens since that one was made, so all its occurrences arise in one step: a
step's new pairs are its new token with each neighbour, found by an array indexed by neighbour, and each gets a `slot` (count,
ids, list of positions in order). From then on its count only falls, and the highest count never rises.

Words lie one after the other, those with the highest count first, so that a stretch of positions shares one count. A token
covers as many positions as it has symbols and is written at the first and the last of them: next and previous token are
found without links. Each first position also holds the slot of the pair that begins there: an occurrence in a slot's list is
still one exactly if the position says so, and a pair that breaks is taken from its count directly.

The queue has a bucket for each power of two. Only the slots of the highest bucket are in a heap; a slot whose count has fallen
is put right when it comes to the top.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from stages.jit import kernel
from tokenizer_training.config import TokenizerError

DONE, NEED_SLOTS, NEED_ARENA, NEED_HEAP = 0, 1, 2, 3
MOST_POSITIONS = 2**31 - 1

# Places in `now`
MERGES, SLOTS, ARENA, LEVEL, HEAP, FIRST, MIN_FREQUENCY, LONGEST = range(8)


class Merger(NamedTuple):
    """The state of a training; positions count symbols and one separator after each word."""

    now: np.ndarray  # int64[8]: merges made, slots in use, arena in use, level, heap size, first new id, min frequency, longest
    node: np.ndarray  # int32[P, 2]: token (-1 between words), slot (0: no pair, or one too rare)
    ends: np.ndarray  # int64[S]: where each stretch of words with one count ends
    times: np.ndarray  # int64[S]: that count
    spans: np.ndarray  # int32[V]: positions that each token covers
    widths: np.ndarray  # int32[V]: its bytes
    merges: np.ndarray  # int32[wanted, 2]
    born: np.ndarray  # int64[V + 1]: the first slot made with each token
    count: np.ndarray  # int64[slots]; slot 0 is for what is not counted
    key: np.ndarray  # int64[slots]: left id << 32 | right id
    start: np.ndarray  # int64[slots]: of its list in the arena
    size: np.ndarray  # int32[slots]: of its list
    link: np.ndarray  # int32[slots]: the next slot of its bucket
    heads: np.ndarray  # int32[64]: the first slot of each bucket
    heap_count: np.ndarray  # int64[H]
    heap_slot: np.ndarray  # int32[H]
    arena: np.ndarray  # int32[A]: positions
    events: np.ndarray  # int32[E, 2]: new pair of this step, position
    final: np.ndarray  # int32[E]
    marks: np.ndarray  # int32[V, 2]: this step's pair with each neighbour on the left, on the right; 0: none yet
    forbidden: np.ndarray  # int64[F]: keys never merged


def new_merger(
    symbols: np.ndarray,
    offsets: np.ndarray,
    counts: np.ndarray,
    widths: np.ndarray,
    wanted: int,
    min_frequency: int,
    longest: int,
    forbidden: list[int],
) -> Merger:
    """A machine with all pairs of the words counted. Words are `symbols[offsets[i]:offsets[i + 1]]`, ids below `len(widths)`."""
    sizes = np.diff(offsets)
    used = np.flatnonzero((sizes > 1) & (counts > 0))
    order = used[np.argsort(-counts[used], kind="stable")]
    positions = 1 + int(sizes[order].sum()) + len(order)
    if positions > MOST_POSITIONS:
        raise TokenizerError(
            f"{positions:,} bytes of different pre-tokens; training takes up to {MOST_POSITIONS:,}. Raise minimum_count"
        )
    node = np.zeros((positions, 2), np.int32)
    _lay_out(symbols, offsets, order, node)
    stops = np.cumsum(sizes[order] + 1) + 1
    sorted_counts = counts[order]
    last = np.flatnonzero(np.append(sorted_counts[1:] != sorted_counts[:-1], True)) if len(order) else order
    first = len(widths)
    vocabulary = first + wanted
    by_left = np.bincount(node[node[:, 0] >= 0, 0], minlength=1) if len(order) else np.zeros(1, np.int64)
    events = max(2 * int(by_left.max()), 2)
    now = np.zeros(8, np.int64)
    now[SLOTS], now[LEVEL], now[FIRST] = 1, 63, first
    now[MIN_FREQUENCY], now[LONGEST] = max(min_frequency, 1), longest
    slots = 1 << 16
    spans = np.ones(vocabulary, np.int32)
    merger = Merger(
        now=now,
        node=node,
        ends=np.append(stops[last], positions).astype(np.int64),
        times=np.append(sorted_counts[last], 0).astype(np.int64),
        spans=spans,
        widths=np.concatenate([widths.astype(np.int32), np.zeros(wanted, np.int32)]),
        merges=np.zeros((wanted, 2), np.int32),
        born=np.zeros(vocabulary + 1, np.int64),
        count=np.zeros(slots, np.int64),
        key=np.zeros(slots, np.int64),
        start=np.zeros(slots, np.int64),
        size=np.zeros(slots, np.int32),
        link=np.zeros(slots, np.int32),
        heads=np.zeros(64, np.int32),
        heap_count=np.zeros(1 << 12, np.int64),
        heap_slot=np.zeros(1 << 12, np.int32),
        arena=np.empty(positions + events, np.int32),
        events=np.empty((events, 2), np.int32),
        final=np.empty(events, np.int32),
        marks=np.zeros((vocabulary, 2), np.int32),
        forbidden=np.array(forbidden, np.int64),
    )
    by_symbol = np.zeros(first + 1, np.int64)
    np.cumsum(by_left, out=by_symbol[1 : len(by_left) + 1])
    by_symbol[len(by_left) + 1 :] = by_symbol[len(by_left)]
    places = np.empty(int(by_symbol[-1]), np.int32)
    _sort_places(node, by_symbol.copy(), places)
    at = 0
    while True:
        at, status = _first_pairs(merger, by_symbol, places, at)
        if status == DONE:
            return merger
        merger = grow(merger, status)


def grow(merger: Merger, status: int) -> Merger:
    """The machine with more room for what it stopped for."""
    if status == NEED_HEAP:
        return merger._replace(heap_count=_longer(merger.heap_count), heap_slot=_longer(merger.heap_slot))
    if status == NEED_SLOTS:
        extra = len(merger.events)
        names = ("count", "key", "start", "size", "link")
        return merger._replace(**{name: _longer(getattr(merger, name), extra) for name in names})
    _compact(merger)
    if merger.now[ARENA] + len(merger.events) > 0.8 * len(merger.arena):
        merger = merger._replace(arena=_longer(merger.arena, len(merger.events)))
    return merger


def _longer(array: np.ndarray, extra: int = 0) -> np.ndarray:
    longer = np.empty(len(array) + len(array) // 2 + extra, array.dtype)
    longer[: len(array)] = array
    return longer


@kernel
def _lay_out(symbols, offsets, order, node):  # type: ignore[no-untyped-def]
    """Write the words in their order, a separator before the first and after each."""
    node[0, 0] = -1
    at = 1
    for word in order:
        for i in range(offsets[word], offsets[word + 1]):
            node[at, 0] = symbols[i]
            at += 1
        node[at, 0] = -1
        at += 1


@kernel
def _sort_places(node, fill, places):  # type: ignore[no-untyped-def]
    """All positions of each symbol, in order; `fill` is where each symbol's begin."""
    for p in range(len(node)):
        symbol = node[p, 0]
        if symbol >= 0:
            places[fill[symbol]] = p
            fill[symbol] += 1


@kernel
def _first_pairs(s, by_symbol, places, first):  # type: ignore[no-untyped-def]
    """Slots for the pairs of symbols, from left symbol `first` on; returns the symbol it stopped at, and why."""
    for left in range(first, len(by_symbol) - 1):
        low, high = by_symbol[left], by_symbol[left + 1]
        if s.now[SLOTS] + high - low > len(s.count):
            return left, NEED_SLOTS
        if s.now[ARENA] + high - low > len(s.arena):
            return left, NEED_ARENA
        base = s.now[SLOTS]
        pairs, events, stretch = 0, 0, 0
        for i in range(low, high):
            p = places[i]
            right = s.node[p + 1, 0]
            if right < 0 or s.widths[left] + s.widths[right] > s.now[LONGEST]:
                continue
            if p >= s.ends[stretch]:
                stretch = find_stretch(s.ends, stretch, p)
            pair = s.marks[right, 1]
            if pair == 0:
                pairs += 1
                pair = pairs
                s.marks[right, 1] = pair
                s.count[base + pair - 1] = 0
                s.size[base + pair - 1] = 0
                s.key[base + pair - 1] = (np.int64(left) << 32) | right
            s.count[base + pair - 1] += s.times[stretch]
            s.size[base + pair - 1] += 1
            s.node[p, 1] = -pair
            s.events[events, 0] = pair
            s.events[events, 1] = p
            events += 1
        settle(s, pairs, events)
    s.born[:] = 1
    return len(by_symbol) - 1, DONE


@kernel
def find_stretch(ends, after, p):  # type: ignore[no-untyped-def]
    """The first stretch behind `after` that ends after position p."""
    low, high = after + 1, len(ends) - 1
    while low < high:
        middle = (low + high) >> 1
        if ends[middle] > p:
            high = middle
        else:
            low = middle + 1
    return low


@kernel
def settle(s, pairs, events):  # type: ignore[no-untyped-def]
    """Give each new pair of a step that is frequent enough its slot, list and bucket; forget the others."""
    base = s.now[SLOTS]
    kept = base
    used = s.now[ARENA]
    level = s.now[LEVEL]
    for pair in range(pairs):
        at = base + pair
        key = s.key[at]
        s.marks[key >> 32, 0] = 0
        s.marks[key & 0xFFFFFFFF, 1] = 0
        count = s.count[at]
        keep = count >= s.now[MIN_FREQUENCY]
        if keep:
            for one in s.forbidden:
                if one == key:
                    keep = False
        if not keep:
            s.final[pair] = 0
            continue
        s.final[pair] = kept
        size = s.size[at]
        s.count[kept] = count
        s.key[kept] = key
        s.start[kept] = used
        s.size[kept] = 0
        used += size
        bucket = 0
        while count > 1 and bucket < level:
            count >>= 1
            bucket += 1
        s.link[kept] = s.heads[bucket]
        s.heads[bucket] = kept
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


@kernel
def before(count, key, other_count, other_key):  # type: ignore[no-untyped-def]
    """Whether a pair is merged before another one."""
    return count > other_count or (count == other_count and key < other_key)


@kernel
def sift_down(s, count, slot):  # type: ignore[no-untyped-def]
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


@kernel
def drop_top(s):  # type: ignore[no-untyped-def]
    """Take the first slot off the heap."""
    s.now[HEAP] -= 1
    last = s.now[HEAP]
    if last > 0:
        sift_down(s, s.heap_count[last], s.heap_slot[last])


@kernel
def bring_top(s):  # type: ignore[no-untyped-def]
    """Bring the next pair to merge to the top of the heap: 1; 0 if none is left, -1 if the heap needs more room."""
    while True:
        level = s.now[LEVEL]
        while s.heads[level] != 0:  # drain the bucket of this level into the heap
            slot = s.heads[level]
            count = s.count[slot]
            if count < s.now[MIN_FREQUENCY]:
                s.heads[level] = s.link[slot]
                continue
            if count >> level == 0:
                s.heads[level] = s.link[slot]
                bucket = 0
                while count > 1:
                    count >>= 1
                    bucket += 1
                s.link[slot] = s.heads[bucket]
                s.heads[bucket] = slot
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
        count = s.count[slot]
        if count == s.heap_count[0]:
            return 1
        if count >> level != 0:
            sift_down(s, count, slot)
            continue
        drop_top(s)
        if count >= s.now[MIN_FREQUENCY]:
            bucket = 0
            while count > 1:
                count >>= 1
                bucket += 1
            s.link[slot] = s.heads[bucket]
            s.heads[bucket] = slot


@kernel
def apply_merge(s, slot):  # type: ignore[no-untyped-def]
    """Merge a slot's pair, wherever it still stands, to the next token. The caller has made sure of room for it."""
    made = s.now[MERGES]
    token = np.int32(s.now[FIRST] + made)
    key = s.key[slot]
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
    pairs, events, stretch = 0, 0, 0
    for i in range(s.start[slot], s.start[slot] + s.size[slot]):
        p = s.arena[i]
        if s.node[p, 1] != slot:
            continue
        if p >= s.ends[stretch]:
            stretch = find_stretch(s.ends, stretch, p)
        count = s.times[stretch]
        second = p + first
        after = p + both
        left = s.node[p - 1, 0]
        if left >= 0:
            q = p - s.spans[left]
            broken = s.node[q, 1]
            s.count[broken if broken >= 0 else base - broken - 1] -= count
            pair = 0
            if s.widths[left] <= room:
                pair = s.marks[left, 0]
                if pair == 0:
                    pairs += 1
                    pair = pairs
                    s.marks[left, 0] = pair
                    s.count[base + pair - 1] = 0
                    s.size[base + pair - 1] = 0
                    s.key[base + pair - 1] = (np.int64(left) << 32) | token
                s.count[base + pair - 1] += count
                s.size[base + pair - 1] += 1
                s.events[events, 0] = pair
                s.events[events, 1] = q
                events += 1
            s.node[q, 1] = -pair
        right = s.node[after, 0]
        pair = 0
        if right >= 0:
            broken = s.node[second, 1]
            s.count[broken if broken >= 0 else base - broken - 1] -= count
            if s.widths[right] <= room:
                pair = s.marks[right, 1]
                if pair == 0:
                    pairs += 1
                    pair = pairs
                    s.marks[right, 1] = pair
                    s.count[base + pair - 1] = 0
                    s.size[base + pair - 1] = 0
                    s.key[base + pair - 1] = (np.int64(token) << 32) | right
                s.count[base + pair - 1] += count
                s.size[base + pair - 1] += 1
                s.events[events, 0] = pair
                s.events[events, 1] = p
                events += 1
        s.node[second, 1] = 0
        s.node[p, 1] = -pair
        s.node[p, 0] = token
        s.node[after - 1, 0] = token
    s.size[slot] = 0
    s.count[slot] = 0
    settle(s, pairs, events)


@kernel
def room_for(s, slot):  # type: ignore[no-untyped-def]
    """Whether a merge of this slot fits: DONE, else what is needed."""
    most = 2 * s.size[slot]
    if s.now[SLOTS] + most > len(s.count):
        return NEED_SLOTS
    if s.now[ARENA] + most > len(s.arena):
        return NEED_ARENA
    return DONE


@kernel
def run_merges(s, goal):  # type: ignore[no-untyped-def]
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
        apply_merge(s, slot)
    return DONE


@kernel
def _compact(s):  # type: ignore[no-untyped-def]
    """Close the gaps in the arena: lists of merged pairs, and positions that no longer hold a list's pair."""
    used = 0
    for slot in range(1, s.now[SLOTS]):
        start = used
        if s.count[slot] >= s.now[MIN_FREQUENCY]:
            for i in range(s.start[slot], s.start[slot] + s.size[slot]):
                p = s.arena[i]
                if s.node[p, 1] == slot:
                    s.arena[used] = p
                    used += 1
        s.start[slot] = start
        s.size[slot] = used - start
    s.now[ARENA] = used
