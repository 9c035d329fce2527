"""Lines of a pack index on their way to Parquet, and what they sum up to."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tokenizer_training.dataset.bins import in_proportion
from tokenizer_training.dataset.layout import PACK_INDEX, PHASED_INDEX

WRITE_SPANS = 1 << 18  # index lines of a Parquet row group
MERGE_ROWS = 1 << 16  # rows of interleaved groups put in order together
TENTHS = ("0-9%", *(f"{n}0-{n}9%" for n in range(1, 10)), "100%")  # of a row that is filled


class Spans(NamedTuple):
    """Lines of the pack index (int64 arrays), sorted by row, without a gap between the rows."""

    rows: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    shards: np.ndarray


class IndexWriter:
    """Writes spans to a pack index in row groups of fixed size, and counts rows and tokens."""

    def __init__(self, path: Path, phased: bool, capacity: int) -> None:
        self.schema = PHASED_INDEX if phased else PACK_INDEX
        self.capacity = capacity
        # numbers that hardly repeat, most of them ascending: differences are smaller than a dictionary, and faster
        self.writer = pq.ParquetWriter(
            path,
            self.schema,
            compression="zstd",
            use_dictionary=False,
            column_encoding=dict.fromkeys(self.schema.names, "DELTA_BINARY_PACKED"),
        )
        self.held: list[tuple[np.ndarray, ...]] = []
        self.waiting = 0
        self.rows = self.tokens = 0
        self.open_fill = 0  # of the last row, which the next spans may go on with
        self.filled = np.zeros(len(TENTHS), np.int64)

    def add(self, spans: Spans, phase: int) -> None:
        """Append spans whose rows follow those before."""
        if not len(spans.rows):
            return
        starts = np.concatenate([[0], np.flatnonzero(np.diff(spans.rows)) + 1])
        fill = np.add.reduceat(spans.lengths, starts)
        self.tokens += int(fill.sum())
        if spans.rows[0] < self.rows:
            fill[0] += self.open_fill
        elif self.rows:
            self._count(np.array([self.open_fill]))
        self._count(fill[:-1])
        self.rows, self.open_fill = int(spans.rows[-1]) + 1, int(fill[-1])
        phases = (np.full(len(spans.rows), phase),) if "phase" in self.schema.names else ()
        self.held.append((*spans, *phases))
        self.waiting += len(spans.rows)
        while self.waiting >= WRITE_SPANS:
            self._write(WRITE_SPANS)

    def _count(self, fill: np.ndarray) -> None:
        self.filled += np.bincount(fill * 10 // self.capacity, minlength=len(TENTHS))

    def _write(self, count: int) -> None:
        columns = [np.concatenate(parts) for parts in zip(*self.held, strict=True)]
        arrays = [pa.array(c[:count], field.type) for c, field in zip(columns, self.schema, strict=True)]
        self.writer.write_table(pa.Table.from_arrays(arrays, schema=self.schema), row_group_size=count)
        self.held = [tuple(c[count:] for c in columns)]
        self.waiting -= count

    def close(self) -> None:
        """Write what is left."""
        if self.waiting:
            self._write(self.waiting)
        if self.rows:
            self._count(np.array([self.open_fill]))
        self.writer.close()


class Spool:
    """Spans of several groups, each with its own rows from 0, kept on disk until all their sizes are known."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files: dict[int, IO[bytes]] = {}
        self.rows: dict[int, int] = {}

    def add(self, group: int, spans: Spans) -> None:
        """Append spans of a group."""
        if group not in self.files:
            self.files[group] = (self.folder / f"{group}.spans").open("wb")
            self.rows[group] = 0
        if len(spans.rows):
            self.rows[group] = int(spans.rows[-1]) + 1
            self.files[group].write(np.stack(spans, axis=1).astype(np.int64).tobytes())

    def merged(self, first: int) -> Iterator[Spans]:
        """All spans, rows of the groups in proportion to their numbers (see `bins.in_proportion`), numbered from `first` on."""
        groups = sorted(group for group, rows in self.rows.items() if rows)
        for file in self.files.values():
            file.close()
        sizes = np.array([self.rows[group] for group in groups], np.int64)
        lines: list[np.ndarray] = [
            np.memmap(self.folder / f"{group}.spans", np.int64, "r").reshape(-1, 4) for group in groups
        ]
        taken, at = np.zeros(len(groups), np.int64), [0] * len(groups)
        for start in range(0, int(sizes.sum()), MERGE_ROWS):
            order = np.empty(min(MERGE_ROWS, int(sizes.sum()) - start), np.int64)
            before = taken.copy()
            in_proportion(sizes, taken, start, order)
            parts = []
            for number in range(len(groups)):
                places = np.flatnonzero(order == number)
                if len(places):
                    column = lines[number][at[number] :, 0]
                    stop = at[number] + bisect_left(column, int(taken[number]))  # type: ignore[arg-type]
                    mine = np.array(lines[number][at[number] : stop])
                    mine[:, 0] = first + start + places[mine[:, 0] - before[number]]
                    parts.append(mine)
                    at[number] = stop
            table = np.concatenate(parts)
            table = table[np.argsort(table[:, 0], kind="stable")]
            yield Spans(*table.T)
        for group in self.files:
            (self.folder / f"{group}.spans").unlink()
        self.files, self.rows = {}, {}
