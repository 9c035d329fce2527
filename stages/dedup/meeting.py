"""How the sets of two documents meet - shingles, or signatures - so that their similarity can be computed.

Each pair meets at its lower place. Both documents are invited; the one at the higher place sends its set to the lower, which sends
its own to itself. As a key's messages are sorted by the sender's place, the receiver's own set comes
first, and nothing but that has to be held while the others stream by.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stages.dedup.messages import address_keys, indices, key_values, message_table, places, same_as_previous, whole_keys

SET: pa.DataType = pa.large_binary()  # little-endian uint64: distinct hashes of shingles, or a signature
PIECE = 32 << 20  # bytes of sets in one table
Similarity = Callable[
    [np.ndarray, np.ndarray, np.ndarray, np.ndarray], np.ndarray
]  # values, bounds of sets; pairs of set numbers


def pack_sets(sets: Sequence[np.ndarray]) -> pa.Array:
    """Arrays of 64-bit values as binary values."""
    offsets = np.zeros(len(sets) + 1, dtype=np.int64)
    np.cumsum([8 * len(values) for values in sets], out=offsets[1:])
    data = np.concatenate(sets).astype("<u8") if sets else np.empty(0, dtype="<u8")
    return pa.Array.from_buffers(SET, len(sets), [None, pa.py_buffer(offsets.tobytes()), pa.py_buffer(data.tobytes())])


class Sets:
    """A column of packed sets, read without a copy: set s is `values[bounds[s]:bounds[s + 1]]`, empty for null."""

    def __init__(self, column: pa.ChunkedArray) -> None:
        array = column.combine_chunks()
        buffers: list[Any] = array.buffers()
        _, offsets, data = buffers
        at = np.frombuffer(offsets, dtype=np.int64, count=len(array) + 1, offset=8 * array.offset)
        self.bounds = (at - at[0]) // 8
        self.values = np.frombuffer(data, dtype="<u8", count=int(self.bounds[-1]), offset=int(at[0]))


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
        called = pc.is_null(table.column("set")).to_numpy()
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
        assert (hosts >= 0).all(), "a document was invited that never sent its set"
        yield Invited(table, guests, hosts)


def send_sets(found: Invited, own: Sequence[str], guest: Sequence[str] = ()) -> Iterator[pa.Table]:
    """Messages to where the pairs meet: the sender's columns `own`, and the invitation's columns `guest` (null if sent to itself)."""
    place = places(found.table)
    to_lower = place[found.guests] < place[found.hosts]
    itself = np.unique(found.hosts[~to_lower])
    sender = np.concatenate([itself, found.hosts[to_lower]])
    invitation = np.concatenate([np.full(len(itself), -1), found.guests[to_lower]])
    target = place[np.where(invitation < 0, sender, invitation)]
    size = 8 * np.diff(Sets(found.table.column("set")).bounds)[sender]
    cuts = (np.flatnonzero(np.diff(np.cumsum(size) // PIECE)) + 1).tolist()
    for start, end in zip([0, *cuts], [*cuts, len(sender)], strict=True):
        rows, noted = indices(sender[start:end]), indices(invitation[start:end])
        payload = {name: found.table.column(name).take(rows) for name in own}
        payload |= {name: found.table.column(name).take(noted) for name in guest}
        yield message_table(address_keys(target[start:end]), place[sender[start:end]], payload)


class Met(NamedTuple):
    """Pairs that meet: rows of `table`, that of the lower document first, and how similar the two are."""

    table: pa.Table
    low: np.ndarray
    high: np.ndarray
    similarity: np.ndarray


def meet(messages: Iterable[pa.Table], similarity: Similarity) -> Iterator[Met]:
    """Every pair once. Memory: one document's set beside a table."""
    host: pa.Table | None = None
    for part in messages:
        if not part.num_rows:
            continue
        table = part if host is None else pa.concat_tables([host, part])
        table = table.combine_chunks()
        own = (key_values(table) == address_keys(places(table))).all(axis=1)
        hosts = np.maximum.accumulate(np.where(own, np.arange(len(own)), -1))
        high = np.flatnonzero(~own)
        if len(high):
            sets = Sets(table.column("set"))
            yield Met(table, hosts[high], high, similarity(sets.values, sets.bounds, hosts[high], high))
        last = int(hosts[-1])
        host = table.slice(last, 1).take(indices(np.zeros(1, dtype=np.int64)))  # a copy: let go of the table
