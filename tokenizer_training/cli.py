"""Command line: parse, call, print, exit code (0 done, 1 faults found by `verify`, 2 arguments or input wrong)."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from tokenizer_training.config import PackConfig, TokenizerConfig, TokenizerError

TRAIN_KNOBS = tuple(TokenizerConfig.model_fields)
ENCODE_KNOBS = ("validation", "seed", "shard_tokens")
PACK_KNOBS = ("sequence_length", "strategy", "window")


def add_knobs(parser: argparse.ArgumentParser, model: type[BaseModel], names: Sequence[str]) -> None:
    """A flag for each config field, with its documentation; values are checked by the model."""
    for name in names:
        field = model.model_fields[name]
        flag = "--" + name.replace("_", "-")
        text = f"{field.description} (default {field.default})".replace("%", "%%")
        parser.add_argument(flag, dest=name, default=argparse.SUPPRESS, metavar="VALUE", help=text)


def knobs(arguments: argparse.Namespace, model: type[BaseModel], names: Sequence[str]) -> Any:
    """The config from the flags that were given."""
    given = {name: getattr(arguments, name) for name in names if hasattr(arguments, name)}
    try:
        return model.model_validate({k: None if v == "null" else v for k, v in given.items()})
    except ValidationError as error:
        first = error.errors()[0]
        flag = "--" + str(first["loc"][0]).replace("_", "-")
        raise TokenizerError(f"{flag} {first['input']}: {first['msg']}") from None


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main_parser = argparse.ArgumentParser(prog="python -m tokenizer_training", description=__doc__)
    commands = main_parser.add_subparsers(dest="command", required=True)

    train = commands.add_parser("train", help="train a byte-level BPE tokenizer on documents")
    train.add_argument("documents", nargs="+", help="Parquet files with id and text, or folders of them")
    train.add_argument("--output", required=True, help="folder of the tokenizer")
    add_knobs(train, TokenizerConfig, TRAIN_KNOBS)

    evaluate = commands.add_parser("evaluate", help="measure a tokenizer on documents: report.json, report.html")
    evaluate.add_argument("tokenizer", help="folder of the tokenizer")
    evaluate.add_argument("documents", nargs="+", help="Parquet files with id and text, or folders of them")
    evaluate.add_argument("--output", help="folder of the report (default: the tokenizer's)")
    evaluate.add_argument(
        "--max-bytes", type=int, default=20_000_000, help="sample about this much text (default 20 MB)"
    )

    encode = commands.add_parser("encode", help="encode documents to a token dataset; `pack` it afterwards")
    encode.add_argument("tokenizer", help="folder of the tokenizer")
    encode.add_argument("documents", nargs="+", help="Parquet files with id and text, or folders of them")
    encode.add_argument("--output", required=True, help="folder of the token dataset")
    encode.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    add_knobs(encode, PackConfig, ENCODE_KNOBS)

    pack = commands.add_parser("pack", help="add (or replace) the index of training rows of one length")
    pack.add_argument("dataset", help="folder of the token dataset")
    add_knobs(pack, PackConfig, PACK_KNOBS)

    verify = commands.add_parser("verify", help="check a token dataset: checksums, and that its files agree")
    verify.add_argument("dataset", help="folder of the token dataset")

    inspect = commands.add_parser("inspect", help="print a training row, or a document, as text")
    inspect.add_argument("dataset", help="folder of the token dataset")
    inspect.add_argument("--tokenizer", help="folder of the tokenizer (default: `tokenizer` beside the dataset)")
    inspect.add_argument("--split", default="train", help="train or validation (default train)")
    inspect.add_argument("--sequence-length", type=int, help="which pack index (default: the shortest)")
    inspect.add_argument("--row", type=int, default=0, help="row number (default 0)")
    inspect.add_argument("--document", help="a document id, instead of a row")
    return main_parser


def run_train(arguments: argparse.Namespace) -> int:
    """`train`."""
    from tokenizer_training.train import train_tokenizer

    config = knobs(arguments, TokenizerConfig, TRAIN_KNOBS)
    shown = [time.monotonic()]

    def progress(documents: int, size: int) -> None:
        if time.monotonic() - shown[0] > 5:
            shown[0] = time.monotonic()
            print(f"read {documents:,} documents, {size:,} bytes", file=sys.stderr)

    facts = train_tokenizer(arguments.documents, config, arguments.output, progress=progress)
    print(json.dumps(facts))
    if facts["vocab_size"] < facts["vocab_size_wanted"]:
        print(
            f"the corpus gives {facts['vocab_size']} tokens, fewer than {facts['vocab_size_wanted']}", file=sys.stderr
        )
    return 0


def run_evaluate(arguments: argparse.Namespace) -> int:
    """`evaluate`."""
    from tokenizer_training.efficiency import evaluate, write_report

    if arguments.max_bytes < 1:
        raise TokenizerError(f"--max-bytes {arguments.max_bytes}: expected at least 1")
    facts = evaluate(arguments.tokenizer, arguments.documents, max_bytes=arguments.max_bytes)
    write_report(facts, arguments.output or arguments.tokenizer)
    print(json.dumps({name: facts[name] for name in ("total", "vocabulary", "lossless_share")}))
    return 0


def _single_threaded() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # processes already use every core


def run_encode(arguments: argparse.Namespace) -> int:
    """`encode`: the units of encode.py and build.py in processes."""
    from tokenizer_training.build import begin_dataset, build_shard, finish_dataset, plan_shards
    from tokenizer_training.documents import find_documents
    from tokenizer_training.encode import encode_documents

    config = knobs(arguments, PackConfig, ENCODE_KNOBS)
    if arguments.workers < 1:
        raise TokenizerError(f"--workers {arguments.workers}: expected at least 1")
    files = find_documents(arguments.documents)
    out = Path(arguments.output)
    folder = out / "encoded.tmp"
    shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed
    folder.mkdir(parents=True)
    encoded = [folder / f"{number:05d}.parquet" for number in range(len(files))]
    try:
        with ProcessPoolExecutor(arguments.workers, get_context("spawn"), _single_threaded) as pool:
            waiting = [
                pool.submit(encode_documents, file, arguments.tokenizer, to, config)
                for file, to in zip(files, encoded, strict=True)
            ]
            for unit in waiting:
                unit.result()
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
    for split, shards in facts["splits"].items():
        documents, tokens = (sum(shard[name] for shard in shards) for name in ("documents", "tokens"))
        print(f"{split}: {documents:,} documents, {tokens:,} tokens, {len(shards)} shards")
    return 0


def run_pack(arguments: argparse.Namespace) -> int:
    """`pack`."""
    from tokenizer_training.build import write_dataset_json
    from tokenizer_training.layout import read_dataset_json
    from tokenizer_training.pack import build_pack, pack_facts

    out = Path(arguments.dataset)
    facts = read_dataset_json(out)
    # the rows' shuffle has the seed of the documents'
    given = knobs(arguments, PackConfig, PACK_KNOBS)
    config = given.model_copy(update={"seed": facts["seed"]})
    others = {length: pack for length, pack in facts["pack"].items() if length != str(config.sequence_length)}
    write_dataset_json(out, {**facts, "pack": others})  # the index of this length is about to be replaced
    packs = {
        split: build_pack(out, split, shards, config, facts.get("phases", ()))
        for split, shards in facts["splits"].items()
    }
    pack = {**others, str(config.sequence_length): pack_facts(config, packs)}
    write_dataset_json(out, {**facts, "pack": dict(sorted(pack.items(), key=lambda item: int(item[0])))})
    for split, sums in packs.items():
        print(f"{split}: {json.dumps(sums)}")
    return 0


def run_verify(arguments: argparse.Namespace) -> int:
    """`verify`."""
    from tokenizer_training.verify import verify

    faults = verify(arguments.dataset)
    print("\n".join(faults) if faults else f"{arguments.dataset}: whole")
    return 1 if faults else 0


def run_inspect(arguments: argparse.Namespace) -> int:
    """`inspect`."""
    from tokenizer_training.read import TokenDataset
    from tokenizer_training.show import show_document, show_row

    dataset = Path(arguments.dataset)
    tokenizer = arguments.tokenizer or dataset.resolve().parent / "tokenizer"
    packed = TokenDataset(dataset).sequence_lengths
    length = arguments.sequence_length or (packed[0] if packed else None)
    if arguments.document is not None:
        lines = show_document(dataset, tokenizer, arguments.document, length)
    elif length is None:
        raise TokenizerError(f"{dataset}: not packed yet; run: python -m tokenizer_training pack {dataset}")
    else:
        lines = show_row(dataset, tokenizer, arguments.split, length, arguments.row)
    for line in lines:
        print(line)
    return 0


RUN = {
    "train": run_train,
    "evaluate": run_evaluate,
    "encode": run_encode,
    "pack": run_pack,
    "verify": run_verify,
    "inspect": run_inspect,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parsed = parser().parse_args(arguments)
    try:
        return RUN[parsed.command](parsed)
    except TokenizerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
