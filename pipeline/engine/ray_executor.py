"""Units as Ray tasks, on this machine or on a cluster."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from pipeline.engine.config import EngineConfig
from pipeline.engine.executors import Answer, Death, memory_budget, usable_cores
from pipeline.engine.progress import human_bytes
from pipeline.engine.work import Task, describe, prepare
from pipeline.yamlfile import ConfigError

LOOK = 5.0  # seconds between looks at the cluster's nodes
CONNECT = 10.0  # seconds that a cluster's head may take to accept a connection


def ray_work(task: Task, memory: int | None) -> Any:
    """What a Ray worker runs."""
    prepare(memory)
    try:
        return task.run()
    except Exception as error:
        return describe(error)


def connect(engine: EngineConfig, log_to_driver: bool = False) -> tuple[Any, bool]:
    """The module `ray`, connected to the cluster of the config or to a local one; and whether that was done now.

    Raises `ConfigError` if there is no such cluster, or none can be started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import logging

    import ray

    if ray.is_initialized():
        return ray, False
    arguments: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": log_to_driver}
    if engine.address is not None:
        check_address(engine.address)
        arguments["address"] = engine.address
    else:
        cores = engine.workers if isinstance(engine.workers, int) else usable_cores()
        budget = max(memory_budget(engine), engine.unit_memory)
        arguments |= {"num_cpus": cores, "_memory": budget, "object_store_memory": 80 << 20}
        arguments["include_dashboard"] = False
        if not os.environ.get("RAY_ADDRESS"):  # else Ray would join the cluster of another run here, and end with it
            arguments["address"] = "local"
    try:
        ray.init(**arguments)
    except Exception as error:  # a local cluster that does not start in time raises nothing more exact
        where = f"the cluster at {engine.address}" if engine.address else "a local cluster"
        raise ConfigError(f"Ray: cannot start with {where}: {str(error).splitlines()[0]}") from None
    return ray, True


class RayExecutor:
    """Ray core tasks, one a unit, with `max_retries=0`: what a death means is decided by the driver.

    Ray is started, or connected to, when the first task comes.
    """

    def __init__(self, engine: EngineConfig) -> None:
        self._engine = engine
        self._ray: Any = None
        self._started = False
        self._running: dict[Any, tuple[Task, frozenset[str]]] = {}  # with the nodes that were alive when it was sent
        self._nodes: frozenset[str] = frozenset()
        self._looked = 0.0
        self._slots = 1

    @property
    def slots(self) -> int:
        """Units at a time: as the config says, or as many as fit on the nodes that are there now."""
        self._connect()
        if time.monotonic() - self._looked > LOOK:
            self._look()
        return self._slots

    def _connect(self) -> None:
        if self._ray is not None:
            return
        engine = self._engine
        ray, self._started = connect(engine)
        self._ray = ray
        self._look()
        self._function = ray.remote(
            max_retries=0, max_calls=engine.units_per_worker, num_cpus=1, memory=engine.unit_memory
        )(ray_work)

    def _look(self) -> None:
        """Take note of the nodes that are alive and of what fits on them. Raises `ConfigError` if no unit ever would."""
        memory, slots, largest = self._engine.unit_memory, 0, 0
        alive = [node for node in self._ray.nodes() if node["Alive"]]
        for node in alive:
            cpus, free = int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("memory", 0))
            slots += min(cpus, free // memory)
            largest = max(largest, free if cpus else 0)
        self._looked, self._nodes = time.monotonic(), frozenset(node["NodeID"] for node in alive)
        if isinstance(self._engine.workers, int):
            slots = min(slots, self._engine.workers)
        if not slots and not self._running:
            raise ConfigError(
                f"Ray: no node has a core and {human_bytes(memory)} of memory for one unit (the largest offers "
                f"{human_bytes(largest)}); lower engine.unit_memory, or add nodes"
            )
        self._slots = max(slots, 1)

    def submit(self, task: Task) -> None:
        """Hand it to Ray."""
        self._connect()
        self._running[self._function.remote(task, self._engine.unit_memory)] = (task, self._nodes)

    def wait(self, seconds: float) -> list[Answer]:
        """Answers that came within this time."""
        if not self._running:
            return []
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=seconds)
        answers = []
        for reference in ready:
            task, nodes = self._running.pop(reference)
            answers.append(Answer(task, self._result(reference, nodes)))
        return answers

    def _result(self, reference: Any, nodes: frozenset[str]) -> Any:
        exceptions = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except (exceptions.NodeDiedError, exceptions.LocalRayletDiedError) as error:
            return Death(type(error).__name__, node_lost=True)
        except exceptions.OutOfMemoryError:
            return Death("memory")
        except exceptions.RayTaskError as error:
            return describe(error)
        except exceptions.RayError as error:  # crashed, lost, cancelled: the unit is not done, whatever Ray calls it
            self._look()
            return Death(type(error).__name__, node_lost=bool(nodes - self._nodes))

    def close(self) -> None:
        """End running tasks, and the local cluster if it was started here."""
        for reference in self._running:
            self._ray.cancel(reference, force=True)
        self._running = {}
        if self._started:
            self._ray.shutdown()


def check_address(address: str) -> None:
    """Raise `ConfigError` if nothing listens at host:port; Ray itself would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT).close()
    except OSError as error:
        raise ConfigError(
            f"Ray: nothing answers at {address} ({error.strerror or error}); is the cluster up, and is this its head node's port?"
        ) from None
