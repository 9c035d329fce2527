"""Tasks to workers and back: bounded in flight, deaths retried, poison records isolated."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from pipeline.engine.executors import Death, Executor
from pipeline.engine.group_unit import GroupTask
from pipeline.engine.isolate import Isolate
from pipeline.engine.map_unit import MapTask
from pipeline.engine.poison import save_poison
from pipeline.engine.work import Failure, Task

DEATHS_BEFORE_ISOLATION = 2
ISOLATIONS = 3  # of one unit, before the run gives up
NODE_LOSSES = 20  # of one unit: a cluster that loses this many is beyond help


class RunFailed(Exception):
    """The run cannot go on; the message says what happened and what to do.

    `trace` is for the log; `kind` names the exception that a worker met, if that was it.
    """

    def __init__(self, message: str, trace: str = "", kind: str = "") -> None:
        super().__init__(message)
        self.trace = trace
        self.kind = kind


class Terminated(BaseException):
    """SIGTERM came: stop, leave what is committed."""


def run_tasks(
    executor: Executor,
    tasks: Iterable[Task],
    done: Callable[[Task, Any], None],
    unit_memory: int | None = None,
    idle: Callable[[], None] = lambda: None,
) -> None:
    """Carry out all tasks, `executor.slots` at a time, and give each result to `done`. Raises `RunFailed`."""
    fresh = iter(tasks)  # made when their turn comes: ten thousand tasks need not be in memory at once
    first = next(fresh, None)
    if first is None:
        return  # and no executor is started
    again: deque[Task] = deque([first])
    deaths: Counter[str] = Counter()
    isolations: Counter[str] = Counter()
    losses: Counter[str] = Counter()
    running = 0
    while True:
        while running < executor.slots:
            task_next = again.popleft() if again else next(fresh, None)
            if task_next is None:
                break
            executor.submit(task_next)
            running += 1
        if not running:
            return
        for answer in executor.wait(0.5):
            running -= 1
            task, result = answer.task, answer.result
            if isinstance(result, Failure):
                raise RunFailed(_message(task, result), result.trace, result.kind)
            if isinstance(result, Death):
                if result.node_lost:
                    losses[task.label] += 1
                    if losses[task.label] > NODE_LOSSES:
                        raise RunFailed(
                            f"{task.label}: lost its node {NODE_LOSSES} times; check the cluster and run again"
                        )
                    again.appendleft(task)
                    continue
                deaths[task.label] += DEATHS_BEFORE_ISOLATION if result.sure else 1
                if deaths[task.label] < DEATHS_BEFORE_ISOLATION:
                    again.appendleft(task)
                elif (
                    isinstance(task, MapTask | GroupTask)
                    and can_be_isolated(task)
                    and isolations[task.label] < ISOLATIONS
                ):
                    isolations[task.label] += 1
                    again.appendleft(Isolate(task, unit_memory))
                else:
                    raise RunFailed(
                        f"{task.label}: its worker ended {deaths[task.label]} times ({result.how}); give it more memory "
                        "(engine.unit_memory), smaller shards (engine.shard_bytes), or look at the machine, and run again"
                    )
            elif isinstance(task, Isolate):
                unit = replace(task.task, poison=result)
                if result == task.task.poison:  # no record alone: what the rows take together is too much
                    unit = replace(unit, batch_rows=max(1, unit.batch_rows // 8))
                save_poison(unit)
                deaths[unit.label] = 0
                again.appendleft(unit)
            else:
                done(task, result)
        idle()


def can_be_isolated(task: MapTask | GroupTask) -> bool:
    """Whether the unit goes through rows: a partition of a round's messages has none."""
    return isinstance(task, MapTask) or task.reduce_round is None


def advice(error: object) -> str:
    """What to do about a storage fault, as the end of its message."""
    full = any(words in str(error) for words in ("No space left", "Disk quota"))
    return "; free some space and run the same command again: nothing that is done is lost" if full else ""


def _message(task: Task, failure: Failure) -> str:
    if failure.user_error:
        return f"{task.label}: {failure.message}{advice(failure.message)}"
    return f"{task.label}: {failure.kind}: {failure.message} (a fault in the program; the trace is in error.log of the run)"
