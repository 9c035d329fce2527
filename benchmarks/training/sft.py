"""Supervised fine-tuning beside trl's SFTTrainer: tokens per CPU-second of whole steps, packed and one example a row.

    python -m benchmarks.training.sft MODEL DATA [--runs 3] [--steps 12] [--length 512]

MODEL is a model folder with a chat template, DATA a JSONL file of `messages`; needs trl. One thread, float32, AdamW. All train on the same
conversations with loss on what the assistant writes alone, 4 packed rows or 12 single examples a step. Contestants take turns, each in a
process of its own; the first two steps do not count. Tokens are real ones, padding left out. Prints a Markdown table of medians.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

NAMES = ("gristmill, packed", "trl, packed", "gristmill, single", "trl, single")
ROWS = {"packed": 4, "single": 12}


def ours(model: Path, data: Path, steps: int, length: int, packing: bool) -> list[tuple[float, int]]:
    """(CPU seconds, tokens) so far, after each step."""
    from training.knobs import resolve_as
    from training.tuning.sft import sft
    from training.tuning.sft_config import SftConfig

    rows = ROWS["packed" if packing else "single"]
    knobs = {"steps": steps, "batch_rows": rows, "micro_batch_rows": rows, "packing": packing, "threads": 1}
    knobs |= {"dtype": "float32", "sequence_length": length, "validation": 0, "device": "cpu", "save_every": 10**6}
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        config = resolve_as(SftConfig, knobs, "benchmark")
        stop = lambda: bool(times.append(time.process_time()))  # noqa: E731
        sft(config, model, data, out, log=lambda _: None, stop=stop)
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return list(zip(times, (line["tokens"] for line in lines if "loss" in line), strict=True))


def theirs(model: Path, data: Path, steps: int, length: int, packing: bool) -> list[tuple[float, int]]:
    """The same by trl."""
    import torch
    from datasets import load_dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(1)
    found: list[tuple[float, int]] = []

    class Counted(SFTTrainer):
        def training_step(self, network: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            mask = inputs.get("attention_mask")
            tokens = int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
            loss = super().training_step(network, inputs, *rest, **named)
            found.append((time.process_time(), tokens + (found[-1][1] if found else 0)))
            return loss

    with tempfile.TemporaryDirectory() as folder:
        settings = SFTConfig(
            folder,
            max_steps=steps,
            per_device_train_batch_size=ROWS["packed" if packing else "single"],
            max_length=length,
            packing=packing,
            assistant_only_loss=True,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            optim="adamw_torch",
            disable_tqdm=True,
        )
        rows = load_dataset("json", data_files=str(data), split="train", cache_dir=folder).select_columns(["messages"])
        network = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(model)
        Counted(network, settings, train_dataset=rows, processing_class=tokenizer).train()
    return found


def main() -> None:
    """Run the contestants in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--contestant", choices=NAMES, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contestant:
        run = ours if options.contestant.startswith("gristmill") else theirs
        found = run(options.model, options.data, options.steps, options.length, options.contestant.endswith("packed"))
        (start, before), (stop, after) = found[1], found[-1]
        print("RESULT " + json.dumps([(after - before) / (stop - start), (after - before) / (len(found) - 2)]))
        return
    speeds: dict[str, list[list[float]]] = {name: [] for name in NAMES}
    for _ in range(options.runs):
        for name in NAMES:
            command = [sys.executable, "-m", "benchmarks.training.sft", str(options.model), str(options.data)]
            command += ["--steps", str(options.steps), "--length", str(options.length), "--contestant", name]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
            if not lines:
                raise SystemExit(f"{name} failed: {done.stderr[-2000:]}")
            speeds[name].append(json.loads(lines[-1].removeprefix("RESULT ")))
    print("| | tokens per CPU-second | ratio to trl | tokens a step |\n|---|---|---|---|")
    median = {name: statistics.median(speed for speed, _ in turns) for name, turns in speeds.items()}
    for name in NAMES:
        ratio = median[name] / median["trl, " + name.partition(", ")[2]]
        print(f"| {name} | {median[name]:,.0f} | {ratio:.2f} | {statistics.median(t for _, t in speeds[name]):,.0f} |")


if __name__ == "__main__":
    main()
