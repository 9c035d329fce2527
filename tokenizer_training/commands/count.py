"""`count`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

from tokenizer_training.commands.knobs import add_fields, add_knobs, fields, knobs
from tokenizer_training.commands.processes import processes
from tokenizer_training.config import TokenizerError
from tokenizer_training.vocabulary.counts import CountConfig

COUNT_KNOBS = tuple(CountConfig.model_fields)


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("count", help="count the pre-tokens of a corpus; `train` reads the table")
    parser.add_argument("documents", nargs="+", help="Parquet or JSONL files with a text, or folders of them")
    parser.add_argument("--output", required=True, help="the counts table, a Parquet file")
    parser.add_argument("--minimum-count", type=int, default=1, help="leave out what occurs less often (default 1)")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    add_fields(parser)
    add_knobs(parser, CountConfig, COUNT_KNOBS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """`count`: a table for each file (of large ones, each stretch) in processes, kept beside the output until all are there and merged."""
    from tokenizer_training.corpus.files import find_documents, stretches
    from tokenizer_training.vocabulary.counts import part_path
    from tokenizer_training.vocabulary.counts_merge import merge_counts

    config, names = knobs(arguments, CountConfig, COUNT_KNOBS), fields(arguments)
    config.rules  # noqa: B018 - an error of the pattern before any work
    for flag, value in (("--workers", arguments.workers), ("--minimum-count", arguments.minimum_count)):
        if value < 1:
            raise TokenizerError(f"{flag} {value}: expected at least 1")
    out = Path(arguments.output)
    if out.is_dir():
        raise TokenizerError(f"--output {out}: is a folder; expected the name of a Parquet file to write")
    folder = out.with_name(f".{out.name}.parts")  # hidden: no documents, should the output lie among those
    folder.mkdir(parents=True, exist_ok=True)
    parts = {
        (file, stretch): part_path(folder, file, config, names, stretch)
        for file in find_documents(arguments.documents)
        if file.resolve() != out.resolve()
        for stretch in stretches(file)
    }
    keep = {part.name for part in parts.values()}
    for other in folder.iterdir():  # of other inputs or settings, or half written when a run was killed
        if other.name not in keep:
            shutil.rmtree(other) if other.is_dir() else other.unlink()
    missing = [unit for unit, part in parts.items() if not part.is_file()]
    if len(missing) < len(parts):
        print(f"{len(parts) - len(missing)} of {len(parts)} parts were counted before", file=sys.stderr)
    jobs = {unit: ([unit[0]], config, parts[unit], names, unit[1]) for unit in missing}
    for number, (file, size) in enumerate(_counted(jobs, arguments.workers), 1):
        print(f"{number}/{len(missing)} {file}: {size:,} bytes", file=sys.stderr)
    facts = merge_counts(list(parts.values()), out, arguments.minimum_count)
    shutil.rmtree(folder)
    print(f"{out}: {facts['documents']:,} documents, {facts['bytes']:,} bytes, {facts['pretokens']:,} pre-tokens")
    if facts["dropped_rows"]:
        print(
            f"left out for --minimum-count: {facts['dropped_rows']:,} rows, {facts['dropped_pretokens']:,} pre-tokens"
        )
    return 0


def _counted(jobs: dict[Any, tuple[Any, ...]], workers: int) -> Iterator[tuple[Path, int]]:
    """Count in processes, or here with one worker; yields each file and its bytes of text as it is done."""
    from tokenizer_training.vocabulary.counts import count_documents

    if workers == 1 or len(jobs) == 1:
        for (file, _), job in jobs.items():
            yield file, count_documents(*job)["bytes"]
        return
    if not jobs:
        return
    advice = "what is counted is kept; run again with fewer --workers or a lower --memory-bytes"
    with processes(min(workers, len(jobs)), advice) as pool:
        units = {pool.submit(count_documents, *job): file for (file, _), job in jobs.items()}
        for unit in as_completed(units):
            yield units[unit], unit.result()["bytes"]
