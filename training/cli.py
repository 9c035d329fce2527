"""`python -m training`: parse, call, print, exit code (0 done, 1 failed, 2 the user's mistake, 143 after SIGTERM)."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from training.commands import (
    chat,
    dpo,
    evaluate,
    export,
    generate,
    grpo,
    index,
    inspect,
    knobs,
    merge,
    plan,
    ppo,
    pretrain,
    refusals,
    report,
    reward,
    scaling,
    serve,
    sft,
    trace,
)
from training.knobs import TrainingError

COMMANDS = (
    pretrain,
    sft,
    refusals,
    reward,
    dpo,
    ppo,
    grpo,
    merge,
    generate,
    chat,
    serve,
    evaluate,
    export,
    plan,
    scaling,
    trace,
    inspect,
    index,
    report,
    knobs,
)


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
    except BrokenPipeError:  # who reads what is printed has had enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """All commands and options."""
    top = argparse.ArgumentParser(prog="python -m training", description="Train and run a language model.")
    commands = top.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    return top
