"""Parquet files written batch by batch, and the samples of dropped rows."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from stages.batch import Batch
from stages.conversation import LISTS, transcript

GROUP_BYTES = 32 << 20  # a row group: large enough to scan fast, small enough to hold
GROUP_ROWS = 16384
SAMPLES_PER_RULE = 200
SAMPLE_CHARACTERS = 20_000  # a sample is there to be looked at


class TableWriter:
    """A Parquet file whose row groups depend on the rows alone, not on how they came in."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.schema = schema
        self.rows = 0
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", compression_level=3, write_page_index=True)
        self._buffer: list[pa.Table] = []
        self._bytes = 0
        self._waiting = 0

    def add(self, table: pa.Table) -> None:
        """Append rows (columns of the schema, in its order).

        Text may be of the other width (string, large_string): it depends on what has edited it in this batch.
        """
        if table.schema != self.schema:
            table = table.cast(self.schema)
        sizes = np.cumsum(row_bytes(table))
        start = 0
        while start < table.num_rows:
            done = int(sizes[start - 1]) if start else 0
            full = int(np.searchsorted(sizes, done + GROUP_BYTES - self._bytes)) + 1
            end = min(full, start + GROUP_ROWS - self._waiting, table.num_rows)
            self._buffer.append(table.slice(start, end - start))
            self._bytes += int(sizes[end - 1]) - done
            self._waiting += end - start
            if self._bytes >= GROUP_BYTES or self._waiting >= GROUP_ROWS:
                self._flush()
            start = end
        self.rows += table.num_rows

    def _flush(self) -> None:
        if self._buffer:
            self._writer.write_table(pa.concat_tables(self._buffer).combine_chunks(), row_group_size=GROUP_ROWS)
        self._buffer, self._bytes, self._waiting = [], 0, 0

    def close(self) -> None:
        """Write what is left and the footer."""
        self._flush()
        self._writer.close()


def row_bytes(table: pa.Table) -> np.ndarray:
    """Bytes of each row as far as they vary: strings and binaries, and a little for the rest."""
    total = np.full(table.num_rows, 64, dtype=np.int64)
    for column in table.columns:
        kind = column.type
        if (
            pa.types.is_string(kind)
            or pa.types.is_large_string(kind)
            or pa.types.is_binary(kind)
            or pa.types.is_large_binary(kind)
        ):
            total += pc.fill_null(pc.binary_length(column), 0).to_numpy().astype(np.int64)
        elif pa.types.is_list(kind) and pa.types.is_struct(kind.value_type):  # messages
            lists = column.combine_chunks()
            parents, items = pc.list_parent_indices(lists).to_numpy(), pc.list_flatten(lists)
            for field in kind.value_type:
                if pa.types.is_string(field.type):
                    sizes = pc.fill_null(pc.binary_length(pc.struct_field(items, field.name)), 0)
                    np.add.at(total, parents, sizes.to_numpy(zero_copy_only=False).astype(np.int64))
    return total


class SampleKeeper:
    """A file of dropped rows. "sample": for each (stage, rule) those with the smallest ids, whatever the order they come in;
    "all": every one, in the order they come in; "none": no row.
    """

    def __init__(self, path: Path, schema: pa.Schema, keep: str) -> None:
        self.keep = keep
        self._writer = TableWriter(path, schema)
        self._heaps: dict[tuple[str, str], list[tuple[_Reversed, dict[str, Any]]]] = {}

    def offer(self, row: dict[str, Any]) -> None:
        """Keep the row if it is wanted."""
        if self.keep == "all":
            self._write([row])
            return
        heap = self._heaps.setdefault((row["stage"], row["rule"]), [])
        entry = (_Reversed(row["id"]), row)
        if len(heap) < SAMPLES_PER_RULE:
            heapq.heappush(heap, entry)
        elif heap[0][0] < entry[0]:
            heapq.heapreplace(heap, entry)

    def wants(self, stage: str, rule: str, id_: str) -> bool:
        """Whether a row would be kept, so that its text need not be looked at otherwise."""
        if self.keep != "sample":
            return self.keep == "all"
        heap = self._heaps.get((stage, rule), [])
        return len(heap) < SAMPLES_PER_RULE or id_ < heap[0][0].id

    def rows(self) -> Iterator[dict[str, Any]]:
        """The sampled rows, by stage, rule and id."""
        for key in sorted(self._heaps):
            yield from sorted((row for _, row in self._heaps[key]), key=lambda row: str(row["id"]))

    def close(self) -> int:
        """Finish the file; returns its number of rows."""
        self._write(list(self.rows()))
        self._writer.close()
        return self._writer.rows

    def _write(self, rows: list[dict[str, Any]]) -> None:
        self._writer.add(pa.Table.from_pylist(rows, schema=self._writer.schema))


class _Reversed:
    """Orders ids backwards, so that heapq's smallest is the largest id."""

    __slots__ = ("id",)

    def __init__(self, id_: str) -> None:
        self.id = id_

    def __lt__(self, other: _Reversed) -> bool:
        return self.id > other.id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reversed) and self.id == other.id


def offer_samples(keeper: SampleKeeper | None, dropped: Batch, verdicts: list[dict[str, Any]]) -> None:
    """Offer a stage's dropped rows as samples."""
    if keeper is None:
        return
    ids = dropped.values("id")
    for row, verdict in enumerate(verdicts):
        if keeper.wants(verdict["stage"], verdict["rule"], ids[row]):
            one = dropped.table.slice(row, 1)
            text = one.column("text")[0].as_py() if "text" in one.column_names else None
            if "messages" in one.column_names and one.column("messages")[0].is_valid:
                text = transcript([one.column(name)[0].as_py() for name in LISTS])
            keeper.offer(
                {
                    "id": ids[row],
                    "url": one.column("url")[0].as_py() if "url" in one.column_names else None,
                    "source": one.column("source")[0].as_py(),
                    "kept_id": None,
                    "similarity": None,
                    **{k: v for k, v in verdict.items() if k != "fate"},
                    "text": text[:SAMPLE_CHARACTERS] if text else None,
                }
            )
