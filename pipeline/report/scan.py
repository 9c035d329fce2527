"""Reading a run's Parquet parts within bounded memory, and within a budget where a sample is as good."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq


class RowGroup(NamedTuple):
    """A row group of a part, with the uncompressed bytes of the columns asked for."""

    path: Path
    number: int
    rows: int
    bytes: int


def parts(folder: Path) -> list[Path]:
    """The folder's Parquet files in name order, or the one file; none if there is no such folder."""
    if folder.is_file():
        return [folder]
    return sorted(folder.glob("*.parquet")) if folder.is_dir() else []


def open_part(path: Path) -> pq.ParquetFile:
    """Opened so that pages are streamed: a row group is never held whole."""
    return pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)


def columns_of(folder: Path) -> dict[str, pa.DataType]:
    """Name -> type of the first part's columns; empty if there is no part."""
    for path in parts(folder):
        with open_part(path) as part:
            return {column.name: column.type for column in part.schema_arrow}
    return {}


def row_groups(folder: Path, columns: Sequence[str]) -> list[RowGroup]:
    """Every row group of the folder's parts, in order."""
    found = []
    wanted = set(columns)
    for path in parts(folder):
        with open_part(path) as part:
            for index in range(part.metadata.num_row_groups):
                group = part.metadata.row_group(index)
                chunks = (group.column(c) for c in range(group.num_columns))
                size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.split(".")[0] in wanted)
                found.append(RowGroup(path, index, group.num_rows, size))
    return found


def spread(groups: list[RowGroup], budget: int) -> list[RowGroup]:
    """All groups if they hold at most `budget` bytes, else evenly spaced ones of about that size (at least one)."""
    total = sum(group.bytes for group in groups)
    if total <= budget:
        return groups
    wanted = max(1, len(groups) * budget // total)
    return [groups[i * len(groups) // wanted] for i in range(wanted)]


def batches(groups: Sequence[RowGroup], columns: Sequence[str], rows: int = 4096) -> Iterator[pa.RecordBatch]:
    """The columns of the row groups, in order, at most `rows` rows at a time. Every column must be in every part."""
    by_path: dict[Path, list[int]] = {}
    for group in groups:
        by_path.setdefault(group.path, []).append(group.number)
    for path, indices in by_path.items():
        with open_part(path) as part:
            yield from part.iter_batches(batch_size=rows, row_groups=indices, columns=list(columns), use_threads=False)
