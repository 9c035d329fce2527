"""`knobs`."""

from __future__ import annotations

import argparse
from typing import Any

from training.config import PretrainConfig, resolve


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("knobs", help="every knob of pretrain: default, meaning, source")
    parser.add_argument("--preset", default="cpu-tiny", help="show this preset's values")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Print the knobs of `pretrain`."""
    values = resolve({"preset": options.preset})
    for name, field in PretrainConfig.model_fields.items():
        extra = field.json_schema_extra
        source = extra.get("source") if isinstance(extra, dict) else ""
        print(f"{name}: {getattr(values, name)}\n    {field.description}" + (f" [{source}]" if source else ""))
    return 0
