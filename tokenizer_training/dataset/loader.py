"""From a packed token dataset to batches: a pure function of (seed, step), the same for any number of processes and threads.

Sample number k of a run is place k % N of epoch k // N, in that epoch's order of the N rows; step s takes the samples s * B * W
and following, process r of W the B of them from r * B on. So the position in the data is the step alone: nothing has a
state that could be lost at a resume. No torch here; arrays come out as numpy's.
"""

from __future__ import annotations

import mmap
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from stages.jit import kernel
from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset.read import PADDING, PackedSplit

_MASK = 2**64 - 1


def permute(index: int, size: int, key: int) -> int:
    """Where a keyed permutation of `range(size)` sends `index`, without a table: constant memory for any corpus.

    A four-round Feistel network on the smallest even number of bits that holds `size`, walked until it lands inside
    (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    while True:
        left, right = index >> half, index & low
        for round_number in range(4):
            left, right = right, left ^ (_mix((key << 2) + round_number, right) & low)
        index = (left << half) | right
        if index < size:
            return index


def unpermute(place: int, size: int, key: int) -> int:
    """The inverse of `permute`: `unpermute(permute(i, size, key), size, key) == i`."""
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    while True:
        left, right = place >> half, place & low
        for round_number in reversed(range(4)):
            left, right = right ^ (_mix((key << 2) + round_number, left) & low), left
        place = (left << half) | right
        if place < size:
            return place


def _mix(key: int, value: int) -> int:
    """A 64-bit hash of two integers: the finaliser of SplitMix64 (Steele et al. 2014), applied to each in turn."""
    x = key & _MASK
    for add in (key >> 64, value):
        x = (x + add + 0x9E3779B97F4A7C15) & _MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
        x ^= x >> 31
    return x


def sample_row(sample: int, rows: int, seed: int, shuffle: bool = True, phases: Sequence[int] = ()) -> int:
    """The row that sample number `sample` of a run reads: each epoch visits each of `rows` exactly once.

    `phases`: rows of each phase of the data, in order; an epoch goes phase by phase, shuffled within each. None: one phase.
    """
    epoch, index = divmod(sample, rows)
    if not shuffle:
        return index
    first = 0
    for size in phases:
        if index < first + size:
            return first + permute(index - first, size, (seed << 32) + epoch)
        first += size
    return permute(index, rows, (seed << 32) + epoch)


def row_sample(row: int, epoch: int, rows: int, seed: int, shuffle: bool = True, phases: Sequence[int] = ()) -> int:
    """The sample number of a run that reads `row` in an epoch: the inverse of `sample_row`."""
    if not shuffle:
        return epoch * rows + row
    key, first = (seed << 32) + epoch, 0
    for size in phases:
        if row < first + size:
            return epoch * rows + first + unpermute(row - first, size, key)
        first += size
    return epoch * rows + unpermute(row, rows, key)


@kernel
def _permute_range(start, size, states, first, out):  # type: ignore[no-untyped-def]
    """`permute` of `start` and the numbers after it, plus `first`; `states`: uint64[4], what `_mix` makes of each round's key."""
    half = 1
    while 1 << (2 * half) < size:
        half += 1
    low = np.uint64((1 << half) - 1)
    for at in range(len(out)):
        index = np.uint64(start + at)
        while True:
            left, right = index >> np.uint64(half), index & low
            for number in range(4):
                x = states[number] + right + np.uint64(0x9E3779B97F4A7C15)
                x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                x = x ^ (x >> np.uint64(31))
                left, right = right, left ^ (x & low)
            index = (left << np.uint64(half)) | right
            if index < np.uint64(size):
                break
        out[at] = np.int64(index) + first


def _round_state(key: int) -> int:
    """`_mix` of a key before a value is added."""
    x = ((key & _MASK) + (key >> 64) + 0x9E3779B97F4A7C15) & _MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
    return x ^ (x >> 31)


def sample_rows(
    first: int, count: int, rows: int, seed: int, shuffle: bool = True, phases: Sequence[int] = ()
) -> np.ndarray:
    """`sample_row` of `count` samples from `first` on, as int64."""
    out = np.empty(count, np.int64)
    sizes = [size for size in phases if size] if shuffle and sum(phases) == rows else [rows]
    at = 0
    while at < count:
        epoch, index = divmod(first + at, rows)
        begin = 0
        for size in sizes:
            if index < begin + size:
                break
            begin += size
        part = out[at : at + begin + size - index]
        if shuffle:
            key = ((seed << 32) + epoch) << 2
            states = np.array([_round_state(key + number) for number in range(4)], np.uint64)
            _permute_range(index - begin, size, states, begin, part)
        else:
            part[:] = np.arange(index, index + len(part))
        at += len(part)
    return out


def step_rows(
    step: int,
    rows: int,
    batch_rows: int,
    seed: int,
    shuffle: bool,
    rank: int = 0,
    world: int = 1,
    phases: Sequence[int] = (),
) -> list[int]:
    """The rows that process `rank` of `world` reads at `step`: its own stretch of the step's samples."""
    share = batch_rows // world
    return sample_rows(step * batch_rows + rank * share, share, rows, seed, shuffle, phases).tolist()


class Batch(NamedTuple):
    """Rows of one step, B of L positions."""

    tokens: np.ndarray  # int64 or int32 (B, L); the end token where padded
    documents: np.ndarray  # int32 (B, L): 0, 1, 2... within the row, -1 where padded
    positions: np.ndarray  # int32 (B, L): from 0 in each document (and in padding)
    mask: np.ndarray  # bool (B, L): tokens to be learned: no padding; of conversations what the assistant writes
    cu_seqlens: (
        np.ndarray
    )  # int32 (S + 1): where documents begin among the B * L positions, padding like one; B * L to the end
    rows: np.ndarray  # int64 (B): their numbers in the pack index


@kernel
def _copy(payload, starts, places, lengths, tokens):  # type: ignore[no-untyped-def]
    """Stretches of a shard to their places in `tokens`."""
    for span in range(len(starts)):
        source, target = starts[span], places[span]
        for at in range(lengths[span]):
            tokens[target + at] = payload[source + at]


@kernel
def _describe(tokens, places, lengths, counts, capacity, eos, documents, positions, mask, cu_seqlens):  # type: ignore[no-untyped-def]
    """Document numbers, positions, mask (uint8) and bounds of rows whose spans stand in `tokens`; pads what is left of each.

    Returns the number of bounds, which go on being counted when `cu_seqlens` is full.
    """
    bounds = span = 0
    room = len(cu_seqlens)
    for row in range(len(counts)):
        at, stop = row * capacity, (row + 1) * capacity
        number = 0
        for _ in range(counts[row]):
            end = places[span] + lengths[span]
            while at < end:
                after = at
                while after < end - 1 and tokens[after] != eos:
                    after += 1
                after += 1
                if bounds < room:
                    cu_seqlens[bounds] = at
                bounds += 1
                for place in range(at, after):
                    documents[place] = number
                    positions[place] = place - at
                    mask[place] = 1
                number += 1
                at = after
            span += 1
        if at < stop:
            if bounds < room:
                cu_seqlens[bounds] = at
            bounds += 1
            for place in range(at, stop):
                tokens[place] = eos
                documents[place] = -1
                positions[place] = place - at
                mask[place] = 0
    for left in range(bounds, room):
        cu_seqlens[left] = len(tokens)
    return bounds


@kernel
def _apply_bits(bits, starts, places, lengths, mask):  # type: ignore[no-untyped-def]
    """The loss mask of a shard's stretches, a bit a token, to their places."""
    for span in range(len(starts)):
        for at in range(lengths[span]):
            place = starts[span] + at
            mask[places[span] + at] = (bits[place >> 3] >> (place & 7)) & 1


@dataclass(frozen=True)
class Loader:
    """Batches of a packed split.

    `batch_rows`: rows of a step over all `world` processes, a multiple of it. `segments`: entries of `cu_seqlens` less one; by default as
    many as the fullest row has documents, and padding, times the rows, so that its size never changes.
    """

    split: PackedSplit
    batch_rows: int
    seed: int = 0
    shuffle: bool = True
    rank: int = 0
    world: int = 1
    segments: int | None = None
    wide: bool = True  # tokens as int64, else int32

    def __post_init__(self) -> None:
        if self.world < 1 or not 0 <= self.rank < self.world:
            raise TokenizerError(f"rank {self.rank} of {self.world}: expected 0 to world - 1")
        if self.batch_rows < 1 or self.batch_rows % self.world:
            raise TokenizerError(f"batch_rows {self.batch_rows}: expected a multiple of the {self.world} processes")
        if len(self.split) == 0:
            raise TokenizerError(f"{self.split.path}: {self.split.split} has no rows")

    def rows(self, step: int) -> list[int]:
        """The numbers of this process's rows at a step."""
        phases = [rows for _, rows in self.split.phases]
        return step_rows(step, len(self.split), self.batch_rows, self.seed, self.shuffle, self.rank, self.world, phases)

    def batch(self, step: int, out: Batch | None = None) -> Batch:
        """What this process reads at a step. `out`: an earlier batch of this loader whose arrays are written over."""
        return read_rows(self.split, self.rows(step), self.wide, self._segments(), out)

    def _segments(self) -> int:
        share = self.batch_rows // self.world
        most = self.split.most_documents or self.split.sequence_length
        return self.segments or share * min(most + 1, self.split.sequence_length)

    def prefetch(self, first: int, stop: int, threads: int = 1, ahead: int = 2) -> Iterator[Batch]:
        """Batches of the steps [first, stop) in their order, `ahead` of them read by threads while one is used.

        The kernel is told of their pages before, so that reading from disk overlaps too.
        """
        with ThreadPoolExecutor(threads) as pool:
            waiting: deque[Future[Batch]] = deque()
            try:
                for step in range(first, stop):
                    will_need(self.split, self.rows(step))
                    waiting.append(pool.submit(self.batch, step))
                    if len(waiting) > ahead:
                        yield waiting.popleft().result()
                while waiting:
                    yield waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()


def read_rows(
    split: PackedSplit,
    rows: Sequence[int],
    wide: bool = True,
    segments: int | None = None,
    out: Batch | None = None,
) -> Batch:
    """A batch of the rows with these numbers. `segments` None: `cu_seqlens` is as long as it must be.

    `out`: a batch of the same shapes and types to write over; new arrays cost about as much as filling them.
    """
    count, length = len(rows), split.sequence_length
    numbers = np.asarray(rows, np.int64)
    shards, starts, sizes, counts = split.spans_of(numbers)
    ends = np.cumsum(sizes)
    before = np.concatenate([[0], ends])[np.concatenate([[0], np.cumsum(counts)])[:-1]]  # tokens of the rows before
    row = np.repeat(np.arange(count), counts)
    places = ends - sizes - before[row] + row * length
    kinds = (np.int64 if wide else np.int32, np.int32, np.int32, np.uint8)
    if out is not None and segments is not None:
        tokens, documents, positions, mask = (a.reshape(-1).view(k) for a, k in zip(out[:4], kinds, strict=True))
        bounds = out.cu_seqlens
        if len(tokens) != count * length or len(bounds) != segments + 1:
            raise TokenizerError(f"`out` is of {len(tokens)} positions, {count * length} are read")
    else:
        tokens, documents, positions, mask = (np.empty(count * length, kind) for kind in kinds)
        bounds = np.empty(count * length if segments is None else segments + 1, np.int32)
    which = np.unique(shards).tolist()
    parts = {shard: slice(None) if len(which) == 1 else np.flatnonzero(shards == shard) for shard in which}
    for shard, part in parts.items():
        _copy(split.shard(shard), starts[part], places[part], sizes[part], tokens)
    found = _describe(tokens, places, sizes, counts, length, split.eos_id, documents, positions, mask, bounds)
    if segments is None:
        bounds = np.append(bounds[:found], np.int32(count * length))
    elif found > segments:
        raise TokenizerError(
            f"{found} documents and paddings in {count} rows, room for {segments}: give more `segments` "
            "(at most the documents of the fullest row and one more, times the rows)"
        )
    if split.masked:
        for shard, part in parts.items():
            _apply_bits(split.mask_bytes(shard), starts[part], places[part], sizes[part], mask)
    shape = (count, length)
    return Batch(
        tokens.reshape(shape),
        documents.reshape(shape),
        positions.reshape(shape),
        mask.view(bool).reshape(shape),
        bounds,
        numbers,
    )


def will_need(split: PackedSplit, rows: Sequence[int]) -> None:
    """Tell the system which pages of the payload will be read soon."""
    shards, starts, sizes, _ = split.spans_of(np.asarray(rows, np.int64))
    itemsize = split.dtype.itemsize
    for shard, start, size in zip(shards.tolist(), starts.tolist(), sizes.tolist(), strict=True):
        payload = split.mapped(shard)
        first = start * itemsize // mmap.PAGESIZE * mmap.PAGESIZE
        payload.madvise(mmap.MADV_WILLNEED, first, (start + size) * itemsize - first)


__all__ = [
    "PADDING",
    "Batch",
    "Loader",
    "permute",
    "read_rows",
    "row_sample",
    "sample_row",
    "step_rows",
    "unpermute",
    "will_need",
]
