"""`inspect`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from tokenizer_training.config import TokenizerError

OF_DATASETS = ("split", "sequence_length", "row", "document", "documents")
OF_TEXTS = ("context", "price", "tokens", "pattern")


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("inspect", help="print a training row, a document, or any text as tokens")
    parser.add_argument("dataset", metavar="DATASET|FILE|TEXT", help="folder of a token dataset, a file, or a text")
    parser.add_argument(
        "--tokenizer",
        action="append",
        metavar="[NAME=]PATH",
        help="of a dataset: folder of its tokenizer (default: `tokenizer` beside it); of a text: any vocabulary, may be repeated",
    )
    parser.add_argument("--split", help="of a dataset: train or validation (default train)")
    parser.add_argument("--sequence-length", type=int, help="of a dataset: which pack index (default: the shortest)")
    parser.add_argument("--row", type=int, help="of a dataset: row number (default 0)")
    parser.add_argument("--document", help="of a dataset: a document id, instead of a row")
    parser.add_argument(
        "--documents",
        metavar="FOLDER",
        help="of a dataset: the Parquet files that were encoded, for URLs and scores (default: `documents` beside it)",
    )
    parser.add_argument("--context", type=int, help="of a text: tokens of a context window (default 8192)")
    parser.add_argument("--price", type=float, help="of a text: price of a million tokens (default: none shown)")
    parser.add_argument("--tokens", type=int, help="of a text: show the first so many tokens (default 200)")
    parser.add_argument(
        "--pattern", help="of a text: split pattern of ranks that are not known: a name or an expression"
    )
    parser.add_argument("--color", choices=("auto", "always", "never"), default="auto", help="default: on a terminal")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """`inspect`."""
    try:
        folder = arguments.dataset != "" and Path(arguments.dataset).is_dir()
    except (OSError, ValueError):  # a text that cannot be a name
        folder = False
    foreign = [name for name in (OF_TEXTS if folder else OF_DATASETS) if getattr(arguments, name) is not None]
    if foreign:
        kinds = ("text", "dataset") if folder else ("dataset", "text")
        raise TokenizerError(
            f"--{foreign[0].replace('_', '-')} is for a {kinds[0]}, and {arguments.dataset[:80]!r} is taken as a {kinds[1]}"
        )
    color = sys.stdout.isatty() if arguments.color == "auto" else arguments.color == "always"
    for line in _dataset(arguments, color) if folder else _text(arguments, color):
        print(line)
    return 0


def _dataset(arguments: argparse.Namespace, color: bool) -> Any:
    from tokenizer_training.dataset.read import TokenDataset
    from tokenizer_training.dataset.show import show_document, show_row

    if len(arguments.tokenizer or []) > 1:
        raise TokenizerError("--tokenizer: a dataset has one tokenizer")
    dataset = Path(arguments.dataset)
    tokenizer = arguments.tokenizer[0] if arguments.tokenizer else dataset.resolve().parent / "tokenizer"
    packed = TokenDataset(dataset).sequence_lengths
    length = arguments.sequence_length or (packed[0] if packed else None)
    if arguments.document is not None:
        return show_document(dataset, tokenizer, arguments.document, length)
    if length is None:
        raise TokenizerError(f"{dataset}: not packed yet; run: python -m tokenizer_training pack {dataset}")
    return show_row(
        dataset, tokenizer, arguments.split or "train", length, arguments.row or 0, arguments.documents, color
    )


def _text(arguments: argparse.Namespace, color: bool) -> Any:
    from tokenizer_training.efficiency.peers import distinct_names, open_peer
    from tokenizer_training.efficiency.show_text import show_text

    if not arguments.tokenizer:
        raise TokenizerError("inspect of a text: give --tokenizer PATH, once or more")
    context = 8192 if arguments.context is None else arguments.context
    most = 200 if arguments.tokens is None else arguments.tokens
    if context < 1 or most < 0:
        raise TokenizerError(f"--context {context} --tokens {most}: expected at least 1 and 0")
    peers = [open_peer(given, arguments.pattern) for given in arguments.tokenizer]
    distinct_names(peers)
    return show_text(arguments.dataset, peers, context=context, price=arguments.price, most=most, color=color)
