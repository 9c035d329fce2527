"""`count`."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tokenizer_training.commands.knobs import add_fields, add_knobs, fields, knobs
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
    """`count`: a table for each file in processes, kept beside the output until all are there and merged."""
    from tokenizer_training.corpus.files import find_documents
    from tokenizer_training.vocabulary.counts import count_documents, part_path
    from tokenizer_training.vocabulary.counts_merge import merge_counts

    config, names = knobs(arguments, CountConfig, COUNT_KNOBS), fields(arguments)
    config.rules  # noqa: B018 - an error of the pattern before any work
    for flag, value in (("--workers", arguments.workers), ("--minimum-count", arguments.minimum_count)):
        if value < 1:
            raise TokenizerError(f"{flag} {value}: expected at least 1")
    out = Path(arguments.output)
    if out.is_dir():
        raise TokenizerError(f"--output {out}: is a folder; expected the name of a Parquet file to write")
    folder = out.with_name(out.name + ".parts")
    folder.mkdir(parents=True, exist_ok=True)
    parts = {file: part_path(folder, file, config, names) for file in find_documents(arguments.documents)}
    keep = {part.name for part in parts.values()}
    for other in folder.iterdir():  # of other inputs or settings, or half written when a run was killed
        if other.name not in keep:
            shutil.rmtree(other) if other.is_dir() else other.unlink()
    missing = [file for file, part in parts.items() if not part.is_file()]
    if len(missing) < len(parts):
        print(f"{len(parts) - len(missing)} of {len(parts)} files were counted before", file=sys.stderr)
    if missing:
        workers = min(arguments.workers, len(missing))
        with ProcessPoolExecutor(workers, get_context("spawn"), _single_threaded) as pool:
            units = {pool.submit(count_documents, [file], config, parts[file], names): file for file in missing}
            try:
                for number, unit in enumerate(as_completed(units), 1):
                    facts = unit.result()
                    print(f"{number}/{len(missing)} {units[unit]}: {facts['bytes']:,} bytes", file=sys.stderr)
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    facts = merge_counts(list(parts.values()), out, arguments.minimum_count)
    shutil.rmtree(folder)
    print(f"{out}: {facts['documents']:,} documents, {facts['bytes']:,} bytes, {facts['pretokens']:,} pre-tokens")
    if facts["dropped_rows"]:
        print(
            f"left out for --minimum-count: {facts['dropped_rows']:,} rows, {facts['dropped_pretokens']:,} pre-tokens"
        )
    return 0


def _single_threaded() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # processes already use every core
