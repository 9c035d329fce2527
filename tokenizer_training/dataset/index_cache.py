"""A pack index as arrays: in memory if it is small, else memory-mapped from a cache that every process of a machine shares.

Two trillion tokens in rows of 2,048 are a billion rows and some three billion spans: 60 GB, of which a training step touches
its own few pages. The cache is made from the Parquet index once, under its checksum, below $XDG_CACHE_HOME (else ~/.cache, else the
temporary folder).
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset.layout import atomic

SPAN = np.dtype([("offset", "<u8"), ("length", "<u4"), ("shard", "<u4")])
IN_MEMORY = 4_000_000  # spans of an index that is not worth a cache
BATCH = 1 << 20  # spans converted at a time


class Index(NamedTuple):
    """The spans of all rows, and the first of each row (int64, one entry more than rows)."""

    starts: np.ndarray
    spans: np.ndarray


EMPTY = Index(np.zeros(1, np.int64), np.zeros(0, SPAN))


def open_index(file: Path, rows: int, sha256: str | None) -> Index:
    """The spans of a pack index with `rows` rows; `sha256`, its checksum, names the cache (None: in memory)."""
    try:
        parquet = pq.ParquetFile(file)
    except (pa.ArrowInvalid, OSError) as error:
        raise TokenizerError(f"{file}: not a readable pack index ({error})") from None
    count = parquet.metadata.num_rows
    if count <= IN_MEMORY or sha256 is None:
        index = Index(np.empty(rows + 1, np.int64), np.empty(count, SPAN))
        _fill(parquet, file, rows, index)
        return index
    cached = _folder() / f"{sha256}-{rows}.spans"
    size = 8 * (rows + 1) + SPAN.itemsize * count
    if not cached.exists() or cached.stat().st_size != size:
        with tempfile.TemporaryDirectory(dir=cached.parent) as folder:  # of its own: others may be making the same
            made = Path(folder) / cached.name
            with atomic(made) as temporary:
                with temporary.open("wb") as empty:
                    empty.truncate(size)
                _fill(parquet, file, rows, _mapped(temporary, rows, count, "r+"))
            made.replace(cached)
    return _mapped(cached, rows, count, "r")


def _mapped(file: Path, rows: int, count: int, mode: str) -> Index:
    starts = np.memmap(file, np.int64, mode, 0, (rows + 1,))  # type: ignore[call-overload]
    return Index(starts, np.memmap(file, SPAN, mode, 8 * (rows + 1), (count,)))  # type: ignore[call-overload]


def _fill(parquet: pq.ParquetFile, file: Path, rows: int, index: Index) -> None:
    """The index from its Parquet form, after checking that its rows are 0 to `rows` - 1 in order."""
    at, last = 0, -1
    for batch in parquet.iter_batches(BATCH, columns=["row", "token_offset", "token_length", "shard"]):
        row, offset, length, shard = (column.to_numpy() for column in batch.columns)
        if len(row) == 0:
            continue
        steps = np.diff(row, prepend=last)
        if ((steps != 0) & (steps != 1)).any() or row[0] < 0 or row[-1] >= rows:
            break
        index.starts[row[steps == 1]] = at + np.flatnonzero(steps == 1)
        part = index.spans[at : at + len(row)]
        part["offset"], part["length"], part["shard"] = offset, length, shard
        at, last = at + len(row), int(row[-1])
    if at != parquet.metadata.num_rows or last != rows - 1:
        raise TokenizerError(f"{file}: its rows are not those that dataset.json counts; run `verify`")
    index.starts[rows] = at


def _folder() -> Path:
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gristmill" / "packs"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            return home
    except OSError:
        spare = Path(tempfile.gettempdir()) / f"gristmill-{os.getuid()}" / "packs"
        spare.mkdir(parents=True, exist_ok=True)
        return spare
