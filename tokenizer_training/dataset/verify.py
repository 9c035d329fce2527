"""Checks a token dataset against itself: checksums, and that payload, index, sidecar and pack index agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset.conversations import chat_ids, trained
from tokenizer_training.dataset.layout import (
    DATASET,
    PACK_INDEX,
    PHASED_INDEX,
    SPLITS,
    json_text,
    mask_bits,
    read_dataset_json,
    read_lengths,
    sha256_of,
    sidecar_schema,
    with_checksum,
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
        return [*_description(path, facts), *_faults(path, facts)]
    except (KeyError, TypeError, AttributeError) as error:
        raise TokenizerError(f"{path}/dataset.json: {type(error).__name__} {error}; not of format 1 to 3") from None


def _description(path: Path, facts: dict[str, Any]) -> list[str]:
    """Whether dataset.json is what was written; those of older versions have no checksum."""
    if "checksum" not in facts and "boundaries" not in facts:
        return []
    text = (path / DATASET).read_bytes()
    if facts == with_checksum(facts) and text == json_text(facts).encode("utf-8", "surrogatepass"):
        return []
    return [f"{DATASET}: its checksum does not fit what it says"]


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
        faults += _sidecar(sidecar, split, lengths, held_out, facts.get("groups", False))
    if facts.get("kind") == "chat":
        faults += _mask(payload, facts, shard)
    return lengths, faults


def _counts(shard: dict[str, Any], lengths: np.ndarray) -> list[str]:
    found, wanted = (int(lengths.sum()), len(lengths)), (shard["tokens"], shard["documents"])
    if found == wanted and len(lengths):
        return []
    return [f"{shard['file']}: its index has (tokens, documents) {found}, dataset.json says {wanted}"]


def _mask(payload: Path, facts: dict[str, Any], shard: dict[str, Any]) -> list[str]:
    """Whether the loss mask is the one that follows from the roles in the payload."""
    file = payload.with_suffix(".mask")
    faults = _checksum(file, shard["mask_sha256"])
    if not file.is_file() or not payload.is_file():
        return faults
    if file.stat().st_size != (shard["tokens"] + 7) // 8:
        return [*faults, f"{file.name}: {file.stat().st_size} bytes are not a bit for each of {shard['tokens']} tokens"]
    roles, end = chat_ids(facts["special_ids"], payload)
    tokens = np.memmap(payload, np.dtype(facts["dtype"]).newbyteorder("<"), "r")
    wanted = np.empty(len(tokens), np.uint8)
    trained(tokens, roles["assistant"], end, wanted)
    if not np.array_equal(mask_bits(file, 0, len(tokens)), wanted) or int(wanted.sum()) != shard["trained"]:
        faults.append(f"{file.name}: is not what the roles in {payload.name} say")
    return faults


def _payload(file: Path, facts: dict[str, Any], lengths: np.ndarray) -> list[str]:
    dtype = np.dtype(facts["dtype"]).newbyteorder("<")
    if file.stat().st_size != int(lengths.sum()) * dtype.itemsize:
        return [f"{file.name}: {file.stat().st_size} bytes, its index asks for {int(lengths.sum()) * dtype.itemsize}"]
    tokens = np.memmap(file, dtype, "r")
    special = np.array(sorted(facts["special_ids"].values()))
    chat = facts.get("kind") == "chat"
    turns = (
        np.array([*chat_ids(facts["special_ids"], file)[0].values(), chat_ids(facts["special_ids"], file)[1]])
        if chat
        else special[:0]
    )
    found: list[np.ndarray] = []
    for start in range(0, len(tokens), CHUNK):
        chunk = tokens[start : start + CHUNK]
        if int(chunk.max()) >= facts["vocab_size"] or int(chunk.min()) < 0:
            return [f"{file.name}: a token outside the vocabulary of {facts['vocab_size']}"]
        at = np.flatnonzero(np.isin(chunk, special))
        at = at[~np.isin(chunk[at], turns)]
        if (chunk[at] != facts["eos_id"]).any():
            return [f"{file.name}: a special token other than the end token, which no text encodes to"]
        found.append(at + start)
    if not np.array_equal(np.concatenate(found), np.cumsum(lengths) - 1):
        return [f"{file.name}: end tokens do not stand where its index ends documents"]
    return []


def _sidecar(file: Path, split: str, lengths: np.ndarray | None, held_out: set[str], groups: bool) -> list[str]:
    try:
        table = pq.read_table(file)
    except (pa.ArrowException, OSError) as error:
        return [f"{file.name}: not readable ({error})"]
    wanted = sidecar_schema(groups)
    if table.schema.names != wanted.names or table.schema.types != wanted.types:
        return [f"{file.name}: columns are {table.schema.names}, expected {wanted.names}"]
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
    if not _covered(offsets, lengths, shard, totals, sums["tokens_dropped"]):
        faults.append(f"{file.name}: its spans do not cover every token of the split exactly once")
    if "phases" in sums:
        faults += _phases(file, table, sums["phases"], shards, entries, sums["tokens_dropped"])
    kept = int(lengths.sum())
    wanted = {
        "tokens_in": int(totals.sum()),
        "tokens_kept": kept,
        "tokens_padded": sums["rows"] * capacity - kept,
        "tokens_dropped": int(totals.sum()) - kept,
    }
    faults += [f"{file.name}: {k} is {v}, dataset.json says {sums[k]}" for k, v in wanted.items() if v != sums[k]]
    return faults


def _covered(offsets: np.ndarray, lengths: np.ndarray, shard: np.ndarray, totals: np.ndarray, dropped: int) -> bool:
    """Whether no token is in two spans, and all but `dropped` are in one."""
    if not len(offsets) or (lengths < 1).any() or (offsets < 0).any() or shard.min() < 0 or shard.max() >= len(totals):
        return bool(len(offsets) == 0 and dropped == totals.sum())
    order = np.lexsort((offsets, shard))
    begin, stop, which = offsets[order], offsets[order] + lengths[order], shard[order]
    apart = (begin[1:] >= stop[:-1]) | (which[1:] != which[:-1])
    return bool(apart.all() and (stop <= totals[which]).all() and lengths.sum() + dropped == totals.sum())


def _phases(
    file: Path,
    table: pa.Table,
    phases: list[dict[str, Any]],
    shards: list[np.ndarray | None],
    entries: list[dict[str, Any]],
    dropped: int,
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
        tokens = facts["tokens"] if dropped else tokens
        found = (int(lengths[mine].sum()), len(np.unique(row[mine])))
        inside = not mine.any() or (row[mine].min() == first and row[mine].max() == first + facts["rows"] - 1)
        if found != (tokens, facts["rows"]) or facts["tokens"] != tokens or facts["first_row"] != first or not inside:
            return [f"{file.name}: the rows of phase {facts['name']} are not those of its documents"]
        first += int(facts["rows"])
    return []
