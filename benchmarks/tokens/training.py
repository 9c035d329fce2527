"""Training a 32k byte-level BPE from text: ours and others, each in a process of its own, in turns.

    python -m benchmarks.tokens.training CORPUS.jsonl --peers PYTHON [--runs 3] [--systems NAME ...] [--vocab 32768]
        [--memory-limit GIB] [--time-limit SECONDS] [--scratch FOLDER]
    python -m benchmarks.tokens.training --overflow --peers PYTHON

CORPUS.jsonl has one {"text": ...} a line. PYTHON is an interpreter with the others installed: tokenizers rustbpe bpeasy ffbpe
sentencepiece gigabpe. Prints a Markdown table: medians of CPU-seconds (user and system, all threads and processes, start
included), wall, and the peak RSS of the largest process; and which merges agree. gigabpe reads files, splits by GPT-2's
pattern and within lines, so it is compared with `tokenizers` doing the same. `--overflow` shows what 2.2 billion
occurrences of a pair do to the counters of tokenizers and rustbpe.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from tokenizer_training.corpus.pieces import cut_runs
from tokenizer_training.vocabulary.bpe import token_bytes
from tokenizer_training.vocabulary.folder import read_merges
from tokenizer_training.vocabulary.pretokenize import cuts_of

PEERS = Path(__file__).with_name("training_peers.py")
OURS = ("gristmill", "gristmill-2-workers", "gristmill-gpt2")
OTHERS = ("tokenizers", "rustbpe", "sentencepiece", "bpeasy", "ffbpe", "tokenizers-by-line", "gigabpe-by-line")
POLL = 0.1  # seconds between looks at a running process
SPECIAL = 70  # of ours; the others train without special tokens, so their vocabulary is that much smaller


class Run(NamedTuple):
    cpu: float
    wall: float
    rss: float  # MiB


class Limits(NamedTuple):
    memory: float  # bytes
    seconds: float


class Stopped(Exception):
    """A system that failed or went beyond a limit."""


def measured(command: list[str], limits: Limits) -> Run:
    """One process and its children: their CPU time by `os.wait4`, and the peak RSS of the largest by what /proc last said of it.
    (`ru_maxrss` would be at least the RSS of this process, which it was when it began.)
    """
    begun = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    reason, peak = "", 0
    while True:
        pid, status, use = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        held, largest = resident(process.pid)
        peak, seconds = max(peak, largest), time.perf_counter() - begun
        if not reason and (held > limits.memory or seconds > limits.seconds):
            reason = f"stopped after {seconds:,.0f} s at {held / 2**30:.1f} GiB"
            os.killpg(process.pid, signal.SIGKILL)
        time.sleep(POLL)
    process.returncode = os.waitstatus_to_exitcode(status)
    if reason or process.returncode:
        raise Stopped(reason or f"failed: exit code {process.returncode}")
    return Run(use.ru_utime + use.ru_stime, time.perf_counter() - begun, peak / 2**20)


def resident(session: int) -> tuple[int, int]:
    """RSS of all processes of a session, and the highest that one of them has had, in bytes."""
    total = highest = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == session:
                facts = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
                total += int(facts["VmRSS"].split()[0]) << 10
                highest = max(highest, int(facts["VmHWM"].split()[0]) << 10)
        except (OSError, KeyError, IndexError):  # it has just ended
            continue
    return total, highest


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
        if not (folder / system / "tokenizer.json").exists():
            return None
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
        return f"identical to {name}: {len(mine):,} of {len(theirs):,}"
    same = next((i for i, (a, b) in enumerate(zip(mine, theirs, strict=False)) if a != b), min(len(mine), len(theirs)))
    return f"{len(mine):,}, as {name} up to {same:,}; {len(set(mine) & set(theirs)):,} in both"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="?", type=Path)
    parser.add_argument("--peers", required=True, help="a Python with the other trainers")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--vocab", type=int, default=32768)
    parser.add_argument("--systems", nargs="+", default=[*OURS, *OTHERS], choices=[*OURS, *OTHERS])
    parser.add_argument("--memory-limit", type=float, default=math.inf, metavar="GIB", help="of one system, RSS")
    parser.add_argument("--time-limit", type=float, default=math.inf, metavar="SECONDS", help="of one run, wall")
    parser.add_argument("--scratch", type=Path, help="folder for temporary files, about the size of the corpus")
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
    limits = Limits(arguments.memory_limit * 2**30, arguments.time_limit)
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as scratch:
        folder = Path(scratch)
        size = prepare(arguments.corpus, folder)
        runs: dict[str, list[Run]] = {system: [] for system in arguments.systems}
        stopped: dict[str, str] = {}
        if set(arguments.systems) & set(OURS):  # compiles what is not yet compiled
            (folder / "warm").mkdir()
            with arguments.corpus.open("rb") as lines:
                (folder / "warm" / "corpus.jsonl").write_bytes(b"".join(itertools.islice(lines, 50)))
            measured(command_of(OURS[0], folder / "warm", 1000, arguments.peers), Limits(math.inf, math.inf))
        for _ in range(arguments.runs):
            for system, done in runs.items():
                if system not in stopped:
                    try:
                        done.append(measured(command_of(system, folder, arguments.vocab, arguments.peers), limits))
                    except Stopped as why:
                        stopped[system] = str(why)
                print(f"{system}: {stopped.get(system) or done[-1]}", file=sys.stderr)
        print(f"{size / 1e6:,.0f} MB of text, vocabulary {arguments.vocab:,}, medians of {arguments.runs}\n")
        print("| system | CPU-s | wall s | peak RSS MiB | merges |\n|---|---|---|---|---|")
        for system, done in runs.items():
            if system in stopped:
                print(f"| {system} | | | | {stopped[system]} |")
                continue
            by_line = system.endswith("by-line")
            name = "tokenizers-by-line" if by_line else "tokenizers"
            known = merges_of(name, folder) if name in runs and name not in (system, *stopped) else None
            note = agreement(merges_of(system, folder), known, name) if system != "gristmill-gpt2" else ""
            middle = [f"{statistics.median(getattr(run, field) for run in done):.1f}" for field in ("cpu", "wall")]
            print(f"| {system} | {' | '.join(middle)} | {statistics.median(r.rss for r in done):.0f} | {note} |")


def prepare(corpus: Path, folder: Path) -> int:
    """corpus.jsonl (a link), corpus.txt and cuts.jsonl (the lines of texts with endless runs, and their pieces) in the folder;
    bytes of text."""
    (folder / "corpus.jsonl").symlink_to(corpus.resolve())
    size = 0
    with (
        corpus.open(encoding="utf-8") as lines,
        (folder / "corpus.txt").open("wb") as out,
        (folder / "cuts.jsonl").open("w", encoding="utf-8") as cuts,
    ):
        for number, line in enumerate(lines):
            raw = json.loads(line)["text"].encode("utf-8", "replace")
            size += len(raw)
            out.write(raw if raw.endswith(b"\n") else raw + b"\n")
            if cuts_of(raw):
                cuts.write(json.dumps([number, cut_runs(raw.decode("utf-8"))]) + "\n")
    return size


if __name__ == "__main__":
    main()
