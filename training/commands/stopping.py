"""Long commands that a signal ends in good order."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from training.terminal import terminal

AGAIN = 5.0  # seconds after a first signal in which others say the same thing: launchers pass on what a scheduler or a terminal sends too
END_WITH_PARENT = "GRISTMILL_END_WITH_PARENT"  # environment, set to 1: a process whose parent is killed ends too
STOP_FILE = "GRISTMILL_STOP_FILE"  # environment: once that file is there, a run saves and ends as after SIGTERM


def until_stopped(work: Callable[[Callable[[], bool]], Any]) -> int:
    """Call `work(stop)` and return the exit code. After SIGTERM or Ctrl-C `stop` says so; a signal more than `AGAIN`
    seconds later ends the process at once.

    So it does once the file of `STOP_FILE` is there: workers on a cluster get no signals, and handle them in the main thread only.
    """
    if os.environ.get(END_WITH_PARENT) == "1":
        _end_with_parent()
    from training.resume import Stopped

    signals: list[int] = []
    first = 0.0
    file = os.environ.get(STOP_FILE)

    def remember(number: int, _: object) -> None:
        nonlocal first
        signals.append(number)
        first = first or time.monotonic()
        if time.monotonic() - first > AGAIN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, remember)
    try:
        work(lambda: bool(signals) or (file is not None and Path(file).exists()))
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + (signals[0] if signals else signal.SIGTERM)  # without any: another process of this run was asked
    return 0


def _end_with_parent() -> None:
    """Have the kernel end this process when its parent ends (Linux): a launcher that is killed would leave it training, and in
    the way of the next run."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it has ended meanwhile
            os.kill(os.getpid(), signal.SIGKILL)


def train_until_stopped(train: Callable[..., Any]) -> int:
    """The same for `train(log=, show=, stop=)`, which is told how to write to the terminal."""
    log, show = terminal(sys.stdout)
    return until_stopped(lambda stop: train(log=log, show=show, stop=stop))
