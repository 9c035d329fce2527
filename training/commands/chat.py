"""`chat`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from training.commands.arguments import positive


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("chat", help="talk with a model on the terminal")
    parser.add_argument("model", type=Path, metavar="MODEL", help="model folder")
    parser.add_argument("--system", metavar="TEXT", help="a system message")
    parser.add_argument("--max-new-tokens", type=positive, default=512, metavar="N", help="of an answer (default 512)")
    parser.add_argument(
        "--temperature", type=float, default=0.7, metavar="T", help="0: the likeliest token (default 0.7)"
    )
    parser.add_argument("--top-p", type=float, metavar="P", help="only the likeliest tokens of P together")
    parser.add_argument("--top-k", type=int, metavar="K", help="only the K likeliest tokens")
    parser.add_argument("--repetition-penalty", type=float, default=1.0, metavar="F", help="default 1: none")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default 0; each turn draws from the next")
    parser.add_argument("--template", metavar="NAME", help="chat template by name, instead of the model's own")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Read lines and answer them."""
    from training.chat.format import chat_format
    from training.device import choose_device, choose_dtype
    from training.inference.engine import Engine
    from training.inference.load import load
    from training.inference.sampling import Sampling
    from training.serve.terminal_chat import HELP, talk

    form = chat_format(options.model, options.template)
    sampling = Sampling(
        temperature=options.temperature,
        top_p=options.top_p,
        top_k=options.top_k,
        repetition_penalty=options.repetition_penalty,
        max_new_tokens=options.max_new_tokens,
        seed=options.seed,
    )
    device = choose_device(options.device)
    model, tokenizer, end = load(options.model, device, choose_dtype(options.dtype, device))
    engine = Engine(model, [*end, *form.end_ids], tokenizer, max_rows=1)
    terminal = sys.stdin.isatty()
    if terminal:
        import readline  # noqa: F401  # lines can be edited, and come back by the arrow keys

        print(f"{options.model.resolve().name}. {HELP}")

    def ask() -> str | None:
        try:
            return input("> " if terminal else "")
        except (EOFError, KeyboardInterrupt):
            return None

    talk(engine, form, sampling, options.system, ask, sys.stdout)
    return 0
