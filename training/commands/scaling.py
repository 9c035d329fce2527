"""`scaling`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.commands.arguments import add_config, config_from, positive, values_from
from training.commands.plan import number
from training.commands.stopping import until_stopped
from training.knobs import TrainingError
from training.scaling.ladder import SIZED


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "scaling", help="train a ladder of small runs, fit the scaling law, predict the next size"
    )
    add_config(parser)
    parser.add_argument("--tokens", required=True, type=Path, metavar="DIR", help="token dataset (dataset.json)")
    parser.add_argument("--tokenizer", required=True, type=Path, metavar="DIR", help="tokenizer folder")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="where runs, scaling.json, scaling.html go"
    )
    parser.add_argument(
        "--depths", required=True, type=_several(positive), metavar="2,3,4", help="sizes, three or more"
    )
    parser.add_argument(
        "--budgets", required=True, type=_several(number), metavar="1e12,2e12,4e12", help="FLOPs of a run, two or more"
    )
    parser.add_argument("--max-epochs", type=number, default=1.0, metavar="N", help="refuse runs of more (default 1)")
    parser.add_argument("--predict", type=number, metavar="C", help="FLOPs of the next run (default: 10 x the largest)")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Train what is missing, then fit. SIGTERM and the first Ctrl-C save; the same command goes on."""
    given = values_from(options)
    if own := sorted((SIZED - {"preset", "sequence_length"}) & {key for key in given if given[key] is not None}):
        raise TrainingError(
            f"{options.config or 'scaling'}: {', '.join(own)}: the ladder sets it for each run; leave it out"
        )
    config = config_from(options)
    from training.scaling.run import run_ladder

    def train(stop: Callable[[], bool]) -> None:
        folders = (options.tokens, options.tokenizer, options.output)
        sizes = {"max_epochs": options.max_epochs, "next_flops": options.predict}
        _print(run_ladder(config, *folders, options.depths, options.budgets, **sizes, log=_log, stop=stop))
        _log(f"see {options.output / 'scaling.html'}")

    return until_stopped(train)


def _print(report: dict[str, Any]) -> None:
    """The law, and the size that it says is next."""
    law, following = report["law"], report["next"]
    _log(
        f"L(N, D) = {law['E']:.3f} + {law['A']:.4g} / N^{law['alpha']:.3f} + {law['B']:.4g} / D^{law['beta']:.3f}, "
        f"largest error {report['largest_residual']:.2%}"
    )
    if following is None:
        _log(f"no next size: {report['undetermined']}")
    else:
        low, high = following["interval"]
        _log(
            f"next, {following['flops']:.3g} FLOPs: {following['parameters']:,.0f} parameters, "
            f"{following['tokens']:,.0f} tokens, loss {following['loss']:.3f} ({low:.3f} to {high:.3f})"
        )


def _several(kind: Any) -> Any:
    """A parser of values between commas, each different."""

    def parse(text: str) -> list[Any]:
        values = [kind(part) for part in text.split(",")]
        if len(set(values)) < len(values):
            raise argparse.ArgumentTypeError(f"a value stands twice in {text}")
        return values

    return parse


def _log(line: str) -> None:
    print(line, flush=True)
