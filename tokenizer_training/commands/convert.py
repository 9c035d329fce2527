"""`convert`."""

from __future__ import annotations

import argparse
from typing import Any

FORMATS = ("megatron", "nanogpt", "olmo", "datatrove", "llmc", "mds", "litdata")


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "convert", help="a token dataset for another trainer; payloads are linked where they fit"
    )
    parser.add_argument("dataset", help="folder of the token dataset")
    parser.add_argument("--to", required=True, help=", ".join(FORMATS))
    parser.add_argument("--output", required=True, help="folder to write, empty or not there")
    parser.add_argument(
        "--link", default="hard", help="how unchanged files come there: hard, symbolic or copy (default hard)"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """`convert`."""
    from tokenizer_training.dataset.formats import convert

    files = convert(arguments.dataset, arguments.to, arguments.output, arguments.link)
    size = sum(file.stat().st_size for file in files)
    print(f"{arguments.output}: {len(files)} files, {size:,} bytes")
    return 0
