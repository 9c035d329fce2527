"""Lines for people: on a terminal the progress line is rewritten in place, elsewhere there are plain lines only."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

EVERY = 0.1  # seconds between rewritten lines


def terminal(
    stream: TextIO = sys.stdout, clock: Callable[[], float] = time.monotonic
) -> tuple[Callable[[str], Any], Callable[[str], Any] | None]:
    """(log, show) for a stream: `log` writes a line that stays; `show` one that the next replaces, None off a terminal."""
    if not stream.isatty():
        return lambda line: print(line, file=stream, flush=True), None
    last = -EVERY

    def log(line: str) -> None:
        stream.write(f"\r\x1b[K{line}\n")
        stream.flush()

    def show(line: str) -> None:
        nonlocal last
        if clock() - last < EVERY:
            return
        last = clock()
        width = shutil.get_terminal_size().columns - 1  # a line that wraps could not be rewritten
        stream.write(f"\r\x1b[K{line[:width]}")
        stream.flush()

    return log, show


def silent(_: Any) -> None:
    """Say nothing: every process but the first."""
