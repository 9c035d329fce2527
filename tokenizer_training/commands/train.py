"""`train`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

from tokenizer_training.commands.knobs import add_knobs, knobs
from tokenizer_training.vocabulary.config import TokenizerConfig

TRAIN_KNOBS = tuple(TokenizerConfig.model_fields)


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("train", help="train a byte-level BPE tokenizer on documents")
    parser.add_argument("documents", nargs="+", help="Parquet files with id and text, or folders of them")
    parser.add_argument("--output", required=True, help="folder of the tokenizer")
    add_knobs(parser, TokenizerConfig, TRAIN_KNOBS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """`train`."""
    from tokenizer_training.vocabulary.train import train_tokenizer

    config = knobs(arguments, TokenizerConfig, TRAIN_KNOBS)
    shown = [time.monotonic()]

    def progress(documents: int, size: int) -> None:
        if time.monotonic() - shown[0] > 5:
            shown[0] = time.monotonic()
            print(f"read {documents:,} documents, {size:,} bytes", file=sys.stderr)

    facts = train_tokenizer(arguments.documents, config, arguments.output, progress=progress)
    print(json.dumps(facts))
    if facts["vocab_size"] < facts["vocab_size_wanted"]:
        print(
            f"the corpus gives {facts['vocab_size']} tokens, fewer than {facts['vocab_size_wanted']}", file=sys.stderr
        )
    return 0
