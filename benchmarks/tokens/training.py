"""Training a 32k byte-level BPE from text: ours and others, each in a process of its own, in turns.

    python -m benchmarks.tokens.training CORPUS.jsonl --peers PYTHON [--runs 3] [--systems NAME ...] [--vocab 32768]
    python -m benchmarks.tokens.training --overflow --peers PYTHON

CORPUS.jsonl has one {"text": ...} a line. PYTHON is an interpreter with the others installed: tokenizers rustbpe bpeasy ffbpe
sentencepiece gigabpe. Prints a Markdown table: medians of CPU-seconds (user and system, all threads and processes, start
included), wall, and the peak RSS of the largest process; and which merges agree. gigabpe reads files, splits by GPT-2's
pattern and within lines, so it is compared with `tokenizers` doing the same. `--overflow` shows what 2.2 billion
occurrences of a pair do to the counters of tokenizers and rustbpe.
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
from typing import NamedTuple

from tokenizer_training.vocabulary.bpe import token_bytes
from tokenizer_training.vocabulary.folder import read_merges

PEERS = Path(__file__).with_name("training_peers.py")
OURS = ("gristmill", "gristmill-2-workers", "gristmill-gpt2")
OTHERS = ("tokenizers", "rustbpe", "sentencepiece", "bpeasy", "ffbpe", "tokenizers-by-line", "gigabpe-by-line")
SPECIAL = 70  # of ours; the others train without special tokens, so their vocabulary is that much smaller


class Run(NamedTuple):
    cpu: float
    wall: float
    rss: float  # MiB


def measured(command: list[str]) -> Run:
    """One process and its children. `os.wait4` gives their CPU time and the RSS of the largest."""
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, use = os.wait4(process.pid, 0)
    process.returncode = status
    if status:
        raise SystemExit(f"failed: {' '.join(command)}")
    return Run(use.ru_utime + use.ru_stime, time.perf_counter() - begun, use.ru_maxrss / 1024)


def command_of(system: str, folder: Path, vocabulary: int, peers: str) -> list[str]:
    if system not in OURS:
        out = str(folder / f"{system}.merges")
        return [peers, str(PEERS), system, str(folder), str(vocabulary - SPECIAL), out]
    made = [sys.executable, "-m", "tokenizer_training", "train", str(folder / "corpus.jsonl")]
    made += ["--output", str(folder / system), "--vocab-size", str(vocabulary)]
    made += ["--pattern", "gpt2" if system == "gristmill-gpt2" else "llama3"]
    return [*made, "--workers", "2" if system == "gristmill-2-workers" else "1"]


def merges_of(system: str, folder: Path) -> list[tuple[bytes, bytes]] | None:
    if system in OURS:
        merges = read_merges(folder / system)
        tokens = token_bytes(merges)
        return [(tokens[left], tokens[right]) for left, right in merges.tolist()]
    file = folder / f"{system}.merges"
    if not file.exists():
        return None
    return [(bytes.fromhex(a), bytes.fromhex(b)) for a, b in map(str.split, file.read_text("ascii").splitlines())]


def agreement(mine: list[tuple[bytes, bytes]] | None, theirs: list[tuple[bytes, bytes]] | None, name: str) -> str:
    if mine is None or theirs is None:
        return ""
    if mine == theirs:
        return f"{len(mine):,}, identical to {name}"
    same = next((i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs)))
    return f"{len(mine):,}, as {name} up to {same:,}; {len(set(mine) & set(theirs)):,} in both"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", type=Path)
    parser.add_argument("--peers", required=True, help="a Python with the other trainers")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--vocab", type=int, default=32768)
    parser.add_argument("--systems", nargs="+", default=[*OURS, *OTHERS], choices=[*OURS, *OTHERS])
    parser.add_argument("--overflow", action="store_true")
    arguments = parser.parse_args()
    if arguments.overflow:
        for system in ("tokenizers", "rustbpe"):
            done = subprocess.run(
                [arguments.peers, str(PEERS), "--overflow", system], capture_output=True, text=True, check=True
            )
            print(f"{system}: (a, b) 2.2 billion times, (c, d) 3 times; merged: {done.stdout.strip()}")
        return
    if arguments.corpus is None:
        parser.error("give a corpus, or --overflow")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        size = prepare(arguments.corpus, folder)
        runs: dict[str, list[Run]] = {system: [] for system in arguments.systems}
        if set(arguments.systems) & set(OURS):  # compiles what is not yet compiled
            measured(command_of(OURS[0], folder, 1000, arguments.peers))
        for _ in range(arguments.runs):
            for system, done in runs.items():
                done.append(measured(command_of(system, folder, arguments.vocab, arguments.peers)))
                print(f"{system}: {done[-1]}", file=sys.stderr)
        print(f"{size / 1e6:,.0f} MB of text, vocabulary {arguments.vocab:,}, medians of {arguments.runs}\n")
        print("| system | CPU-s | wall s | peak RSS MiB | merges |\n|---|---|---|---|---|")
        for system, done in runs.items():
            by_line = system.endswith("by-line")
            name = "tokenizers-by-line" if by_line else "tokenizers"
            known = merges_of(name, folder) if name in runs and name != system else None
            note = agreement(merges_of(system, folder), known, name) if system != "gristmill-gpt2" else ""
            middle = [f"{statistics.median(getattr(run, field) for run in done):.1f}" for field in ("cpu", "wall")]
            print(f"| {system} | {' | '.join(middle)} | {statistics.median(r.rss for r in done):.0f} | {note} |")


def prepare(corpus: Path, folder: Path) -> int:
    """corpus.jsonl (a link) and corpus.txt in the folder; bytes of text."""
    (folder / "corpus.jsonl").symlink_to(corpus.resolve())
    size = 0
    with corpus.open(encoding="utf-8") as lines, (folder / "corpus.txt").open("wb") as out:
        for line in lines:
            raw = json.loads(line)["text"].encode("utf-8", "replace")
            size += len(raw)
            out.write(raw if raw.endswith(b"\n") else raw + b"\n")
    return size


if __name__ == "__main__":
    main()
