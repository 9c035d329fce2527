"""`generate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from training.commands.arguments import positive
from training.knobs import TrainingError


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser("generate", help="continue a prompt")
    parser.add_argument("--model", required=True, type=Path, metavar="DIR")
    parser.add_argument("--prompt", required=True, metavar="TEXT")
    parser.add_argument("--max-new-tokens", type=positive, default=128, metavar="N")
    parser.add_argument("--samples", type=positive, default=1, metavar="N", help="how many continuations")
    parser.add_argument(
        "--greedy", action="store_true", help="always the likeliest token; excludes the sampling options"
    )
    parser.add_argument("--temperature", type=float, metavar="T", help="default 0.8")
    parser.add_argument("--top-k", type=int, metavar="K", help="default: no limit")
    parser.add_argument("--top-p", type=float, metavar="P", help="default: no limit")
    parser.add_argument("--seed", type=int, metavar="S", help="default 0")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Print the prompt with each continuation."""
    sampling = {name: getattr(options, name) for name in ("temperature", "top_k", "top_p", "seed")}
    given = {name: value for name, value in sampling.items() if value is not None}
    if options.greedy and given:
        names = ", ".join("--" + name.replace("_", "-") for name in given)
        raise TrainingError(f"--greedy takes the likeliest token always; {names} would change nothing: leave one out")
    if options.greedy and options.samples > 1:
        raise TrainingError("--greedy gives the same text each time: leave --samples out")
    from training.device import choose_device
    from training.generate import generate, greedy, random_sampler

    sampler = greedy if options.greedy else random_sampler(**{"temperature": 0.8, "seed": 0, **given})
    texts = generate(
        options.model,
        options.prompt,
        max_new_tokens=options.max_new_tokens,
        samples=options.samples,
        sampler=sampler,
        device=choose_device(options.device),
    )
    for number, text in enumerate(texts):
        if number:
            print("-" * 20)
        print(options.prompt + text)
    return 0
