"""What the commands of reinforcement learning read: prompts, and the models that reward and judge."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_rewards(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument(
        "--prompts",
        required=True,
        type=Path,
        metavar="PATH",
        help="prompts with answers and verifiers: JSONL, Parquet, or a folder of either",
    )
    parser.add_argument(
        "--reward", action="append", default=[], type=Path, metavar="DIR", help="reward model; several are added up"
    )
    parser.add_argument("--judge", type=Path, metavar="DIR", help="reward model that is only watched")
