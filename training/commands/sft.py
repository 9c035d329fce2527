"""`sft`."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from training.commands.stopping import train_until_stopped
from training.commands.tuning import add_tuning, model_folder, tuning_config
from training.tuning.sft_config import SftConfig


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_tuning(commands, "sft", "fine-tune a model on conversations, instructions or text")
    parser.add_argument(
        "--data",
        required=True,
        type=Path,
        metavar="PATH",
        help="Parquet or JSONL rows, or a token dataset of kind chat",
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Train. SIGTERM and the first Ctrl-C save at the end of the running step."""
    config = tuning_config(SftConfig, options)
    from training.tuning.sft import sft

    return train_until_stopped(partial(sft, config, model_folder(config, options), options.data, options.output))
