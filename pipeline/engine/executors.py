"""Where units run: one child process at a time (inline), this process (debug), or Ray."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import psutil

from pipeline.config import EngineConfig
from pipeline.engine.child import Child, Died
from pipeline.engine.work import Failure, Task, describe, prepare
from pipeline.yamlfile import ConfigError


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

    slots: int

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
        self._recycle = engine.recycle_units
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


def ray_work(task: Task, memory: int | None) -> Any:
    """What a Ray worker runs."""
    prepare(memory)
    try:
        return task.run()
    except Exception as error:
        return describe(error)


class RayExecutor:
    """Ray core tasks, one a unit, with `max_retries=0`: what a death means is decided by the driver."""

    def __init__(self, engine: EngineConfig) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        import logging

        import ray

        self._ray = ray
        self._memory = engine.unit_memory
        self._started = not ray.is_initialized()
        wanted = engine.workers if isinstance(engine.workers, int) else None
        if self._started:
            arguments: dict[str, Any] = {
                "logging_level": logging.ERROR,
                "log_to_driver": False,
                "include_dashboard": False,
            }
            if engine.address is not None:
                arguments["address"] = engine.address
                arguments.pop("include_dashboard")
            else:
                cores = wanted or usable_cores()
                budget = max(memory_budget(engine), engine.unit_memory)
                arguments |= {"num_cpus": cores, "_memory": budget, "object_store_memory": 80 << 20}
            try:
                ray.init(**arguments)
            except (ConnectionError, RuntimeError, ValueError, OSError) as error:
                where = f"the cluster at {engine.address}" if engine.address else "a local cluster"
                raise ConfigError(f"Ray: cannot start with {where}: {str(error).splitlines()[0]}") from None
        self.slots = wanted or self._capacity()
        self._nodes = self._alive()
        self._function = ray.remote(
            max_retries=0, max_calls=engine.recycle_units, num_cpus=1, memory=engine.unit_memory
        )(ray_work)
        self._running: dict[Any, Task] = {}

    def _capacity(self) -> int:
        """Units that fit on the cluster's nodes, by cores and by memory."""
        slots = 0
        for node in self._ray.nodes():
            if node["Alive"]:
                resources = node["Resources"]
                slots += min(int(resources.get("CPU", 0)), int(resources.get("memory", 0) // self._memory))
        return max(slots, 1)

    def _alive(self) -> set[str]:
        return {node["NodeID"] for node in self._ray.nodes() if node["Alive"]}

    def submit(self, task: Task) -> None:
        """Hand it to Ray."""
        self._running[self._function.remote(task, self._memory)] = task

    def wait(self, seconds: float) -> list[Answer]:
        """Answers that came within this time."""
        if not self._running:
            return []
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        return [Answer(self._running.pop(reference), self._result(reference)) for reference in ready]

    def _result(self, reference: Any) -> Any:
        exceptions = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except (exceptions.NodeDiedError, exceptions.LocalRayletDiedError) as error:
            return Death(type(error).__name__, node_lost=True)
        except exceptions.OutOfMemoryError:
            return Death("memory")
        except (exceptions.WorkerCrashedError, exceptions.ObjectLostError) as error:
            alive = self._alive()
            lost, self._nodes = bool(self._nodes - alive), alive
            return Death(type(error).__name__, node_lost=lost)
        except exceptions.RayTaskError as error:
            return describe(error)

    def close(self) -> None:
        """End running tasks, and the local cluster if it was started here."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running = {}
        if self._started:
            self._ray.shutdown()


def make_executor(engine: EngineConfig, debug: bool) -> Executor:
    """The executor that the config asks for."""
    if debug:
        return Debug()
    return Inline(engine) if engine.executor == "inline" else RayExecutor(engine)


__all__: Sequence[str] = ["Answer", "Death", "Executor", "Failure", "make_executor"]
