"""Checks a token dataset against itself: checksums, and that payload, index, sidecar and pack index agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset.layout import (
    PACK_INDEX,
    PHASED_INDEX,
    SIDECAR,
    SPLITS,
    read_dataset_json,
    read_lengths,
    sha256_of,
)

CHUNK = 1 << 24  # tokens looked at together


def verify(dataset_dir: str | Path) -> list[str]:
    """What is wrong with a token dataset, one line a fault; empty if nothing is.

    Memory: ids of the validation split, and the index of one shard and one pack. Raises `TokenizerError` where there is
    no dataset.json to check against.
    """
    path = Path(dataset_dir)
    facts = read_dataset_json(path)
    try:
        return list(_faults(path, facts))
    except (KeyError, TypeError, AttributeError) as error:
        raise TokenizerError(f"{path}/dataset.json: {type(error).__name__} {error}; not of format 1 or 2") from None


def _faults(path: Path, facts: dict[str, Any]) -> Iterator[str]:
    held_out: set[str] = set()
    shard_lengths: dict[str, list[np.ndarray | None]] = {}
    for split in reversed(SPLITS):  # validation first: its ids are then looked for in train
        shard_lengths[split] = []
        for shard in facts["splits"][split]:
            lengths, faults = _shard(path, facts, split, shard, held_out)
            shard_lengths[split].append(lengths)
            yield from faults
    for length, pack in facts["pack"].items():
        for split, sums in pack["splits"].items():
            yield from _pack(path, int(length), sums, shard_lengths[split], facts["splits"][split])


def _checksum(file: Path, wanted: str) -> list[str]:
    if not file.is_file():
        return [f"{file.name}: missing"]
    found = sha256_of(file)
    return [] if found == wanted else [f"{file.name}: SHA-256 is {found}, dataset.json says {wanted}"]


def _shard(
    path: Path, facts: dict[str, Any], split: str, shard: dict[str, Any], held_out: set[str]
) -> tuple[np.ndarray | None, list[str]]:
    """Lengths of the documents (None if unreadable) and the faults of one shard."""
    payload = path / shard["file"]
    index, sidecar = payload.with_suffix(".idx"), payload.with_suffix(".parquet")
    faults = _checksum(payload, shard["sha256"]) + _checksum(index, shard["idx_sha256"])
    faults += _checksum(sidecar, shard["sidecar_sha256"])
    lengths: np.ndarray | None = None
    if index.is_file():
        try:
            lengths = read_lengths(index)
        except TokenizerError as error:
            faults.append(str(error))
    if lengths is not None:
        faults += _counts(shard, lengths)
        if payload.is_file():
            faults += _payload(payload, facts, lengths)
    if sidecar.is_file():
        faults += _sidecar(sidecar, split, lengths, held_out)
    return lengths, faults


def _counts(shard: dict[str, Any], lengths: np.ndarray) -> list[str]:
    found, wanted = (int(lengths.sum()), len(lengths)), (shard["tokens"], shard["documents"])
    if found == wanted and len(lengths):
        return []
    return [f"{shard['file']}: its index has (tokens, documents) {found}, dataset.json says {wanted}"]


def _payload(file: Path, facts: dict[str, Any], lengths: np.ndarray) -> list[str]:
    dtype = np.dtype(facts["dtype"]).newbyteorder("<")
    if file.stat().st_size != int(lengths.sum()) * dtype.itemsize:
        return [f"{file.name}: {file.stat().st_size} bytes, its index asks for {int(lengths.sum()) * dtype.itemsize}"]
    tokens = np.memmap(file, dtype, "r")
    special = np.array(sorted(facts["special_ids"].values()))
    found: list[np.ndarray] = []
    for start in range(0, len(tokens), CHUNK):
        chunk = tokens[start : start + CHUNK]
        if int(chunk.max()) >= facts["vocab_size"] or int(chunk.min()) < 0:
            return [f"{file.name}: a token outside the vocabulary of {facts['vocab_size']}"]
        at = np.flatnonzero(np.isin(chunk, special))
        if (chunk[at] != facts["eos_id"]).any():
            return [f"{file.name}: a special token other than the end token, which no text encodes to"]
        found.append(at + start)
    if not np.array_equal(np.concatenate(found), np.cumsum(lengths) - 1):
        return [f"{file.name}: end tokens do not stand where its index ends documents"]
    return []


def _sidecar(file: Path, split: str, lengths: np.ndarray | None, held_out: set[str]) -> list[str]:
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        return [f"{file.name}: not readable ({error})"]
    if table.schema.names != SIDECAR.names or table.schema.types != SIDECAR.types:
        return [f"{file.name}: columns are {table.schema.names}, expected {SIDECAR.names}"]
    faults = []
    if lengths is not None:
        offsets, sizes = table.column("token_offset").to_numpy(), table.column("token_length").to_numpy()
        if not (np.array_equal(sizes, lengths - 1) and np.array_equal(offsets, np.cumsum(lengths) - lengths)):
            faults.append(f"{file.name}: offsets or lengths differ from the index")
    ids: list[Any] = table.column("id").to_pylist()
    if split == "validation":
        repeated = [identity for identity in ids if identity in held_out]
        held_out.update(ids)
        if repeated or len(set(ids)) < len(ids) or (table.column("repeat").to_numpy() != 1).any():
            faults.append(f"{file.name}: a validation document stands more than once")
    elif common := sorted(held_out.intersection(ids)):
        faults.append(f"{file.name}: {len(common)} validation documents are in train, first {common[0]}")
    return faults


def _pack(
    path: Path, capacity: int, sums: dict[str, Any], shards: list[np.ndarray | None], entries: list[dict[str, Any]]
) -> list[str]:
    if sums["file"] is None:
        return [] if not shards else [f"pack {capacity}: no file for a split of {len(shards)} shards"]
    file = path / sums["file"]
    faults = _checksum(file, sums["sha256"])
    if not file.is_file() or any(lengths is None for lengths in shards):
        return faults
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        return [*faults, f"{file.name}: not readable ({error})"]
    index = PHASED_INDEX if "phases" in sums else PACK_INDEX
    if table.schema.names != index.names or table.schema.types != index.types:
        return [*faults, f"{file.name}: columns are {table.schema.names}, expected {index.names}"]
    rows, offsets, lengths, shard = (table.column(name).to_numpy() for name in PACK_INDEX.names)
    filled = np.bincount(rows, lengths) if len(rows) and rows.min() >= 0 else np.zeros(0)
    if len(filled) != sums["rows"] or (filled < 1).any() or (filled > capacity).any() or (np.diff(rows) < 0).any():
        faults.append(f"{file.name}: rows are not 0 to {sums['rows'] - 1} with 1 to {capacity} tokens each")
    totals = np.array([int(sizes.sum()) for sizes in shards if sizes is not None])
    order = np.lexsort((offsets, shard))
    ends = np.flatnonzero(np.diff(shard[order], append=-1))
    starts = np.concatenate([[0], ends[:-1] + 1])
    covered: Any = np.array_equal(shard[order][starts], np.arange(len(totals))) and (lengths > 0).all()
    if covered:
        begin, stop = offsets[order], offsets[order] + lengths[order]
        follows = np.empty(len(begin), np.int64)
        follows[1:], follows[starts] = stop[:-1], 0
        covered = np.array_equal(begin, follows) and np.array_equal(stop[ends], totals)
    if not covered:
        faults.append(f"{file.name}: its spans do not cover every token of the split exactly once")
    if "phases" in sums:
        faults += _phases(file, table, sums["phases"], shards, entries)
    kept = int(lengths.sum())
    wanted = {
        "tokens_in": int(totals.sum()),
        "tokens_kept": kept,
        "tokens_padded": sums["rows"] * capacity - kept,
        "tokens_dropped": int(totals.sum()) - kept,
    }
    faults += [f"{file.name}: {k} is {v}, dataset.json says {sums[k]}" for k, v in wanted.items() if v != sums[k]]
    return faults


def _phases(
    file: Path,
    table: pa.Table,
    phases: list[dict[str, Any]],
    shards: list[np.ndarray | None],
    entries: list[dict[str, Any]],
) -> list[str]:
    """Whether rows go phase by phase, and hold the documents of their phase."""
    row, phase, lengths = (table.column(name).to_numpy() for name in ("row", "phase", "token_length"))
    first = 0
    for number, facts in enumerate(phases):
        mine = phase == number
        tokens = sum(
            int(sizes[sum(entry["phases"][:number]) :][: entry["phases"][number]].sum())
            for sizes, entry in zip(shards, entries, strict=True)
            if sizes is not None
        )
        found = (int(lengths[mine].sum()), len(np.unique(row[mine])))
        inside = not mine.any() or (row[mine].min() == first and row[mine].max() == first + facts["rows"] - 1)
        if found != (tokens, facts["rows"]) or facts["tokens"] != tokens or facts["first_row"] != first or not inside:
            return [f"{file.name}: the rows of phase {facts['name']} are not those of its documents"]
        first += int(facts["rows"])
    return []
