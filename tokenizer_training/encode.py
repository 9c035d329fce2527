"""From a documents file to an encoded file: the tokens of each document, and where it will stand in the dataset.

An encoded file is Parquet, one row for each copy of a document that `repeat` asks for, sorted by place. It depends on
the documents, the tokenizer and the seed; validation, shards and packing are decided later, without encoding again.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tokenizer_training.config import PackConfig, TokenizerError
from tokenizer_training.documents import hash64, open_parquet, read_documents
from tokenizer_training.encoder import Encoder
from tokenizer_training.layout import atomic

ROW_GROUP_TOKENS = 2_000_000  # so that a shard can be gathered from a small part of each encoded file
META = b"gristmill"


def encoded_schema(dtype: str) -> pa.Schema:
    """Columns of an encoded file."""
    return pa.schema(
        [
            pa.field("key", pa.uint64(), False),  # place of this copy in the dataset: hash of (seed, id, copy)
            pa.field("id", pa.string(), False),
            pa.field("copy", pa.int32(), False),  # 0 for the first
            pa.field("source", pa.string(), False),
            pa.field("cluster", pa.uint64(), False),  # hash of the duplicate cluster, which decides the split
            pa.field("repeat", pa.int32(), False),
            pa.field("bytes", pa.int64(), False),  # UTF-8 bytes of the text
            pa.field("length", pa.int64(), False),  # tokens, without the end token
            pa.field("tokens", pa.list_(pa.field("item", pa.from_numpy_dtype(np.dtype(dtype)), False)), False),
        ]
    )


def encode_documents(
    documents_path: str | Path, tokenizer_dir: str | Path, out_path: str | Path, config: PackConfig
) -> dict[str, Any]:
    """Encode one documents file to one encoded file, written atomically. Uses only `seed` of the config.

    Memory: the tokens of the file (2 or 4 bytes each), once more while they are sorted, and a batch of texts.
    Returns counts: documents, copies, tokens (of copies, end tokens included), bytes, and the smallest and largest
    cluster hash (null without documents).
    """
    source_path, out = Path(documents_path), Path(out_path)
    encoder = Encoder(tokenizer_dir)
    columns: dict[str, list[Any]] = {name: [] for name in ("id", "source", "cluster", "repeat", "bytes", "length")}
    arrays: list[np.ndarray] = []
    for batch in read_documents(source_path):
        encoded = encoder.encode_batch(batch.texts)
        columns["id"] += batch.ids
        columns["source"] += batch.sources
        columns["cluster"] += [hash64("cluster", cluster) for cluster in batch.clusters]
        columns["repeat"] += batch.repeats
        columns["bytes"] += [len(text.encode("utf-8")) for text in batch.texts]
        columns["length"] += [len(tokens) for tokens in encoded]
        arrays += encoded
    places = sorted(
        (hash64(str(config.seed), identity, str(copy)), identity, copy, row)
        for row, (identity, repeat) in enumerate(zip(columns["id"], columns["repeat"], strict=True))
        for copy in range(repeat)
    )
    facts = {
        "tokenizer_sha256": encoder.sha256,
        "seed": config.seed,
        "vocab_size": encoder.vocab_size,
        "dtype": encoder.dtype.name,
        "eos_id": encoder.eos_id,
        "special_ids": encoder.special_ids,
        "documents": len(arrays),
        "copies": len(places),
        "tokens": sum(columns["length"][row] + 1 for *_, row in places),
        "bytes": sum(columns["bytes"][row] for *_, row in places),
        "cluster_min": min(columns["cluster"], default=None),
        "cluster_max": max(columns["cluster"], default=None),
    }
    schema = encoded_schema(encoder.dtype.name).with_metadata({META: json.dumps(facts).encode()})
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(out) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        start = 0
        while start < len(places):
            stop, size = start, 0
            while stop < len(places) and (stop == start or size + columns["length"][places[stop][3]] <= ROW_GROUP_TOKENS):
                size += columns["length"][places[stop][3]]
                stop += 1
            part = places[start:stop]
            rows = [row for *_, row in part]
            values = {name: [column[row] for row in rows] for name, column in columns.items()}
            offsets = np.cumsum([0, *values["length"]])
            flat = np.concatenate([arrays[row] for row in rows])
            table = {
                "key": [key for key, *_ in part],
                "copy": [copy for _, _, copy, _ in part],
                "tokens": pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat)).cast(
                    schema.field("tokens").type
                ),
                **values,
            }
            arrays_ = [table[f.name] if f.name == "tokens" else pa.array(table[f.name], f.type) for f in schema]
            writer.write_table(pa.Table.from_arrays(arrays_, schema=schema), row_group_size=len(part))
            start = stop
    return facts


def encoded_facts(path: Path) -> dict[str, Any]:
    """What `encode_documents` returned, read back from the encoded file."""
    metadata = open_parquet(path, ["key", "tokens"]).schema_arrow.metadata or {}
    if META not in metadata:
        raise TokenizerError(f"{path}: not written by `encode`")
    facts: dict[str, Any] = json.loads(metadata[META])
    return facts
