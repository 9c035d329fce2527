"""Keys, addresses and runs of equal keys in the messages of group stages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from stages.dedup.hashing import hash_columns
from stages.stage import ADDRESSED, KEY, StageError

PLACE_BITS = 40  # a shard holds fewer than 2**40 rows, so that shard and row pack into one int64
_ADDRESS_SALT = np.uint64(0xA0761D6478BD642F)


def key_array(keys: np.ndarray) -> pa.Array:
    """Keys from an (n, 2) uint64 array, or an (n,) array of 16-byte values."""
    data = np.ascontiguousarray(keys, dtype="<u8" if keys.ndim == 2 else keys.dtype).tobytes()
    return pa.FixedSizeBinaryArray.from_buffers(KEY, len(keys), [None, pa.py_buffer(data)])


def key_values(table: pa.Table) -> np.ndarray:
    """The `key` column as an (n, 2) array of little-endian uint64: fit for comparing, not for ordering."""
    column = table.column("key").combine_chunks()
    if not len(column):
        return np.empty((0, 2), dtype="<u8")
    data: Any = column.buffers()[1]
    return np.frombuffer(data, dtype="<u8", count=2 * len(column), offset=16 * column.offset).reshape(-1, 2)


def address_keys(places: np.ndarray) -> np.ndarray:
    """The keys, (n, 2) uint64, under which the documents at these places get their messages."""
    packed = places.astype(np.uint64)
    return hash_columns(np.full(len(packed), _ADDRESS_SALT), packed)


def pack(shard: np.ndarray, row: np.ndarray) -> np.ndarray:
    """Places: (shard, row) as one int64, in the same order. Raises `StageError` on a shard or row out of range."""
    shard, row = np.asarray(shard, dtype=np.int64), np.asarray(row, dtype=np.int64)
    if len(row) and (int(row.max()) >> PLACE_BITS or int(shard.max()) >> (63 - PLACE_BITS)):
        raise StageError(
            f"dedup addresses at most 2**{PLACE_BITS} rows a shard and 2**{63 - PLACE_BITS} shards; cut other shards"
        )
    return (shard << PLACE_BITS) | row


def unpack(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Shards (int32) and rows (int64) of places."""
    return (places >> PLACE_BITS).astype(np.int32), places & ((1 << PLACE_BITS) - 1)


def places(table: pa.Table) -> np.ndarray:
    """The `shard` and `row` columns as places."""
    return pack(table.column("shard").to_numpy(), table.column("row").to_numpy())


def message_table(keys: np.ndarray, senders: np.ndarray, payload: Mapping[str, pa.Array | pa.ChunkedArray]) -> pa.Table:
    """Messages under `keys`, with the places of `senders` as their (shard, row), and the payload columns."""
    shard, row = unpack(senders)
    columns = dict(zip(ADDRESSED, (key_array(keys), pa.array(shard), pa.array(row)), strict=True))
    return pa.table({**columns, **payload})


def indices(rows: np.ndarray) -> pa.Int64Array:
    """Row numbers for `take`; -1 takes a null."""
    return pa.array(rows, pa.int64(), mask=rows < 0)


def nulls(rows: int, kind: Any) -> pa.Array:
    """A column of nulls of the Arrow type `kind`."""
    return pa.nulls(rows, kind)


def same_as_previous(keys: np.ndarray) -> np.ndarray:
    """Whether each key, (n, 2), equals the one before it; False for the first."""
    same = np.zeros(len(keys), dtype=bool)
    if len(keys) > 1:
        same[1:] = (keys[1:] == keys[:-1]).all(axis=1)
    return same


def whole_keys(messages: Iterable[pa.Table], limit: int | None = None) -> Iterator[pa.Table]:
    """The same rows in the same order, cut so that no key's rows are in two tables.

    A key of more than `limit` rows does come in several tables: each but the last then has a multiple of `limit` of its rows,
    counted from the key's first, so that cuts inside a key never depend on how the messages were cut.
    """
    held: list[pa.Table] = []  # the rows so far of the last key seen
    rows = 0
    for table in messages:
        if not table.num_rows:
            continue
        same = same_as_previous(key_values(table))
        start = len(same) - 1 - int(np.argmin(same[::-1]))  # where the table's last key begins
        if start == 0 and held and (key_values(held[-1])[-1] == key_values(table)[0]).all():
            held.append(table)
            rows += table.num_rows
        else:
            if held or start:
                yield pa.concat_tables([*held, table.slice(0, start)])
            held, rows = [table.slice(start)], table.num_rows - start
        if limit is not None and rows > limit:
            joined, cut = pa.concat_tables(held), rows - rows % limit
            yield joined.slice(0, cut)
            held, rows = ([joined.slice(cut)], rows - cut) if rows > cut else ([], 0)
    if held:
        yield pa.concat_tables(held)
