"""Pre-tokenising and counting: ours beside `regex`, tokenizers and tiktoken; and the memory of `count` as a corpus grows.

    python -m benchmarks.tokens.counting CORPUS.jsonl [--peers PYTHON] [--megabytes 20] [--runs 3] [--pattern llama3]
    python -m benchmarks.tokens.counting --memory CORPUS.jsonl ... [--memory-bytes N]

CORPUS.jsonl has one {"text": ...} a line. PYTHON is an interpreter with regex, tokenizers and tiktoken (default: this one). The first
form takes the first `--megabytes` of text; each system is one process, in turns, and the figures are medians of megabytes of text
by CPU-second on one thread, reading apart. tiktoken's row is its pre-tokenising and looking up single bytes. The second
form runs the whole command `count` on each corpus in turn: CPU-seconds with reading and writing, and peak memory.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

PEERS = Path(__file__).with_name("counting_peers.py")
SYSTEMS = [
    ("gristmill", "split"),
    ("regex", "split"),
    ("tokenizers", "split"),
    ("tiktoken", "split"),
    ("gristmill", "count"),
    ("regex", "count"),
    ("tokenizers", "count"),
]


def sample(corpus: Path, most: int, out: Path) -> None:
    """The first texts of a corpus."""
    taken = 0
    with corpus.open("rb") as lines, out.open("wb") as kept:
        for line in lines:
            kept.write(line)
            taken += len(line)
            if taken >= most:
                break


def ours(kind: str, corpus: Path, pattern: str) -> tuple[float, int, int]:
    """CPU-seconds, bytes, and the number of pre-tokens (for count: of distinct ones)."""
    from tokenizer_training.vocabulary.characters import character_classes
    from tokenizer_training.vocabulary.count_table import PretokenTable, read_only
    from tokenizer_training.vocabulary.patterns import split_rules
    from tokenizer_training.vocabulary.pretokenize import LONGEST_RUN, pretoken_ends, room_for_cuts

    rules = split_rules(pattern)
    texts = [json.loads(line)["text"].encode("utf-8", "replace") for line in corpus.open("rb")]
    data = np.frombuffer(b"".join(texts), np.uint8)
    offsets = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=offsets[1:])
    longest = int(np.diff(offsets).max())
    cuts, ends, classes = room_for_cuts(longest), np.empty(longest, np.int64), character_classes()
    groups = np.zeros(len(texts), np.int64)

    def split() -> int:
        places = offsets.tolist()
        return sum(
            pretoken_ends(data, a, b, classes, rules.style, rules.digits, LONGEST_RUN, cuts, ends)
            for a, b in itertools.pairwise(places)
        )

    def count() -> int:
        table = PretokenTable()
        how = (rules.style, rules.digits, LONGEST_RUN)
        table.count((read_only(data), offsets), groups, ends, classes, how, cuts, table.clear, 1 << 50)
        return len(table)

    work = split if kind == "split" else count
    work()  # compiles what is not yet compiled
    begun = time.process_time()
    found = work()
    return time.process_time() - begun, len(data), found


def speeds(arguments: argparse.Namespace) -> None:
    from tokenizer_training.vocabulary.patterns import PATTERNS

    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.jsonl"
        sample(arguments.corpus[0], int(arguments.megabytes * 1e6), corpus)
        results: dict[tuple[str, str], list[list[float]]] = {system: [] for system in SYSTEMS}
        for _ in range(arguments.runs):
            for system, kind in SYSTEMS:
                if system == "gristmill":
                    command = [sys.executable, "-m", "benchmarks.tokens.counting", "--ours", kind, str(corpus)]
                    command += ["--pattern", arguments.pattern]
                else:
                    command = [arguments.peers, str(PEERS), system, kind, str(corpus), PATTERNS[arguments.pattern]]
                done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
                results[system, kind].append(json.loads(done.stdout))
        print(
            f"{results[SYSTEMS[0]][0][1] / 1e6:.0f} MB of text, pattern {arguments.pattern}, medians of {arguments.runs}\n"
        )
        print("| system | work | MB by CPU-s | pre-tokens |\n|---|---|---|---|")
        for (system, kind), runs in results.items():
            speed = statistics.median(size / seconds / 1e6 for seconds, size, _ in runs)
            unit = "distinct" if kind == "count" else "tokens of one byte" if system == "tiktoken" else "in all"
            print(f"| {system} | {kind} | {speed:.1f} | {runs[0][2]:,} {unit} |")


def memory(arguments: argparse.Namespace) -> None:
    print("| corpus | MB of text | CPU-s | peak RSS MiB | table MB |\n|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "counts.parquet"
        for corpus in arguments.corpus:
            command = [sys.executable, "-m", "tokenizer_training", "count", str(corpus), "--output", str(out)]
            command += ["--workers", "1", "--pattern", arguments.pattern, "--memory-bytes", str(arguments.memory_bytes)]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
            assert process.stdout is not None
            said = process.stdout.read()
            _, status, use = os.wait4(process.pid, 0)
            process.returncode = status
            if status:
                raise SystemExit(f"failed: {' '.join(command)}")
            size = int(said.split(" documents, ")[1].split(" bytes")[0].replace(",", ""))
            print(
                f"| {corpus.name} | {size / 1e6:,.0f} | {use.ru_utime + use.ru_stime:.1f} | {use.ru_maxrss / 1024:.0f} "
                f"| {out.stat().st_size / 1e6:.1f} |",
                flush=True,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", nargs="+", type=Path)
    parser.add_argument("--peers", default=sys.executable, help="a Python with regex, tokenizers and tiktoken")
    parser.add_argument("--megabytes", type=float, default=20)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--pattern", default="llama3")
    parser.add_argument("--memory", action="store_true", help="the memory of the command `count` on each corpus")
    parser.add_argument("--memory-bytes", type=int, default=512 << 20)
    parser.add_argument("--ours", choices=["split", "count"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.ours:
        print(json.dumps(ours(arguments.ours, arguments.corpus[0], arguments.pattern)))
    elif arguments.memory:
        memory(arguments)
    else:
        speeds(arguments)


if __name__ == "__main__":
    main()
