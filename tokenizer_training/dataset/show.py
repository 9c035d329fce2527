"""Token ids as text again: a training row with its documents, or one document with its rows."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset.boundaries import vocabulary_bytes
from tokenizer_training.dataset.loader import read_rows
from tokenizer_training.dataset.read import TokenDataset
from tokenizer_training.encoding.encoder import Encoder

BACKGROUNDS = (194, 189, 223, 225, 195)  # pale colours of the 256 that terminals know, by turns
HIDDEN = (
    "id",
    "source",
    "text",
    "messages",
    "repeat",
    "dup_cluster",
    "mix_group",
    "mix_phases",
    "token_offset",
    "token_length",
)


def _opened(dataset_dir: str | Path, tokenizer_dir: str | Path) -> tuple[TokenDataset, Encoder]:
    dataset, encoder = TokenDataset(dataset_dir), Encoder(tokenizer_dir)
    if encoder.sha256 != dataset.facts["tokenizer_sha256"]:
        raise TokenizerError(f"{tokenizer_dir}: not the tokenizer that {dataset_dir} was encoded with")
    return dataset, encoder


def coloured(ids: np.ndarray, trained: np.ndarray | None, encoder: Encoder) -> str:
    """The text of ids, each token on a colour of its own; tokens to be learned are underlined where `trained` (bool) says which.

    A character cut by a token's edge stands with the token that ends it.
    """
    spellings = vocabulary_bytes(encoder.tokenizer, encoder.vocab_size)
    special = {number: token for token, number in encoder.special_ids.items()}
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    parts = []
    for at, number in enumerate(ids.tolist()):
        text = special[number] if number in special else decoder.decode(spellings[number])
        line = ";4" if trained is not None and trained[at] else ""
        lines = text.split("\n")
        colour = f"\x1b[30;48;5;{BACKGROUNDS[at % len(BACKGROUNDS)]}{line}m"
        parts.append("\x1b[0m\u21b5\n".join(f"{colour}{part}" for part in lines) if text else "")
    return "".join([*parts, decoder.decode(b"", True), "\x1b[0m"])


def lineage(documents: Path | None, ids: list[str]) -> dict[str, dict[str, Any]]:
    """What the documents' Parquet files say of these ids, but for texts and columns that the dataset has itself."""
    found: dict[str, dict[str, Any]] = {}
    wanted = pa.array(sorted(set(ids)), pa.string())
    for file in sorted(documents.glob("*.parquet")) if documents and documents.is_dir() else ():
        parquet = pq.ParquetFile(file)
        if "id" not in parquet.schema_arrow.names:
            continue
        columns = ["id", *(field.name for field in parquet.schema_arrow if _shown(field))]
        for group in range(parquet.num_row_groups):
            known: Any = parquet.read_row_group(group, columns=["id"]).column("id").cast(pa.string())
            mine = pc.is_in(known, value_set=wanted)
            if pc.any(mine).as_py():
                for row in parquet.read_row_group(group, columns=columns).filter(mine).to_pylist():
                    found[row.pop("id")] = {name: value for name, value in row.items() if value is not None}
    return found


def _shown(field: pa.Field) -> bool:
    return field.name not in HIDDEN and not pa.types.is_nested(field.type)


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def show_row(
    dataset_dir: str | Path,
    tokenizer_dir: str | Path,
    split: str,
    sequence_length: int,
    row: int,
    documents_dir: str | Path | None = None,
    colour: bool = False,
) -> Iterator[str]:
    """Lines that show a row: each document's part, where it comes from, what is known of it, and its text.

    `documents_dir`: the Parquet files that were encoded, for URLs and scores (default: `documents` or `chat` beside the dataset).
    """
    dataset, encoder = _opened(dataset_dir, tokenizer_dir)
    packed = dataset.packed(split, sequence_length)
    if not 0 <= row < len(packed):
        raise TokenizerError(f"{dataset_dir}: {split} has rows 0 to {len(packed) - 1}, not {row}")
    batch = read_rows(packed, [row])
    tokens, filled, mask = batch.tokens[0], int((batch.documents[0] >= 0).sum()), batch.mask[0]
    pieces = dataset.documents_in_row(packed, row)
    beside = Path(dataset_dir).resolve().parent / ("chat" if packed.masked else "documents")
    known = lineage(Path(documents_dir) if documents_dir else beside, [piece.id for piece in pieces])
    learned = f", {int(mask.sum())} to be learned" if packed.masked else ""
    yield f"row {row} of {len(packed)}, {split}, {filled} of {sequence_length} positions filled{learned}"
    for piece in pieces:
        size = int(
            dataset.sidecar(split, piece.shard).lengths[dataset.number_at(split, piece.shard, piece.token_offset)]
        )
        said = "".join(f", {name} {_plain(value)}" for name, value in known.get(piece.id, {}).items())
        yield (
            f"-- {piece.row_offset}: document {piece.id} ({piece.source}), tokens {piece.document_offset} to "
            f"{piece.document_offset + piece.length - piece.ends} of {size}{', end token' if piece.ends else ''}{said}"
        )
        where = slice(piece.row_offset, piece.row_offset + piece.length - piece.ends)
        if colour:
            yield coloured(tokens[where], mask[where] if packed.masked else None, encoder)
        else:
            yield encoder.decode(tokens[where])


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
