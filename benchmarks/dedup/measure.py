"""What a command takes: CPU seconds and memory of its whole process tree, wall-clock seconds, and the disk of a folder at its fullest."""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import psutil

ROOT = Path(__file__).parents[2]
EVERY = 0.4  # seconds between looks at the processes: each look at a large one takes milliseconds
FOLDER_EVERY = 5  # looks between those at the folder: it may hold many files
_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class Taken(NamedTuple):
    """What a command took. Memory is the sum of the proportional set sizes (PSS) of its processes at its highest, looked at every 0.4 s."""

    cpu: float
    wall: float
    memory: int  # bytes
    disk: int  # bytes
    output: str  # standard output


class Failed(Exception):
    """The command ended with another status than 0; holds the end of what it wrote."""


def run(
    command: list[str], folder: Path | None = None, env: Mapping[str, str] | None = None, start_in: Path = ROOT
) -> Taken:
    """Runs a command; `folder` is the one whose size on disk is watched."""
    adopt_orphans()
    before, started = os.times(), time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=start_in,
        env={**os.environ, **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    watch = Watch(process.pid, folder)
    watch.start()
    output, errors = process.communicate()
    wall = time.monotonic() - started
    watch.stop()
    _reap(watch)
    after = os.times()
    if process.returncode != 0:
        raise Failed(f"{' '.join(command[:4])} ended with {process.returncode}:\n{(errors or output)[-3000:]}")
    waited_for = after.children_user + after.children_system - before.children_user - before.children_system
    return Taken(max(waited_for, watch.cpu()), wall, watch.memory, watch.disk, output)


def adopt_orphans() -> None:
    """Makes this process the parent of descendants whose own parent has ended (Linux), so that they are seen and counted."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _reap(watch: Watch) -> None:
    """Waits a while for what the command left behind (Ray's processes end after their driver), and ends what stays."""
    until = time.monotonic() + 10
    while watch.seen and time.monotonic() < until:
        for pid, _ in list(watch.seen):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
            if not psutil.pid_exists(pid):
                watch.forget(pid)
        time.sleep(0.05)
    for pid, created in list(watch.seen):
        with contextlib.suppress(psutil.NoSuchProcess):
            left = psutil.Process(pid)
            if left.create_time() == created:
                left.kill()


class Watch(threading.Thread):
    """Looks at a process, its descendants and a folder until it is stopped."""

    def __init__(self, pid: int, folder: Path | None) -> None:
        super().__init__(daemon=True)
        self.pid, self.folder = pid, folder
        self.memory = self.disk = 0
        self.seen: dict[tuple[int, float], float] = {}  # (process, its start): CPU seconds
        self.ended = 0.0  # CPU seconds of those that are gone
        self._stop_asked = threading.Event()
        self._adopted = {child.pid for child in psutil.Process().children()} - {pid}

    def run(self) -> None:
        looks = 0
        while not self._stop_asked.wait(EVERY):
            self.look()
            if self.folder is not None and looks % FOLDER_EVERY == 0:
                self.disk = max(self.disk, size_of(self.folder))
            looks += 1

    def look(self) -> None:
        """Notes CPU seconds and memory of every process there is."""
        memory = 0
        for process in psutil.Process().children(recursive=True):
            if process.pid in self._adopted:
                continue
            try:
                times = process.cpu_times()
                self.seen[process.pid, process.create_time()] = times.user + times.system
                memory += pss(process.pid)
            except psutil.Error:
                continue
        self.memory = max(self.memory, memory)

    def forget(self, pid: int) -> None:
        """Its CPU seconds are added to those of what has ended."""
        for key in [key for key in self.seen if key[0] == pid]:
            self.ended += self.seen.pop(key)

    def cpu(self) -> float:
        """CPU seconds of all processes as they were last seen."""
        return self.ended + sum(self.seen.values())

    def stop(self) -> None:
        """Ends the thread after one last look at the folder."""
        self._stop_asked.set()
        self.join()
        if self.folder is not None:
            self.disk = max(self.disk, size_of(self.folder))


def pss(pid: int) -> int:
    """Proportional set size in bytes: shared pages are divided among those who share them."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    return 0


def size_of(folder: Path) -> int:
    """Bytes that the files under a folder take on disk."""
    total = 0
    for at, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += Path(at, name).lstat().st_blocks * 512
    return total
