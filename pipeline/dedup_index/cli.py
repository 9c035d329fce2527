"""Arguments of `python -m pipeline index`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from pipeline.yamlfile import ConfigError


def add_index(commands: Any) -> None:
    """The command `index` with its own commands."""
    index = commands.add_parser(
        "index",
        help="indexes of documents for dedup.index: build, merge, info, remove, whatif-remove",
        description="Indexes of documents that `dedup.index` compares with (docs/dedup-index.md). An index is a directory or a URL.",
    )
    parts = index.add_subparsers(title="commands", required=True, metavar="COMMAND")

    build = parts.add_parser("build", help="add the texts of JSONL or Parquet files to an index, as one run")
    build.add_argument("index", metavar="INDEX")
    build.add_argument("inputs", nargs="+", type=Path, metavar="INPUT", help=".jsonl (.gz, .zst) or .parquet")
    build.add_argument(
        "--run", metavar="NAME", help="name of the run, whose part is replaced; default: the first file's name"
    )
    build.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KNOB=VALUE", help="a parameter of a new index"
    )
    build.set_defaults(command=_build)

    merge = parts.add_parser("merge", help="one index of several, in one part")
    merge.add_argument("out", metavar="OUT", help="the new index")
    merge.add_argument("inputs", nargs="+", metavar="INDEX")
    merge.set_defaults(command=_merge)

    info = parts.add_parser("info", help="runs, documents, bytes, parameters")
    info.add_argument("index", metavar="INDEX")
    info.add_argument("--verify", action="store_true", help="read every file and compare its SHA-256")
    info.set_defaults(command=_info)

    remove = parts.add_parser("remove", help="take documents out, and say what was dropped in their favour")
    _documents(remove)
    remove.add_argument(
        "--run", dest="names", action="append", default=[], metavar="NAME", help="all documents of a run"
    )
    remove.set_defaults(command=_remove)

    whatif = parts.add_parser("whatif-remove", help="what was dropped in favour of documents; changes nothing")
    _documents(whatif)
    whatif.set_defaults(command=_whatif)


def _documents(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("index", metavar="INDEX")
    parser.add_argument("ids", nargs="*", metavar="ID", help="ids of documents")
    parser.add_argument("--ids-file", type=Path, metavar="FILE", help="more ids, one a line")
    parser.add_argument(
        "--runs", nargs="+", default=[], metavar="DIR", help="run directories whose ledgers are searched"
    )


def _ids(options: argparse.Namespace) -> list[str]:
    ids = list(options.ids)
    if options.ids_file is not None:
        try:
            lines = options.ids_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--ids-file {options.ids_file}: cannot be read: {error}") from None
        ids += [line.strip() for line in lines if line.strip()]
    return list(dict.fromkeys(ids))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _build(options: argparse.Namespace) -> int:
    from pipeline.dedup_index.commands import build

    print(_told(lambda: build(options.index, options.inputs, options.run, options.overrides, _say)))
    return 0


def _merge(options: argparse.Namespace) -> int:
    from pipeline.dedup_index.commands import merge

    print(_told(lambda: merge(options.out, options.inputs)))
    return 0


def _info(options: argparse.Namespace) -> int:
    from pipeline.dedup_index.commands import info

    print(_told(lambda: info(options.index, options.verify)))
    return 0


def _remove(options: argparse.Namespace) -> int:
    from pipeline.dedup_index.commands import remove
    from pipeline.dedup_index.takedown import whatif_remove

    ids = _ids(options)
    if not ids and not options.names:
        raise ConfigError("index remove: name ids, --ids-file or --run")
    if ids:
        print(_told(lambda: whatif_remove(options.index, ids, options.runs)))
    print(_told(lambda: remove(options.index, ids, options.names)))
    return 0


def _whatif(options: argparse.Namespace) -> int:
    from pipeline.dedup_index.takedown import whatif_remove

    ids = _ids(options)
    if not ids:
        raise ConfigError("index whatif-remove: name ids or --ids-file")
    print(_told(lambda: whatif_remove(options.index, ids, options.runs)))
    return 0


def _told(work: Any) -> str:
    """What `work` returns; a mistake that a stage's code finds is the user's too."""
    from stages.stage import StageError

    try:
        text: str = work()
        return text
    except StageError as error:
        raise ConfigError(str(error)) from None
