"""Where units run: one child process at a time (inline), this process (debug), or Ray."""

from __future__ import annotations

import os
import signal
from collections import deque
from dataclasses import dataclass
from typing import Any, Protocol

import psutil

from pipeline.engine.child import Child, Died
from pipeline.engine.config import EngineConfig
from pipeline.engine.work import Task, prepare


@dataclass(frozen=True)
class Death:
    """The worker ended without an answer."""

    how: str
    node_lost: bool = False
    sure: bool = False  # it would end the same way again


@dataclass(frozen=True)
class Answer:
    """What came of a task: its result, a `Failure`, or a `Death`."""

    task: Task
    result: Any


class Executor(Protocol):
    """Runs tasks, at most `slots` at a time; answers come in any order."""

    @property
    def slots(self) -> int:
        """Tasks at a time."""
        ...

    def submit(self, task: Task) -> None:
        """Start a task (the caller keeps to `slots`)."""
        ...

    def wait(self, seconds: float) -> list[Answer]:
        """Answers that came within this time; possibly none."""
        ...

    def close(self) -> None:
        """End all workers."""
        ...


def memory_budget(engine: EngineConfig) -> int:
    """Bytes that all units of this machine together may take."""
    if isinstance(engine.memory, int):
        return engine.memory
    return int(0.75 * psutil.virtual_memory().available)


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


class Debug:
    """Everything in this process, for a debugger."""

    slots = 1

    def __init__(self) -> None:
        self._waiting: deque[Task] = deque()
        prepare(None)

    def submit(self, task: Task) -> None:
        """Keep it until `wait`."""
        self._waiting.append(task)

    def wait(self, seconds: float) -> list[Answer]:
        """Run the next task here."""
        if not self._waiting:
            return []
        task = self._waiting.popleft()
        return [Answer(task, task.run())]

    def close(self) -> None:
        """Nothing to end."""


class Inline:
    """One unit after the other in one child process that may die."""

    slots = 1

    def __init__(self, engine: EngineConfig) -> None:
        self._waiting: deque[Task] = deque()
        self._child: Child | None = None
        self._recycle = engine.units_per_worker
        self._memory = engine.unit_memory

    def submit(self, task: Task) -> None:
        """Keep it until `wait`."""
        self._waiting.append(task)

    def wait(self, seconds: float) -> list[Answer]:
        """Run the next task to its end."""
        if not self._waiting:
            return []
        task = self._waiting.popleft()
        if self._child is None:
            self._child = Child(self._memory)
        try:
            result = self._child.call(task)
        except Died as death:
            self._drop()
            return [Answer(task, Death(f"exit code {death.code}", sure=death.code == -signal.SIGVTALRM))]
        if self._child.done >= self._recycle:
            self._drop()
        return [Answer(task, result)]

    def _drop(self) -> None:
        if self._child is not None:
            self._child.close()
            self._child = None

    def close(self) -> None:
        """End the child."""
        self._drop()


def make_executor(engine: EngineConfig, debug: bool) -> Executor:
    """The executor that the config asks for."""
    if debug:
        return Debug()
    if engine.executor == "inline":
        return Inline(engine)
    from pipeline.engine.ray_executor import RayExecutor

    return RayExecutor(engine)
