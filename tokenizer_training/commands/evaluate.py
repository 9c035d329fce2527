"""`evaluate`."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from tokenizer_training.commands.knobs import add_fields, fields
from tokenizer_training.config import TokenizerError


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("evaluate", help="measure a tokenizer: report.html, report.json, report.parquet")
    parser.add_argument("tokenizer", help="folder of the tokenizer, or another vocabulary (docs/efficiency.md)")
    parser.add_argument("documents", nargs="+", help="Parquet or JSONL files, or folders of them")
    parser.add_argument("--output", help="folder of the report (default: the tokenizer's)")
    parser.add_argument(
        "--counts", help="counts table of the whole corpus (default: `counts` in the tokenizer's folder)"
    )
    parser.add_argument(
        "--model", help="folder of a model with .safetensors: candidates for glitch tokens by embeddings"
    )
    add_measuring(parser, 20_000_000)
    parser.set_defaults(run=run)


def add_measuring(parser: argparse.ArgumentParser, max_bytes: int) -> None:
    """The flags that `evaluate` and `compare` share."""
    parser.add_argument(
        "--max-bytes", type=int, default=max_bytes, help=f"sample about this much text (default {max_bytes:,})"
    )
    parser.add_argument("--parallel", help="folder of line-aligned files, <language>.txt: parity on your own text")
    parser.add_argument(
        "--shape",
        action="append",
        metavar="LAYERSxWIDTHxCONTEXT",
        help="shape of a model for FLOPs per byte, may be repeated (default: GPT-2 small and XL, Llama-2 7B)",
    )
    parser.add_argument(
        "--dead-below", type=int, default=5, help="a token seen less often is in the dead tail (default 5)"
    )
    add_fields(parser)


def measuring(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `add_measuring`'s flags say, for `measure`."""
    from tokenizer_training.efficiency.measure import shape

    for name, least in (("max_bytes", 1), ("dead_below", 1)):
        if getattr(arguments, name) < least:
            raise TokenizerError(f"--{name.replace('_', '-')} {getattr(arguments, name)}: expected at least {least}")
    shapes = []
    for given in arguments.shape or []:
        try:
            layers, width, context = (int(part) for part in given.split("x"))
            if min(layers, width, context) < 1:
                raise ValueError
        except ValueError:
            raise TokenizerError(f"--shape {given}: expected LAYERSxWIDTHxCONTEXT, like 12x768x1024") from None
        shapes.append(shape(width, layers, context))
    return {"shapes": shapes, "dead_below": arguments.dead_below}


def run(arguments: argparse.Namespace) -> int:
    """`evaluate`."""
    from tokenizer_training.efficiency.measure import evaluate, write_report
    from tokenizer_training.efficiency.parallel import read_parallel

    given = Path(arguments.tokenizer)
    facts = evaluate(
        arguments.tokenizer,
        arguments.documents,
        max_bytes=arguments.max_bytes,
        fields=fields(arguments),
        parallel=read_parallel(Path(arguments.parallel)) if arguments.parallel else None,
        counts_table=arguments.counts,
        model=arguments.model,
        timed=True,
        **measuring(arguments),
    )
    write_report(facts, arguments.output or (given if given.is_dir() else given.parent))
    print(json.dumps({name: facts[name] for name in ("total", "vocabulary", "lossless_share")}))
    return 0
