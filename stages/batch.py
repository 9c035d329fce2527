"""A batch of documents on its way through fused stages, with what several stages compute from the same text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

T = TypeVar("T")


class Batch:
    """Rows of documents as a `pyarrow.Table`, with a cache for what is derived from the `text` column.

    A stage never changes a batch; `with_columns` and `take` return new ones. Derived values (words, say) are computed
    once for a text column and shared by every stage that asks before the text changes.
    """

    def __init__(self, table: pa.Table, cache: dict[str, Any] | None = None) -> None:
        self.table = table
        self._cache: dict[str, Any] = {} if cache is None else cache

    def __len__(self) -> int:
        return self.table.num_rows

    def has(self, name: str) -> bool:
        return name in self.table.column_names

    def column(self, name: str) -> pa.ChunkedArray:
        return self.table.column(name)

    def values(self, name: str) -> list[Any]:
        """The column as Python values; a column that the batch lacks reads as nulls."""
        return self.table.column(name).to_pylist() if self.has(name) else [None] * len(self)

    def texts(self) -> list[str]:
        """The `text` column as strings, null as the empty string."""
        return self.derived("texts", lambda: [text or "" for text in self.values("text")])

    def utf8(self) -> tuple[np.ndarray, np.ndarray]:
        """The `text` column as UTF-8: all bytes end to end (uint8), and where each row begins and the last one ends (int64)."""
        return self.derived(
            "utf8", lambda: _utf8(self.table.column("text")) if self.has("text") else encoded([""] * len(self))
        )

    def derived(self, key: str, compute: Callable[[], T]) -> T:
        """`compute()` once for this text column; later calls with the same key, from any stage, reuse it."""
        if key not in self._cache:
            self._cache[key] = compute()
        value: T = self._cache[key]
        return value

    def with_columns(self, columns: dict[str, pa.Array | pa.ChunkedArray]) -> Batch:
        """This batch with columns added or replaced; a new `text` forgets what was derived from the old one."""
        table = self.table
        for name, column in columns.items():
            index = table.column_names.index(name) if name in table.column_names else -1
            table = table.set_column(index, name, column) if index >= 0 else table.append_column(name, column)
        return Batch(table, None if "text" in columns else self._cache)

    def without(self, names: Sequence[str]) -> Batch:
        """This batch without the named columns."""
        gone = [name for name in names if self.has(name)]
        return Batch(self.table.drop_columns(gone), self._cache) if gone else self

    def take(self, rows: np.ndarray | Sequence[int]) -> Batch:
        """The given rows, in the given order."""
        return Batch(self.table.take(pa.array(np.asarray(rows, dtype=np.int64), pa.int64())))


def encoded(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Texts as `Batch.utf8` gives them; lone surrogates are three bytes each."""
    parts = [text.encode("utf-8", "surrogatepass") for text in texts]
    bounds = np.zeros(len(parts) + 1, dtype=np.int64)
    np.cumsum([len(part) for part in parts], out=bounds[1:])
    return np.frombuffer(b"".join(parts), dtype=np.uint8), bounds


def _utf8(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray]:
    """The bytes of a string column, not copied where it is one chunk; null is empty."""
    array = column.combine_chunks().cast(pa.large_string())
    if isinstance(array, pa.ChunkedArray):
        array = array.chunk(0) if array.num_chunks else pa.array([], pa.large_string())
    if array.null_count:
        array = array.fill_null("")
    _, offsets, data = array.buffers()
    if offsets is None or len(array) == 0:
        return np.zeros(0, np.uint8), np.zeros(len(array) + 1, np.int64)
    bounds = np.frombuffer(offsets, dtype=np.int64)[array.offset : array.offset + len(array) + 1]
    whole = np.frombuffer(data, dtype=np.uint8) if data is not None else np.zeros(0, np.uint8)
    return whole[bounds[0] : bounds[-1]], bounds - bounds[0]
