"""What the commands of fine-tuning have in common: `python -m training KIND [CONFIG] --model FOLDER --output FOLDER --set ...`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, TypeVar

from training.commands.arguments import assign
from training.knobs import TrainingError, read_config, resolve_as
from training.tuning.config import TuneConfig

C = TypeVar("C", bound=TuneConfig)


def add_tuning(commands: Any, kind: str, help: str) -> argparse.ArgumentParser:
    """Declare such a command; the caller adds its data."""
    parser: argparse.ArgumentParser = commands.add_parser(kind, help=help)
    parser.add_argument(
        "config", nargs="?", type=Path, metavar="CONFIG", help=f"YAML of knobs (see `knobs --of {kind}`)"
    )
    parser.add_argument("--model", type=Path, metavar="DIR", help="model folder to train further; or the knob `model`")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="model folder to write or go on with")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="set one knob (YAML value)")
    return parser


def add_pairs(parser: argparse.ArgumentParser) -> None:
    """The rows of `reward` and `dpo`."""
    help = "preference pairs: JSONL, Parquet, or a folder of either"
    parser.add_argument("--pairs", required=True, type=Path, metavar="PATH", help=help)


def tuning_config(kind: type[C], options: argparse.Namespace) -> C:
    """The config of file and `--set`, the later over the earlier."""
    values = read_config(options.config) if options.config else {}
    assign(values, options.set)
    return resolve_as(kind, values, str(options.config or "--set"))


def model_folder(config: TuneConfig, options: argparse.Namespace) -> Path:
    """The folder of the model to start from. Raises `TrainingError` if neither `--model` nor the knob names one."""
    if options.model is None and config.model is None:
        raise TrainingError("which model? give --model DIR, or the knob model")
    return options.model or Path(config.model or "")
