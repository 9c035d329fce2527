"""`index`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.commands.arguments import positive
from training.knobs import TrainingError


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("index", help="index documents for the tool search; ask an index")
    parser.add_argument(
        "documents", nargs="?", type=Path, metavar="DOCUMENTS", help="a run's documents/, or a Parquet file"
    )
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="the index")
    parser.add_argument("--words", type=positive, metavar="N", help="of a passage, at most (default 150)")
    parser.add_argument("--query", metavar="TEXT", help="print the passages that fit best")
    parser.add_argument("--count", type=positive, metavar="N", help="how many (default 3)")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Make an index, ask it, or both."""
    from training.tools.retrieval import Index, build_index, documents_in

    if options.documents is None and options.query is None:
        raise TrainingError("index: give DOCUMENTS to index, or --query to ask an index, or both")
    if options.documents is None and options.words:
        raise TrainingError("--words sizes the passages of a new index: give DOCUMENTS too, or leave it out")
    if options.query is None and options.count:
        raise TrainingError("--count is for --query: give both, or leave it out")
    if options.documents is not None:
        passages = build_index(documents_in(options.documents), options.output, options.words or 150)
        print(f"{passages:,} passages in {options.output}")
    if options.query is not None:
        for found in Index.load(options.output).search(options.query, options.count or 3):
            print(f"{found.score:.2f}  [{found.id}, passage {found.number}]\n{found.text}\n")
    return 0
