"""`pretrain`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from training.commands.arguments import add_config, config_from
from training.commands.stopping import train_until_stopped


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("pretrain", help="train a model on a token dataset")
    add_config(parser)
    parser.add_argument("--tokens", required=True, type=Path, metavar="DIR", help="token dataset (dataset.json)")
    parser.add_argument("--tokenizer", required=True, type=Path, metavar="DIR", help="tokenizer folder")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="model folder to write or go on with")
    parser.add_argument(
        "--documents", type=Path, metavar="DIR", help="the Parquet files that were encoded: languages of held-out text"
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Train. SIGTERM and the first Ctrl-C save at the end of the running step."""
    config = config_from(options, options.tokens)
    from training.pretrain import pretrain

    folders = (options.tokens, options.tokenizer, options.output, options.documents)
    return train_until_stopped(partial(pretrain, config, *folders))
