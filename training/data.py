"""From the token dataset to batches: a pure function of (seed, step), the same for any number of processes.

The packed rows come from `tokenizer_training.dataset.read.PackedSplit`; nothing here knows files. Sample number k of a run is
row k % N of epoch k // N, in that epoch's order; step s takes samples s * batch_rows and following. So the position in
the data is the step alone, and no iterator has a state that could be lost at a resume.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from tokenizer_training.dataset.read import PackedSplit, TokenDataset
from training.config import TrainingError
from training.model import IGNORED

_MASK = 2**64 - 1


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


def sample_row(sample: int, rows: int, seed: int, shuffle: bool = True, phases: Sequence[int] = ()) -> int:
    """The row that sample number `sample` of a run reads: each epoch visits each of `rows` exactly once.

    `phases`: rows of each phase of the data, in order; an epoch goes phase by phase, shuffled within each. None: one phase.
    """
    epoch, index = divmod(sample, rows)
    if not shuffle:
        return index
    first = 0
    for size in phases:
        if index < first + size:
            return first + permute(index - first, size, (seed << 32) + epoch)
        first += size
    return permute(index, rows, (seed << 32) + epoch)


def permute(index: int, size: int, key: int) -> int:
    """Where a keyed permutation of `range(size)` sends `index`, without a table: constant memory for any corpus.

    A four-round Feistel network on the smallest even number of bits that holds `size`, walked until it lands inside
    (Black and Rogaway 2002, "Ciphers with arbitrary finite domains").
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    low = (1 << half) - 1
    while True:
        left, right = index >> half, index & low
        for round_number in range(4):
            left, right = right, left ^ (_mix((key << 2) + round_number, right) & low)
        index = (left << half) | right
        if index < size:
            return index


def _mix(key: int, value: int) -> int:
    """A 64-bit hash of two integers: the finaliser of SplitMix64 (Steele et al. 2014), applied to each in turn."""
    x = key & _MASK
    for add in (key >> 64, value):
        x = (x + add + 0x9E3779B97F4A7C15) & _MASK
        x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
        x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & _MASK
        x ^= x >> 31
    return x


def step_rows(
    step: int,
    rows: int,
    batch_rows: int,
    seed: int,
    shuffle: bool,
    rank: int = 0,
    world: int = 1,
    phases: Sequence[int] = (),
) -> list[int]:
    """The rows that process `rank` of `world` reads at `step`: its own stretch of the step's samples."""
    share = batch_rows // world
    first = step * batch_rows + rank * share
    return [sample_row(first + j, rows, seed, shuffle, phases) for j in range(share)]


def load_batch(split: Rows, rows: list[int], document_mask: bool) -> Batch:
    """Read rows and say what is to be predicted from each position.

    The target is the next token of the row, the end-of-document token included. None: behind the last position, of
    padding, and with `document_mask` of a document's first token, which the document before it must not predict.
    """
    read = [split.row(row) for row in rows]
    tokens = torch.from_numpy(np.stack([row[0] for row in read]).astype(np.int64))
    documents = torch.from_numpy(np.stack([row[1] for row in read]).astype(np.int64))
    following = documents[:, 1:]
    predicted = following >= 0
    if document_mask:
        predicted &= following == documents[:, :-1]
    targets = torch.full_like(tokens, IGNORED)
    targets[:, :-1] = torch.where(predicted, tokens[:, 1:], IGNORED)
    return Batch(tokens, targets, documents, rows)
