"""The key-partitioned exchange: sort messages by (partition, key, shard, row) in bounded memory, write one file with an index.

A table larger than the buffer is sorted in runs that are spilled to local disk and merged, so neither a large shard nor a
key with a million messages has to fit in memory.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.engine.store import Store

BUFFER_BYTES = 64 << 20  # messages sorted at once; half as much again is needed while sorting
CHUNK_ROWS = 32768  # rows of a table handed on,
CHUNK_BYTES = 16 << 20  # and its bytes, unless it is one row: messages may hold whole texts
PARTITION = "partition"


def partition_of(keys: np.ndarray, partitions: int) -> np.ndarray:
    """Partition of each key: keys as uint64 pairs, shape (n, 2) -> int32 (n).

    Keys may be hashes or plain addresses, so they are mixed first (the finaliser of splitmix64).
    """
    x = keys[:, 0] ^ (keys[:, 1] * np.uint64(0x9E3779B97F4A7C15))
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return (x % np.uint64(partitions)).astype(np.int32)


def key_words(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """16-byte keys as big-endian uint64 pairs, shape (n, 2): comparing the pairs compares the bytes."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # combine_chunks of an empty chunked array
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], type=column.type)
    if len(array) == 0:
        return np.empty((0, 2), dtype=np.uint64)
    raw = np.frombuffer(array.buffers()[1], dtype=">u8", count=2 * (len(array) + array.offset))
    return raw[2 * array.offset :].reshape(-1, 2).astype(np.uint64)


def pieces(table: pa.Table) -> Iterator[pa.Table]:
    """The table in parts of at most `CHUNK_ROWS` rows and `CHUNK_BYTES` bytes, or of one row."""
    for start in range(0, table.num_rows, CHUNK_ROWS):
        yield from _halves(table.slice(start, CHUNK_ROWS))


def _halves(table: pa.Table) -> Iterator[pa.Table]:
    if table.num_rows < 2 or table.nbytes <= CHUNK_BYTES:
        yield table
        return
    middle = table.num_rows // 2
    yield from _halves(table.slice(0, middle))
    yield from _halves(table.slice(middle))


class Sorter:
    """Collects tables and gives them back sorted by (partition, key, shard, row), equal ones in the order they came.

    Verdicts have no key: they are sorted by (partition = shard, row).
    """

    def __init__(self, schema: pa.Schema, partitions: int | None, buffer_bytes: int = BUFFER_BYTES) -> None:
        self.schema = schema.append(pa.field(PARTITION, pa.int32()))
        self.partitions = partitions  # None: partition by the `shard` column
        self.buffer_bytes = buffer_bytes
        self._buffer: list[pa.Table] = []
        self._bytes = 0
        self._runs: list[Path] = []
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    def add(self, table: pa.Table) -> None:
        """Take in more rows; spills a sorted run when the buffer is full."""
        if table.num_rows == 0:
            return
        if self.partitions is None:
            where = table.column("shard").combine_chunks().cast(pa.int32())
        else:
            where = pa.array(partition_of(key_words(table.column("key")), self.partitions))
        table = table.select(self.schema.names[:-1]).append_column(PARTITION, where).cast(self.schema)
        self._buffer.append(table)
        self._bytes += table.nbytes
        if self._bytes >= self.buffer_bytes:
            self._spill()

    def _sorted_buffer(self) -> pa.Table:
        table = pa.concat_tables(self._buffer).combine_chunks() if self._buffer else self.schema.empty_table()
        self._buffer, self._bytes = [], 0
        return table.take(pa.array(_order(table)))

    def _spill(self) -> None:
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="gristmill-sort-")
        path = Path(self._folder.name) / f"{len(self._runs):05d}.arrow"
        table = self._sorted_buffer()
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            for piece in pieces(table):
                writer.write_table(piece)
        self._runs.append(path)

    def sorted(self) -> Iterator[pa.Table]:
        """All rows in order, in tables of bounded size. Can be asked for once."""
        if not self._runs:
            table = self._sorted_buffer()
            yield from pieces(table)
            return
        if self._buffer:
            self._spill()
        try:
            yield from _merge([_Run(path) for path in self._runs])
        finally:
            self.close()

    def close(self) -> None:
        """Remove spilled runs."""
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def _sort_columns(table: pa.Table) -> list[np.ndarray]:
    """Sort columns from the most to the least significant."""
    columns = [table.column(PARTITION).to_numpy()]
    if "key" in table.column_names:
        words = key_words(table.column("key"))
        columns += [words[:, 0], words[:, 1], table.column("shard").to_numpy()]
    columns.append(table.column("row").to_numpy())
    return columns


def _order(table: pa.Table) -> np.ndarray:
    """A stable sorting permutation.

    The first 8 bytes of keys, which are hashes most often, decide nearly everything: sorting by them alone and then what they leave
    equal is several times as fast as a sort by five columns.
    """
    if "key" not in table.column_names:
        return np.lexsort(_sort_columns(table)[::-1])
    partition, first, *others = _sort_columns(table)
    order = np.argsort(first)  # not stable: equal ones are put in order below
    same = np.zeros(len(order) + 1, dtype=bool)
    same[1:-1] = first[order[1:]] == first[order[:-1]]
    tied = np.flatnonzero(same[1:] | same[:-1])
    rows = order[tied]
    order[tied] = rows[np.lexsort((rows, *(column[rows] for column in reversed(others)), first[rows]))]
    if len(partition) and partition.min() != partition.max():
        narrow = np.uint16 if partition.max() < 1 << 16 else np.int32  # numpy sorts 16 bits by radix
        order = order[np.argsort(partition[order].astype(narrow), kind="stable")]
    return order


class _Run:
    """A spilled sorted run, read chunk by chunk."""

    def __init__(self, path: Path) -> None:
        self.reader = pa.ipc.open_file(pa.memory_map(str(path)))
        self.next_batch = 0
        self.table: pa.Table | None = None
        self.advance()

    def advance(self) -> None:
        """Load the next chunk; `table` is None at the end."""
        if self.next_batch < self.reader.num_record_batches:
            self.table = pa.Table.from_batches([self.reader.get_batch(self.next_batch)])
            self.next_batch += 1
        else:
            self.table = None

    @property
    def last(self) -> tuple[Any, ...]:
        """Sort key of the last loaded row."""
        assert self.table is not None
        return tuple(c[0].item() for c in _sort_columns(self.table.slice(self.table.num_rows - 1, 1)))


def _rows_until(table: pa.Table, cut: tuple[Any, ...], inclusive: bool) -> int:
    """How many leading rows of a sorted table are below `cut` (or equal to it, if inclusive)."""
    low, high = 0, table.num_rows
    columns = _sort_columns(table)
    while low < high:
        middle = (low + high) // 2
        value = tuple(c[middle].item() for c in columns)
        if value < cut or (inclusive and value == cut):
            low = middle + 1
        else:
            high = middle
    return low


def _merge(runs: list[_Run]) -> Iterator[pa.Table]:
    """Merge sorted runs; equal rows come in run order.

    Each step hands on all loaded rows below the smallest last row of any run's chunk. The run with that last row is then
    followed until its chunks go beyond it, and so are later runs, so equal rows keep their order at bounded memory.
    """
    while True:
        live = [run for run in runs if run.table is not None]
        if not live:
            return
        cut = min(run.last for run in live)
        parts = []
        for run in live:
            assert run.table is not None
            below = _rows_until(run.table, cut, inclusive=False)
            parts.append(run.table.slice(0, below))
            run.table = run.table.slice(below)
        merged = pa.concat_tables(parts).combine_chunks()
        if merged.num_rows:
            merged = merged.take(pa.array(_order(merged)))
            yield from pieces(merged)
        for run in live:  # rows equal to the cut, run by run, however many chunks they fill
            while run.table is not None:
                equal = _rows_until(run.table, cut, inclusive=True)
                if equal:
                    yield run.table.slice(0, equal)
                run.table = run.table.slice(equal)
                if run.table.num_rows:
                    break
                run.advance()


@dataclass(frozen=True)
class Slices:
    """Where each partition's rows stand in a written file: partition -> (first row group, row groups, bytes)."""

    path: str
    index: dict[int, tuple[int, int, int]]

    def to_extra(self) -> dict[str, Any]:
        """As plain data for a manifest."""
        return {"path": self.path, "index": {str(k): list(v) for k, v in self.index.items()}}

    @classmethod
    def from_extra(cls, data: dict[str, Any]) -> Slices:
        """Back from a manifest."""
        return cls(data["path"], {int(k): (v[0], v[1], v[2]) for k, v in data["index"].items()})


def write_sorted(tables: Iterable[pa.Table], schema: pa.Schema, path: Path, final: str) -> tuple[Slices, int]:
    """Write sorted tables as one Parquet file whose row groups never cross a partition; returns the index and the rows."""
    index: dict[int, tuple[int, int, int]] = {}
    rows = groups = 0
    plain = pa.schema([f for f in schema if f.name != PARTITION])
    with pq.ParquetWriter(path, plain, compression="zstd", use_dictionary=False, write_statistics=False) as writer:
        for table in tables:
            where = table.column(PARTITION).to_numpy()
            edges = np.flatnonzero(np.diff(where)) + 1
            for start, end in zip([0, *edges.tolist()], [*edges.tolist(), len(where)], strict=True):
                for part in pieces(table.slice(start, end - start).drop_columns([PARTITION])):
                    writer.write_table(part, row_group_size=CHUNK_ROWS)
                    first, have, size = index.get(int(where[start]), (groups, 0, 0))
                    index[int(where[start])] = (first, have + 1, size + part.nbytes)
                    groups += 1
                    rows += part.num_rows
    return Slices(final, index), rows


def read_slices(store: Store, sources: Iterable[Slices], partition: int) -> Iterator[pa.Table]:
    """The rows of one partition from each file in turn, row group by row group."""
    for source in sources:
        where = source.index.get(partition)
        if where is None:
            continue
        with contextlib.closing(store.open(source.path)) as handle, pq.ParquetFile(handle) as parquet:
            for group in range(where[0], where[0] + where[1]):
                yield parquet.read_row_group(group)


def read_partition(
    store: Store, sources: list[Slices], partition: int, schema: pa.Schema, partitions: int | None
) -> Iterator[pa.Table]:
    """One partition's rows from all files, merged into (key, shard, row) order."""
    sorter = Sorter(schema, partitions)
    try:
        for table in read_slices(store, sources, partition):
            sorter.add(table)
        for table in sorter.sorted():
            yield table.drop_columns([PARTITION])
    finally:
        sorter.close()
