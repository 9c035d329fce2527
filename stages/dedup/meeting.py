"""How the shingles of two documents meet, so that their Jaccard similarity can be computed exactly.

Each pair meets at its lower place. Both documents are invited; the one at the higher place sends its shingles to the lower, which sends
its own to itself. As a key's messages are sorted by the sender's place, the receiver's own shingles come
first, and nothing but those has to be held while the others stream by.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.dedup.messages import address_keys, indices, key_values, message_table, places, same_as_previous, whole_keys
from stages.dedup.shingles import jaccard

SHINGLES: pa.DataType = pa.large_binary()  # little-endian uint64, sorted, distinct
PIECE = 32 << 20  # bytes of shingles in one table


def pack_shingles(sets: Sequence[np.ndarray]) -> pa.Array:
    """Sets of 64-bit hashes as binary values."""
    offsets = np.zeros(len(sets) + 1, dtype=np.int64)
    np.cumsum([8 * len(values) for values in sets], out=offsets[1:])
    data = np.concatenate(sets).astype("<u8") if sets else np.empty(0, dtype="<u8")
    return pa.Array.from_buffers(
        SHINGLES, len(sets), [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(data.tobytes())]
    )


class _Shingles:
    """A column of packed shingles, read without a copy."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        array = column.combine_chunks()
        buffers: list[Any] = array.buffers()
        _, offsets, self._data = buffers
        self.offsets = np.frombuffer(offsets, dtype=np.int64, count=len(array) + 1, offset=8 * array.offset)

    def __getitem__(self, row: int) -> np.ndarray:
        start, end = int(self.offsets[row]), int(self.offsets[row + 1])
        return np.frombuffer(self._data, dtype="<u8", count=(end - start) // 8, offset=start)


def invitations(low: np.ndarray, high: np.ndarray, payload: Mapping[str, pa.Array]) -> pa.Table:
    """Messages that tell both documents of each pair (places, `low` < `high`) of the other.

    `payload` has a row for each message, those to the lower documents first.
    """
    return message_table(address_keys(np.concatenate([low, high])), np.concatenate([high, low]), payload)


class Invited(NamedTuple):
    """Documents with invitations: rows of `table` that hold an invitation, each pair once, and the row of the invited document's own."""

    table: pa.Table
    guests: np.ndarray
    hosts: np.ndarray

    def hosted(self) -> pa.Table:
        """The own messages of the documents that have an invitation."""
        return self.table.take(indices(np.unique(self.hosts)))


def invited(messages: Iterable[pa.Table]) -> Iterator[Invited]:
    """Each document's own message (`shingles` not null) with its invitations. Memory: the invitations of one document."""
    for table in whole_keys(messages):
        called = pc.is_null(table.column("shingles")).to_numpy()
        if not called.any():
            continue
        run = np.cumsum(~same_as_previous(key_values(table))) - 1
        here = (np.bincount(run, weights=called) > 0)[run]
        table, called = table.filter(pa.array(here)).combine_chunks(), called[here]
        place, run = places(table), np.cumsum(~same_as_previous(key_values(table))) - 1
        own = np.full(int(run[-1]) + 1, -1)
        own[run[~called]] = np.flatnonzero(~called)
        guests = np.flatnonzero(called)
        first = np.ones(len(guests), dtype=bool)  # bands repeat a pair, and the order brings the repetitions together
        first[1:] = (place[guests[1:]] != place[guests[:-1]]) | (run[guests[1:]] != run[guests[:-1]])
        guests = guests[first]
        hosts = own[run[guests]]
        assert (hosts >= 0).all(), "a document was invited that never sent its shingles"
        yield Invited(table, guests, hosts)


def send_shingles(found: Invited, own: Sequence[str], guest: Sequence[str] = ()) -> Iterator[pa.Table]:
    """Messages to where the pairs meet: the sender's columns `own`, and the invitation's columns `guest` (null if sent to itself)."""
    place = places(found.table)
    to_lower = place[found.guests] < place[found.hosts]
    itself = np.unique(found.hosts[~to_lower])
    sender = np.concatenate([itself, found.hosts[to_lower]])
    invitation = np.concatenate([np.full(len(itself), -1), found.guests[to_lower]])
    target = place[np.where(invitation < 0, sender, invitation)]
    size = np.diff(_Shingles(found.table.column("shingles")).offsets)[sender]
    cuts = (np.flatnonzero(np.diff(np.cumsum(size) // PIECE)) + 1).tolist()
    for start, end in zip([0, *cuts], [*cuts, len(sender)], strict=True):
        rows, noted = indices(sender[start:end]), indices(invitation[start:end])
        payload = {name: found.table.column(name).take(rows) for name in own}
        payload |= {name: found.table.column(name).take(noted) for name in guest}
        yield message_table(address_keys(target[start:end]), place[sender[start:end]], payload)


class Side(NamedTuple):
    """One document of a pair that meets: its place, and its message's columns."""

    place: int
    columns: tuple[Any, ...]


def meet(messages: Iterable[pa.Table], columns: Sequence[str]) -> Iterator[tuple[Side, Side, float]]:
    """Each pair, the lower document first, with its Jaccard similarity. Memory: one document's shingles beside a table."""
    host, host_shingles = Side(-1, ()), np.empty(0, dtype="<u8")
    for table in messages:
        if not table.num_rows:
            continue
        place = places(table)
        own = (key_values(table) == address_keys(place)).all(axis=1).tolist()
        shingles = _Shingles(table.column("shingles"))
        values = zip(*(table.column(name).to_pylist() for name in columns), strict=True)
        for row, (itself, where, side) in enumerate(zip(own, place.tolist(), values, strict=True)):
            if itself:
                host, host_shingles = Side(where, side), shingles[row]
            else:
                yield host, Side(where, side), jaccard(host_shingles, shingles[row])
        host_shingles = host_shingles.copy()  # let go of the table
