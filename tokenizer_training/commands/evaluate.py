"""`evaluate`."""

from __future__ import annotations

import argparse
import json
from typing import Any

from tokenizer_training.config import TokenizerError


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("evaluate", help="measure a tokenizer on documents: report.json, report.html")
    parser.add_argument("tokenizer", help="folder of the tokenizer")
    parser.add_argument("documents", nargs="+", help="Parquet files with id and text, or folders of them")
    parser.add_argument("--output", help="folder of the report (default: the tokenizer's)")
    parser.add_argument("--max-bytes", type=int, default=20_000_000, help="sample about this much text (default 20 MB)")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """`evaluate`."""
    from tokenizer_training.efficiency.measure import evaluate, write_report

    if arguments.max_bytes < 1:
        raise TokenizerError(f"--max-bytes {arguments.max_bytes}: expected at least 1")
    facts = evaluate(arguments.tokenizer, arguments.documents, max_bytes=arguments.max_bytes)
    write_report(facts, arguments.output or arguments.tokenizer)
    print(json.dumps({name: facts[name] for name in ("total", "vocabulary", "lossless_share")}))
    return 0
