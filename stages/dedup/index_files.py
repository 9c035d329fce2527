"""Files of an index written from their beginning: arrays of known shape, and the ids of documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from stages.dedup.index_format import DOCUMENTS

pc: Any = pyarrow.compute  # its stubs know too little of what these functions take


class ArrayFile:
    """A .npy file of known shape, written from its beginning; its bytes are those of `np.save`."""

    def __init__(self, path: Path, kind: Any, shape: tuple[int, ...]) -> None:
        self.kind = np.dtype(kind)
        self._file = path.open("wb")
        header = {"descr": np.lib.format.dtype_to_descr(self.kind), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(self._file, header)

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def write(self, array: np.ndarray) -> None:
        """The next rows."""
        self._file.write(np.ascontiguousarray(array, dtype=self.kind).data)

    def through(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """The same blocks, each written as it passes."""
        for block in blocks:
            self.write(block)
            yield block


def write_ids(path: Path, columns: Iterable[tuple[pa.Array, pa.Array]], names: Sequence[str]) -> None:
    """ids.arrow; its batches depend on the documents alone. `names`: all sources, sorted."""
    known = pa.array(names, pa.string())
    schema = pa.schema([("id", pa.string()), ("source", pa.dictionary(pa.int32(), pa.string()))])
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        ids: list[str] = []
        codes: list[int] = []
        for some_ids, sources in columns:
            ids += some_ids.to_pylist()
            codes += pc.index_in(sources, value_set=known).to_pylist()
            while len(ids) >= DOCUMENTS:
                _write_batch(writer, schema, ids[:DOCUMENTS], codes[:DOCUMENTS], known)
                ids, codes = ids[DOCUMENTS:], codes[DOCUMENTS:]
        if ids:
            _write_batch(writer, schema, ids, codes, known)


def _write_batch(writer: Any, schema: pa.Schema, ids: list[str], codes: list[int], known: pa.Array) -> None:
    columns = [pa.array(ids, pa.string()), pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), known)]
    writer.write_batch(pa.record_batch(columns, schema=schema))
