"""The global shuffle of encoded tokens with bounded memory: time and peak memory of its second pass.

    python -m benchmarks.tokens.shuffle [--gigabytes 10] [--memory 1073741824] [--files 8] [--folder FOLDER] [--shard-tokens 1000000000]

The encoded files (lognormal documents, ids drawn by lot, uint16) are written first and not counted; they need as much disk as the dataset again.
Then plan, and shard after shard in one process of its own, whose peak is its own memory and the pages it has mapped (VmHWM),
against the knob `memory`. At the end every checksum and end token is verified.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.tokens.made_dataset import write_encoded
from tokenizer_training.dataset.config import PackConfig
from tokenizer_training.dataset.verify import verify

SECOND_PASS = """
import json, sys, time
from tokenizer_training.dataset.build import begin_dataset, build_shard, finish_dataset, plan_shards
from tokenizer_training.dataset.config import PackConfig
encoded, out, config = json.loads(sys.argv[1]), sys.argv[2], PackConfig(**json.loads(sys.argv[3]))
begun, used = time.perf_counter(), time.process_time()
plan = plan_shards(encoded, config)
planned = time.perf_counter() - begun
splits = {s: [build_shard(encoded, plan, s, n, out) for n in range(len(plan["shards"][s]))] for s in plan["shards"]}
finish_dataset(out, plan, splits)
wall, cpu = time.perf_counter() - begun, time.process_time() - used
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
peak = int(status["VmHWM"].split()[0]) / 1024
tokens = sum(shard["tokens"] for shards in splits.values() for shard in shards)
print(json.dumps({"planned": planned, "wall": wall, "cpu": cpu, "peak": peak, "tokens": tokens, "shards": len(splits["train"])}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--memory", type=int, default=2**30)
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--folder", help="where to work (default: the temporary folder)")
    parser.add_argument("--shard-tokens", type=int, default=1_000_000_000)
    given = parser.parse_args()
    knobs = {"memory": given.memory, "validation": 0.001, "shard_tokens": given.shard_tokens}
    config = PackConfig(**knobs)
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        encoded = [Path(folder) / f"{number}.arrow" for number in range(given.files)]
        each = int(given.gigabytes * 1e9 / 2 / given.files)
        begun = time.perf_counter()
        for number, path in enumerate(encoded):
            write_encoded(path, number, each, config, given.memory // 4)
        wrote = time.perf_counter() - begun
        out = Path(folder) / "tokens"
        command = [
            sys.executable,
            "-c",
            SECOND_PASS,
            json.dumps([str(p) for p in encoded]),
            str(out),
            json.dumps(knobs),
        ]
        environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
        found = json.loads(done.stdout)
        faults = verify(out)
    size = found["tokens"] * 2 / 1e9
    print(f"encoded files made in {wrote:.0f} s, {given.files} files; verify: {faults or 'whole'}")
    print(
        "| tokens | GB | memory knob | peak | plan | all, wall | CPU | GB / CPU-s |\n|---|---|---|---|---|---|---|---|"
    )
    print(
        f"| {found['tokens'] / 1e9:.2f} billion in {found['shards']} shards | {size:.1f} | {given.memory / 2**20:.0f} MiB | {found['peak']:.0f} MiB | "
        f"{found['planned']:.1f} s | {found['wall']:.1f} s | {found['cpu']:.1f} s | {size / found['cpu']:.2f} |"
    )


if __name__ == "__main__":
    main()
