"""Long commands that a signal ends in good order."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from typing import Any

from training.terminal import terminal


def until_stopped(work: Callable[[Callable[[], bool]], Any]) -> int:
    """Call `work(stop)` and return the exit code. After SIGTERM or a first Ctrl-C `stop` says so; the second ends the process at once."""
    from training.resume import Stopped

    signals: list[int] = []

    def remember(number: int, _: object) -> None:
        signals.append(number)
        signal.signal(number, signal.SIG_DFL)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, remember)
    try:
        work(lambda: bool(signals))
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + (signals[0] if signals else signal.SIGTERM)  # without any: another process of this run was asked
    return 0


def train_until_stopped(train: Callable[..., Any]) -> int:
    """The same for `train(log=, show=, stop=)`, which is told how to write to the terminal."""
    log, show = terminal(sys.stdout)
    return until_stopped(lambda stop: train(log=log, show=show, stop=stop))
