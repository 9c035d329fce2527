"""`pack`."""

from __future__ import annotations

import argparse
import json
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
    for split, sums in packs.items():
        print(f"{split}: {json.dumps(sums)}")
    return 0
