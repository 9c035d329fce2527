"""`ppo`."""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from training.commands.rewards import add_rewards
from training.commands.stopping import train_until_stopped
from training.commands.tuning import add_tuning, model_folder, tuning_config
from training.reinforcement.config import PpoConfig


def add(commands: Any) -> None:
    """Declare the command."""
    parser = add_tuning(commands, "ppo", "train a model on rewards of its own completions (PPO)")
    add_rewards(parser)
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Train. SIGTERM and the first Ctrl-C save at the end of the running step."""
    config = tuning_config(PpoConfig, options)
    from training.reinforcement.ppo import ppo

    train = partial(ppo, config, model_folder(config, options), options.prompts, options.output)
    return train_until_stopped(partial(train, reward_models=options.reward, judge=options.judge))
