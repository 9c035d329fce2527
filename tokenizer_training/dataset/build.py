"""From encoded files to the shards of a token dataset.

1. `plan_shards` reads the small columns of every encoded file: which documents are validation, and which stretch of
   places each shard gets. 2. `build_shard`, independent for each shard, gathers its rows from all encoded files, sorts
them by place and writes `.bin`, `.idx` and the sidecar. 3. `finish_dataset` writes dataset.json: the commit.

Places are hashes of (seed, id, copy), so that neither the shuffled order nor the cut into shards depends on how the
documents were cut into files, nor on the order in which anything is called.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenizer_training.config import TokenizerError
from tokenizer_training.corpus.documents import PHASE_BITS
from tokenizer_training.corpus.files import open_parquet
from tokenizer_training.dataset.config import PackConfig
from tokenizer_training.dataset.encode import encoded_facts
from tokenizer_training.dataset.layout import (
    DATASET,
    OWN_FILES,
    PHASED,
    PLAIN,
    SIDECAR,
    SPLITS,
    atomic,
    sha256_of,
    stem,
    write_index,
    write_json,
)

BUCKET_BITS = 20  # shards are cut between buckets of places that share these leading bits
GATHER_TOKENS = 8_000_000  # written at a time

SAME = (
    "tokenizer_sha256",
    "seed",
    "vocab_size",
    "dtype",
    "eos_id",
    "special_ids",
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
    clusters = {"lowest": min(lows, default=0), "highest": max(highs, default=0), "below": 0}
    clusters["below"] = int(config.validation * 2**64)
    tokens = {split: np.zeros(1 << BUCKET_BITS, np.int64) for split in SPLITS}
    for path in files:
        small = open_parquet(path, ["key"]).iter_batches(1 << 16, columns=["key", "cluster", "copy", "length"])
        for batch in small:
            keys, cluster, copy, length = (column.to_numpy() for column in batch.columns)
            for split in SPLITS:
                mine = in_split(split, cluster, copy, clusters)
                buckets = (keys[mine] >> np.uint64(64 - BUCKET_BITS)).astype(np.int64)
                np.add.at(tokens[split], buckets, length[mine] + 1)
    return {
        **{name: facts[0][name] for name in SAME},
        "clusters": clusters,
        "shards": {split: _cut(tokens[split], config.shard_tokens) for split in SPLITS},
    }


def in_split(split: str, cluster: np.ndarray, copy: np.ndarray, clusters: dict[str, int]) -> np.ndarray:
    """Mask of the rows of a split; validation takes the first copy only, its other copies are in no split."""
    below = np.uint64(min(clusters["below"], 2**64 - 1))
    lowest, highest = np.uint64(clusters["lowest"]), np.uint64(clusters["highest"])
    held_out = ((cluster < below) | (cluster == lowest)) & (cluster != highest) & (below > 0)
    return held_out & (copy == 0) if split == "validation" else ~held_out


def _cut(tokens: np.ndarray, limit: int) -> list[dict[str, int]]:
    """Stretches of buckets [first, stop) with at most `limit` tokens each, none empty."""
    shards: list[dict[str, int]] = []
    for bucket in np.flatnonzero(tokens).tolist():
        size = int(tokens[bucket])
        if shards and shards[-1]["tokens"] + size <= limit:
            shards[-1]["stop"] = bucket + 1
            shards[-1]["tokens"] += size
        else:
            shards.append({"first": bucket, "stop": bucket + 1, "tokens": size})
    return shards


def begin_dataset(out_dir: str | Path) -> None:
    """Withdraw the dataset.json of an earlier dataset, so that no half is taken for whole; call before `build_shard`."""
    (Path(out_dir) / DATASET).unlink(missing_ok=True)


def build_shard(
    encoded_paths: Sequence[str | Path], plan: dict[str, Any], split: str, number: int, out_dir: str | Path
) -> dict[str, Any]:
    """Write `<split>-<number>.bin`, `.idx` and `.parquet`, each atomically; returns the shard's entry of dataset.json.

    Memory: about three times the bytes of the shard (measured: 400 MB for 70 million tokens).
    """
    shard = plan["shards"][split][number]
    table = _gather(sorted(map(Path, encoded_paths)), plan, split, shard)
    small = table.drop_columns(["tokens"]).combine_chunks()
    lists: Any = pa.chunked_array(
        table.column("tokens").combine_chunks()
    )  # one chunk, so that `take` copies only what it takes
    del table
    order = pc.sort_indices(small, sort_keys=[("key", "ascending"), ("id", "ascending"), ("copy", "ascending")])
    small = small.take(order)
    _refuse_equal_ids(small)
    lengths = small.column("length").to_numpy() + 1
    if int(lengths.sum()) != shard["tokens"]:
        raise TokenizerError(f"{split} shard {number}: encoded files changed since the plan; plan again")
    out = Path(out_dir)
    out.mkdir(parents=True, exist_ok=True)
    name = stem(split, number)
    with atomic(out / f"{name}.bin") as temporary, temporary.open("wb") as file:
        ends = np.cumsum(lengths)
        start = 0
        while start < len(lengths):
            before = int(ends[start - 1]) if start else 0
            stop = max(start + 1, int(np.searchsorted(ends, before + GATHER_TOKENS, "right")))
            tokens = np.concatenate([chunk.flatten().to_numpy() for chunk in lists.take(order[start:stop]).chunks])
            last = ends[start:stop] - before - 1  # places of the end tokens
            block = np.empty(int(ends[stop - 1]) - before, np.dtype(plan["dtype"]).newbyteorder("<"))
            is_text = np.ones(len(block), bool)
            is_text[last] = False
            block[is_text], block[last] = tokens, plan["eos_id"]
            file.write(block.tobytes())
            start = stop
    write_index(out / f"{name}.idx", plan["dtype"], lengths)
    repeats = small.column("repeat") if split == "train" else pa.chunked_array([np.ones(len(lengths), np.int32)])
    offsets = np.concatenate([[0], np.cumsum(lengths[:-1])]).astype(np.int64)
    columns: list[Any] = [
        small.column("id"),
        pa.array(offsets),
        small.column("length"),
        small.column("source"),
        repeats,
    ]
    with atomic(out / f"{name}.parquet") as temporary:
        sidecar = pa.Table.from_arrays(columns, schema=SIDECAR).combine_chunks()
        pq.write_table(sidecar, temporary, compression="zstd", row_group_size=1 << 17)
    return {
        "file": f"{name}.bin",
        "tokens": int(lengths.sum()),
        "documents": len(lengths),
        "bytes": pc.sum(small.column("bytes")).as_py(),
        "sha256": sha256_of(out / f"{name}.bin"),
        "idx_sha256": sha256_of(out / f"{name}.idx"),
        "sidecar_sha256": sha256_of(out / f"{name}.parquet"),
        **({"phases": _in_phases(small, len(plan["phases"]))} if plan["phases"] else {}),
    }


def _in_phases(small: pa.Table, phases: int) -> list[int]:
    """How many documents of a shard stand in each phase; they stand in this order."""
    phase = (small.column("key").to_numpy() >> np.uint64(64 - PHASE_BITS)).astype(np.int64)
    return np.bincount(phase, minlength=phases).tolist()


def _gather(files: list[Path], plan: dict[str, Any], split: str, shard: dict[str, int]) -> pa.Table:
    """The rows of a shard from all encoded files, reading only row groups that can hold some."""
    low = shard["first"] << (64 - BUCKET_BITS)
    high = (shard["stop"] << (64 - BUCKET_BITS)) - 1
    parts: list[pa.Table] = []
    for path in files:
        file = open_parquet(path, ["key", "tokens"])
        column = file.schema_arrow.names.index("key")
        for group in range(file.num_row_groups):
            keys_of: Any = file.metadata.row_group(group).column(column).statistics
            if keys_of.min > high or keys_of.max < low:
                continue
            table = file.read_row_group(group)
            keys, cluster, copy = (table.column(name).to_numpy() for name in ("key", "cluster", "copy"))
            mine = in_split(split, cluster, copy, plan["clusters"]) & (keys >= low) & (keys <= high)
            if mine.any():
                parts.append(table.filter(pa.array(mine)))
    if not parts:
        raise TokenizerError(f"{split}: a planned shard has no rows; encoded files changed since the plan; plan again")
    return pa.concat_tables([part.replace_schema_metadata(None) for part in parts])


def _refuse_equal_ids(table: pa.Table) -> None:
    """Equal ids have equal places, hence are neighbours once sorted; their order would depend on the files."""
    ids, copies = table.column("id").combine_chunks(), table.column("copy").to_numpy()
    equal = pc.equal(ids[1:], ids[:-1]).to_numpy(zero_copy_only=False) & (copies[1:] == copies[:-1])
    if equal.any():
        identity = ids[int(np.flatnonzero(equal)[0])].as_py()
        raise TokenizerError(f"two documents have the id {identity!r}; ids must be unique")


def build_split(
    encoded_paths: Sequence[str | Path], split: str, out_dir: str | Path, config: PackConfig
) -> list[dict[str, Any]]:
    """All shards of a split, one after the other: `plan_shards` and `build_shard` in one call."""
    plan = plan_shards(encoded_paths, config)
    return [build_shard(encoded_paths, plan, split, number, out_dir) for number in range(len(plan["shards"][split]))]


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
        "format": PHASED if plan["phases"] else PLAIN,
        "dtype": plan["dtype"],
        "vocab_size": plan["vocab_size"],
        "eos_id": plan["eos_id"],
        "special_ids": plan["special_ids"],
        "tokenizer_sha256": plan["tokenizer_sha256"],
        "seed": plan["seed"],
        **({"phases": plan["phases"]} if plan["phases"] else {}),
        "splits": {split: splits.get(split, []) for split in SPLITS},
        "pack": {} if packs is None else packs,
    }
    write_dataset_json(out, facts)
    return facts


def write_dataset_json(out: Path, facts: dict[str, Any]) -> None:
    """Commit `facts`, then remove what an earlier dataset in the same folder left behind."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / DATASET, facts)
    named = {
        Path(shard["file"]).with_suffix(suffix).name
        for shards in facts["splits"].values()
        for shard in shards
        for suffix in (".bin", ".idx", ".parquet")
    }
    named |= {split["file"] for pack in facts["pack"].values() for split in pack["splits"].values() if split["file"]}
    for file in out.iterdir():
        if OWN_FILES.fullmatch(file.name) and file.name not in named:
            file.unlink()
