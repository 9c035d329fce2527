"""From encoded files to the shards of a token dataset: a shuffle on disk in two passes.

1. `encode_documents` has left the copies of each file in runs sorted by place. `plan_shards` reads the small columns of all
   runs: which documents are validation, and which stretch of places each shard gets. 2. `build_shard`, independent for
each shard, takes its stretch of every run, as much at a time as fits into the memory, sorts it by place and appends it to
`.bin`, `.idx`, the sidecar and, for conversations, `.mask`. 3. `finish_dataset` writes dataset.json: the commit.

Places are hashes of (seed, id, copy), so that neither the shuffled order nor the cut into shards depends on how the
documents were cut into files, on memory, nor on the order in which anything is called.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from stages.jit import kernel
from tokenizer_training.config import TokenizerError
from tokenizer_training.corpus.documents import PHASE_BITS
from tokenizer_training.dataset.config import PackConfig
from tokenizer_training.dataset.conversations import chat_ids
from tokenizer_training.dataset.encode import ROW_BYTES, encoded_facts, open_encoded
from tokenizer_training.dataset.layout import (
    DATASET,
    MASKED,
    OWN_FILES,
    PHASED,
    PLAIN,
    SPLITS,
    stem,
    with_checksum,
    write_json,
)
from tokenizer_training.dataset.shard import ShardWriter

SMALL = ["key", "id", "copy", "source", "group", "repeat", "bytes", "length"]
BUCKET_BITS = 20  # shards are cut between buckets of places that share these leading bits

SAME = (
    "tokenizer_sha256",
    "seed",
    "vocab_size",
    "dtype",
    "eos_id",
    "special_ids",
    "boundaries",
    "kind",
    "phases",
)  # in all encoded files of a dataset


def plan_shards(encoded_paths: Sequence[str | Path], config: PackConfig) -> dict[str, Any]:
    """Which places go to which shard. Returns a JSON value that `build_shard` takes; no file is written.

    A duplicate cluster (else document) is validation if its hash is below `validation`. If there are two clusters or
    more, the smallest hash always is, and the largest never, so that neither split is empty.
    Shards hold at most `shard_tokens` tokens, end tokens included, but a bucket of places is never cut.
    """
    if not encoded_paths:
        raise TokenizerError("no encoded file to build a token dataset from")
    files = sorted(map(Path, encoded_paths))
    facts = [encoded_facts(path) for path in files]
    for path, other in zip(files, facts, strict=True):
        for name in SAME:
            if other[name] != facts[0][name]:
                raise TokenizerError(
                    f"{path}: {name} differs from {files[0]}'s; encode all documents with the same tokenizer and seed"
                )
    if facts[0]["seed"] != config.seed:
        raise TokenizerError(f"encoded with seed {facts[0]['seed']}, to be built with seed {config.seed}; encode again")
    if not any(f["documents"] for f in facts):
        raise TokenizerError(f"{files[0]}: no document in it or beside it to build a token dataset from")
    lows = [f["cluster_min"] for f in facts if f["documents"]]
    highs = [f["cluster_max"] for f in facts if f["documents"]]
    clusters = {"lowest": min(lows), "highest": max(highs), "below": int(config.validation * 2**64)}
    tallies = np.zeros((len(SPLITS), 2, 1 << BUCKET_BITS), np.int64)  # tokens and documents
    for path in files:
        for keys, cluster, copy, length in _small_columns(path):
            _tally(keys, held_out(cluster, clusters), copy, length, tallies)
    return {
        **{name: facts[0][name] for name in SAME},
        "groups": any(f["mixture"] for f in facts),
        "sources": sorted((f["source"] for f in facts), key=lambda s: (s["file"], s["sha256"])),
        **({"without_target": sum(f["without_target"] for f in facts)} if facts[0]["kind"] == "chat" else {}),
        "clusters": clusters,
        "memory": config.memory,
        "shards": {split: _cut(tallies[at, 0], tallies[at, 1], config.shard_tokens) for at, split in enumerate(SPLITS)},
    }


def _small_columns(path: Path) -> Iterator[tuple[np.ndarray, ...]]:
    """Places, hashes of clusters, copies and lengths of an encoded file, run by run."""
    reader = open_encoded(path, ["key", "cluster", "copy", "length"])
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        yield tuple(batch.column(name).to_numpy() for name in ("key", "cluster", "copy", "length"))


@kernel
def _tally(keys, is_held_out, copies, lengths, tallies):  # type: ignore[no-untyped-def]
    """Adds tokens and documents of each bucket of places, by split."""
    for row in range(len(keys)):
        split = np.int64(is_held_out[row])
        if split == 0 or copies[row] == 0:
            bucket = np.int64(keys[row] >> np.uint64(64 - BUCKET_BITS))
            tallies[split, 0, bucket] += lengths[row] + 1
            tallies[split, 1, bucket] += 1


def held_out(cluster: np.ndarray, clusters: dict[str, int]) -> np.ndarray:
    """Mask of the rows that are validation; of these only the first copy stands there, the others are in no split."""
    below = np.uint64(min(clusters["below"], 2**64 - 1))
    lowest, highest = np.uint64(clusters["lowest"]), np.uint64(clusters["highest"])
    found: np.ndarray = ((cluster < below) | (cluster == lowest)) & (cluster != highest) & (below > 0)
    return found


def _cut(tokens: np.ndarray, documents: np.ndarray, limit: int) -> list[dict[str, int]]:
    """Stretches of buckets [first, stop) with at most `limit` tokens each, none empty."""
    shards: list[dict[str, int]] = []
    for bucket in np.flatnonzero(tokens).tolist():
        size, count = int(tokens[bucket]), int(documents[bucket])
        if shards and shards[-1]["tokens"] + size <= limit:
            shards[-1]["stop"] = bucket + 1
            shards[-1]["tokens"] += size
            shards[-1]["documents"] += count
        else:
            shards.append({"first": bucket, "stop": bucket + 1, "tokens": size, "documents": count})
    return shards


def begin_dataset(out_dir: str | Path) -> None:
    """Withdraw the dataset.json of an earlier dataset, so that no half is taken for whole; call before `build_shard`."""
    (Path(out_dir) / DATASET).unlink(missing_ok=True)


class Part(NamedTuple):
    """Rows of one run that go into a stretch of places: which, and their small columns. Nothing of the file stays mapped."""

    path: Path
    run: int
    rows: np.ndarray  # int64, of the run
    small: pa.Table


def build_shard(
    encoded_paths: Sequence[str | Path], plan: dict[str, Any], split: str, number: int, out_dir: str | Path
) -> dict[str, Any]:
    """Write `<split>-<number>.bin`, `.idx` and `.parquet` (and `.mask`), each atomically; returns the shard's entry of dataset.json.

    Memory: the plan's `memory`, but a bucket of places at least.
    """
    shard = plan["shards"][split][number]
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    files = sorted(map(Path, encoded_paths))
    masks = chat_ids(plan["special_ids"], out) if plan["kind"] == "chat" else None
    with ShardWriter(out, split, number, plan, shard["documents"], masks) as writer:
        for first, stop in _stretches(files, plan, shard):
            parts = list(_parts(files, plan, split, first, stop))
            if parts:
                _append(writer, parts, plan)
            del parts
        if (writer.tokens, writer.documents) != (shard["tokens"], shard["documents"]):
            raise TokenizerError(f"{split} shard {number}: encoded files changed since the plan; plan again")
    return writer.finish()


def _rows_between(keys: np.ndarray, first: int, stop: int) -> tuple[int, int]:
    """Rows of a run in buckets [first, stop)."""
    low = np.uint64(first << (64 - BUCKET_BITS))
    start = int(np.searchsorted(keys, low))
    if stop == 1 << BUCKET_BITS:
        return start, len(keys)
    return start, int(np.searchsorted(keys, np.uint64(stop << (64 - BUCKET_BITS))))


def _stretches(files: list[Path], plan: dict[str, Any], shard: dict[str, int]) -> Iterator[tuple[int, int]]:
    """Buckets [first, stop) whose rows fit into the memory together."""
    if shard["tokens"] * _token_bytes(plan) + shard["documents"] * 2 * ROW_BYTES <= plan["memory"]:
        yield shard["first"], shard["stop"]  # the common case needs no look at the rows
        return
    weights = np.zeros(shard["stop"] - shard["first"], np.int64)
    for path in files:
        reader = open_encoded(path)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            keys = batch.column("key").to_numpy()
            start, stop = _rows_between(keys, shard["first"], shard["stop"])
            lengths = batch.column("length").to_numpy()[start:stop]
            _weigh(keys[start:stop], lengths, shard["first"], _token_bytes(plan), 2 * ROW_BYTES, weights)
    first, held = 0, 0
    for bucket in np.flatnonzero(weights).tolist():
        if held and held + int(weights[bucket]) > plan["memory"]:
            yield shard["first"] + first, shard["first"] + bucket
            first, held = bucket, 0
        held += int(weights[bucket])
    yield shard["first"] + first, shard["stop"]


def _token_bytes(plan: dict[str, Any]) -> int:
    """Bytes that a token may take while a stretch is put in order: in the block, as a mask, and as much again for one run's part."""
    return 2 * np.dtype(plan["dtype"]).itemsize + (2 if plan["kind"] == "chat" else 0)


@kernel
def _weigh(keys, lengths, first, per_token, per_row, weights):  # type: ignore[no-untyped-def]
    for row in range(len(keys)):
        weights[np.int64(keys[row] >> np.uint64(64 - BUCKET_BITS)) - first] += lengths[row] * per_token + per_row


def _parts(files: list[Path], plan: dict[str, Any], split: str, first: int, stop: int) -> Iterator[Part]:
    """The rows of a stretch of places, from every run that has some."""
    for path in files:
        reader = open_encoded(path)
        for number in range(reader.num_record_batches):
            batch = reader.get_batch(number)
            start, end = _rows_between(batch.column("key").to_numpy(), first, stop)
            if start < end:
                batch = batch.slice(start, end - start)
                held = held_out(batch.column("cluster").to_numpy(), plan["clusters"])
                mine = held & (batch.column("copy").to_numpy() == 0) if split == "validation" else ~held
                rows = np.flatnonzero(mine)
                if len(rows):
                    small = pa.Table.from_batches([batch.select(SMALL)]).take(pa.array(rows))
                    yield Part(path, number, rows + start, small)


@kernel
def _scatter(tokens, starts, lengths, places, end_token, block):  # type: ignore[no-untyped-def]
    """Copies each document to its place in the block, the end token behind it."""
    for row in range(len(starts)):
        at = places[row]
        for token in range(starts[row], starts[row] + lengths[row]):
            block[at] = tokens[token]
            at += 1
        block[at] = end_token


def _append(writer: ShardWriter, parts: list[Part], plan: dict[str, Any]) -> None:
    """Put the rows of a stretch in order and append them to the shard."""
    small = pa.concat_tables([part.small for part in parts])
    names = ("key", "length", "copy", "bytes", "repeat")
    keys, lengths, copies, sizes, repeats = (small.column(name).to_numpy() for name in names)
    texts = {name: small.column(name).combine_chunks() for name in ("id", "source", "group")}
    order = _in_order(keys, copies, texts["id"])
    lengths = lengths + 1
    places = np.empty(len(order), np.int64)
    places[order] = np.cumsum(lengths[order]) - lengths[order]
    block = np.empty(int(lengths.sum()), np.dtype(plan["dtype"]).newbyteorder("<"))
    at = 0
    for part in parts:
        lists = open_encoded(part.path).get_batch(part.run).column("tokens")
        offsets = lists.offsets.to_numpy()[part.rows]
        mine = slice(at, at + len(part.rows))
        _scatter(lists.values.to_numpy(), offsets, lengths[mine] - 1, places[mine], plan["eos_id"], block)
        at = mine.stop
    chosen = pa.array(order)
    writer.add(
        block,
        lengths[order],
        {name: column.take(chosen) for name, column in texts.items()},
        repeats[order],
        int(sizes.sum()),
        np.bincount((keys >> np.uint64(64 - PHASE_BITS)).astype(np.int64), minlength=1 << PHASE_BITS),
    )


def _in_order(keys: np.ndarray, copies: np.ndarray, ids: Any) -> np.ndarray:
    """Rows by (place, id, copy). Equal ids have equal places, hence are neighbours: two rows with the same id and copy are refused."""
    order = np.argsort(keys, kind="stable")
    again = np.flatnonzero(keys[order][1:] == keys[order][:-1])
    for at in again.tolist():
        if at and keys[order[at - 1]] == keys[order[at]]:
            continue  # looked at with those before
        stop = at
        while stop < len(order) and keys[order[stop]] == keys[order[at]]:
            stop += 1
        same = sorted((ids[row].as_py(), int(copies[row]), row) for row in order[at:stop].tolist())
        for (one, copy, _), (other, other_copy, _) in pairwise(same):
            if (one, copy) == (other, other_copy):
                raise TokenizerError(f"two documents have the id {one!r}; ids must be unique")
        order[at:stop] = [row for _, _, row in same]
    return order


def finish_dataset(
    out_dir: str | Path,
    plan: dict[str, Any],
    splits: dict[str, list[dict[str, Any]]],
    packs: dict[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Write dataset.json, which makes the dataset whole, then remove files of an earlier one that it does not name.

    `splits`: what `build_shard` returned, in order. `packs`: what `pack.build_pack` returned, by sequence length.
    """
    out = Path(out_dir)
    for split, shards in splits.items():
        wanted = [f"{stem(split, number)}.bin" for number in range(len(plan["shards"][split]))]
        if [shard["file"] for shard in shards] != wanted:
            raise TokenizerError(f"{out}: {split} needs the shards {wanted} in order")
    facts = {
        "format": MASKED if plan["kind"] == "chat" else PHASED if plan["phases"] else PLAIN,
        "dtype": plan["dtype"],
        "vocab_size": plan["vocab_size"],
        "eos_id": plan["eos_id"],
        "special_ids": plan["special_ids"],
        "tokenizer_sha256": plan["tokenizer_sha256"],
        "seed": plan["seed"],
        "kind": plan["kind"],
        **({"without_target": plan["without_target"]} if plan["kind"] == "chat" else {}),
        **({"phases": plan["phases"]} if plan["phases"] else {}),
        **({"groups": True} if plan["groups"] else {}),
        "boundaries": plan["boundaries"],
        "sources": plan["sources"],
        "splits": {split: splits.get(split, []) for split in SPLITS},
        "pack": {} if packs is None else packs,
    }
    write_dataset_json(out, facts)
    return facts


def write_dataset_json(out: Path, facts: dict[str, Any]) -> None:
    """Commit `facts`, then remove what an earlier dataset in the same folder left behind."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / DATASET, with_checksum(facts))
    named = {
        Path(shard["file"]).with_suffix(suffix).name
        for shards in facts["splits"].values()
        for shard in shards
        for suffix in (".bin", ".idx", ".parquet", *([".mask"] if "mask_sha256" in shard else []))
    }
    named |= {split["file"] for pack in facts["pack"].values() for split in pack["splits"].values() if split["file"]}
    for file in out.iterdir():
        if OWN_FILES.fullmatch(file.name) and file.name not in named:
            file.unlink()
