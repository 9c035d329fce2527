"""`inspect`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.commands.arguments import positive
from training.knobs import TrainingError

if TYPE_CHECKING:
    from training.chat.show import Shown


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("inspect", help="show conversations as tokens, those that are trained coloured")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="tokenizer or model folder")
    parser.add_argument(
        "data", type=Path, metavar="DATA", help="Parquet or JSONL rows, or a token dataset of kind chat"
    )
    parser.add_argument("--row", type=positive, metavar="N", help="from which row on; default 1")
    parser.add_argument("--id", metavar="ID", help="the row with this id")
    parser.add_argument("--count", type=positive, metavar="N", help="how many rows; default 1")
    parser.add_argument("--template", metavar="NAME", help="a chat template by name; default: the folder's own")
    parser.add_argument("--ids", action="store_true", help="list every token with its id")
    parser.add_argument("--color", choices=["auto", "always", "never"], default="auto", help="auto: on a terminal")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page instead")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Print the conversations, or write the page."""
    if options.id is not None and (options.row or options.count):
        raise TrainingError("--id names one row: leave --row and --count out")
    if options.html and (options.ids or options.color != "auto"):
        raise TrainingError("--ids and --color are for the terminal; --html has ids and colours by itself")
    from training.chat.show import as_page, as_text
    from training.vocabulary import load_tokenizer

    found = _packed(options) if (options.data / "dataset.json").exists() else _rows(options)
    shown = list(islice(found, options.count or 1))
    if not shown:
        wanted = (
            f"no row has the id {options.id!r}" if options.id is not None else f"there is no row {options.row or 1:,}"
        )
        raise TrainingError(f"{options.data}: {wanted}")
    tokenizer = load_tokenizer(options.folder)
    if options.html:
        options.html.write_text(as_page(shown, tokenizer), encoding="utf-8")
        print(f"wrote {options.html}")
        return 0
    colour = options.color == "always" or (
        options.color == "auto" and sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    )
    print("\n\n".join(as_text(one, tokenizer, colour, options.ids) for one in shown))
    return 0


def _rows(options: argparse.Namespace) -> Iterator[Shown]:
    """Rows of text from the wanted one on, encoded as `sft` does."""
    from training.chat.show import Shown
    from training.tuning.examples import RowEncoder, end_of_text
    from training.tuning.rows import read_rows

    encode = RowEncoder(options.folder, options.template, False, end_of_text(options.folder))
    for where, row in islice(read_rows(options.data), (options.row or 1) - 1, None):
        if options.id is not None and str(row.get("id")) != options.id:
            continue
        try:
            kind, encoded = encode(row)
        except TrainingError as error:
            raise TrainingError(f"{where}: {error}") from None
        name = f" (id {row['id']})" if row.get("id") is not None else ""
        yield Shown(f"{where}{name}, {kind}", encoded)


def _packed(options: argparse.Namespace) -> Iterator[Shown]:
    """Rows of a token dataset's train split, with the masks that it carries."""
    if options.id is not None or options.template is not None:
        raise TrainingError(
            "--id and --template are for rows that are text; a token dataset is encoded already: use --row"
        )
    from tokenizer_training.dataset.loader import read_rows as read_packed
    from training.chat.format import Encoded
    from training.chat.show import Shown
    from training.data import open_dataset

    data = open_dataset(options.data, None)
    for row in range((options.row or 1) - 1, len(data.train)):
        read = read_packed(data.train, [row])
        real = read.documents[0] >= 0
        ids, trained = read.tokens[0][real].tolist(), read.mask[0][real].tolist()
        yield Shown(
            f"row {row + 1:,} of {len(data.train):,}, {read.documents[0].max() + 1} examples", Encoded(ids, trained)
        )
