"""`knobs`."""

from __future__ import annotations

import argparse
from typing import Any

from training.config import PretrainConfig, TrainingError, resolve


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("knobs", help="every knob of pretrain or evaluate: default, meaning, source")
    parser.add_argument("--of", choices=["pretrain", "evaluate"], default="pretrain")
    parser.add_argument("--preset", help="show this preset's values (pretrain; default cpu-tiny)")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Print the knobs."""
    from training.evaluation.config import EvaluateConfig

    if options.of == "evaluate" and options.preset is not None:
        raise TrainingError("--preset: an evaluation has no presets; leave it out")
    values = EvaluateConfig() if options.of == "evaluate" else resolve({"preset": options.preset or "cpu-tiny"})
    for name, field in (EvaluateConfig if options.of == "evaluate" else PretrainConfig).model_fields.items():
        extra = field.json_schema_extra
        source = extra.get("source") if isinstance(extra, dict) else ""
        print(f"{name}: {getattr(values, name)}\n    {field.description}" + (f" [{source}]" if source else ""))
    return 0
