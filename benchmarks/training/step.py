"""Tokens per second of whole optimizer steps: ours and others' loops of the same shape, taking turns.

    python -m benchmarks.training.step [--runs 5] [--only NAME ...] [--nanogpt FOLDER] [--litgpt PYTHON] [--experts] [--cuda]

6 layers x 384, 6 heads, rows of 256, 12 rows, vocabulary 8,192, tied; float32 and bfloat16, eager and compiled, 1 thread.
Ours is `step.train_step` as a run calls it; theirs the loop of their examples: autocast, backward, clipping, fused AdamW.
FOLDER is a checkout of nanoGPT, PYTHON an interpreter that has litgpt; `--experts` compares the two Mixtrals (8 experts of a
quarter of the MLP's width, 2 for a token) instead. Prints a Markdown table: medians of tokens per second
of CPU time (on CUDA: of the clock), the ratio to the fastest other, and the share of the rate at which this machine multiplies
large matrices of the dtype in the same turns, MFU, counted as PaLM does (on CUDA `--peak` TFLOP/s takes that rate's place).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

WORKER = Path(__file__).with_name("step_contestants.py")
OURS, TRANSFORMERS = ["gristmill llama", "gristmill gpt2"], ["transformers llama", "transformers gpt2"]
EXPERTS = ["gristmill mixtral", "transformers mixtral"]


class Contestant:
    """A worker that has done its first steps and waits."""

    def __init__(self, python: str, name: str, shape: dict[str, Any]) -> None:
        self.name = name
        command = [python, str(WORKER), name, json.dumps(shape)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.facts, self.turns = self.read(), []

    def read(self) -> dict[str, Any]:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.name} failed, see above")
        return json.loads(line)

    def turn(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        self.turns.append(next(iter(self.read().values())))

    def stop(self) -> None:
        self.process.communicate()


def compare(names: list[str], shape: dict[str, Any], arguments: argparse.Namespace) -> list[list[str]]:
    pythons = {"litgpt llama": arguments.litgpt}
    workers = [Contestant(pythons.get(name) or sys.executable, name, shape) for name in [*names, "matmul"]]
    for _ in range(arguments.runs):
        for worker in workers:
            worker.turn()
    for worker in workers:
        worker.stop()
    tokens = shape["batch"] * shape["block"] * shape["steps"]
    rates = {worker.name: tokens / statistics.median(worker.turns) for worker in workers[:-1]}
    best = max((rate for name, rate in rates.items() if not name.startswith("gristmill")), default=None)
    peak = arguments.peak * 1e12 if arguments.peak else statistics.median(workers[-1].turns)
    mode = f"{shape['dtype']}, {'compiled' if shape['compile'] else 'eager'}"
    return [
        [
            worker.name, mode, f"{rates[worker.name]:,.0f}", f"{rates[worker.name] / best:.2f}" if best else "-",
            f"{rates[worker.name] * worker.facts['flops'] / peak:.0%}", f"{worker.facts['warm']:.0f}",
        ]
        for worker in workers[:-1]
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps a turn")
    parser.add_argument("--only", nargs="+", default=[], help="names of contestants")
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--modes", nargs="+", default=["eager", "compiled"])
    parser.add_argument("--nanogpt", help="folder with nanoGPT's model.py")
    parser.add_argument("--litgpt", help="python that has litgpt")
    parser.add_argument("--experts", action="store_true")
    parser.add_argument("--cuda", action="store_true")
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device, such as 989 of an H100 in bfloat16")
    for key, value in {"layers": 6, "width": 384, "heads": 6, "block": 256, "batch": 12, "vocabulary": 8192}.items():
        parser.add_argument(f"--{key}", type=int, default=value)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    names = [*OURS, *TRANSFORMERS, *["nanogpt"] * bool(arguments.nanogpt), *["litgpt llama"] * bool(arguments.litgpt)]
    names = [name for name in (EXPERTS if arguments.experts else names) if not arguments.only or name in arguments.only]
    same = {
        key: getattr(arguments, key)
        for key in ("layers", "width", "heads", "block", "batch", "vocabulary", "threads", "steps", "nanogpt")
    }
    print("| loop | products | tokens/s | to the fastest other | MFU | first 3 steps, s |\n|---|---|---|---|---|---|")
    for dtype in arguments.dtypes:
        for mode in arguments.modes:
            device = "cuda" if arguments.cuda else "cpu"
            shape = {**same, "dtype": dtype, "compile": mode == "compiled", "device": device}
            for row in compare(names, shape, arguments):
                print(f"| {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
