"""Readers of a token dataset: numpy memory maps, no torch.

`PackedSplit` gives training rows; `TokenDataset` finds documents, and the way from a row to its documents and back.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset.index_cache import EMPTY, open_index
from tokenizer_training.dataset.layout import pack_name, read_dataset_json

PADDING = -1  # document number of padding
SEARCHED = 1 << 22  # spans looked through together
SIDECARS = 8  # of the shards read last, in memory


class Piece(NamedTuple):
    """A stretch of a document inside a row."""

    row: int
    row_offset: int  # first position in the row
    id: str
    source: str
    document_offset: int  # first token in the document
    length: int  # tokens, the end token included where `ends`
    ends: bool  # whether the document's end token is in it
    shard: int
    token_offset: int  # first token in the shard


def whole_shard(dataset_dir: Path, facts: dict[str, Any], shard: dict[str, Any]) -> Path:
    """The `.bin` file of a shard. Raises `TokenizerError` if it, or its `.mask`, is missing or not as long as dataset.json says.

    A dataset that was copied in part is found before its first row is read, not in the middle of a run; `verify` reads all bytes.
    """
    file, tokens = dataset_dir / shard["file"], int(shard["tokens"])
    expected = {file: tokens * np.dtype(facts["dtype"]).itemsize}
    if facts.get("kind") == "chat":
        expected[file.with_suffix(".mask")] = -(-tokens // 8)
    for path, size in expected.items():
        found = path.stat().st_size if path.is_file() else None
        if found != size:
            state = "missing" if found is None else f"{found:,} bytes instead of {size:,}"
            raise TokenizerError(f"{path} is {state}: copy the dataset again, or encode the documents again")
    return file


class PackedSplit:
    """Rows of `sequence_length` tokens of one split, in the order of its pack index. Safe to pickle.

    The index is memory-mapped, 16 bytes a span and 8 a row (`index_cache.py`); small ones are held in memory.
    """

    def __init__(self, dataset_dir: str | Path, split: str, sequence_length: int) -> None:
        self.path, self.split, self.sequence_length = Path(dataset_dir), split, sequence_length
        self.facts = read_dataset_json(self.path)
        self.dtype, self.vocab_size = np.dtype(self.facts["dtype"]).newbyteorder("<"), int(self.facts["vocab_size"])
        self.eos_id = int(self.facts["eos_id"])
        self.masked = self.facts.get("kind") == "chat"
        if split not in self.facts["splits"]:
            raise TokenizerError(f"{self.path}: no split {split!r}; it has {', '.join(self.facts['splits'])}")
        if str(sequence_length) not in self.facts["pack"]:
            lengths = ", ".join(self.facts["pack"]) or "none"
            raise TokenizerError(
                f"{self.path}: not packed for sequence length {sequence_length} (packed: {lengths}); "
                f"run: python -m tokenizer_training pack {self.path} --sequence-length {sequence_length}"
            )
        self.files = [whole_shard(self.path, self.facts, shard) for shard in self.facts["splits"][split]]
        packed = self.facts["pack"][str(sequence_length)]["splits"][split]
        self.count = int(packed["rows"])
        self.most_documents: int | None = packed.get("most_documents_in_row")
        self.phases = [(str(phase["name"]), int(phase["rows"])) for phase in packed.get("phases", [])]  # in row order
        file = self.path / pack_name(split, sequence_length)
        self._where = (file, self.count, packed.get("sha256")) if self.files else None
        self._index = open_index(*self._where) if self._where else EMPTY
        self._open: dict[int, mmap.mmap] = {}
        self._masks: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.count

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_masks": {}, "_index": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._index = open_index(*self._where) if self._where else EMPTY

    def mapped(self, number: int) -> mmap.mmap:
        """One `.bin` file, memory-mapped."""
        if number not in self._open:
            with self.files[number].open("rb") as file:
                self._open[number] = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        return self._open[number]

    def shard(self, number: int) -> np.ndarray:
        """All tokens of one `.bin` file as a read-only memory map."""
        return np.frombuffer(self.mapped(number), self.dtype)

    def mask_bytes(self, number: int) -> np.ndarray:
        """The `.mask` file of a shard of conversations, a bit a token, as a read-only memory map."""
        if number not in self._masks:
            self._masks[number] = np.memmap(self.files[number].with_suffix(".mask"), np.uint8, "r")
        return self._masks[number]

    def spans_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The spans of rows (int64), one row's after the other's: int64 shards, token offsets, lengths, and spans of each row."""
        if len(rows) and (rows.min() < 0 or rows.max() >= self.count):
            raise IndexError(f"rows {rows.min()} to {rows.max()} of {self.count} in {self.split}")
        first, stop = self._index.starts[rows], self._index.starts[rows + 1]
        counts = (stop - first).astype(np.int64)
        which = np.repeat(first.astype(np.int64) - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
        spans = self._index.spans[which]
        shards, offsets, lengths = (spans[name].astype(np.int64) for name in ("shard", "offset", "length"))
        return shards, offsets, lengths, counts

    def spans(self, row: int) -> list[tuple[int, int, int]]:
        """(shard, token offset, length) of the spans of a row, in order."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)} in {self.split}")
        shards, offsets, lengths, _ = self.spans_of(np.array([row]))
        return list(zip(shards.tolist(), offsets.tolist(), lengths.tolist(), strict=True))

    def rows_at(self, shard: int, start: int, stop: int) -> list[int]:
        """The rows that hold tokens [start, stop) of a shard, in order."""
        found: list[np.ndarray] = []
        for first in range(0, len(self._index.spans), SEARCHED):
            spans = self._index.spans[first : first + SEARCHED]
            offsets = spans["offset"].astype(np.int64)
            inside = (spans["shard"] == shard) & (offsets < stop) & (offsets + spans["length"] > start)
            found.append(np.flatnonzero(inside) + first)
        which = np.concatenate(found) if found else np.zeros(0, np.int64)
        return np.unique(np.searchsorted(self._index.starts, which, "right") - 1).tolist()

    def row(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        """Row `i`: tokens (int64[L]) and document numbers (int32[L]).

        Documents are numbered 0, 1, 2... within the row, the end token with its document; padding is the end token
        with number -1. Text never encodes to the end token, so that it ends a document wherever it stands.
        """
        tokens = np.full(self.sequence_length, self.eos_id, np.int64)
        documents = np.full(self.sequence_length, PADDING, np.int32)
        at = number = 0
        for shard, offset, length in self.spans(i):
            span = tokens[at : at + length]
            span[:] = self.shard(shard)[offset : offset + length]
            ends = span == self.eos_id
            numbers = documents[at : at + length]
            numbers[0] = number
            numbers[1:] = number + np.cumsum(ends[:-1])
            number, at = int(numbers[-1]) + 1, at + length
        return tokens, documents

    def rows(self, which: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Several rows: tokens (int64[n, L]) and document numbers (int32[n, L])."""
        tokens = np.empty((len(which), self.sequence_length), np.int64)
        documents = np.empty((len(which), self.sequence_length), np.int32)
        for at, row in enumerate(np.asarray(which).tolist()):
            tokens[at], documents[at] = self.row(row)
        return tokens, documents


class Sidecar(NamedTuple):
    """The documents of one shard, in order."""

    ids: Any  # pyarrow string array
    offsets: np.ndarray  # int64, in tokens
    lengths: np.ndarray  # int64, without the end token
    sources: Any  # pyarrow string array
    repeats: np.ndarray  # int32


class TokenDataset:
    """A token dataset: its facts, its documents, and which rows hold them."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.facts = read_dataset_json(self.path)
        self.vocab_size, self.eos_id = int(self.facts["vocab_size"]), int(self.facts["eos_id"])
        self.dtype = np.dtype(self.facts["dtype"]).newbyteorder("<")
        self.splits: dict[str, list[dict[str, Any]]] = self.facts["splits"]
        self.sequence_lengths = sorted(int(length) for length in self.facts["pack"])
        self._sidecars: dict[tuple[str, int], Sidecar] = {}

    def tokens(self, split: str) -> int:
        """Tokens of a split, end tokens included."""
        return sum(int(shard["tokens"]) for shard in self.splits[split])

    def documents(self, split: str) -> int:
        """Documents of a split, repeats included."""
        return sum(int(shard["documents"]) for shard in self.splits[split])

    def bytes(self, split: str) -> int:
        """UTF-8 bytes of the texts of a split, repeats included: what loss in bits is divided by for bits per byte."""
        return sum(int(shard["bytes"]) for shard in self.splits[split])

    def shard(self, split: str, number: int) -> np.ndarray:
        """All tokens of one `.bin` file as a read-only memory map."""
        return np.memmap(whole_shard(self.path, self.facts, self.splits[split][number]), self.dtype, "r")

    def packed(self, split: str, sequence_length: int) -> PackedSplit:
        """The rows of a split."""
        return PackedSplit(self.path, split, sequence_length)

    def sidecar(self, split: str, number: int) -> Sidecar:
        """The documents of one shard; the newest `SIDECARS` stay in memory. Raises `OSError` that names a file that is not whole."""
        if (split, number) not in self._sidecars:
            if len(self._sidecars) >= SIDECARS:
                self._sidecars.pop(next(iter(self._sidecars)))
            file = self._sidecar_file(split, number)
            try:
                table = pq.read_table(file).combine_chunks()
                self._sidecars[split, number] = Sidecar(
                    table.column("id"),
                    table.column("token_offset").to_numpy(),
                    table.column("token_length").to_numpy(),
                    table.column("source"),
                    table.column("repeat").to_numpy(),
                )
            except (OSError, pa.ArrowException, KeyError) as error:
                raise _unreadable(file, error) from None
        return self._sidecars[split, number]

    def _sidecar_file(self, split: str, number: int) -> Path:
        return (self.path / self.splits[split][number]["file"]).with_suffix(".parquet")

    def find(self, document_id: str) -> list[tuple[str, int, int, int]]:
        """(split, shard, token offset, length without the end token) of each copy of a document; empty if unknown.

        Looks through the sidecars a row group at a time.
        """
        found = []
        for split, shards in self.splits.items():
            for number in range(len(shards)):
                try:
                    file = pq.ParquetFile(self._sidecar_file(split, number))
                except (OSError, pa.ArrowException) as error:
                    raise _unreadable(self._sidecar_file(split, number), error) from None
                for group in range(file.num_row_groups):
                    ids: Any = file.read_row_group(group, ["id"]).column("id").cast(pa.string())
                    mine = pc.equal(ids, pa.scalar(document_id))
                    if pc.any(mine).as_py():
                        places = file.read_row_group(group, ["token_offset", "token_length"]).filter(mine).to_pylist()
                        found += [(split, number, one["token_offset"], one["token_length"]) for one in places]
        return found

    def document(self, document_id: str) -> np.ndarray:
        """The tokens (int64, without the end token) of a document. `KeyError` if the dataset lacks it."""
        copies = self.find(document_id)
        if not copies:
            raise KeyError(document_id)
        split, number, offset, length = copies[0]
        return self.shard(split, number)[offset : offset + length].astype(np.int64)

    def number_at(self, split: str, shard: int, token_offset: int) -> int:
        """Which document of a shard (its place in the sidecar) holds a token."""
        return int(np.searchsorted(self.sidecar(split, shard).offsets, token_offset, "right")) - 1

    def documents_in_row(self, packed: PackedSplit, row: int) -> list[Piece]:
        """Which documents stand in a row, and where."""
        pieces: list[Piece] = []
        at = 0
        for shard, offset, length in packed.spans(row):
            sidecar = self.sidecar(packed.split, shard)
            number = self.number_at(packed.split, shard, offset)
            end = offset + length
            while offset < end:
                start, size = int(sidecar.offsets[number]), int(sidecar.lengths[number]) + 1
                stop = min(end, start + size)
                identity, source = sidecar.ids[number].as_py(), sidecar.sources[number].as_py()
                inside = offset - start
                pieces.append(
                    Piece(row, at, identity, source, inside, stop - offset, stop == start + size, shard, offset)
                )
                at, offset, number = at + stop - offset, stop, number + 1
        return pieces

    def rows_of_document(self, packed: PackedSplit, document_id: str) -> list[Piece]:
        """Every piece of a document in the rows of a split, copies included, in row order."""
        rows: set[int] = set()
        for split, number, offset, length in self.find(document_id):
            if split == packed.split:
                rows.update(packed.rows_at(number, offset, offset + length + 1))
        return [
            piece for row in sorted(rows) for piece in self.documents_in_row(packed, row) if piece.id == document_id
        ]


def _unreadable(file: Path, error: BaseException) -> OSError:
    why = "there is no such file" if isinstance(error, FileNotFoundError) else error
    return OSError(f"{file}: {why}; copy the dataset again, or encode the documents again")
