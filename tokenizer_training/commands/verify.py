"""`verify`."""

from __future__ import annotations

import argparse
from typing import Any


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("verify", help="check a token dataset: checksums, and that its files agree")
    parser.add_argument("dataset", help="folder of the token dataset")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """`verify`."""
    from tokenizer_training.dataset.verify import verify

    faults = verify(arguments.dataset)
    print("\n".join(faults) if faults else f"{arguments.dataset}: whole")
    return 1 if faults else 0
