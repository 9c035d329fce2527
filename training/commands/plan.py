"""`plan`."""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

from training.commands.arguments import add_config, config_from, positive
from training.config import PretrainConfig
from training.knobs import TrainingError


def add(commands: Any) -> None:
    """Declare the command."""
    parser = commands.add_parser(
        "plan", help="from a budget, or for a config: model, tokens, memory, time, money", formatter_class=_Wide
    )
    add_config(parser)
    budget = parser.add_argument_group("budget, instead of a config")
    budget.add_argument("--flops", type=number, metavar="C", help="training FLOPs: 1e21")
    budget.add_argument("--gpu-hours", type=number, metavar="H", help="hours of one --gpu at --mfu of its peak")
    budget.add_argument("--money", type=number, metavar="M", help="at --price-per-hour")
    budget.add_argument("--tokens", metavar="N|DIR", help="tokens to train on; with a config, its token dataset")
    budget.add_argument("--parameters", type=number, metavar="N", help="size of the model: 1e9")
    parser.add_argument("--law", default=None, help="the law to follow (default besiroglu)")
    parser.add_argument("--corpus-tokens", type=number, metavar="U", help="tokens there are: more means repeats")
    parser.add_argument(
        "--inference-tokens", type=number, metavar="D", help="tokens to be served over the model's life"
    )
    parser.add_argument(
        "--gpu", action="append", metavar="NAME", help="h100 (default), a100, ...; with a config also cpu"
    )
    parser.add_argument("--gpus", type=positive, default=8, metavar="N", help="GPUs to plan for (default 8)")
    parser.add_argument("--mfu", type=number, metavar="SHARE", help="share of the peak that is reached (default 0.4)")
    parser.add_argument("--price-per-hour", type=number, metavar="P", help="of one GPU")
    parser.add_argument("--like", type=Path, metavar="MODEL", help="a finished run on this machine: time by its speed")
    parser.add_argument("--vocab-size", type=positive, metavar="V", help="default 50,304, or the dataset's")
    parser.add_argument("--sequence-length", type=positive, metavar="L", help="default 2,048, or the config's")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(command=run)


def run(options: argparse.Namespace) -> int:
    """Print a plan."""
    from training.planning import plan, text

    try:
        found = plan.make(_question(options))
    except TrainingError:
        raise
    except ValueError as error:
        raise TrainingError(str(error)) from None
    if options.like:
        found["measured"] = _like(options.like, found)
    print(json.dumps(found, indent=1, allow_nan=False) if options.json else text.render(found))
    return 0


def number(text: str) -> float:
    """A positive number, 1e21 and 1_000 included."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a number such as 1e21, got {text!r}") from None
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


class _Wide(argparse.HelpFormatter):
    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=32, width=120)


def _question(options: argparse.Namespace) -> Any:
    from training.planning.hardware import gpu
    from training.planning.laws import DEFAULT_LAW, LAWS
    from training.planning.plan import Question

    names = [law.name for law in LAWS]
    if options.law not in (None, *names):
        raise TrainingError(f"--law {options.law}: known are {', '.join(names)}")
    mfu = options.mfu or 0.4
    if mfu > 1:
        raise TrainingError(f"--mfu {mfu}: a share of the peak, at most 1")
    common = {
        "law": options.law or DEFAULT_LAW,
        "mfu": mfu,
        "count": options.gpus,
        "price_per_hour": options.price_per_hour,
        "corpus_tokens": options.corpus_tokens,
        "inference_tokens": options.inference_tokens,
    }
    budgets = [name for name in ("flops", "gpu_hours", "money", "parameters") if getattr(options, name) is not None]
    if options.config or options.preset or options.depth or options.set:
        if budgets:
            raise TrainingError(f"a config has its own budget: leave --{budgets[0].replace('_', '-')} out")
        if options.law is not None:
            raise TrainingError("--law chooses model and tokens for a budget; a config says both: leave it out")
        return _of_config(options, common)
    if options.tokens is not None:
        budgets.append("tokens")
    if len(budgets) != 1 and sorted(budgets) != ["parameters", "tokens"]:
        raise TrainingError(
            "give a config, or one budget: --flops, --gpu-hours, --money, --tokens or --parameters (the last two may "
            f"stand together); got {', '.join(budgets) or 'none'}"
        )
    gpus = tuple(gpu(name) for name in options.gpu or ["h100"])
    peak = gpus[0].flops * mfu * 3600
    flops = options.flops
    if options.gpu_hours is not None:
        flops = options.gpu_hours * peak
    if options.money is not None:
        if options.price_per_hour is None:
            raise TrainingError("--money needs --price-per-hour, of one GPU")
        flops = options.money / options.price_per_hour * peak
    return Question(
        flops=flops,
        tokens=None if options.tokens is None else _count(options.tokens),
        parameters=options.parameters,
        vocab_size=options.vocab_size or 50_304,
        context_length=options.sequence_length or 2_048,
        gpus=gpus,
        **common,
    )


def _count(text: str) -> float:
    try:
        return number(text)
    except argparse.ArgumentTypeError as error:
        raise TrainingError(f"--tokens: {error} (a folder needs a config)") from None


def _of_config(options: argparse.Namespace, common: dict[str, Any]) -> Any:
    """The question of what one run will take. With a token dataset: its vocabulary, row length and epochs."""
    from training.planning.hardware import CPU
    from training.planning.plan import Question

    length = options.sequence_length or (2_048 if options.depth and options.tokens is None else None)
    config = config_from(options, Path(options.tokens) if options.tokens else None, length)
    vocab_size, length = options.vocab_size or 50_304, options.sequence_length or config.sequence_length or 2_048
    if options.tokens is not None:
        for name in ("vocab_size", "sequence_length", "corpus_tokens"):
            if getattr(options, name) is not None:
                raise TrainingError(f"--{name.replace('_', '-')}: the token dataset says what it is; leave one out")
        vocab_size, length, common["corpus_tokens"] = _dataset(Path(options.tokens), config)
    gpus = tuple(_device(name, config) for name in options.gpu or [_usual(config)])
    return Question(
        config=config,
        vocab_size=vocab_size,
        context_length=length,
        gpus=gpus,
        bytes_per_element=4 if config.dtype == "float32" else 2,
        bytes_on_cpu=2 if any(one.name == CPU for one in gpus) and _cpu_dtype(config) == "bfloat16" else 4,
        **common,
    )


def _usual(config: PretrainConfig) -> str:
    """The device that the run would take on this machine; without CUDA here and none asked for, its CPU."""
    import importlib.util

    if config.device == "cuda" or importlib.util.find_spec("torch") is None:
        return "h100"
    import torch

    return "h100" if config.device == "auto" and torch.cuda.is_available() else "cpu"


def _device(name: str, config: PretrainConfig) -> Any:
    """A GPU of the table, or `cpu`: this machine with its memory and the peak it shows now."""
    from training.planning.hardware import CPU, Gpu, gpu

    if name != CPU:
        return gpu(name)
    from training.device import choose_threads
    from training.flops import measured_peak
    from training.planning.check import cpu_memory

    return Gpu(CPU, cpu_memory(), measured_peak(_cpu_dtype(config), choose_threads(config.threads)))


def _cpu_dtype(config: PretrainConfig) -> str:
    """What a run would compute in on this machine's CPU."""
    from training.device import choose_device, choose_dtype

    return str(choose_dtype(config.dtype, choose_device("cpu"))).removeprefix("torch.")


def _dataset(folder: Path, config: PretrainConfig) -> tuple[int, int, float]:
    """Vocabulary, row length and train tokens of a token dataset, read without torch."""
    from tokenizer_training.dataset.read import TokenDataset

    try:
        tokens = TokenDataset(folder)
        lengths = tokens.sequence_lengths
        length = config.sequence_length or (lengths[0] if len(lengths) == 1 else None)
        if length is None:
            raise TrainingError(f"{folder} is packed to the lengths {lengths}: choose one by sequence_length")
        rows = len(tokens.packed("train", length))
    except TrainingError:
        raise
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(f"cannot read the token dataset {folder}: {error}") from None
    if rows == 0:
        raise TrainingError(f"{folder}: the train split has no rows, so there is nothing to learn from")
    return tokens.vocab_size, length, float(rows * length)


def _like(folder: Path, plan: dict[str, Any]) -> dict[str, Any]:
    """Time of the plan at the FLOP/s that a finished run reached."""
    path = folder / "training.json"
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        speed = float(facts["tokens_per_second"])
        config = PretrainConfig.model_validate(facts["config"])
        length = int(facts["sequence_length"])
        vocab_size = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"--like {folder}: cannot read a finished run there: {error}") from None
    from training.planning.shapes import shape_of, training_flops

    reached = speed * training_flops(shape_of(config, vocab_size, length))
    return {
        "run": str(folder),
        "tokens_per_second": speed,
        "flops_per_second": reached,
        "hours": plan["model"]["flops"] / reached / 3600,
    }
