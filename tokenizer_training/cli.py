"""Command line: parse, call, print, exit code (0 done, 1 faults found by `verify`, 2 arguments or input wrong, 130 after Ctrl-C)."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from tokenizer_training.commands import compare, convert, count, encode, evaluate, export, inspect, pack, train, verify
from tokenizer_training.config import TokenizerError

COMMANDS = (count, train, export, evaluate, compare, encode, pack, convert, verify, inspect)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    main_parser = argparse.ArgumentParser(prog="python -m tokenizer_training", description=__doc__)
    commands = main_parser.add_subparsers(dest="command", required=True)
    for command in COMMANDS:
        command.add(commands)
    return main_parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    parsed = parser().parse_args(arguments)
    try:
        code: int = parsed.run(parsed)
    except TokenizerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:  # who reads what is printed has had enough, as `head` has
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return code
