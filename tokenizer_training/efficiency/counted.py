"""Exact totals over a whole corpus from its table of counted pre-tokens: each distinct one is encoded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenizer_training.config import TokenizerError
from tokenizer_training.efficiency.metrics import ratio
from tokenizer_training.efficiency.peers import Peer

COLUMNS = ("source", "domain", "language", "pretoken", "count")
BATCH_ROWS = 200_000
MOST_GROUPS = 1000  # rows of a table of the report; domains beyond these are added up


def counted_totals(peer: Peer, table: Path) -> dict[str, Any]:
    """Bytes, tokens and bytes per token of everything counted, and by source, language and domain.

    The table is a Parquet file or a folder of them with `source, domain, language, pretoken, count`, of the same pattern as the
    tokenizer's. Raises `TokenizerError` for another file.
    """
    files = sorted(table.glob("*.parquet")) if table.is_dir() else [table]
    if not files or not all(file.is_file() for file in files):
        raise TokenizerError(f"{table}: no counts table; expected a Parquet file or a folder of them")
    sums: dict[str, dict[str, list[int]]] = {name: {} for name in ("source", "language", "domain")}
    total = [0, 0, 0]
    for file in files:
        try:
            opened = pq.ParquetFile(file)
            missing = [name for name in COLUMNS if name not in opened.schema_arrow.names]
        except (pa.ArrowInvalid, OSError) as error:
            raise TokenizerError(f"{file}: not a readable counts table ({error})") from None
        if missing:
            raise TokenizerError(f"{file}: no column {', '.join(missing)}; expected the counts table of `count`")
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
