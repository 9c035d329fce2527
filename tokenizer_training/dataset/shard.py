"""Writes one shard of a token dataset piece by piece: payload, Megatron-LM index, sidecar, loss mask."""

from __future__ import annotations

import hashlib
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tokenizer_training.dataset.conversations import trained
from tokenizer_training.dataset.layout import DTYPE_CODES, HEADER, MAGIC, atomic, sha256_of, sidecar_schema, stem

SIDECAR_ROWS = 1 << 17  # of a Parquet row group, however the rows come in
INDEX_ROWS = 1 << 20  # entries of the index written together


class ShardWriter:
    """Appends documents in their order; the files take their names when the `with` block ends well."""

    def __init__(
        self,
        out: Path,
        split: str,
        number: int,
        plan: dict[str, Any],
        documents: int,
        chat: tuple[dict[str, int], int] | None,
    ) -> None:
        self.path, self.split, self.plan, self.chat = out / stem(split, number), split, plan, chat
        self.expected = documents
        self.tokens = self.documents = self.bytes = self.trained = 0
        self.phases = np.zeros(0, np.int64)
        self.digest = hashlib.sha256()
        self.schema = sidecar_schema(plan["groups"])
        self.held: list[pa.Table] = []
        self.bits = np.zeros(0, np.uint8)  # of the loss mask, not a whole byte yet

    def _file(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    def __enter__(self) -> ShardWriter:
        self.stack = ExitStack()
        enter = self.stack.enter_context
        self.payload: IO[bytes] = enter(enter(atomic(self._file(".bin"))).open("wb"))
        self.index: IO[bytes] = enter(enter(atomic(self._file(".idx"))).open("wb"))
        self.index.write(HEADER.pack(MAGIC, 1, DTYPE_CODES[self.plan["dtype"]], self.expected, self.expected + 1))
        self.sidecar = enter(pq.ParquetWriter(enter(atomic(self._file(".parquet"))), self.schema, compression="zstd"))
        if self.chat:
            self.mask: IO[bytes] = enter(enter(atomic(self._file(".mask"))).open("wb"))
        return self

    def add(
        self,
        block: np.ndarray,
        lengths: np.ndarray,
        texts: dict[str, Any],
        repeats: np.ndarray,
        size: int,
        phases: np.ndarray,
    ) -> None:
        """Append documents: their tokens with end tokens, lengths with these, id, source and group, repeats, UTF-8 bytes, count by phase."""
        data = block.view(np.uint8).data
        self.payload.write(data)
        self.digest.update(data)
        if self.chat:
            self._add_mask(block)
        self._add_index(lengths)
        columns = {
            "id": texts["id"].cast(pa.string()),
            "token_offset": pa.array(self.tokens + np.cumsum(lengths) - lengths),
            "token_length": pa.array(lengths - 1),
            "source": texts["source"].cast(pa.string()),
            "repeat": pa.array(repeats if self.split == "train" else np.ones_like(repeats)),
            "group": texts["group"].cast(pa.string()),
        }
        self.held.append(pa.Table.from_arrays([columns[name] for name in self.schema.names], schema=self.schema))
        while sum(table.num_rows for table in self.held) >= SIDECAR_ROWS:
            self._write_sidecar(SIDECAR_ROWS)
        self.tokens += len(block)
        self.documents += len(lengths)
        self.bytes += size
        self.phases = phases if not len(self.phases) else self.phases + phases

    def _add_index(self, lengths: np.ndarray) -> None:
        """Lengths and byte offsets go to their own parts of the `.idx`."""
        itemsize = np.dtype(self.plan["dtype"]).itemsize
        starts = (self.tokens + np.cumsum(lengths) - lengths) * itemsize
        self.index.seek(HEADER.size + 4 * self.documents)
        self.index.write(lengths.astype("<i4").tobytes())
        self.index.seek(HEADER.size + 4 * self.expected + 8 * self.documents)
        self.index.write(starts.astype("<i8").tobytes())

    def _add_mask(self, block: np.ndarray) -> None:
        assert self.chat
        roles, end = self.chat
        bits = np.empty(len(self.bits) + len(block), np.uint8)
        bits[: len(self.bits)] = self.bits
        trained(block, roles["assistant"], end, bits[len(self.bits) :])
        self.trained += int(bits[len(self.bits) :].sum())
        whole = len(bits) // 8 * 8
        self.mask.write(np.packbits(bits[:whole], bitorder="little").tobytes())
        self.bits = bits[whole:]

    def _write_sidecar(self, rows: int) -> None:
        table = pa.concat_tables(self.held)
        self.sidecar.write_table(table.slice(0, rows).combine_chunks(), row_group_size=SIDECAR_ROWS)
        self.held = [table.slice(rows).combine_chunks()]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if kind is None:
            try:
                self._end()
            except BaseException as problem:
                self.stack.__exit__(type(problem), problem, problem.__traceback__)
                raise
        return self.stack.__exit__(kind, error, trace)

    def _end(self) -> None:
        if self.held:
            self._write_sidecar(SIDECAR_ROWS)
        self.index.seek(HEADER.size + 12 * self.expected)
        for start in range(0, self.expected + 1, INDEX_ROWS):
            self.index.write(np.arange(start, min(self.expected + 1, start + INDEX_ROWS), dtype="<i8").tobytes())
        if self.chat:
            self.mask.write(np.packbits(self.bits, bitorder="little").tobytes())

    def finish(self) -> dict[str, Any]:
        """The shard's entry of dataset.json; call when the files have their names."""
        facts: dict[str, Any] = {
            "file": self._file(".bin").name,
            "tokens": self.tokens,
            "documents": self.documents,
            "bytes": self.bytes,
            "sha256": self.digest.hexdigest(),
            "idx_sha256": sha256_of(self._file(".idx")),
            "sidecar_sha256": sha256_of(self._file(".parquet")),
        }
        if self.chat:
            facts |= {"trained": self.trained, "mask_sha256": sha256_of(self._file(".mask"))}
        if self.plan["phases"]:
            facts["phases"] = self.phases[: len(self.plan["phases"])].tolist()
        return facts
