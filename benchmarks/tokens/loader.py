"""Tokens a second from a packed dataset, one core: rows copied and described, and beside it plain memory maps.

    python -m benchmarks.tokens.loader [--tokens 200000000] [--row 2048] [--batch 64] [--seconds 3] [--runs 5] [--dataset FOLDER]

The dataset is made of lognormal documents (or given); its pages are in the page cache after the first pass, which is not counted. "nanoGPT's way" takes stretches
at random offsets of one memory map, casts them to int64 and stacks them: no documents, no masks, no positions. CPU time.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks.tokens.made_dataset import make
from tokenizer_training.dataset.config import PackConfig
from tokenizer_training.dataset.loader import Loader
from tokenizer_training.dataset.read import TokenDataset


def rate(read: Callable[[int], int], seconds: float) -> float:
    """Tokens a CPU-second; `read` does one step and returns its tokens."""
    begun, tokens, step = time.process_time(), 0, 0
    while time.process_time() - begun < seconds:
        tokens += read(step)
        step += 1
    return tokens / (time.process_time() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=200_000_000)
    parser.add_argument("--row", type=int, default=2048)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=3)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--dataset", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        config = PackConfig(sequence_length=given.row, validation=0.0, shard_tokens=50_000_000)
        path = given.dataset or make(Path(folder), given.tokens, config)
        packed = TokenDataset(path).packed("train", given.row)
        for number in range(len(packed.files)):
            int(packed.shard(number).max())  # into the page cache
        payload = np.memmap(packed.files[0], packed.dtype, "r")
        wide, narrow = (Loader(packed, given.batch, wide=kind) for kind in (True, False))
        held = wide.batch(0)
        draw = np.random.default_rng(0)

        def nanogpt(step: int) -> int:
            places = draw.integers(0, len(payload) - given.row, given.batch)
            return np.stack([payload[at : at + given.row].astype(np.int64) for at in places.tolist()]).size

        systems: dict[str, Callable[[int], int]] = {
            "gristmill, int64: tokens, documents, positions, mask, cu_seqlens": lambda step: (
                wide.batch(step).tokens.size
            ),
            "the same into the arrays of an earlier batch": lambda step: wide.batch(step, held).tokens.size,
            "gristmill, int32": lambda step: narrow.batch(step).tokens.size,
            "one row at a time (PackedSplit.row)": lambda step: sum(len(packed.row(r)[0]) for r in wide.rows(step)),
            "nanoGPT's way, int64, tokens alone": nanogpt,
        }
        found: dict[str, list[float]] = {name: [] for name in systems}
        for read in systems.values():
            read(0)
        for _ in range(given.runs):
            for name, read in systems.items():
                found[name].append(rate(read, given.seconds / len(systems)))
    print("| | million tokens / CPU-s |\n|---|---|")
    for name, rates in found.items():
        print(f"| {name} | {statistics.median(rates) / 1e6:,.0f} |")


if __name__ == "__main__":
    main()
