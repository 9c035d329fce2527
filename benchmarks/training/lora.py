"""LoRA against full fine-tuning of one model on one file of instructions: held-out loss, memory, time.

    python -m benchmarks.training.lora MODEL ROWS.jsonl [--steps 40] [--runs 3] [--rank 16] [--kinds full lora qlora prompt]

MODEL is a model folder, ROWS what `python -m training sft` reads (instruction and output, messages, ...). Every run is a process of its
own, the kinds take turns, and each is tried at every learning rate of `--rates` times its own factor (10 for adapters), of
which the best is kept. Prints a Markdown table: parameters that learn, loss on held-out rows before and after (median over seeds),
peak memory above what the libraries took (on CUDA: of the device's memory), and CPU-seconds.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FACTOR = {"full": 1.0, "lora": 10.0, "qlora": 10.0, "prompt": 10.0}


def worker(job: dict[str, Any]) -> dict[str, Any]:
    """One run; what it took and where it came."""
    import torch

    from training.knobs import resolve_as
    from training.tuning.sft import sft
    from training.tuning.sft_config import SftConfig

    torch.zeros(8, 8) @ torch.zeros(8, 8)
    before, began = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        config = resolve_as(SftConfig, job["knobs"], "benchmark")
        summary = sft(config, Path(job["model"]), Path(job["rows"]), Path(folder) / "out", log=lambda _: None)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before.ru_maxrss
    memory = summary["memory_bytes"] if summary["device"] == "cuda" else peak * 1024
    return {
        "loss": summary["figures"]["validation_loss"],
        "learning": summary["learning"],
        "parameters": summary["parameters"],
        "memory": memory,
        "seconds": time.process_time() - began,
    }


def one_run(arguments: argparse.Namespace, kind: str, rate: float, seed: int, steps: int) -> dict[str, Any]:
    adapter: dict[str, Any] | None = None if kind == "full" else {"kind": kind}
    if adapter is not None and kind != "prompt":
        adapter |= {"rank": arguments.rank, "alpha": 2.0 * arguments.rank}
    knobs = {
        "adapter": adapter, "steps": steps, "learning_rate": rate * FACTOR[kind], "seed": seed, "threads": 1,
        "batch_rows": arguments.batch, "micro_batch_rows": arguments.batch, "sequence_length": arguments.length,
        "template": arguments.template, "validation": 0.1, "eval_rows": 64, "dtype": arguments.dtype,
        "eval_every": steps, "save_every": steps, "log_every": steps,
    }  # fmt: skip
    job = json.dumps({"knobs": knobs, "model": str(arguments.model), "rows": str(arguments.rows)})
    command = [sys.executable, "-m", "benchmarks.training.lora", "--worker", job]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        print(json.dumps(worker(json.loads(sys.argv[2]))))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("rows", type=Path)
    parser.add_argument("--kinds", nargs="+", default=["full", "lora", "prompt"], choices=list(FACTOR))
    parser.add_argument("--rates", nargs="+", type=float, default=[1e-4, 3e-4, 1e-3])
    parser.add_argument("--template", default="alpaca")
    parser.add_argument("--dtype", default="float32")
    for key, value in {"steps": 40, "runs": 3, "rank": 16, "batch": 8, "length": 256}.items():
        parser.add_argument(f"--{key}", type=int, default=value)
    arguments = parser.parse_args()
    tried = {(kind, rate): [one_run(arguments, kind, rate, 0, arguments.steps)] for rate in arguments.rates for kind in arguments.kinds}  # fmt: skip
    best = {kind: min(arguments.rates, key=lambda rate, kind=kind: tried[kind, rate][0]["loss"]) for kind in arguments.kinds}  # fmt: skip
    for seed in range(1, arguments.runs):
        for kind in arguments.kinds:
            tried[kind, best[kind]].append(one_run(arguments, kind, best[kind], seed, arguments.steps))
    start = one_run(arguments, "full", 1e-30, 0, 1)["loss"]
    print("| | learn | learning rate | held-out loss | memory, MB | CPU s |\n|---|---|---|---|---|---|")
    print(f"| before | | | {start:.3f} | | |")
    for kind in arguments.kinds:
        runs = tried[kind, best[kind]]
        loss, memory, seconds = (statistics.median(run[key] for run in runs) for key in ("loss", "memory", "seconds"))
        share = f"{runs[0]['learning']:,} of {runs[0]['parameters']:,}"
        print(
            f"| {kind} | {share} | {best[kind] * FACTOR[kind]:g} | {loss:.3f} | {memory / 1e6:,.0f} | {seconds:.0f} |"
        )


if __name__ == "__main__":
    main()
