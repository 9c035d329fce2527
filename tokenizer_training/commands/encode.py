"""`encode`."""

from __future__ import annotations

import argparse
import os
import shutil
from pathlib import Path
from typing import Any

from tokenizer_training.commands.knobs import add_fields, add_knobs, fields, knobs
from tokenizer_training.commands.processes import processes
from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset.config import PackConfig

ENCODE_KNOBS = ("validation", "seed", "shard_tokens", "memory", "encoder", "verify_every")


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("encode", help="encode documents to a token dataset; `pack` it afterwards")
    parser.add_argument("tokenizer", help="folder of the tokenizer")
    parser.add_argument(
        "documents", nargs="+", help="Parquet or JSONL files with text, Parquet files with messages, or folders of them"
    )
    parser.add_argument("--output", required=True, help="folder of the token dataset")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    add_fields(parser)
    add_knobs(parser, PackConfig, ENCODE_KNOBS)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """`encode`: the units of encode.py and build.py in processes."""
    from tokenizer_training.corpus.files import find_documents
    from tokenizer_training.dataset.build import begin_dataset, build_shard, finish_dataset, plan_shards
    from tokenizer_training.dataset.encode import encode_documents

    config = knobs(arguments, PackConfig, ENCODE_KNOBS)
    if arguments.workers < 1:
        raise TokenizerError(f"--workers {arguments.workers}: expected at least 1")
    files = find_documents(arguments.documents)
    out = Path(arguments.output)
    folder = out / "encoded.tmp"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir(parents=True)
    encoded = [folder / f"{number:05d}.arrow" for number in range(len(files))]
    try:
        with processes(arguments.workers, "run again with fewer --workers or less --memory") as pool:
            waiting = [
                pool.submit(encode_documents, file, arguments.tokenizer, to, config, fields(arguments))
                for file, to in zip(files, encoded, strict=True)
            ]
            done = [unit.result()["encoding"] for unit in waiting]
            plan = plan_shards(encoded, config)
            begin_dataset(out)
            units = {
                split: [pool.submit(build_shard, encoded, plan, split, number, out) for number in range(len(shards))]
                for split, shards in plan["shards"].items()
            }
            splits = {split: [unit.result() for unit in these] for split, these in units.items()}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    facts = finish_dataset(out, plan, splits)
    sums = {name: sum(made[name] for made in done) for name in ("documents", "verified", "fell_back", "differed")}
    engines = ", ".join(sorted({made["engine"] for made in done}))
    print(
        f"encoded by {engines}: {sums['documents']:,} documents, {sums['verified']:,} verified, "
        f"{sums['fell_back'] + sums['differed']:,} encoded by tokenizers instead"
    )
    for split, shards in facts["splits"].items():
        documents, tokens = (sum(shard[name] for shard in shards) for name in ("documents", "tokens"))
        print(f"{split}: {documents:,} documents, {tokens:,} tokens, {len(shards)} shards")
    return 0
