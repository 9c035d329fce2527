"""`evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.commands.arguments import assign
from training.knobs import TrainingError, read_config


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("evaluate", help="likelihood of text, tasks, samples and memorisation of models")
    parser.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="model folder; several side by side")
    parser.add_argument("--config", type=Path, metavar="YAML", help="knobs (see `knobs --of evaluate`)")
    parser.add_argument("--tokens", type=Path, metavar="DIR", help="token dataset: its splits, and memorisation")
    parser.add_argument(
        "--documents", type=Path, metavar="DIR", help="documents/ of the run: languages of the dataset's documents"
    )
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="set one knob (YAML value)")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="default: evaluation.json in the model's folder; needed for several"
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Print the table and the samples, write evaluation.json."""
    from training.evaluation.config import resolve

    values = read_config(options.config) if options.config else {}
    assign(values, options.set)
    config = resolve(values, str(options.config or "evaluate"))
    if len(options.models) > 1 and options.output is None:
        raise TrainingError("--output FILE is needed to write the results of several models")

    from training.evaluation.evaluate import evaluate, to_stderr
    from training.evaluation.results import sample_lines, table

    output = options.output or options.models[0] / "evaluation.json"
    found = evaluate(
        options.models, config, tokens=options.tokens, documents=options.documents, output=output, say=to_stderr
    )
    print(table(found["models"]))
    if text := sample_lines(found["models"]):
        print("\n" + text)
    print(f"\n{output}")
    return 0
