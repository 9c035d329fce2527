"""`report`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.knobs import TrainingError


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("report", help="one HTML page about a run: curves, held-out text by part, samples")
    parser.add_argument("model", type=Path, metavar="MODEL", help="model folder of a run, finished or not")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the page to write")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Write the page, whole or not at all."""
    from training.checkpoint import write_whole
    from training.report.view import page

    try:
        text = page(options.model)
    except ValueError as error:
        raise TrainingError(f"{options.model}: {error}") from None
    options.output.parent.mkdir(parents=True, exist_ok=True)
    write_whole(options.output, lambda file: file.write_text(text, encoding="utf-8", errors="replace"))
    print(f"{options.output} written")
    return 0
