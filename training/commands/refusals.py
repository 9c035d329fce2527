"""`refusals`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.commands.arguments import positive


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("refusals", help="ask a model, and write refusals for what it does not know")
    parser.add_argument("model", type=Path, metavar="MODEL", help="model folder")
    parser.add_argument("prompts", type=Path, metavar="PROMPTS", help="Parquet or JSONL rows: prompt, answer, verifier")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="JSONL of conversations to write")
    parser.add_argument("--samples", type=positive, default=8, metavar="N", help="answers to each question; default 8")
    parser.add_argument(
        "--known", type=float, default=0.5, metavar="SHARE", help="known: at least this share right; default 0.5"
    )
    parser.add_argument(
        "--unknown", type=float, default=0.0, metavar="SHARE", help="unknown: at most this share right; default 0"
    )
    parser.add_argument(
        "--refusal", action="append", metavar="TEXT", help="may be given several times; default 'I do not know.'"
    )
    parser.add_argument("--verifier", default="exact", metavar="NAME", help="of rows that name none; default exact")
    parser.add_argument("--temperature", type=float, default=0.7, metavar="T", help="default 0.7")
    parser.add_argument("--max-new-tokens", type=positive, default=64, metavar="N", help="of an answer; default 64")
    parser.add_argument("--seed", type=int, default=0, metavar="S")
    parser.add_argument("--template", metavar="NAME", help="a chat template by name; default: the model folder's own")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Ask, write, and say what came of it."""
    from training.device import choose_device
    from training.inference.sampling import Sampling
    from training.tuning.refusals import REFUSAL, make_refusals

    found = make_refusals(
        options.model,
        options.prompts,
        options.output,
        samples=options.samples,
        known=options.known,
        unknown=options.unknown,
        refusals=options.refusal or (REFUSAL,),
        verifier=options.verifier,
        sampling=Sampling(temperature=options.temperature, max_new_tokens=options.max_new_tokens, seed=options.seed),
        template=options.template,
        device=choose_device(options.device),
    )
    for line in found.lines():
        print(line)
    print(f"wrote {options.output}")
    return 0
