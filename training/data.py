"""From the token dataset to batches: a pure function of (seed, step), the same for any number of processes.

The order of rows and their reading are those of `tokenizer_training.dataset.loader`; here they become tensors and targets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor

from tokenizer_training.dataset.loader import permute, read_rows, sample_row, step_rows, will_need
from tokenizer_training.dataset.read import PackedSplit, TokenDataset
from training.knobs import TrainingError
from training.loss import IGNORED

__all__ = ["Batch", "Batches", "Dataset", "Rows", "load_batch", "open_dataset", "permute", "sample_row", "step_rows"]


class Rows(Protocol):
    """A packed split: `len` rows, each (tokens int64 `[L]`, document numbers int32 `[L]`, -1 where padded)."""

    def __len__(self) -> int: ...

    def row(self, i: int) -> tuple[np.ndarray, np.ndarray]: ...


class Batch(NamedTuple):
    """Rows of one step: tokens, targets (`IGNORED` where none) and documents, int64 `[B, L]`; `rows` are their numbers."""

    tokens: Tensor
    targets: Tensor
    documents: Tensor
    rows: list[int]


@dataclass(frozen=True)
class Dataset:
    """A token dataset and its two splits, packed to one length."""

    tokens: TokenDataset
    train: PackedSplit
    validation: PackedSplit
    sequence_length: int

    def documents_of(self, row: int) -> list[dict[str, Any]]:
        """The documents in a row of the train split: `id`, `source`, and `url` where the sidecar has that column."""
        found = []
        for piece in self.tokens.documents_in_row(self.train, row):
            document = {"id": piece.id, "source": piece.source}
            urls = self._urls(piece.shard)
            if urls is not None:
                number = self.tokens.number_at("train", piece.shard, piece.token_offset)
                document["url"] = urls[number].as_py()
            found.append(document)
        return found

    def _urls(self, shard: int) -> Any:
        file = self.train.files[shard].with_suffix(".parquet")
        if "url" not in pq.read_schema(file).names:
            return None
        return pq.read_table(file, columns=["url"]).column("url").combine_chunks()


def open_dataset(folder: Path, sequence_length: int | None) -> Dataset:
    """Open a token dataset. Raises `TrainingError` if it is not one, or not packed to the length asked for."""
    try:
        tokens = TokenDataset(folder)
        lengths = tokens.sequence_lengths
        if sequence_length is None:
            if len(lengths) != 1:
                raise TrainingError(f"{folder} is packed to the lengths {lengths}: choose one by sequence_length")
            sequence_length = lengths[0]
        train, validation = (tokens.packed(split, sequence_length) for split in ("train", "validation"))
    except TrainingError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(f"cannot read the token dataset {folder}: {error}") from None
    if len(train) == 0:
        raise TrainingError(f"{folder}: the train split has no rows, so there is nothing to learn from")
    return Dataset(tokens, train, validation, sequence_length)


def load_batch(split: Rows, rows: list[int], document_mask: bool) -> Batch:
    """Read rows and say what is to be predicted from each position. Raises `TrainingError` for ids beyond the vocabulary.

    The target is the next token of the row, the end-of-document token included. None: behind the last position, of
    padding, and with `document_mask` of a document's first token, which the document before it must not predict.
    """
    if isinstance(split, PackedSplit):
        read = read_rows(split, rows)
        if (largest := int(read.tokens.max(initial=0))) >= split.vocab_size:
            raise TrainingError(
                f"{split.path}: token id {largest} in rows {rows[:8]} is beyond the vocabulary of {split.vocab_size} in "
                f"dataset.json; the files are damaged or of another tokenizer: encode the documents again"
            )
        tokens, documents, learned = (torch.from_numpy(a) for a in (read.tokens, read.documents, read.mask))
        documents = documents.long()
    else:
        pairs = [split.row(row) for row in rows]
        tokens = torch.from_numpy(np.stack([row[0] for row in pairs]).astype(np.int64))
        documents = torch.from_numpy(np.stack([row[1] for row in pairs]).astype(np.int64))
        learned = documents >= 0
    following = documents[:, 1:]
    predicted = learned[:, 1:].clone()
    if document_mask:
        predicted &= following == documents[:, :-1]
    targets = torch.full_like(tokens, IGNORED)
    targets[:, :-1] = torch.where(predicted, tokens[:, 1:], IGNORED)
    return Batch(tokens, targets, documents, rows)


class Batches:
    """The batches of one process, read ahead by threads, in page-locked memory where they go to CUDA.

    `rows_at(position)`: the rows of a position in the data. Nothing here has a state that matters: `take` gives the batch of
    any position; only the next ones are there already.
    """

    def __init__(
        self,
        split: Rows,
        rows_at: Callable[[int], list[int]],
        document_mask: bool,
        threads: int,
        ahead: int,
        pinned: bool,
    ) -> None:
        self._split, self._rows_at, self._document_mask, self._pinned = split, rows_at, document_mask, pinned
        self._ahead = ahead
        self._pool = ThreadPoolExecutor(threads, "batches") if threads else None
        self._waiting: deque[tuple[int, Future[Batch]]] = deque()

    def take(self, position: int) -> Batch:
        """The batch of a position."""
        if self._pool is None:
            return self._read(self._rows_at(position))
        while self._waiting and self._waiting[0][0] != position:
            self._waiting.popleft()[1].cancel()
        following = self._waiting[-1][0] + 1 if self._waiting else position
        for number in range(following, position + self._ahead + 1):
            rows = self._rows_at(number)
            if isinstance(self._split, PackedSplit):
                will_need(self._split, rows)
            self._waiting.append((number, self._pool.submit(self._read, rows)))
        return self._waiting.popleft()[1].result()

    def _read(self, rows: list[int]) -> Batch:
        batch = load_batch(self._split, rows, self._document_mask)
        if not self._pinned:
            return batch
        tokens, targets, documents = (tensor.pin_memory() for tensor in batch[:3])
        return Batch(tokens, targets, documents, batch.rows)

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
