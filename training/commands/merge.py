"""`merge`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.knobs import TrainingError


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("merge", help="make one model of an adapter and the model that it was trained on")
    parser.add_argument("adapter", type=Path, metavar="ADAPTER", help="adapter folder, ours or peft's")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="Hugging Face folder to write")
    parser.add_argument("--base", type=Path, metavar="FOLDER", help="the model; by default the one that ADAPTER names")
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], default="float32", help="of the weights; default float32"
    )
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Write the folder, and say what it holds."""
    from training.adapters.load import merge_folder

    for folder in (options.adapter, options.base):
        if folder is not None and options.output.resolve() == folder.resolve():
            raise TrainingError(f"--output {options.output} is what is read; choose another folder")
    parameters = merge_folder(options.adapter, options.output, options.base, options.dtype)
    print(f"{options.output}: {parameters:,} parameters in {options.dtype}")
    return 0
