"""The whole of fuzzy deduplication from 10,000 documents up: time, memory and disk, and how they grow.

    python -m benchmarks.dedup.scale [--documents FILE ...] [--sizes 10000 100000 ...] [--workers inline 2 ...] [--bands 14] [--rows 8]
                                     [--datatrove-python PATH] [--text-dedup-python PATH] [--peer-limit 100000]
                                     [--work FOLDER] [--json FILE]

The documents are those of `corpora.Scaled`: three in ten are copies with up to a fifth of their words edited, made from a seed, and a corpus begins
as any smaller one. Ours is a whole `python -m pipeline run` from JSONL to Parquet with ledger and report, `inline` or on that many Ray
workers. Memory: the highest sum over all processes of their proportional set sizes; Ray's own processes and its store belong to it.
Disk: the folder of the run at its fullest, input not counted. Growth: exponent of cost over documents from one size to the next, 1 is linear.
`--work` keeps the corpora there, so that a later run need not make them; a size with results in `--json FILE` is run again and replaced.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from benchmarks.dedup import corpora, tools
from benchmarks.dedup.measure import Failed, Taken

Run = Callable[[Path], tuple[Taken, int]]  # in a folder; what it took and how many documents it kept


def main(arguments: Sequence[str] = ()) -> None:
    """Print a line for each run as it ends, then the growth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, nargs="+", default=corpora.SAMPLE)
    parser.add_argument("--sizes", type=int, nargs="+", default=[10_000])
    parser.add_argument("--workers", nargs="+", default=["inline"])
    parser.add_argument("--bands", type=int, default=14)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--datatrove-python", type=Path)
    parser.add_argument("--text-dedup-python", type=Path)
    parser.add_argument("--peer-limit", type=int, default=100_000, help="peers run up to this size")
    parser.add_argument("--work", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    measured: dict[str, dict[str, Any]] = {}
    if given.json is not None and given.json.exists():
        measured = json.loads(given.json.read_text())
    with tempfile.TemporaryDirectory(dir=given.work) as folder:
        print(f"{'':34} {'documents':>10}  kept      CPU s   wall s  docs/CPU-s     MB  disk MB (input MB)", flush=True)
        for size in given.sizes:
            source = corpus(given, size, Path(folder))
            for name, run in contestants(given, source, size).items():
                place = Path(folder) / "run"
                try:
                    taken, kept = run(place)
                except Failed as error:
                    print(f"{name}, {size:,} documents: {error}", flush=True)
                    continue
                finally:
                    shutil.rmtree(place, ignore_errors=True)
                facts = {**taken._asdict(), "kept": kept, "input": source.stat().st_size}
                del facts["output"]
                measured.setdefault(name, {})[str(size)] = facts
                show(name, size, facts)
                if given.json is not None:
                    given.json.write_text(json.dumps(measured, indent=1))
    growth(measured)


def corpus(given: argparse.Namespace, size: int, folder: Path) -> Path:
    """The corpus of that size, made if it is not there."""
    path = (given.work or folder) / f"scaled-{size}.jsonl"
    if not path.exists():
        scaled = corpora.Scaled(corpora.documents(given.documents))
        part = path.with_suffix(".part")
        corpora.write((scaled.row(number) for number in range(size)), part)
        part.rename(path)
    return path


def contestants(given: argparse.Namespace, source: Path, size: int) -> dict[str, Run]:
    """Each row of the table."""
    found: dict[str, Run] = {}
    knobs = {"bands": given.bands, "rows": given.rows}
    setting = f"{given.bands}x{given.rows}"
    for workers in given.workers:
        count = None if workers == "inline" else int(workers)

        def ours(folder: Path, count: int | None = count) -> tuple[Taken, int]:
            taken = tools.ours(source, folder, knobs, count)
            return taken, tools.kept_documents(folder)

        found[f"ours {setting}, {workers if count is None else f'{count} workers'}"] = ours
    if size > given.peer_limit:
        return found
    if given.datatrove_python is not None:

        def datatrove(folder: Path) -> tuple[Taken, int]:
            taken = tools.datatrove(given.datatrove_python, source, folder, given.bands, given.rows)
            ids = {f"d{number:07d}": number for number in range(size)}
            return taken, len(tools.datatrove_outcome(folder, ids).kept)

        found[f"datatrove {setting}, 1 task"] = datatrove
    if given.text_dedup_python is not None:

        def text_dedup(folder: Path) -> tuple[Taken, int]:
            taken = tools.text_dedup(given.text_dedup_python, source, folder, given.bands, given.rows)
            return taken, len(tools.text_dedup_outcome(given.text_dedup_python, folder, size)[0].kept)

        found[f"text-dedup {setting}, 1 process"] = text_dedup
    return found


def show(name: str, size: int, facts: dict[str, Any]) -> None:
    """One line."""
    print(
        f"{name:34} {size:10,} {facts['kept']:8,} {facts['cpu']:8,.1f} {facts['wall']:8,.1f} {size / facts['cpu']:8,.0f}"
        f" {facts['memory'] / 1e6:9,.0f} {facts['disk'] / 1e6:9,.0f} ({facts['input'] / 1e6:,.0f})",
        flush=True,
    )


def growth(measured: dict[str, dict[str, Any]]) -> None:
    """Exponents from each size to the next."""
    for name, by_size in measured.items():
        sizes = sorted(map(int, by_size))
        for small, large in pairwise(sizes):
            before, after = by_size[str(small)], by_size[str(large)]
            exponents = ", ".join(
                f"{what} {math.log(max(after[what], 1e-9) / max(before[what], 1e-9)) / math.log(large / small):.2f}"
                for what in ("cpu", "memory", "disk")
            )
            print(f"growth of {name}, {small:,} to {large:,}: {exponents}")


if __name__ == "__main__":
    main(sys.argv[1:])
