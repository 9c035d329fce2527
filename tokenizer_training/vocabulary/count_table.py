"""A hash table of pre-tokens over byte slices, filled by compiled loops: no Python object for any of them.

A row of `table` (int64[capacity, 4], capacity a power of two) is one slot, half a cache line: the first eight bytes of the
pre-token, as a little-endian number; its group << 32 | its length (0: the slot is free); its next eight bytes or, if it is
longer than sixteen, where all of its bytes begin in `arena`; and a value: its count, or what else the caller keeps there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from stages.jit import bare_kernel, inlined_kernel, kernel
from tokenizer_training.vocabulary.ascii_words import short_word, up_to_eight
from tokenizer_training.vocabulary.split_kernels import next_end, run_cuts

_LENGTH = 0xFFFF_FFFF
_USED, _BYTES, _DOCUMENT, _AT, _END = range(5)  # of the state: slots and arena in use; where the loop goes on
# odd numbers below 2**63 without a pattern, to multiply with
_A, _B, _C = 0x1E37_79B9_7F4A_7C15, 0x3F58_476D_1CE4_E5B9, 0x14D0_49BB_1331_11EB
_SLOTS, _ARENA = 1 << 14, 1 << 18  # of an empty table
_FULL = 0.6  # of the slots, before there are twice as many


@inlined_kernel
def _mix(first: Any, rest: Any, meta: int) -> Any:
    """A number from a key of up to sixteen bytes."""
    mixed = (first ^ (meta * _A)) * _B
    mixed = (mixed ^ (mixed >> 29) ^ rest) * _C
    return mixed ^ (mixed >> 32)


@inlined_kernel
def _hash(word: Any, meta: int, data: Any, at: int) -> Any:
    """A number from a group and length, and the bytes at `at` of `data`, of which `word` are the first eight."""
    mixed = (word ^ (meta * _A)) * _B
    end = at + (meta & _LENGTH)
    place = at + 8
    while place < end:
        mixed = (mixed ^ (mixed >> 29) ^ up_to_eight(data, place, end)) * _C
        place += 8
    mixed = (mixed ^ (mixed >> 30)) * _A
    return mixed ^ (mixed >> 32)


@inlined_kernel
def _find(data: Any, at: int, end: int, group: int, first: Any, rest: Any, table: Any, arena: Any, state: Any) -> int:
    """The slot of a pre-token, taken for it (with the value 0) if it is new. There must be room.

    `first`, `rest`: its first and its next eight bytes.
    """
    length = end - at
    meta = group << 32 | length
    mask = len(table) - 1
    if length <= 16:
        slot = _mix(first, rest, meta) & mask
        while True:
            held = table[slot, 1]
            if held == meta and table[slot, 0] == first and table[slot, 2] == rest:
                return slot
            if held == 0:
                break
            slot = (slot + 1) & mask
        table[slot, 2] = rest
    else:
        slot = _hash(first, meta, data, at) & mask
        while True:
            held = table[slot, 1]
            if held == 0:
                break
            if held == meta and table[slot, 0] == first:
                place: Any = np.int64(8)
                begin = table[slot, 2]
                while place < length and up_to_eight(data, at + place, end) == up_to_eight(
                    arena, begin + place, begin + length
                ):
                    place += 8
                if place >= length:
                    return slot
            slot = (slot + 1) & mask
        begin = state[_BYTES]
        table[slot, 2] = begin
        for place in range(length):
            arena[begin + place] = data[at + place]
        state[_BYTES] = begin + length
    table[slot, 0] = first
    table[slot, 1] = meta
    table[slot, 3] = 0
    state[_USED] += 1
    return slot


@bare_kernel
def _count(
    data: Any,
    offsets: Any,
    groups: Any,
    ends: Any,
    classes: Any,
    style: int,
    digits: int,
    longest: int,
    cuts: Any,
    most: int,
    table: Any,
    arena: Any,
    state: Any,
) -> bool:
    """Count the pre-tokens of texts, from where `state` says; False if there is no room left to go on.

    Text i is data[offsets[i]:offsets[i + 1]]. Where `style` is -1, `ends` are the ends of all pre-tokens, else it is not read.
    """
    for document in range(state[_DOCUMENT], len(groups)):
        start, stop = offsets[document], offsets[document + 1]
        group = groups[document]
        at = state[_AT] if state[_AT] > start else start
        known = 0
        if style >= 0 and stop - start > longest:
            known = run_cuts(data, start, stop, classes, longest, cuts)
        number = 0
        while at < stop:
            while number < known and cuts[number] <= at:
                number += 1
            border = cuts[number] if number < known else stop
            while at < border:
                end = at
                if style >= 0:
                    end, first, rest = short_word(data, at, border, style)
                    if end == at:
                        end = next_end(data, at, border, classes, style, digits)
                        first, rest = up_to_eight(data, at, end), up_to_eight(data, at + 8, end)
                else:
                    end = ends[state[_END]]
                    first, rest = up_to_eight(data, at, end), up_to_eight(data, at + 8, end)
                if state[_USED] >= most or state[_BYTES] + end - at > len(arena):
                    state[_DOCUMENT], state[_AT] = document, at
                    return False
                slot = _find(data, at, end, group, first, rest, table, arena, state)
                table[slot, 3] += 1
                state[_END] += 1
                at = end
    state[_DOCUMENT] = len(groups)
    return True


@bare_kernel
def _place(
    data: Any, offsets: Any, groups: Any, added: Any, found: Any, most: int, table: Any, arena: Any, state: Any
) -> bool:
    """Find the rows (group, bytes) from where `state` says; False if there is no room left to go on.

    With `added` (int64, one for each row) the values are summed; with none, found[i] is the number that row i was given
    when it first came: 0, 1, 2, ... in the order of coming.
    """
    for row in range(state[_DOCUMENT], len(groups)):
        at, end = offsets[row], offsets[row + 1]
        used = state[_USED]
        if used >= most or state[_BYTES] + end - at > len(arena):
            state[_DOCUMENT] = row
            return False
        first, rest = up_to_eight(data, at, end), up_to_eight(data, at + 8, end)
        slot = _find(data, at, end, groups[row], first, rest, table, arena, state)
        if len(added):
            table[slot, 3] += added[row]
        else:
            if state[_USED] > used:
                table[slot, 3] = used
            found[row] = table[slot, 3]
    state[_DOCUMENT] = len(groups)
    return True


@bare_kernel
def _move(old: Any, new: Any, arena: Any) -> None:
    """All slots of a table into a larger one."""
    mask = len(new) - 1
    for place in range(len(old)):
        if old[place, 1] != 0:
            first, meta, rest = old[place, 0], old[place, 1], old[place, 2]
            if meta & _LENGTH <= 16:
                slot = _mix(first, rest, meta) & mask
            else:
                slot = _hash(first, meta, arena, rest) & mask
            while new[slot, 1] != 0:
                slot = (slot + 1) & mask
            for column in range(4):
                new[slot, column] = old[place, column]


@inlined_kernel
def _byte(table: Any, slot: int, arena: Any, place: int) -> Any:
    """A byte of a pre-token, not one of the first eight."""
    if table[slot, 1] & _LENGTH <= 16:
        return (table[slot, 2] >> (8 * (place - 8))) & 0xFF
    return np.int64(arena[table[slot, 2] + place])


@bare_kernel
def _before(one: int, other: int, table: Any, arena: Any) -> bool:
    """Whether a pre-token is the smaller of two with equal first eight bytes (zeros where it is shorter)."""
    length, others = table[one, 1] & _LENGTH, table[other, 1] & _LENGTH
    least = length if length < others else others
    for place in range(8, least):
        ours, theirs = _byte(table, one, arena, place), _byte(table, other, arena, place)
        if ours != theirs:
            return bool(ours < theirs)
    return bool(length < others)


@bare_kernel
def _settle(slots: Any, words: Any, table: Any, arena: Any) -> None:
    """Sort the slots, sorted by group and first eight bytes (`words`), by what follows: heapsort of each stretch of ties."""
    start = 0
    while start < len(slots):
        stop = start + 1
        group = table[slots[start], 1] >> 32
        while stop < len(slots) and words[stop] == words[start] and table[slots[stop], 1] >> 32 == group:
            stop += 1
        size = stop - start
        top = size // 2
        last = size
        while last > 1:
            if top > 0:
                top -= 1
            else:
                last -= 1
                slots[start], slots[start + last] = slots[start + last], slots[start]
            node = top
            while 2 * node + 1 < last:
                child = 2 * node + 1
                if child + 1 < last and _before(slots[start + child], slots[start + child + 1], table, arena):
                    child += 1
                if not _before(slots[start + node], slots[start + child], table, arena):
                    break
                slots[start + node], slots[start + child] = slots[start + child], slots[start + node]
                node = child
        start = stop


@kernel
def _gather(slots: Any, table: Any, arena: Any, offsets: Any) -> Any:
    """The bytes of the slots one after the other; `offsets` are theirs in it."""
    out = np.empty(offsets[-1], np.uint8)
    for number in range(len(slots)):
        slot = slots[number]
        at, length = offsets[number], table[slot, 1] & _LENGTH
        if length <= 16:
            first, rest = table[slot, 0], table[slot, 2]
            for place in range(length if length < 8 else 8):
                out[at + place] = (first >> (8 * place)) & 0xFF
            for place in range(8, length):
                out[at + place] = (rest >> (8 * (place - 8))) & 0xFF
        else:
            begin = table[slot, 2]
            for place in range(length):
                out[at + place] = arena[begin + place]
    return out


@bare_kernel
def add_digest(data: Any, offsets: Any, seeds: Any, sums: Any) -> None:
    """Add a number for each document, made from its bytes and a seed below 2**31, to two sums (int64[2], modulo 2**64).

    The sums say which documents were counted, in whatever order and pieces they came.
    """
    for number in range(len(seeds)):
        start, stop = offsets[number], offsets[number + 1]
        meta = seeds[number] << 32 | ((stop - start) & _LENGTH)
        mixed = _hash(up_to_eight(data, start, stop), meta, data, start)
        sums[0] += mixed
        sums[1] += (mixed ^ (mixed >> 31)) * _C


def read_only(values: np.ndarray) -> np.ndarray:
    """A read-only view, as what comes from Arrow is: one type of array, so the loop is compiled once."""
    view = values.view()
    view.setflags(write=False)
    return view


def _slots(number: int) -> np.ndarray:
    """Free slots, none across two cache lines."""
    room = np.zeros(4 * number + 8, np.int64)
    begin = -room.ctypes.data // 8 % 8
    return room[begin : begin + 4 * number].reshape(number, 4)


class PretokenTable:
    """A growing table of (group, pre-token) with an int64 for each. Groups are numbers from 0."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Empty it, and give back its memory."""
        self.table = _slots(_SLOTS)
        self.arena = np.empty(_ARENA, np.uint8)
        self.state = np.zeros(5, np.int64)

    def __len__(self) -> int:
        return int(self.state[_USED])

    @property
    def nbytes(self) -> int:
        """Memory of the table."""
        return self.table.nbytes + self.arena.nbytes

    def count(
        self,
        texts: tuple[np.ndarray, np.ndarray],
        groups: np.ndarray,
        ends: np.ndarray,
        classes: np.ndarray,
        rules: tuple[int, int, int],
        cuts: np.ndarray,
        full: Callable[[], None],
        most_bytes: int,
    ) -> None:
        """Count the pre-tokens of texts: (uint8[N], int64[n + 1] offsets), with the group of each (int64[n]).

        `rules`: style, digits, longest run. `ends`: of all pre-tokens, read if style is -1. `full` is called when the table
        would outgrow `most_bytes`; it must clear the table.
        """

        def step() -> bool:
            return _count(*texts, groups, ends, classes, *rules, cuts, self._most(), self.table, self.arena, self.state)

        self._all(step, full, most_bytes)

    def add(self, texts: tuple[np.ndarray, np.ndarray], groups: np.ndarray, values: np.ndarray) -> None:
        """Add a value (int64) to that of each pre-token."""
        found, values = np.empty(0, np.int64), read_only(values)
        self._all(
            lambda: _place(*texts, groups, values, found, self._most(), self.table, self.arena, self.state), None, 0
        )

    def number(self, texts: tuple[np.ndarray, np.ndarray], groups: np.ndarray) -> np.ndarray:
        """The number of each pre-token in the order of first coming: int64[n]."""
        none, found = read_only(np.empty(0, np.int64)), np.empty(len(groups), np.int64)
        self._all(
            lambda: _place(*texts, groups, none, found, self._most(), self.table, self.arena, self.state), None, 0
        )
        return found

    def _most(self) -> int:
        return int(len(self.table) * _FULL)

    def _all(self, step: Callable[[], bool], full: Callable[[], None] | None, most_bytes: int) -> None:
        self.state[_DOCUMENT:] = 0
        while not step():
            if full is not None and 2 * self.nbytes > most_bytes and len(self):
                place = self.state[_DOCUMENT:].copy()
                full()
                self.state[_DOCUMENT:] = place
            elif len(self) >= self._most():
                larger = _slots(2 * len(self.table))
                _move(self.table, larger, self.arena)
                self.table = larger
            else:
                more = np.empty(2 * len(self.arena), np.uint8)
                more[: self.state[_BYTES]] = self.arena[: self.state[_BYTES]]
                self.arena = more

    def sorted_slots(self, ranks: np.ndarray) -> np.ndarray:
        """The slots in use by ranks[group], then by the bytes of the pre-token."""
        slots = np.flatnonzero(self.table[:, 1])
        words = self.table[slots, 0].byteswap().view(np.uint64)
        order = np.lexsort((words, ranks[self.table[slots, 1] >> 32]))
        slots, words = slots[order], words[order]
        _settle(slots, words, self.table, self.arena)
        return slots

    def bytes_of(self, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The pre-tokens in some slots: bytes uint8[N], offsets int64[n + 1]."""
        offsets = np.zeros(len(slots) + 1, np.int64)
        np.cumsum(self.table[slots, 1] & _LENGTH, out=offsets[1:])
        return _gather(slots, self.table, self.arena, offsets), offsets

    def groups_of(self, slots: np.ndarray) -> np.ndarray:
        """The groups of some slots: int64."""
        return self.table[slots, 1] >> 32

    def values_of(self, slots: np.ndarray) -> np.ndarray:
        """The values of some slots: int64."""
        return self.table[slots, 3]
