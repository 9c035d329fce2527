"""`knobs`."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from importlib import import_module
from typing import Any, get_args

from pydantic import BaseModel

from training.config import resolve
from training.knobs import TrainingError

# the configs of other commands than pretrain, and of the knob `adapter`, by the file that holds them
CONFIGS = {
    "adapter": ("training.adapters.config", "AdapterConfig"),
    "evaluate": ("training.evaluation.config", "EvaluateConfig"),
    "sft": ("training.tuning.sft_config", "SftConfig"),
    "reward": ("training.preference.config", "RewardConfig"),
    "dpo": ("training.preference.config", "DpoConfig"),
    "ppo": ("training.reinforcement.config", "PpoConfig"),
    "grpo": ("training.reinforcement.config", "GrpoConfig"),
}


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("knobs", help="every knob of a command: default, meaning, source")
    parser.add_argument("--of", choices=["pretrain", *CONFIGS], default="pretrain")
    parser.add_argument("--preset", help="of pretrain: show this preset's values; default cpu-tiny")
    parser.add_argument("--markdown", action="store_true", help="print docs/training-knobs.md: the defaults as a table")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Print the knobs."""
    if options.of != "pretrain":
        if options.preset is not None or options.markdown:
            raise TrainingError("--preset and --markdown are for the knobs of pretrain; leave them out")
        file, name = CONFIGS[options.of]
        defaults = getattr(import_module(file), name)()
        _print(knobs(defaults), defaults)
        return 0
    if options.markdown:
        print(markdown(), end="")
        return 0
    _print(knobs(), resolve({"preset": options.preset or "cpu-tiny"}))
    return 0


def _print(described: Iterator[tuple[str, Any, str, str]], values: BaseModel) -> None:
    for name, _, meaning, source in described:
        print(f"{name}: {getattr(values, name)}\n    {meaning}" + (f" [{source}]" if source else ""))
        for model in _models_in(type(values).model_fields[name].annotation):
            for inner, field in model.model_fields.items():
                default = "required" if field.is_required() else field.default
                print(f"    {name}.{inner}: {default}\n        {field.description}")


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The configs that a knob's type is made of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models_in(part)


def knobs(defaults: BaseModel | None = None) -> Iterator[tuple[str, Any, str, str]]:
    """Name, default, meaning and source of each; by default of `pretrain`."""
    defaults = defaults or resolve({})
    for name, field in type(defaults).model_fields.items():
        extra = field.json_schema_extra
        source = str(extra.get("source") or "") if isinstance(extra, dict) else ""
        yield name, getattr(defaults, name), field.description or "", source


def markdown() -> str:
    """The page of all knobs."""
    lines = [
        "# Knobs of pretraining",
        "",
        "Printed by `python -m training knobs --markdown`; `--preset NAME` prints the values of a preset. Defaults are those of `cpu-tiny`.",
        "An unknown key is refused with the nearest valid one.",
        "",
        "| knob | default | meaning | source |",
        "|---|---|---|---|",
    ]
    for name, default, meaning, source in knobs():
        shown = "null" if default is None else str(default).lower() if isinstance(default, bool) else str(default)
        cells = (f"`{name}`", shown, meaning, source)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"
