"""The loader beside a step: tokens/s from disk, the share of a step spent waiting, time to the first step, checkpoints.

    python -m benchmarks.training.loader_wait [--rounds 3] [--tokens 20000000] [--steps 12] [--cold]

Prints a Markdown table. The data are random tokens in a folder that is removed at the end; `--cold` drops their pages from the
page cache before each round (posix_fadvise), so that they come from the disk. Everything on one thread.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LENGTH, ROWS, VOCABULARY = 256, 12, 8192
SHAPE = {"layers": 6, "width": 384, "heads": 6, "kv_heads": 6, "mlp_width": 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=20_000_000)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--scratch", type=Path, help="folder for the data, on a disk rather than in memory for --cold")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        root = Path(folder)
        tokens, tokenizer = write_data(root, options.tokens)
        figures: dict[str, list[float]] = {}
        for number in range(options.rounds):
            if options.cold:
                forget(tokens / "train-00000.bin")
            for name, value in reading(tokens).items():
                figures.setdefault(name, []).append(value)
            for threads in (0, 1):
                if options.cold:
                    forget(tokens / "train-00000.bin")
                found = training(tokens, tokenizer, root / f"run-{number}-{threads}", options.steps, threads)
                for name, value in found.items():
                    figures.setdefault(f"{name}, loader_threads {threads}", []).append(value)
        print("| figure | median | lowest | highest |\n|---|---|---|---|")
        for name, values in figures.items():
            print(f"| {name} | {statistics.median(values):,.4g} | {min(values):,.4g} | {max(values):,.4g} |")


def write_data(root: Path, count: int) -> tuple[Path, Path]:
    """A token dataset of random ids in documents of 1,000, and a byte-level tokenizer of as many tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [(a, b) for a in alphabet for b in alphabet][: VOCABULARY - 257]
    tokens = ["<|endoftext|>", *alphabet, *(a + b for a, b in pairs)]
    tokenizer = Tokenizer(models.BPE({token: at for at, token in enumerate(tokens)}, pairs))
    tokenizer.add_special_tokens(["<|endoftext|>"])
    (root / "tokenizer").mkdir()
    tokenizer.save(str(root / "tokenizer" / "tokenizer.json"))
    folder = root / "tokens"
    folder.mkdir()
    draw = np.random.default_rng(0)
    splits: dict[str, Any] = {}
    packs: dict[str, Any] = {}
    for split, size in (("train", count), ("validation", 20_000)):
        documents = size // 1000
        size = documents * 1000
        rows = size // LENGTH
        payload = draw.integers(1, VOCABULARY, size, dtype=np.uint16)
        payload[999::1000] = 0
        payload.astype("<u2").tofile(folder / f"{split}-00000.bin")
        sidecar = {
            "id": [f"{split}{n}" for n in range(documents)],
            "token_offset": pa.array(np.arange(documents) * 1000, pa.int64()),
            "token_length": pa.array(np.full(documents, 999), pa.int64()),
            "source": ["random"] * documents,
            "repeat": pa.array(np.ones(documents, np.int32)),
        }
        pq.write_table(pa.table(sidecar), folder / f"{split}-00000.parquet")
        index = {
            "row": pa.array(np.arange(rows), pa.int64()),
            "token_offset": pa.array(np.arange(rows) * LENGTH, pa.int64()),
            "token_length": pa.array(np.full(rows, LENGTH), pa.int64()),
            "shard": pa.array(np.zeros(rows, np.int32)),
        }
        pq.write_table(pa.table(index), folder / f"{split}.pack-{LENGTH}.parquet")
        sha256 = hashlib.sha256((folder / f"{split}-00000.bin").read_bytes()).hexdigest()
        splits[split] = [
            {"file": f"{split}-00000.bin", "tokens": size, "documents": documents, "bytes": 2 * size, "sha256": sha256}
        ]
        packs[split] = {"rows": rows}
    facts = {
        "format": 1,
        "dtype": "uint16",
        "vocab_size": VOCABULARY,
        "eos_id": 0,
        "special_ids": {"<|endoftext|>": 0},
        "tokenizer_sha256": hashlib.sha256((root / "tokenizer" / "tokenizer.json").read_bytes()).hexdigest(),
        "splits": splits,
        "pack": {str(LENGTH): {"splits": packs}},
    }
    (folder / "dataset.json").write_text(json.dumps(facts))
    return folder, root / "tokenizer"


def forget(file: Path) -> None:
    """Ask the system to drop a file's pages."""
    with file.open("rb") as handle:
        os.fsync(handle.fileno())
        os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def reading(tokens: Path) -> dict[str, float]:
    """Tokens a second of wall-clock and of CPU time: batches with their targets, in shuffled order, nothing else done."""
    from training.data import Batches, open_dataset, step_rows

    data = open_dataset(tokens, LENGTH)
    steps = len(data.train) // ROWS
    batches = Batches(data.train, lambda at: step_rows(at, len(data.train), ROWS, 0, True), True, 1, 2, False)
    batches.take(0)  # compiles
    began, used = time.perf_counter(), time.process_time()
    for step in range(1, steps):
        batches.take(step)
    count = (steps - 1) * ROWS * LENGTH
    figures = {
        "million tokens/s read, wall-clock": count / (time.perf_counter() - began) / 1e6,
        "million tokens/s read, CPU time": count / (time.process_time() - used) / 1e6,
    }
    batches.close()
    return figures


def training(tokens: Path, tokenizer: Path, out: Path, steps: int, threads: int) -> dict[str, float]:
    """One short run: waiting, starting, saving, and going on."""
    from training.config import resolve
    from training.pretrain import pretrain

    values = {
        **SHAPE, "steps": steps, "batch_rows": ROWS, "micro_batch_rows": ROWS, "loader_threads": threads, "threads": 1,
        "eval_every": steps, "eval_rows": 1, "save_every": steps // 2,
    }  # fmt: skip
    summary = pretrain(resolve(values), tokens, tokenizer, out, log=lambda line: None)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steady = [line for line in lines if "loss" in line][steps // 4 :]
    saved = sum(file.stat().st_size for file in (out / "trainer_state" / f"step-{steps:08d}").iterdir())
    return {
        "share of a steady step spent waiting": statistics.median(line["data_wait"] for line in steady),
        "tokens/s of a steady step": statistics.median(line["tokens_per_second"] for line in steady),
        "seconds from the call to the end of the first step": summary["first_step_seconds"],
        "seconds to write a checkpoint, in the background": statistics.median(summary["save_seconds"]),
        "seconds that the loop stood still for two checkpoints": summary["save_blocked_seconds"],
        "MB of a checkpoint": saved / 1e6,
        "seconds to verify and load a checkpoint": loading(out),
    }


def loading(out: Path) -> float:
    """Read the newest checkpoint into a model and its optimizer, checksums first."""
    import torch

    from training.checkpoint import checkpoints, load_model, load_state, read_state, verify
    from training.lineage import read_run
    from training.optimizer import build_optimizer

    model, _ = load_model(out, torch.device("cpu"))
    optimizer = build_optimizer(model, read_run(out, need_tokens=False).config)
    newest = checkpoints(out / "trainer_state")[-1]
    began = time.perf_counter()
    verify(newest, read_state(newest))
    load_state(newest, model, optimizer)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
