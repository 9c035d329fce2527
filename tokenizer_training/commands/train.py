"""`train`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from concurrent.futures import as_completed
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pydantic import ValidationError

from tokenizer_training.commands.knobs import add_fields, add_knobs, fields, knobs
from tokenizer_training.commands.processes import processes
from tokenizer_training.config import TokenizerError
from tokenizer_training.vocabulary.config import TokenizerConfig

SHARE = 16  # stretches, of 64 MiB, that one process counts before it says so
TRAIN_KNOBS = tuple(name for name in TokenizerConfig.model_fields if name != "domain_field")


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("train", help="train a byte-level tokenizer on documents, or on their counts")
    parser.add_argument("documents", nargs="*", help="Parquet or JSONL files with a text, or folders of them")
    parser.add_argument("--counts", help="train on this counts table (see `count`) instead of documents")
    parser.add_argument("--output", required=True, help="folder of the tokenizer")
    parser.add_argument(
        "--sizes", help="several vocabulary sizes, 8192,16384: one folder OUTPUT-<size> each, one training"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    add_fields(parser)
    add_knobs(parser, TokenizerConfig, TRAIN_KNOBS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """`train`: counts in processes, then one that trains."""
    from tokenizer_training.vocabulary.train import train_from_counts, train_tokenizer

    config = knobs(arguments, TokenizerConfig, TRAIN_KNOBS)
    sizes = _sizes(arguments, config)
    if sizes:
        config = _with_size(config, sizes[-1])
    if arguments.workers < 1:
        raise TokenizerError(f"--workers {arguments.workers}: expected at least 1")
    if bool(arguments.documents) == (arguments.counts is not None):
        raise TokenizerError("give either documents or --counts TABLE")
    out = Path(f"{arguments.output}-{sizes[-1]}" if sizes else arguments.output)
    if arguments.counts is not None:
        facts = train_from_counts(arguments.counts, config, out)
    elif config.engine == "tokenizers":
        facts = train_tokenizer(arguments.documents, config, out, progress=_say, fields=fields(arguments))
    else:
        facts = _from_documents(arguments, config, out)
    print(json.dumps(facts))
    for size in sizes[:-1]:
        from tokenizer_training.vocabulary.folder import truncate

        print(json.dumps(truncate(out, size, f"{arguments.output}-{size}")))
    if facts["vocab_size"] < facts["vocab_size_wanted"]:
        print(
            f"the corpus gives {facts['vocab_size']} tokens, fewer than {facts['vocab_size_wanted']}", file=sys.stderr
        )
    return 0


def _sizes(arguments: argparse.Namespace, config: TokenizerConfig) -> list[int]:
    """The sizes asked for, ascending; checked before any work."""
    if arguments.sizes is None:
        return []
    if hasattr(arguments, "vocab_size"):
        raise TokenizerError("--sizes and --vocab-size: give one of them")
    if config.engine != "gristmill":
        raise TokenizerError("--sizes with --engine tokenizers: smaller vocabularies come from our own bpe only")
    from tokenizer_training.vocabulary.folder import check_nests

    check_nests(config)
    try:
        sizes = sorted({int(size) for size in arguments.sizes.split(",")})
    except ValueError:
        raise TokenizerError(
            f"--sizes {arguments.sizes}: expected numbers with commas between, as 8192,16384"
        ) from None
    for size in sizes:
        _with_size(config, size)
    return sizes


def _with_size(config: TokenizerConfig, size: int) -> TokenizerConfig:
    try:
        return TokenizerConfig.model_validate({**config.model_dump(), "vocab_size": size})
    except ValidationError as error:
        raise TokenizerError(f"--sizes: {size}: {error.errors()[0]['msg']}") from None


def _from_documents(arguments: argparse.Namespace, config: TokenizerConfig, out: Path) -> dict[str, Any]:
    """Count with one table for each worker, as far as its memory reaches: fewer tables, less to sort, write and merge."""
    from tokenizer_training.corpus.files import find_documents, stretches
    from tokenizer_training.vocabulary import train
    from tokenizer_training.vocabulary.counts import count_units

    units = [(file, stretch) for file in find_documents(arguments.documents) for stretch in stretches(file)]
    workers = min(arguments.workers, len(units))
    shares = 1 if workers == 1 else max(workers, -(-len(units) // SHARE))
    names = train.count_fields(config, fields(arguments))
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as scratch:
        parts = {
            name: [Path(scratch) / f"{share:05d}.{name}" for share in range(shares)] for name in train.tables_of(config)
        }
        jobs = [
            (units[share::shares], train.counting(config, name), part, names)
            for name, paths in parts.items()
            for share, part in enumerate(paths)
        ]
        if workers == 1:
            for job in jobs:
                count_units(*job, _say)
        else:
            documents = size = 0
            with processes(workers, "run again with fewer --workers") as pool:
                for done in as_completed([pool.submit(count_units, *job) for job in jobs]):
                    facts = done.result()
                    documents, size = documents + facts["documents"], size + facts["bytes"]
                    _say(documents, size)
        return train.train_from_parts(parts, config, out, arguments.documents)


def _say(documents: int, size: int) -> None:
    print(f"read {documents:,} documents, {size:,} bytes", file=sys.stderr)
