"""Packing document lengths into rows: ns a document, padding, documents cut and tokens lost, ours and others.

    python -m benchmarks.tokens.packing [--documents 10000000] [--row 2048] [--window 10000] [--slow 200000] [--trl PYTHON] [--runs 3]

Lengths are lognormal with median 493 (a web corpus) and sigma 1.1. Ours cuts documents longer than a row at sentence ends:
one token in twenty ends one, drawn by lot; the payload is really read. CPU time of one core. Others, on the first `--slow`
documents, since they are plain Python: nanochat's BestFit-Crop written from its description (a buffer of 1,000 documents; the
longest that fits into what is left of a row, else the shortest is cropped to it and the rest of it is lost), and TRL's `bfd`
and `bfd_split` by the library itself, where `--trl` names an interpreter that has it (batches of 1,000, its default).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from bisect import bisect_right, insort
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tokenizer_training.dataset import bins
from tokenizer_training.dataset.config import PackConfig
from tokenizer_training.dataset.pack import Split, Stretch, pack_window

TRL = """
import json, sys, time
import numpy as np, pyarrow as pa
from datasets import Dataset
from trl.data_utils import pack_dataset
lengths, row, strategy = np.load(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
values = pa.array(np.zeros(int(lengths.sum()), np.int32))
column = pa.LargeListArray.from_arrays(np.concatenate([[0], np.cumsum(lengths)]), values)
data = Dataset(pa.table({"input_ids": column}))
begun = time.process_time()
packed = pack_dataset(data, row, strategy)
used = time.process_time() - begun
kept = int(sum(len(chunk.flatten()) for chunk in packed.data.column("input_ids").chunks))
print(json.dumps({"seconds": used, "rows": len(packed), "kept": kept}))
"""


class Result(NamedTuple):
    name: str
    documents: int
    nanoseconds: float
    rows: int
    kept: int
    cut: int
    lost: int


def lengths_of(count: int) -> np.ndarray:
    drawn = np.random.default_rng(0).lognormal(np.log(493), 1.1, count)
    return np.maximum(1, drawn).astype(np.int64)


class Lengths(Split):
    """A split without files: the payload is one array that all windows read."""

    def __init__(self, config: PackConfig, tokens: np.ndarray, flags: np.ndarray) -> None:
        super().__init__(Path(), [], config, {})
        self.sentences, self.flags, self.tokens = config.split == "sentence", flags, tokens

    def payload(self, shard: int) -> np.ndarray:
        return self.tokens


def ours(name: str, lengths: np.ndarray, config: PackConfig, runs: int) -> Result:
    offsets = np.cumsum(lengths) - lengths
    tokens = np.random.default_rng(1).integers(0, 2000, int(lengths.sum()), dtype=np.uint16)
    flags = np.zeros(2000, np.uint8)
    flags[:100] = bins.ENDS
    split = Lengths(config, tokens, flags)
    codes = np.zeros(config.window, np.int64)

    def window(at: int) -> list[Stretch]:
        part = slice(at, at + config.window)
        return [Stretch(0, offsets[part], lengths[part], codes[: len(lengths[part])])]

    pack_window(split, window(0), 0)  # compiles
    seconds = []
    for _ in range(runs):
        rows = kept = cut = 0
        begun = time.process_time()
        for at in range(0, len(lengths), config.window):
            packed = pack_window(split, window(at), rows)
            rows, kept, cut = rows + packed.rows, kept + int(packed.spans.lengths.sum()), cut + packed.cut
        seconds.append(time.process_time() - begun)
    used = statistics.median(seconds)
    return Result(name, len(lengths), used / len(lengths) * 1e9, rows, kept, cut, int(lengths.sum()) - kept)


def concat(lengths: np.ndarray, row: int, runs: int) -> Result:
    offsets = np.cumsum(lengths) - lengths
    room = len(lengths) + int(lengths.sum()) // row + 2
    out = [np.empty(room, np.int64) for _ in range(3)]
    bins.chain(offsets[:10], lengths[:10], row, 0, 0, *out)
    seconds = []
    for _ in range(runs):
        begun = time.process_time()
        _, more, filled, _, cut, _, _ = bins.chain(offsets, lengths, row, 0, 0, *out)
        seconds.append(time.process_time() - begun)
    used = statistics.median(seconds)
    total = int(lengths.sum())
    return Result(
        "gristmill concat (as Megatron-LM, OLMo, nanoGPT)",
        len(lengths),
        used / len(lengths) * 1e9,
        more + (filled > 0),
        total,
        cut,
        0,
    )


def best_fit_crop(lengths: np.ndarray, row: int, buffer: int = 1000) -> Result:
    """nanochat's way, from its description; the buffer is a sorted list, so that the search costs little."""
    waiting = iter(lengths.tolist())
    held: list[int] = []
    rows = kept = cut = lost = 0
    begun = time.process_time()
    for length in waiting:
        insort(held, length)
        if len(held) == buffer:
            break
    while held:
        left = row
        while left and held:
            at = bisect_right(held, left) - 1
            if at >= 0:
                length = held.pop(at)
            else:
                length = held.pop(0)
                cut += 1
                lost += length - left
                length = left
            left -= length
            kept += length
            following = next(waiting, None)
            if following is not None:
                insort(held, following)
        rows += 1
    used = time.process_time() - begun
    return Result("nanochat BestFit-Crop, buffer 1,000", len(lengths), used / len(lengths) * 1e9, rows, kept, cut, lost)


def trl(python: str, lengths: np.ndarray, row: int, strategy: str, folder: Path) -> Result:
    file = folder / "lengths.npy"
    np.save(file, lengths)
    done = subprocess.run([python, "-c", TRL, str(file), str(row), strategy], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"TRL failed:\n{done.stderr[-2000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    used, total, longer = found["seconds"], int(lengths.sum()), int((lengths > row).sum())
    name = f"TRL {strategy}, batches of 1,000"
    return Result(
        name, len(lengths), used / len(lengths) * 1e9, found["rows"], found["kept"], longer, total - found["kept"]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=10_000_000)
    parser.add_argument("--row", type=int, default=2048)
    parser.add_argument("--window", type=int, default=10_000)
    parser.add_argument("--slow", type=int, default=200_000, help="documents for those in plain Python")
    parser.add_argument("--trl", help="python with trl and datasets")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    lengths = lengths_of(given.documents)
    config = PackConfig(sequence_length=given.row, window=given.window)
    results = [
        ours("gristmill best_fit, cut at sentence ends", lengths, config, given.runs),
        ours("gristmill best_fit, cut anywhere", lengths, config.model_copy(update={"split": "anywhere"}), given.runs),
        concat(lengths, given.row, given.runs),
        best_fit_crop(lengths[: given.slow], given.row),
    ]
    if given.trl:
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            results += [trl(given.trl, lengths[: given.slow], given.row, s, Path(folder)) for s in ("bfd_split", "bfd")]
    print(f"rows of {given.row} tokens, windows of {given.window} documents")
    print("| | documents | ns/document | padding | documents cut | tokens lost |\n|---|---|---|---|---|---|")
    for r in results:
        padding = 1 - r.kept / (r.rows * given.row)
        total = r.kept + r.lost
        print(
            f"| {r.name} | {r.documents:,} | {r.nanoseconds:,.0f} | {padding:.4%} | {r.cut / r.documents:.1%} | {r.lost / total:.1%} |"
        )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
