"""`compare`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tokenizer_training.commands.evaluate import add_measuring, measuring
from tokenizer_training.commands.knobs import fields


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("compare", help="several tokenizers on the same text: report.html, .json, .parquet")
    parser.add_argument(
        "tokenizers",
        nargs="+",
        metavar="[NAME=]PATH",
        help="a tokenizer's folder, tokenizer.json, tekken.json, .tiktoken, .model, js-tiktoken's .js, or a saved report.json; "
        "the first is the reference",
    )
    parser.add_argument("--documents", nargs="+", help="Parquet or JSONL files, or folders of them")
    parser.add_argument("--output", required=True, help="folder of the report")
    parser.add_argument("--pattern", help="split pattern of ranks that are not known: a name or a regular expression")
    parser.add_argument("--allow-unlike", action="store_true", help="compare unlike settings, marked in the report")
    add_measuring(parser, 5_000_000)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """`compare`."""
    from tokenizer_training.efficiency.compare import check_alike, compare
    from tokenizer_training.efficiency.parallel import read_parallel
    from tokenizer_training.efficiency.report import write
    from tokenizer_training.efficiency.sample import read_sample

    options = measuring(arguments)
    parallel = read_parallel(Path(arguments.parallel)) if arguments.parallel else None
    sample = read_sample(arguments.documents, arguments.max_bytes, fields(arguments)) if arguments.documents else None
    reports = compare(arguments.tokenizers, sample, pattern=arguments.pattern, parallel=parallel, timed=True, **options)
    found = check_alike(reports, arguments.allow_unlike)
    write(reports, arguments.output, found)
    for facts in reports:
        values = {"name": facts["name"], "vocab_size": facts["vocab_size"], **facts["total"]}
        print(json.dumps(values | {"gini": facts["parallel"]["gini"], "lossless_share": facts["lossless_share"]}))
    return 0
