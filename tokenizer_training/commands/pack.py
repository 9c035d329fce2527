"""`pack`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tokenizer_training.commands.knobs import add_knobs, knobs
from tokenizer_training.dataset.config import PackConfig

PACK_KNOBS = ("sequence_length", "strategy", "window", "split", "longer", "interleave")


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("pack", help="add (or replace) the index of training rows of one length")
    parser.add_argument("dataset", help="folder of the token dataset")
    add_knobs(parser, PackConfig, PACK_KNOBS)
    parser.add_argument("--json", action="store_true", help="print the sums as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """`pack`."""
    from tokenizer_training.dataset.build import write_dataset_json
    from tokenizer_training.dataset.layout import read_dataset_json
    from tokenizer_training.dataset.pack import build_pack, pack_facts

    out = Path(arguments.dataset)
    facts = read_dataset_json(out)
    # the rows' shuffle has the seed of the documents'
    given = knobs(arguments, PackConfig, PACK_KNOBS)
    config = given.model_copy(update={"seed": facts["seed"]})
    others = {length: pack for length, pack in facts["pack"].items() if length != str(config.sequence_length)}
    write_dataset_json(out, {**facts, "pack": others})  # the index of this length is about to be replaced
    packs = {split: build_pack(out, split, shards, config, facts) for split, shards in facts["splits"].items()}
    pack = {**others, str(config.sequence_length): pack_facts(config, packs)}
    write_dataset_json(out, {**facts, "pack": dict(sorted(pack.items(), key=lambda item: int(item[0])))})
    if arguments.json:
        print(json.dumps(packs))
        return 0
    for split, sums in packs.items():
        print("\n".join(report(split, config.sequence_length, sums)))
    return 0


def report(split: str, length: int, sums: dict[str, Any]) -> Iterator[str]:
    """What a split became, for people."""
    yield f"{split}: {sums['rows']:,} rows of {length:,} tokens"
    if not sums["rows"]:
        return
    room = sums["rows"] * length
    yield f"  tokens in {sums['tokens_in']:,} = kept {sums['tokens_kept']:,} + dropped {sums['tokens_dropped']:,}"
    yield (
        f"  positions {room:,} = kept {sums['tokens_kept']:,} + padding {sums['tokens_padded']:,} "
        f"({sums['tokens_padded'] / room:.3%})"
    )
    yield (
        f"  documents {sums['documents']:,}: in more than one row {sums['documents_cut']:,} ({sums['tokens_cut']:,} tokens), longer than "
        f"a row {sums['documents_longer_than_row']:,}, dropped {sums['documents_dropped']:,}; pieces dropped {sums['pieces_dropped']:,}; "
        f"at most {sums['most_documents_in_row']:,} in a row"
    )
    for phase in sums.get("phases", []):
        yield f"  phase {phase['name']}: {phase['rows']:,} rows, {phase['tokens']:,} tokens"
    yield f"  by {sums['mixture_by']}: " + _shares({name: one["tokens"] for name, one in sums["mixture"].items()})
    yield "  documents by length, up to: " + _shares(sums["document_lengths"])
    yield "  rows by how full: " + _shares(sums["row_fill"])


def _shares(counts: dict[str, int]) -> str:
    total = sum(counts.values()) or 1
    return ", ".join(f"{name or '(none)'} {count:,} ({count / total:.1%})" for name, count in counts.items() if count)
