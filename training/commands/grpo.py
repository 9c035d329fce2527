"""`grpo`."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from training.commands.rewards import add_rewards
from training.commands.stopping import train_until_stopped
from training.commands.tuning import add_tuning, model_folder, tuning_config
from training.reinforcement.config import GrpoConfig


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_tuning(
        commands, "grpo", "the same by comparing completions of one prompt (GRPO, Dr. GRPO, DAPO, RLOO)"
    )
    add_rewards(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Train. SIGTERM and the first Ctrl-C save at the end of the running step."""
    config = tuning_config(GrpoConfig, options)
    from training.reinforcement.grpo import grpo

    train = partial(grpo, config, model_folder(config, options), options.prompts, options.output)
    return train_until_stopped(partial(train, reward_models=options.reward, judge=options.judge))
