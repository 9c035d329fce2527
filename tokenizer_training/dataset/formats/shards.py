"""What all converters read, and how unchanged files come to their new place."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset.layout import read_dataset_json, read_lengths

LINKS = ("hard", "symbolic", "copy")


@dataclass(frozen=True)
class Shard:
    """One shard: its file, its split and number there, and int64 lengths with end tokens."""

    file: Path
    split: str
    number: int
    tokens: int
    dtype: np.dtype[Any]

    def payload(self) -> np.ndarray:
        """All tokens, memory-mapped."""
        return np.memmap(self.file, self.dtype, "r")

    def lengths(self) -> np.ndarray:
        """Lengths of the documents in tokens, end tokens included."""
        return read_lengths(self.file.with_suffix(".idx"))

    def texts(self) -> Iterator[tuple[str, str]]:
        """Id and source of each document."""
        for batch in pq.ParquetFile(self.file.with_suffix(".parquet")).iter_batches(columns=["id", "source"]):
            yield from zip(batch.column(0).to_pylist(), batch.column(1).to_pylist(), strict=True)

    def mask(self) -> np.ndarray:
        """The loss mask as uint8, 0 or 1."""
        bits = np.fromfile(self.file.with_suffix(".mask"), np.uint8)
        return np.unpackbits(bits, bitorder="little")[: self.tokens]


@dataclass(frozen=True)
class Source:
    """A token dataset to convert."""

    path: Path
    facts: dict[str, Any]
    link: str

    @property
    def masked(self) -> bool:
        """Whether there is a loss mask."""
        return self.facts.get("kind") == "chat"

    @property
    def itemsize(self) -> int:
        """Bytes of a token."""
        return np.dtype(self.facts["dtype"]).itemsize

    def shards(self, split: str | None = None) -> list[Shard]:
        """The shards of a split, or of all, in order."""
        dtype = np.dtype(self.facts["dtype"]).newbyteorder("<")
        return [
            Shard(self.path / entry["file"], name, number, int(entry["tokens"]), dtype)
            for name, entries in self.facts["splits"].items()
            if split in (None, name)
            for number, entry in enumerate(entries)
        ]

    def place(self, file: Path, target: Path) -> None:
        """Link or copy a file that stays as it is."""
        if self.link == "copy":
            shutil.copyfile(file, target)
        elif self.link == "symbolic":
            target.symlink_to(file.resolve())
        else:
            try:
                os.link(file, target)
            except OSError as error:
                raise TokenizerError(
                    f"{target}: no hard link to {file} ({error}); use --link symbolic or copy"
                ) from None


def open_source(dataset_dir: str | Path, link: str) -> Source:
    """A finished token dataset."""
    return Source(Path(dataset_dir), read_dataset_json(Path(dataset_dir)), link)
