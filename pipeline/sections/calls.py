"""Units of a section, run by the executor of the run; processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.engine.executors import Executor
from pipeline.engine.phases import Work, unit_name
from pipeline.engine.progress import Progress
from pipeline.engine.schedule import run_tasks
from pipeline.engine.work import Call


def run_calls(title: str, calls: list[Call], executor: Executor) -> list[Any]:
    """The results of calls, in their order."""
    results: dict[str, Any] = {}
    progress = Progress(title, len(calls))

    def done(task: Any, result: Any) -> None:
        results[task.label] = result
        progress.add(0, 0)

    run_tasks(executor, calls, done, idle=progress.show)
    progress.show(last=True)
    return [results[call.label] for call in calls]


def documents(work: Work, local: Path) -> list[Path]:
    """The parts of documents/."""
    return [local / f"documents/part-{unit_name(shard)}.parquet" for shard in work.shards]


def environment() -> dict[str, str]:
    """Environment of a process that must find this project's packages wherever it was started."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in [str(Path.cwd()), *sys.path] if p)}


def launch(command: list[str]) -> int:
    """Run a command with its output passed through; a SIGTERM to this process reaches it. Returns its exit code."""
    from pipeline.engine.work import die_with_parent

    process = subprocess.Popen(command, env=environment(), stdin=subprocess.DEVNULL, preexec_fn=die_with_parent)
    with _forward_sigterm(process):
        return process.wait()


@contextmanager
def _forward_sigterm(process: subprocess.Popen[bytes]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, lambda signum, frame: process.terminate())
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)
