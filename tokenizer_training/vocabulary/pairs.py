"""The state of a BPE training, and how it begins: words laid out, their pairs counted and listed. `merging.py` goes on from there.

Facts that it rests on. A pair exists since the younger of its tokens was made, so all its occurrences arise in one step: a
step's new pairs are its new token with each neighbour, found by an array indexed by neighbour, and each gets a `slot` (count,
ids, list of positions in order). From then on its count only falls, and the highest count never rises. No table of pairs is
looked up while merging.

Words lie one after the other, those with the highest count first, so that a stretch of positions shares one count. A token
covers as many positions as it has symbols and is written at the first and the last of them: next and previous token are
found without links. Each first position also holds the slot of the pair that begins there: an occurrence in a slot's list is
still one exactly if the position says so, and a pair that breaks is taken from its count directly.

The queue has a bucket for each power of two. Only the slots of the highest bucket are in a heap; a slot whose count has fallen
is put right when it comes to the top.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from stages.jit import bare_kernel
from tokenizer_training.config import TokenizerError

DONE, NEED_SLOTS, NEED_ARENA, NEED_HEAP, NEED_TABLE = range(5)
MOST_POSITIONS = 2**31 - 1

# Places in `now`
MERGES, SLOTS, ARENA, LEVEL, HEAP, FIRST, MIN_FREQUENCY, LONGEST = range(8)


class Merger(NamedTuple):
    """The state of a training; positions count symbols and one separator after each word."""

    now: (
        np.ndarray
    )  # int64[8]: merges made, slots in use, arena in use, level, heap size, first new id, min frequency, longest
    node: np.ndarray  # int32[P, 2]: token (-1 between words), slot (0: no pair, or one too rare)
    ends: np.ndarray  # int64[S]: where each stretch of words with one count ends
    times: np.ndarray  # int64[S]: that count
    spans: np.ndarray  # int32[V]: positions that each token covers
    widths: np.ndarray  # int32[V]: its bytes
    merges: np.ndarray  # int32[wanted, 2]
    born: np.ndarray  # int64[V + 1]: the first slot made with each token
    frequency: np.ndarray  # int64[slots]; slot 0 is for what is not counted
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
    ids: np.ndarray,
    offsets: np.ndarray,
    counts: np.ndarray,
    widths: np.ndarray,
    wanted: int,
    min_frequency: int,
    longest: int,
    forbidden: list[int],
) -> Merger:
    """A machine with all pairs of the words counted.

    Word i is the tokens `ids[symbols[offsets[i]:offsets[i + 1]]]`, below `len(widths)`; up to `wanted` more can be made.
    """
    sizes = np.diff(offsets)
    used = np.flatnonzero((sizes > 1) & (counts > 0))
    order = used[np.argsort(-counts[used], kind="stable")]
    positions = 1 + int(sizes[order].sum()) + len(order)
    if positions > MOST_POSITIONS:
        raise TokenizerError(
            f"{positions:,} bytes of different pre-tokens; training takes up to {MOST_POSITIONS:,}. Raise minimum_count"
        )
    stops = np.cumsum(sizes[order] + 1) + 1
    sorted_counts = counts[order]
    last = np.flatnonzero(np.append(sorted_counts[1:] != sorted_counts[:-1], True)) if len(order) else order
    first = len(widths)
    now = np.zeros(8, np.int64)
    now[SLOTS], now[LEVEL], now[FIRST] = 1, 63, first
    now[MIN_FREQUENCY], now[LONGEST] = max(min_frequency, 1), longest
    slots = 1 << 15
    merger = Merger(
        now=now,
        node=np.zeros((positions, 2), np.int32),
        ends=np.append(stops[last], positions).astype(np.int64),
        times=np.append(sorted_counts[last], 0).astype(np.int64),
        spans=np.ones(first + wanted, np.int32),
        widths=np.concatenate([widths.astype(np.int32), np.zeros(wanted, np.int32)]),
        merges=np.zeros((wanted, 2), np.int32),
        born=np.ones(first + wanted + 1, np.int64),
        frequency=np.zeros(slots, np.int64),
        key=np.zeros(slots, np.int64),
        start=np.zeros(slots, np.int64),
        size=np.zeros(slots, np.int32),
        link=np.zeros(slots, np.int32),
        heads=np.zeros(64, np.int32),
        heap_count=np.zeros(1 << 12, np.int64),
        heap_slot=np.zeros(1 << 12, np.int32),
        arena=np.zeros(0, np.int32),
        events=np.zeros((0, 2), np.int32),
        final=np.zeros(0, np.int32),
        marks=np.zeros((first + wanted, 2), np.int32),
        forbidden=np.array(forbidden, np.int64),
    )
    _lay_out(symbols, ids, offsets, order, merger.node)
    del sizes, used, order, stops, sorted_counts, last
    table = np.zeros(1 << 16, np.int32)
    status, at = NEED_TABLE, 0
    while status != DONE:
        status, at = _count_pairs(merger, table, at)
        if status == NEED_SLOTS:
            merger = grow(merger, status)
        elif status == NEED_TABLE:
            table = np.zeros(4 * len(table), np.int32)
            _fill_table(merger, table)
    del table
    events = 2 * int(merger.size[1 : now[SLOTS]].max(initial=1))
    final = np.empty(int(now[SLOTS]), np.int32)
    listed = _keep_pairs(merger, final)
    merger = merger._replace(
        arena=np.empty(listed + listed // 3 + events, np.int32),
        events=np.empty((events, 2), np.int32),
        final=np.empty(events, np.int32),
    )
    _list_pairs(merger, final)
    return merger


def grow(merger: Merger, status: int) -> Merger:
    """The machine with more room for what it stopped for."""
    if status == NEED_HEAP:
        return merger._replace(heap_count=_longer(merger.heap_count), heap_slot=_longer(merger.heap_slot))
    if status == NEED_SLOTS:
        extra = len(merger.events)
        names = ("frequency", "key", "start", "size", "link")
        return merger._replace(**{name: _longer(getattr(merger, name), extra) for name in names})
    _compact(merger)
    if merger.now[ARENA] + len(merger.events) > 0.8 * len(merger.arena):
        merger = merger._replace(arena=_longer(merger.arena, len(merger.events)))
    return merger


def _longer(array: np.ndarray, extra: int = 0) -> np.ndarray:
    """The array itself with half as much room again, in place: the old one does not stand beside it meanwhile."""
    array.resize(len(array) + len(array) // 2 + extra, refcheck=False)
    return array


@bare_kernel
def _lay_out(symbols: Any, ids: Any, offsets: Any, order: Any, node: Any) -> None:
    """Write the words in their order, a separator before the first and after each."""
    node[0, 0] = -1
    at = 1
    for word in order:
        for i in range(offsets[word], offsets[word + 1]):
            node[at, 0] = ids[symbols[i]]
            at += 1
        node[at, 0] = -1
        at += 1


@bare_kernel
def _place_of(keys: Any, table: Any, key: int) -> int:
    """Where a pair is in the hash table of slots, or would be."""
    mask = np.uint64(len(table) - 1)
    at = (np.uint64(key) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(20)
    while True:
        at &= mask
        slot = table[at]
        if slot == 0 or keys[slot] == key:
            return np.int64(at)  # type: ignore[return-value]
        at += np.uint64(1)


@bare_kernel
def _fill_table(s: Any, table: Any) -> None:
    """Put the slots there are into a new table."""
    for slot in range(1, s.now[SLOTS]):
        table[_place_of(s.key, table, s.key[slot])] = slot


@bare_kernel
def _count_pairs(s: Any, table: Any, begin: int) -> Any:
    """Count the pairs of symbols from position `begin` on; returns DONE or what is needed, and where it stopped."""
    stretch = 0
    for p in range(begin, len(s.node) - 1):
        left, right = s.node[p, 0], s.node[p + 1, 0]
        if left < 0 or right < 0 or s.widths[left] + s.widths[right] > s.now[LONGEST]:
            continue
        if p >= s.ends[stretch]:
            stretch = find_stretch(s.ends, stretch, p)
        key = (np.int64(left) << 32) | right
        place = _place_of(s.key, table, key)
        slot = table[place]
        if slot == 0:
            slot = np.int32(s.now[SLOTS])
            if slot == len(s.frequency):
                return NEED_SLOTS, p
            if 2 * slot > len(table):
                return NEED_TABLE, p
            s.now[SLOTS] += 1
            table[place] = slot
            s.key[slot] = key
            s.frequency[slot] = 0
            s.size[slot] = 0
        s.frequency[slot] += s.times[stretch]
        s.size[slot] += 1
        s.node[p, 1] = slot
    return DONE, 0


@bare_kernel
def _keep_pairs(s: Any, final: Any) -> int:
    """Close the ranks of the slots that are frequent enough (`final`: the new number, or 0); how many positions to list."""
    kept, used = 1, 0
    final[0] = 0
    for slot in range(1, len(final)):
        final[slot] = 0
        if worth_keeping(s.forbidden, s.now[MIN_FREQUENCY], s.frequency[slot], s.key[slot]):
            final[slot] = kept
            s.frequency[kept], s.key[kept], s.start[kept] = s.frequency[slot], s.key[slot], used
            used += s.size[slot]
            s.size[kept] = 0
            enqueue(s.heads, s.link, kept, s.frequency[kept])
            kept += 1
    s.now[SLOTS] = kept
    s.now[ARENA] = used
    s.born[s.now[FIRST]] = kept
    return used


@bare_kernel
def _list_pairs(s: Any, final: Any) -> None:
    """The positions of each pair, in order."""
    for p in range(len(s.node)):
        slot = final[s.node[p, 1]]
        s.node[p, 1] = slot
        if slot > 0:
            s.arena[s.start[slot] + s.size[slot]] = p
            s.size[slot] += 1


@bare_kernel
def find_stretch(ends: Any, after: int, p: int) -> int:
    """The first stretch behind `after` that ends after position p."""
    low, high = after + 1, len(ends) - 1
    while low < high:
        middle = (low + high) >> 1
        if ends[middle] > p:
            high = middle
        else:
            low = middle + 1
    return low


@bare_kernel
def worth_keeping(forbidden: Any, least: int, count: int, key: int) -> bool:
    """Whether a pair may be merged one day."""
    if count < least:
        return False
    for other in forbidden:  # noqa: SIM110
        if other == key:
            return False
    return True


@bare_kernel
def enqueue(heads: Any, link: Any, slot: int, count: int) -> None:
    """Put a slot into the bucket of its count. (Arrays, not the state, are passed where it is called often: numba counts
    references to each array of the state.)"""
    bucket = 0
    while count > 1:
        count >>= 1
        bucket += 1
    link[slot] = heads[bucket]
    heads[bucket] = slot


@bare_kernel
def _compact(s: Any) -> None:
    """Close the gaps in the arena that lists of merged pairs, and of pairs that have become too rare, leave."""
    used = 0
    for slot in range(1, s.now[SLOTS]):
        begin = s.start[slot]
        s.start[slot] = used
        if s.frequency[slot] < s.now[MIN_FREQUENCY]:
            s.size[slot] = 0
        for i in range(begin, begin + s.size[slot]):
            s.arena[used] = s.arena[i]
            used += 1
    s.now[ARENA] = used
