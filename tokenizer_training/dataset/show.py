"""Token ids as text again: a training row with its documents, or one document with its rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset.read import TokenDataset
from tokenizer_training.encoding.encoder import Encoder


def _opened(dataset_dir: str | Path, tokenizer_dir: str | Path) -> tuple[TokenDataset, Encoder]:
    dataset, encoder = TokenDataset(dataset_dir), Encoder(tokenizer_dir)
    if encoder.sha256 != dataset.facts["tokenizer_sha256"]:
        raise TokenizerError(f"{tokenizer_dir}: not the tokenizer that {dataset_dir} was encoded with")
    return dataset, encoder


def show_row(
    dataset_dir: str | Path, tokenizer_dir: str | Path, split: str, sequence_length: int, row: int
) -> Iterator[str]:
    """Lines that show a row: each document's part, where it comes from, and its text."""
    dataset, encoder = _opened(dataset_dir, tokenizer_dir)
    packed = dataset.packed(split, sequence_length)
    if not 0 <= row < len(packed):
        raise TokenizerError(f"{dataset_dir}: {split} has rows 0 to {len(packed) - 1}, not {row}")
    tokens, documents = packed.row(row)
    yield f"row {row} of {len(packed)}, {split}, {int((documents >= 0).sum())} of {sequence_length} positions filled"
    for piece in dataset.documents_in_row(packed, row):
        size = int(
            dataset.sidecar(split, piece.shard).lengths[dataset.number_at(split, piece.shard, piece.token_offset)]
        )
        yield (
            f"-- {piece.row_offset}: document {piece.id} ({piece.source}), tokens {piece.document_offset} to "
            f"{piece.document_offset + piece.length - piece.ends} of {size}{', end token' if piece.ends else ''}"
        )
        ids = tokens[piece.row_offset : piece.row_offset + piece.length - piece.ends]
        yield encoder.decode(np.asarray(ids))


def show_document(
    dataset_dir: str | Path, tokenizer_dir: str | Path, document_id: str, sequence_length: int | None
) -> Iterator[str]:
    """Lines that show a document: where each copy stands, in which rows (if a sequence length is given), and its text."""
    dataset, encoder = _opened(dataset_dir, tokenizer_dir)
    copies = dataset.find(document_id)
    if not copies:
        raise TokenizerError(f"{dataset_dir}: no document {document_id!r}")
    for split, shard, offset, length in copies:
        yield f"{dataset.splits[split][shard]['file']}: tokens {offset} to {offset + length}"
    if sequence_length is not None:
        for split in sorted({split for split, *_ in copies}):
            for piece in dataset.rows_of_document(dataset.packed(split, sequence_length), document_id):
                yield (
                    f"{split} row {piece.row} at {piece.row_offset}: tokens {piece.document_offset} to "
                    f"{piece.document_offset + piece.length - piece.ends}"
                )
    yield encoder.decode(dataset.document(document_id))
