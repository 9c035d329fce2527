"""`python -m training`: parse, call, print, exit code (0 done, 1 failed, 2 the user's mistake, 143 after SIGTERM)."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from training.config import PRESETS, PretrainConfig, TrainingError, read_config, resolve


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    options = parser().parse_args(arguments)
    try:
        return options.command(options)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "safetensors"):
            raise
        print(f"error: {error.name} is not installed; pip install 'gristmill[train]'", file=sys.stderr)
        return 2
    except TrainingError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """All commands and options."""
    top = argparse.ArgumentParser(prog="python -m training", description="Train and run a language model.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")

    pretrain = commands.add_parser("pretrain", help="train a model on a token dataset")
    pretrain.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help="YAML of knobs (see `knobs`)")
    pretrain.add_argument("--preset", help=f"start from {', '.join(PRESETS)}")
    pretrain.add_argument("--tokens", required=True, type=Path, metavar="DIR", help="token dataset (dataset.json)")
    pretrain.add_argument("--tokenizer", required=True, type=Path, metavar="DIR", help="tokenizer folder")
    pretrain.add_argument(
        "--output", required=True, type=Path, metavar="DIR", help="model folder to write or go on with"
    )
    pretrain.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="set one knob (YAML value)")
    pretrain.set_defaults(command=run_pretrain)

    generate = commands.add_parser("generate", help="continue a prompt")
    generate.add_argument("--model", required=True, type=Path, metavar="DIR")
    generate.add_argument("--prompt", required=True, metavar="TEXT")
    generate.add_argument("--max-new-tokens", type=positive, default=128, metavar="N")
    generate.add_argument("--samples", type=positive, default=1, metavar="N", help="how many continuations")
    generate.add_argument(
        "--greedy", action="store_true", help="always the likeliest token; excludes the sampling options"
    )
    generate.add_argument("--temperature", type=float, metavar="T", help="default 0.8")
    generate.add_argument("--top-k", type=int, metavar="K", help="default: no limit")
    generate.add_argument("--top-p", type=float, metavar="P", help="default: no limit")
    generate.add_argument("--seed", type=int, metavar="S", help="default 0")
    generate.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    generate.set_defaults(command=run_generate)

    knobs = commands.add_parser("knobs", help="every knob of pretrain: default, meaning, source")
    knobs.add_argument("--preset", default="cpu-tiny", help="show this preset's values")
    knobs.set_defaults(command=run_knobs)
    return top


def positive(text: str) -> int:
    """A whole number from 1."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1, got {text}")
    return number


def config_from(options: argparse.Namespace) -> PretrainConfig:
    """The config of file, preset and `--set`, the later over the earlier."""
    import yaml

    values = read_config(options.config) if options.config else {}
    if options.preset:
        values["preset"] = options.preset
    for assignment in options.set:
        key, equals, text = assignment.partition("=")
        if not equals:
            raise TrainingError(f"--set {assignment}: expected KEY=VALUE")
        try:
            values[key] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise TrainingError(f"--set {assignment}: the value is not YAML") from None
    return resolve(values, str(options.config or "pretrain"))


def run_pretrain(options: argparse.Namespace) -> int:
    """Train. SIGTERM and the first Ctrl-C save at the end of the running step."""
    config = config_from(options)
    from training.pretrain import Stopped, pretrain

    signals: list[int] = []

    def remember(number: int, _: object) -> None:
        signals.append(number)
        signal.signal(number, signal.SIG_DFL)  # the second one ends the process at once

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, remember)
    try:
        pretrain(config, options.tokens, options.tokenizer, options.output, log=_log, stop=lambda: bool(signals))
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + (signals[0] if signals else signal.SIGTERM)  # without any: another process of this run was asked
    return 0


def _log(line: str) -> None:
    print(line, flush=True)


def run_generate(options: argparse.Namespace) -> int:
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


def run_knobs(options: argparse.Namespace) -> int:
    """Print the knobs of `pretrain`."""
    values = resolve({"preset": options.preset})
    for name, field in PretrainConfig.model_fields.items():
        extra = field.json_schema_extra
        source = extra.get("source") if isinstance(extra, dict) else ""
        print(f"{name}: {getattr(values, name)}\n    {field.description}" + (f" [{source}]" if source else ""))
    return 0
