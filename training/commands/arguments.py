"""What several commands read from the command line."""

from __future__ import annotations

import argparse
from pathlib import Path

from training.config import PretrainConfig, TrainingError, read_config, resolve
from training.presets import PRESETS


def positive(text: str) -> int:
    """A whole number from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text}")
    return number


def add_config(parser: argparse.ArgumentParser) -> None:
    """The arguments that `config_from` reads."""
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help="YAML of knobs (see `knobs`)")
    parser.add_argument("--preset", help=f"start from {', '.join(PRESETS)}")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="set one knob (YAML value)")


def config_from(options: argparse.Namespace) -> PretrainConfig:
    """The config of file, preset and `--set`, the later over the earlier."""
    import yaml

    values = read_config(options.config) if options.config else {}
    if options.preset:
        values["preset"] = options.preset
    for assignment in options.set:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise TrainingError(f"--set {assignment}: expected KEY=VALUE")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise TrainingError(f"--set {assignment}: the value is not YAML") from None
    return resolve(values, str(options.config or "pretrain"))
