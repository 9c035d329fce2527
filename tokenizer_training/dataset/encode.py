"""From a documents file to an encoded file: the tokens of each document, and where it will stand in the dataset.

An encoded file is Parquet, one row for each copy of a document that `repeat` asks for, sorted by place. It depends on
the documents, the tokenizer and the seed; validation, shards and packing are decided later, without encoding again.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tokenizer_training.config import TokenizerError
from tokenizer_training.corpus.documents import PHASE_BITS, hash64, phase_names, read_documents
from tokenizer_training.corpus.files import open_parquet
from tokenizer_training.dataset.config import PackConfig
from tokenizer_training.dataset.layout import atomic, schema
from tokenizer_training.encoding.encoder import Encoder

ROW_GROUP_TOKENS = 2_000_000  # so that a shard can be gathered from a small part of each encoded file
META = b"gristmill"


class Place(NamedTuple):
    """Where a copy of a document stands in the dataset; sorts in that order."""

    key: int
    id: str
    copy: int
    row: int  # in the documents file


def encoded_schema(dtype: str) -> pa.Schema:
    """Columns of an encoded file."""
    return schema(
        key=pa.uint64(),  # place of this copy in the dataset: hash of (seed, id, copy)
        id=pa.string(),
        copy=pa.int32(),  # 0 for the first
        source=pa.string(),
        cluster=pa.uint64(),  # hash of the duplicate cluster, which decides the split
        repeat=pa.int32(),
        bytes=pa.int64(),  # UTF-8 bytes of the text
        length=pa.int64(),  # tokens, without the end token
        tokens=pa.list_(pa.field("item", pa.from_numpy_dtype(np.dtype(dtype)), False)),
    )


def encode_documents(
    documents_path: str | Path, tokenizer_dir: str | Path, out_path: str | Path, config: PackConfig
) -> dict[str, Any]:
    """Encode one documents file to one encoded file, written atomically. Uses only `seed` of the config.

    Memory: the tokens of the file (2 or 4 bytes each), once more while they are sorted, and a batch of texts.
    Returns counts: documents, copies, tokens (of copies, end tokens included), bytes, tokens by group of the mix, and the smallest and largest
    cluster hash (null without documents).
    """
    source_path, out = Path(documents_path), Path(out_path)
    encoder = Encoder(tokenizer_dir)
    phases = phase_names(source_path)
    columns: dict[str, list[Any]] = {name: [] for name in ("id", "source", "cluster", "repeat", "bytes", "length")}
    in_phases: list[list[int]] = []
    groups: list[str] = []
    arrays: list[np.ndarray] = []
    for batch in read_documents(source_path):
        encoded = encoder.encode_batch(batch.texts)
        columns["id"] += batch.ids
        columns["source"] += batch.sources
        columns["cluster"] += [hash64("cluster", cluster) for cluster in batch.clusters]
        columns["repeat"] += batch.repeats
        in_phases += batch.phases
        groups += batch.groups
        columns["bytes"] += [len(text.encode("utf-8")) for text in batch.texts]
        columns["length"] += [len(tokens) for tokens in encoded]
        arrays += encoded
    places = sorted(
        Place(_key(hash64(str(config.seed), identity, str(copy)), copy, in_phases[row]), identity, copy, row)
        for row, (identity, repeat) in enumerate(zip(columns["id"], columns["repeat"], strict=True))
        for copy in range(repeat)
    )
    rows = [place.row for place in places]
    facts = {
        "tokenizer_sha256": encoder.sha256,
        "seed": config.seed,
        "vocab_size": encoder.vocab_size,
        "dtype": encoder.dtype.name,
        "eos_id": encoder.eos_id,
        "special_ids": encoder.special_ids,
        "phases": phases,
        "documents": len(arrays),
        "copies": len(places),
        "tokens": sum(columns["length"][row] + 1 for row in rows),
        "bytes": sum(columns["bytes"][row] for row in rows),
        "mixture": _mixture(groups, phases, in_phases, columns),
        "cluster_min": min(columns["cluster"], default=None),
        "cluster_max": max(columns["cluster"], default=None),
    }
    target = encoded_schema(encoder.dtype.name).with_metadata({META: json.dumps(facts).encode()})
    out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(out) as temporary, pq.ParquetWriter(temporary, target, compression="zstd") as writer:
        for part in _row_groups(places, columns["length"]):
            writer.write_table(_table(part, columns, arrays, target), row_group_size=len(part))
    return facts


def _mixture(
    groups: list[str], names: list[str], phases: list[list[int]], columns: dict[str, list[Any]]
) -> dict[str, int]:
    """Tokens of the copies, end tokens included, by group of the mix (and phase: `phase: group`); empty without a mix."""
    tokens: Counter[str] = Counter()
    for group, counts, repeat, length in zip(groups, phases, columns["repeat"], columns["length"], strict=True):
        if group:
            for name, copies in zip(names or [""], counts or [repeat], strict=True):
                tokens[f"{name}: {group}" if name else group] += copies * (length + 1)
    return dict(sorted((+tokens).items()))


def _key(key: int, copy: int, phases: list[int]) -> int:
    """The place of a copy: with phases its first bits are the copy's phase, so that places go phase by phase."""
    if not phases:
        return key
    phase = bisect_right(list(accumulate(phases)), copy)
    return phase << (64 - PHASE_BITS) | key >> PHASE_BITS


def _row_groups(places: list[Place], lengths: list[int]) -> Iterator[list[Place]]:
    start = size = 0
    for at, place in enumerate(places):
        if at > start and size + lengths[place.row] > ROW_GROUP_TOKENS:
            yield places[start:at]
            start, size = at, 0
        size += lengths[place.row]
    if start < len(places):
        yield places[start:]


def _table(part: list[Place], columns: dict[str, list[Any]], arrays: list[np.ndarray], target: pa.Schema) -> pa.Table:
    rows = [place.row for place in part]
    values: dict[str, Any] = {name: [column[row] for row in rows] for name, column in columns.items()}
    values["key"], values["copy"] = [place.key for place in part], [place.copy for place in part]
    offsets = pa.array(np.cumsum([0, *values["length"]]), pa.int32())
    tokens: Any = pa.ListArray.from_arrays(offsets, pa.array(np.concatenate([arrays[row] for row in rows])))
    made: list[Any] = [
        tokens.cast(field.type) if field.name == "tokens" else pa.array(values[field.name], field.type)
        for field in target
    ]
    return pa.Table.from_arrays(made, schema=target)


def encoded_facts(path: Path) -> dict[str, Any]:
    """What `encode_documents` returned, read back from the encoded file."""
    metadata = open_parquet(path, ["key", "tokens"]).schema_arrow.metadata or {}
    if META not in metadata:
        raise TokenizerError(f"{path}: not written by `encode`")
    facts: dict[str, Any] = json.loads(metadata[META])
    return facts
