"""What several commands read from the command line."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.config import PretrainConfig, resolve
from training.knobs import TrainingError, read_config
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
    parser.add_argument(
        "--depth", type=positive, metavar="N", help="size everything by the number of layers (docs/models.md)"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="set one knob (YAML value)")


def config_from(
    options: argparse.Namespace, tokens_dir: Path | None = None, sequence_length: int | None = None
) -> PretrainConfig:
    """The config of file, preset, depth and `--set`, the later over the earlier.

    `depth` sizes batches in tokens, so it must know the row length: `sequence_length` where neither says one, else that of the token
    dataset, if it is packed for one only.
    """
    values = values_from(options)
    if values.get("depth") and not values.get("sequence_length"):
        found = sequence_length or (None if tokens_dir is None else _only_length(tokens_dir))
        values |= {} if found is None else {"sequence_length": found}
    return resolve(values, str(options.config or "pretrain"))


def values_from(options: argparse.Namespace) -> dict[str, Any]:
    """What the user gave himself: file, preset, depth and `--set`."""
    values = read_config(options.config) if options.config else {}
    if options.preset:
        values["preset"] = options.preset
    if options.depth:
        values["depth"] = options.depth
    assign(values, options.set)
    return values


def assign(values: dict[str, Any], assignments: Sequence[str]) -> None:
    """Put each KEY=VALUE of `--set` into `values`; VALUE is YAML. Raises `TrainingError` that names a wrong one."""
    import yaml

    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise TrainingError(f"--set {assignment}: expected KEY=VALUE")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise TrainingError(f"--set {assignment}: the value is not YAML") from None


def _only_length(tokens_dir: Path) -> int | None:
    """The row length that a token dataset is packed for; None if there are several, or it cannot be read."""
    try:
        lengths = list(json.loads((tokens_dir / "dataset.json").read_text(encoding="utf-8"))["pack"])
        return int(lengths[0]) if len(lengths) == 1 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None  # whoever opens the dataset says what is wrong with it
