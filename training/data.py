"""From the token dataset to batches: a pure function of (seed, step), the same for any number of processes.

The order of rows and their reading are those of `tokenizer_training.dataset.loader`; here they become tensors and targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from tokenizer_training.dataset.loader import permute, read_rows, sample_row, step_rows
from tokenizer_training.dataset.read import PackedSplit, TokenDataset
from training.config import TrainingError
from training.loss import IGNORED

__all__ = ["Batch", "Dataset", "Rows", "load_batch", "open_dataset", "permute", "sample_row", "step_rows"]


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

    def documents_of(self, row: int) -> list[str]:
        """The ids of the documents in a row of the train split."""
        return [piece.id for piece in self.tokens.documents_in_row(self.train, row)]


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
    """Read rows and say what is to be predicted from each position.

    The target is the next token of the row, the end-of-document token included. None: behind the last position, of
    padding, and with `document_mask` of a document's first token, which the document before it must not predict.
    """
    if isinstance(split, PackedSplit):
        read = read_rows(split, rows)
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
