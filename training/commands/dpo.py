"""`dpo`."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from training.commands.stopping import train_until_stopped
from training.commands.tuning import add_pairs, add_tuning, model_folder, tuning_config
from training.preference.config import DpoConfig


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_tuning(commands, "dpo", "train a model on preference pairs (DPO)")
    add_pairs(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Train. SIGTERM and the first Ctrl-C save at the end of the running step."""
    config = tuning_config(DpoConfig, options)
    from training.preference.dpo import dpo

    return train_until_stopped(partial(dpo, config, model_folder(config, options), options.pairs, options.output))
