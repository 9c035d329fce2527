"""`trace`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from training.commands.arguments import positive


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("trace", help="the documents of a step's batch, or the steps that read a document")
    parser.add_argument("run", type=Path, metavar="MODEL", help="model folder of a run, finished or not")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--step", type=positive, metavar="N", help="list the documents of this step's batch")
    what.add_argument("--document", metavar="ID", help="list the steps that read this document, of all epochs")
    parser.add_argument("--tokens", type=Path, metavar="DIR", help="token dataset (default: where the run read it)")
    parser.add_argument(
        "--documents",
        type=Path,
        metavar="DIR",
        help="Parquet files with URLs and scores (default: as the run had them)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Print the batch, or the steps."""
    from training.lineage import read_run
    from training.trace import batch_lines, batch_of, document_lines, steps_of_document

    about = read_run(options.run, options.tokens, options.documents)
    if options.step is not None:
        found, lines = batch_of(about, options.step), batch_lines
    else:
        found, lines = steps_of_document(about, options.document), document_lines
    if options.json:
        print(json.dumps(found, ensure_ascii=False))
    else:
        for line in lines(found):
            print(line)
    return 0
