"""Units of a section, run by the executor of the run; processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import RunConfig
from pipeline.engine import journal
from pipeline.engine.executors import Executor
from pipeline.engine.journal import Manifest, digest
from pipeline.engine.phases import Work, unit_name
from pipeline.engine.progress import Progress
from pipeline.engine.schedule import run_tasks
from pipeline.engine.store import Store
from pipeline.engine.work import Call


@dataclass(frozen=True)
class Job:
    """What a section is given to do its work."""

    config: RunConfig
    work: Work
    store: Store
    local: Path  # the run directory
    executor: Executor
    parts: dict[str, str]  # what its fingerprint is made of
    say: Callable[[str], None]


@dataclass(frozen=True)
class KeptCall:
    """A call that writes one file; its result, JSON, and the file are used again for as long as `parts` stay what they are."""

    call: Call
    phase: str  # folder of the journal
    unit: str
    path: str  # of the file, below the run directory
    parts: dict[str, str]


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


def run_kept_calls(title: str, calls: list[KeptCall], store: Store, local: Path, executor: Executor) -> list[Any]:
    """The results of calls, in their order; those that an earlier, killed run had finished are not made again."""
    results: dict[str, Any] = {}
    by_label = {kept.call.label: kept for kept in calls}
    for kept in calls:
        manifest = journal.read_manifest(store, kept.phase, kept.unit)
        if (
            manifest is None
            or manifest.fingerprint != digest(kept.parts)
            or not journal.passing_present(store, manifest)
        ):
            journal.forget(store, kept.phase, kept.unit)
        else:
            results[kept.call.label] = manifest.counts
    progress = Progress(title, len(calls))
    for _ in results:
        progress.add(0, 0)

    def done(task: Any, result: Any) -> None:
        kept = by_label[task.label]
        made = [journal.output(kept.path, local / kept.path, 0)]
        journal.commit(store, Manifest(kept.phase, kept.unit, digest(kept.parts), kept.parts, made, counts=result))
        results[task.label] = result
        progress.add(0, 0)

    run_tasks(executor, [kept.call for kept in calls if kept.call.label not in results], done, idle=progress.show)
    progress.show(last=True)
    return [results[kept.call.label] for kept in calls]


def forget_kept(phase: str, store: Store) -> None:
    """Remove the files and commits of a phase of kept calls, once what was made of them is committed."""
    store.remove(f"journal/{phase}")
    store.remove(f"phases/{phase}")


def documents(work: Work, local: Path) -> list[Path]:
    """The parts of documents/."""
    return [local / f"documents/part-{unit_name(shard)}.parquet" for shard in work.shards]


def part_digests(work: Work) -> list[str]:
    """The SHA-256 of each part of documents/."""
    return [
        output.sha256
        for manifest in work.final_manifests()
        for output in manifest.outputs
        if output.path.startswith("documents/")
    ]


def environment() -> dict[str, str]:
    """Environment of a process that must find this project's packages wherever it was started."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in [str(Path.cwd()), *sys.path] if p)}


def launch(command: list[str], extra: dict[str, str] | None = None) -> int:
    """Run a command with its output passed through; a SIGTERM or Ctrl-C reaches it through this process. `extra`: of its environment.

    Returns its exit code; if it ended otherwise than by 0 after a SIGTERM 143, whatever a launcher between makes of that. Raises
    `KeyboardInterrupt` if it did so after a Ctrl-C.
    """
    from pipeline.engine.work import die_with_parent

    process = subprocess.Popen(
        command,
        env={**environment(), **(extra or {})},
        stdin=subprocess.DEVNULL,
        preexec_fn=die_with_parent,
        start_new_session=True,  # a Ctrl-C would reach it from the terminal and from here, and launchers take the second ill
    )
    asked: list[int] = []

    def pass_on(number: int) -> None:
        asked.append(number)
        process.send_signal(number)

    with on_stop(pass_on):
        code = process.wait()
    if code and signal.SIGINT in asked:
        raise KeyboardInterrupt
    return 143 if asked and code else code


@contextmanager
def on_stop(act: Callable[[int], Any]) -> Iterator[None]:
    """Call `act` at a SIGTERM or Ctrl-C instead of what is usual; only the main thread can."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    previous = [signal.signal(number, lambda number, frame: act(number)) for number in numbers]
    try:
        yield
    finally:
        for number, before in zip(numbers, previous, strict=True):
            signal.signal(number, before)
