"""`pretrain`."""

from __future__ import annotations

import argparse
import signal
import sys
from pathlib import Path
from typing import Any

from training.commands.arguments import add_config, config_from


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
    from training.pretrain import Stopped, pretrain
    from training.terminal import terminal

    log, show = terminal(sys.stdout)
    signals: list[int] = []

    def remember(number: int, _: object) -> None:
        signals.append(number)
        signal.signal(number, signal.SIG_DFL)  # the second one ends the process at once

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, remember)
    try:
        pretrain(
            config, options.tokens, options.tokenizer, options.output, options.documents, log=log, show=show,
            stop=lambda: bool(signals),
        )  # fmt: skip
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + (signals[0] if signals else signal.SIGTERM)  # without any: another process of this run was asked
    return 0
