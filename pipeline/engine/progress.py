"""Progress of long work: one line that renews itself on a terminal, plain lines now and then in a batch log."""

from __future__ import annotations

import sys
import time
from typing import TextIO

LOG_EVERY = 30.0  # seconds between lines in a log
TERMINAL_EVERY = 0.5


def human_bytes(size: float) -> str:
    """1234567 -> '1.2 MB'."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(size) < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def human_time(seconds: float) -> str:
    """75 -> '1:15'."""
    whole = int(seconds)
    return (
        f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"
        if whole >= 3600
        else f"{whole // 60}:{whole % 60:02d}"
    )


class Progress:
    """Counts units, documents and bytes of one phase."""

    def __init__(self, title: str, units: int, stream: TextIO | None = None) -> None:
        self.title = title
        self.units = units
        self.done = 0
        self.rows = 0
        self.bytes = 0
        self.started = time.monotonic()
        self.stream = stream or sys.stderr
        self.terminal = self.stream.isatty()
        self._shown = 0.0

    def add(self, rows: int, size: int) -> None:
        """A unit is done."""
        self.done += 1
        self.rows += rows
        self.bytes += size
        self.show()

    def line(self) -> str:
        """Title, share done, documents/s, bytes, time left."""
        elapsed = max(time.monotonic() - self.started, 1e-6)
        parts = [f"{self.title}: {self.done}/{self.units} units"]
        if self.rows:
            parts.append(f"{self.rows:,} documents, {self.rows / elapsed:,.0f}/s")
            parts.append(human_bytes(self.bytes))
        if 0 < self.done < self.units:
            parts.append(f"{human_time(elapsed / self.done * (self.units - self.done))} left")
        return ", ".join(parts)

    def show(self, last: bool = False) -> None:
        """Print if it is time to, or if this is the last line."""
        now = time.monotonic()
        if self.terminal:
            if last or now - self._shown >= TERMINAL_EVERY:
                self._shown = now
                self.stream.write(f"\r\x1b[K{self.line()}" + ("\n" if last else ""))
                self.stream.flush()
        elif last or now - max(self._shown, self.started) >= LOG_EVERY:
            self._shown = now
            self.stream.write(
                f"{time.strftime('%H:%M:%S')} {self.line()}{f' in {human_time(now - self.started)}' if last else ''}\n"
            )
            self.stream.flush()
