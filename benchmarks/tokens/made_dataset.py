"""Encoded files and a token dataset of any size without text: lognormal lengths, ids drawn by lot."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa

from tokenizer_training.dataset.build import begin_dataset, build_shard, finish_dataset, plan_shards
from tokenizer_training.dataset.config import PackConfig
from tokenizer_training.dataset.encode import META, encoded_schema
from tokenizer_training.dataset.pack import build_pack, pack_facts
from tokenizer_training.dataset.places import hashes

VOCABULARY = 32768
MEDIAN, SIGMA = 493, 1.1  # of document lengths in a web corpus


def write_encoded(path: Path, number: int, tokens: int, config: PackConfig, run_bytes: int) -> None:
    """One encoded file of about `tokens` tokens, in runs of `run_bytes`, as `encode_documents` writes it."""
    draw = np.random.default_rng(number)
    kind = encoded_schema("uint16")
    documents = written = 0
    clusters: list[np.ndarray] = []
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, kind) as writer:
        while written < tokens:
            size = min(tokens - written, run_bytes // 2)
            lengths = np.maximum(1, draw.lognormal(np.log(MEDIAN), SIGMA, size // 700 + 1)).astype(np.int64)
            lengths = lengths[: max(1, int(np.searchsorted(np.cumsum(lengths), size)))]
            count = len(lengths)
            ids = pa.array([f"{number:08x}{documents + at:024x}" for at in range(count)], pa.large_string())
            keys = np.sort(hashes(str(config.seed), ids, np.arange(count), np.zeros(count, np.int64)))
            cluster = hashes("cluster", ids)
            clusters.append(cluster)
            values = draw.integers(70, VOCABULARY, int(lengths.sum()), dtype=np.uint16)
            offsets = np.concatenate([[0], np.cumsum(lengths)])
            same = pa.array(["web"] * count, pa.large_string())
            columns = {
                "key": pa.array(keys),
                "id": ids,
                "copy": pa.array(np.zeros(count, np.int32)),
                "source": same,
                "group": pa.array([""] * count, pa.large_string()),
                "cluster": pa.array(cluster),
                "repeat": pa.array(np.ones(count, np.int32)),
                "bytes": pa.array(lengths * 4),
                "length": pa.array(lengths),
                "tokens": pa.LargeListArray.from_arrays(offsets, pa.array(values), type=kind.field("tokens").type),
            }
            writer.write_batch(pa.RecordBatch.from_arrays([columns[f.name] for f in kind], schema=kind))
            documents, written = documents + count, written + int(lengths.sum()) + count
        every = np.concatenate(clusters)
        facts = {
            "tokenizer_sha256": "0" * 64,
            "seed": config.seed,
            "vocab_size": VOCABULARY,
            "dtype": "uint16",
            "eos_id": 0,
            "special_ids": {"<|endoftext|>": 0},
            "kind": "text",
            "boundaries": "".join("1" if at % 20 == 0 else "0" for at in range(VOCABULARY)),
            "phases": [],
            "source": {"file": path.name, "sha256": "0" * 64, "documents": documents},
            "documents": documents,
            "copies": documents,
            "tokens": written,
            "bytes": written * 4,
            "mixture": {},
            "cluster_min": int(every.min()),
            "cluster_max": int(every.max()),
        }
        none = pa.RecordBatch.from_arrays([pa.array([], field.type) for field in kind], schema=kind)
        writer.write_batch(none, custom_metadata={META: json.dumps(facts).encode()})


def make(folder: Path, tokens: int, config: PackConfig) -> Path:
    """A packed token dataset of about `tokens` tokens."""
    encoded = folder / "encoded.arrow"
    write_encoded(encoded, 0, tokens, config, 1 << 26)
    out = folder / "tokens"
    plan = plan_shards([encoded], config)
    begin_dataset(out)
    splits = {
        s: [build_shard([encoded], plan, s, n, out) for n in range(len(plan["shards"][s]))] for s in plan["shards"]
    }
    packs = {split: build_pack(out, split, shards, config, plan) for split, shards in splits.items()}
    finish_dataset(out, plan, splits, {str(config.sequence_length): pack_facts(config, packs)})
    encoded.unlink()
    return out
