"""A batch of texts as engines take it: UTF-8 bytes one after the other, and where each text begins."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tokenizer_training.config import TokenizerError


@dataclass(frozen=True)
class Texts:
    """Texts one after the other: `data` uint8, valid UTF-8; text i is `data[offsets[i] : offsets[i + 1]]` (int64[n + 1])."""

    data: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, i: int) -> str:
        return self.data[self.offsets[i] : self.offsets[i + 1]].tobytes().decode("utf-8")

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def rows(self, start: int, stop: int) -> Texts:
        """Some of the texts; nothing is copied."""
        return Texts(self.data, self.offsets[start : stop + 1])

    @staticmethod
    def of(texts: Sequence[str]) -> Texts:
        """Texts without lone surrogates."""
        return Texts.of_bytes([text.encode("utf-8") for text in texts])

    @staticmethod
    def of_bytes(encoded: Sequence[bytes]) -> Texts:
        """Texts in UTF-8."""
        offsets = np.zeros(len(encoded) + 1, np.int64)
        np.cumsum([len(text) for text in encoded], out=offsets[1:])
        return Texts(np.frombuffer(b"".join(encoded), np.uint8), offsets)


def texts_of_column(column: pa.Array | pa.ChunkedArray) -> list[Texts]:
    """The texts of a string column, a batch for each chunk, straight from Arrow's buffers; nulls are empty.

    Bytes that are not UTF-8, which Arrow does not look for when it reads a file, become U+FFFD. Raises `TokenizerError` if
    the column holds anything but strings.
    """
    if pa.types.is_null(column.type):
        return [Texts(np.zeros(0, np.uint8), np.zeros(len(column) + 1, np.int64))]
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    strings = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    if not any(is_kind(kind) for is_kind in strings):
        raise TokenizerError(f"a column of texts is of type {column.type}: expected string")
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    return [_of_array(chunk.cast(pa.large_string())) for chunk in chunks if len(chunk)]


def _of_array(array: pa.Array) -> Texts:
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        replaced = [(value or b"").decode("utf-8", "replace") for value in array.cast(pa.large_binary()).to_pylist()]
        return Texts.of(replaced)
    _, offsets, data = array.buffers()
    ends = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    taken = np.zeros(0, np.uint8) if data is None else np.frombuffer(data, np.uint8)
    if array.null_count:  # Arrow allows bytes behind a null
        lengths = np.diff(ends)
        null = np.asarray(array.is_null())
        if lengths[null].any():
            return Texts.of([value or "" for value in array.to_pylist()])
    return Texts(taken, ends)
