"""Exact totals over a whole corpus from its table of counted pre-tokens: each distinct one is encoded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenizer_training.config import TokenizerError
from tokenizer_training.efficiency.metrics import ratio
from tokenizer_training.efficiency.peers import Peer
from tokenizer_training.encoding.bpe_file import read_byte_pairs
from tokenizer_training.vocabulary.counts import counts_facts

COLUMNS = ("source", "domain", "language", "pretoken", "count")
BATCH_ROWS = 200_000
MOST_GROUPS = 1000  # rows of a table of the report; domains beyond these are added up


def counts_files(table: Path) -> list[Path]:
    """The Parquet files of a counts table: itself, or what a folder holds; none if there is no such file."""
    return sorted(table.glob("*.parquet")) if table.is_dir() else [table] if table.is_file() else []


def misfit(peer: Peer, file: Path) -> str | None:
    """Why a counts table says nothing of a tokenizer, in words; None if it was counted as the tokenizer cuts text."""
    try:
        counted = counts_facts(file)
        model = read_byte_pairs(peer.path)
    except TokenizerError as error:
        return str(error)
    if counted["regex"] != model.pattern:
        return f"{file}: counted with another split pattern ({counted['pattern']}) than {peer.name}'s"
    if (counted["normalization"] == "nfc") != model.nfc:
        return f"{file}: counted with normalization {counted['normalization']}, unlike {peer.name}'s"
    return None


def counted_totals(peer: Peer, table: Path) -> dict[str, Any]:
    """Bytes, tokens and bytes per token of everything counted, and by source, language and domain.

    `table` is a counts table of the command `count`, or a folder of them. `dropped_pretokens`: occurrences that its minimum count
    left out, which are in no sum. Raises `TokenizerError` for another file, or one that was counted as the tokenizer does not cut.
    """
    files = counts_files(table)
    if not files:
        raise TokenizerError(f"{table}: no counts table; expected a Parquet file of `count` or a folder of them")
    sums: dict[str, dict[str, list[int]]] = {name: {} for name in ("source", "language", "domain")}
    total = [0, 0, 0]
    dropped = 0
    for file in files:
        reason = misfit(peer, file)
        if reason is not None:
            raise TokenizerError(reason)
        dropped += int(counts_facts(file)["dropped_pretokens"])
        opened = pq.ParquetFile(file)
        for batch in opened.iter_batches(BATCH_ROWS, columns=list(COLUMNS)):
            coded = batch.column("pretoken").dictionary_encode()
            _, offsets = peer.encode_batch(coded.dictionary.to_pylist())
            codes = coded.indices.to_numpy(zero_copy_only=False)
            counts = batch.column("count").to_numpy(zero_copy_only=False)
            sizes = pc.binary_length(batch.column("pretoken")).to_numpy(zero_copy_only=False).astype(np.int64) * counts
            made = np.diff(offsets)[codes] * counts
            for at, values in enumerate((sizes, made, counts)):
                total[at] += int(values.sum())
            for name, groups in sums.items():
                keys = batch.column(name).dictionary_encode()
                where = keys.indices.to_numpy(zero_copy_only=False)
                for code, key in enumerate(keys.dictionary.to_pylist()):
                    mine = where == code
                    row = groups.setdefault(key or "unknown", [0, 0, 0])
                    for at, values in enumerate((sizes, made, counts)):
                        row[at] += int(values[mine].sum())
    return {
        "total": _row(total),
        "dropped_pretokens": dropped,
        **{
            f"by_{name}": {
                key: _row(row)
                for key, row in sorted(groups.items(), key=lambda item: (-item[1][0], item[0]))[:MOST_GROUPS]
            }
            for name, groups in sums.items()
        },
    }


def _row(sums: list[int]) -> dict[str, Any]:
    size, tokens, pretokens = sums
    return {"bytes": size, "tokens": tokens, "pretokens": pretokens, "bytes_per_token": ratio(size, tokens)}
