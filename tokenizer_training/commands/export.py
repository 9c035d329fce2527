"""`export`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from tokenizer_training.config import TokenizerError


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "export", help="write a tokenizer in another program's format, with the same ids or not at all"
    )
    parser.add_argument("tokenizer", help="folder of the tokenizer")
    parser.add_argument("--format", required=True, choices=("tiktoken", "transformers", "gguf"))
    parser.add_argument("--output", required=True, help="folder to write to; for gguf the file")
    parser.add_argument(
        "--accept-differences",
        action="store_true",
        help="gguf only: write o200k and tekken under llama.cpp's names, although it splits some words otherwise",
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """`export`."""
    from tokenizer_training.vocabulary.exports.gguf import export_gguf
    from tokenizer_training.vocabulary.exports.tiktoken import export_tiktoken
    from tokenizer_training.vocabulary.exports.transformers import export_transformers

    folder, out = Path(arguments.tokenizer), Path(arguments.output)
    if arguments.accept_differences and arguments.format != "gguf":
        raise TokenizerError(f"--accept-differences: only with --format gguf, but it is {arguments.format}")
    if arguments.format == "gguf":
        files = export_gguf(folder, out, arguments.accept_differences)
    else:
        files = {"tiktoken": export_tiktoken, "transformers": export_transformers}[arguments.format](folder, out)
    print("\n".join(map(str, files)))
    return 0
