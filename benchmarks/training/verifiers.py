"""Verifiers: agreement with labelled solutions, time of a verdict; the sandbox against plain processes.

    python -m benchmarks.training.verifiers [--solutions gsm8k_model_solutions_dev.jsonl.xz] [--runs 40] [--repeats 5]

Prints Markdown tables. Solutions: rows of `ground_truth` and `solutions`, each with `solution` and `is_correct`. Times are medians of
runs that take turns.
"""

from __future__ import annotations

import argparse
import json
import lzma
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from training.verify import verifier
from training.verify.sandbox import Check, Sandbox

PROGRAM = "def f(x):\n    return sorted(x)[::-1]\nprint(f([3, 1, 2]))"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--solutions", type=Path)
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    if options.solutions:
        agreement(options.solutions)
    verdicts(options.repeats)
    runs(options.runs, options.repeats)


def agreement(path: Path) -> None:
    """How often `number` says what the label says."""
    check = verifier("number")
    counts = {(said, label): 0 for said in (True, False) for label in (True, False)}
    opened = lzma.open(path, "rt", encoding="utf-8") if path.suffix == ".xz" else path.open(encoding="utf-8")  # noqa: SIM115
    with opened as file:
        for line in file:
            row = json.loads(line)
            for one in row["solutions"]:
                said = check(one["solution"], row["ground_truth"]).score == 1
                counts[said, bool(one["is_correct"])] += 1
    total = sum(counts.values())
    print("| solutions | right, and said so | wrong, and said so | wrong, said right | right, said wrong | agreement |")
    print("|---|---|---|---|---|---|")
    same = counts[True, True] + counts[False, False]
    print(f"| {total:,} | {counts[True, True]:,} | {counts[False, False]:,} | {counts[True, False]:,} |"
          f" {counts[False, True]:,} | {same / total:.4f} |\n")  # fmt: skip


def verdicts(repeats: int) -> None:
    """Microseconds of a verdict on an answer of 60 words."""
    answer = "First there are 12 * 4 = 48 of them, and half of that is 24. " * 5 + "\n#### 1,234"
    cases: dict[str, Callable[[], object]] = {
        "number": lambda: verifier("number")(answer, "1234"),
        "exact": lambda: verifier("exact")(answer, "1,234"),
        "regex": lambda: verifier("regex")(answer, r"#### [\d,]+$"),
        "format": lambda: verifier("format")(answer, '{"contains": "####", "max_words": 200}'),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(repeats):
        for name, case in cases.items():
            began = time.process_time()
            for _ in range(200):
                case()
            times[name].append((time.process_time() - began) / 200 * 1e6)
    print("| verifier | microseconds of CPU a verdict |\n|---|---|")
    for name, found in times.items():
        print(f"| {name} | {statistics.median(found):.0f} |")
    print()


def runs(count: int, repeats: int) -> None:
    """Runs of a small program in a second."""

    def plain() -> None:
        for _ in range(count):
            subprocess.run([sys.executable, "-I", "-S", "-c", PROGRAM], capture_output=True, check=True)

    with Sandbox() as one, Sandbox(workers=2) as two:
        cases: dict[str, Callable[[], object]] = {
            "a plain process each, no walls": plain,
            "sandbox, 1 worker": lambda: one.map(lambda _: one.run(PROGRAM), range(count)),
            "sandbox, 2 workers": lambda: two.map(lambda _: two.run(PROGRAM), range(count)),
            "sandbox, 1 worker, 10 checks a run": lambda: one.map(
                lambda _: one.run(PROGRAM, checks=[Check("f([1, 2])")] * 10), range(count)
            ),
        }
        for sandbox in (one, two):
            sandbox.map(lambda _, sandbox=sandbox: sandbox.run("pass"), range(4))  # type: ignore[misc]
        times: dict[str, list[float]] = {name: [] for name in cases}
        for _ in range(repeats):
            for name, case in cases.items():
                began = time.perf_counter()
                case()
                times[name].append(count / (time.perf_counter() - began))
    first = statistics.median(times["a plain process each, no walls"])
    print("| | runs a second | ratio |\n|---|---|---|")
    for name, found in times.items():
        print(f"| {name} | {statistics.median(found):.0f} | {statistics.median(found) / first:.2f} |")


if __name__ == "__main__":
    main()
