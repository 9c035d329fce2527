"""`inspect`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from tokenizer_training.config import TokenizerError


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("inspect", help="print a training row, or a document, as text")
    parser.add_argument("dataset", help="folder of the token dataset")
    parser.add_argument("--tokenizer", help="folder of the tokenizer (default: `tokenizer` beside the dataset)")
    parser.add_argument("--split", default="train", help="train or validation (default train)")
    parser.add_argument("--sequence-length", type=int, help="which pack index (default: the shortest)")
    parser.add_argument("--row", type=int, default=0, help="row number (default 0)")
    parser.add_argument("--document", help="a document id, instead of a row")
    parser.add_argument(
        "--documents", help="the Parquet files that were encoded (default: `documents` beside the dataset)"
    )
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="default: on a terminal")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """`inspect`."""
    from tokenizer_training.dataset.read import TokenDataset
    from tokenizer_training.dataset.show import show_document, show_row

    colour = sys.stdout.isatty() if arguments.color == "auto" else arguments.color == "always"
    dataset = Path(arguments.dataset)
    tokenizer = arguments.tokenizer or dataset.resolve().parent / "tokenizer"
    packed = TokenDataset(dataset).sequence_lengths
    length = arguments.sequence_length or (packed[0] if packed else None)
    if arguments.document is not None:
        lines = show_document(dataset, tokenizer, arguments.document, length)
    elif length is None:
        raise TokenizerError(f"{dataset}: not packed yet; run: python -m tokenizer_training pack {dataset}")
    else:
        lines = show_row(dataset, tokenizer, arguments.split, length, arguments.row, arguments.documents, colour)
    for line in lines:
        print(line)
    return 0
