"""Finding the record that kills its worker.

A unit that died twice is gone through record by record in a child process that notes where it is. When the child dies, the
noted record is tried alone in a fresh process: if that dies too, the record is poison and the scan goes on behind it; if not,
the death came from what had piled up before, and the scan goes on from that record. So a poison record costs two dead
processes, however large the unit.
"""

from __future__ import annotations

import mmap
import signal
import struct
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.engine.assets import local_copy
from pipeline.engine.child import Child, Died
from pipeline.engine.group_unit import GroupTask, emit_batch, emit_batches
from pipeline.engine.ledger import Lost
from pipeline.engine.map_unit import MapTask, build_runners
from pipeline.engine.poison import Poison, poison_of
from pipeline.engine.rows import LOST_SCHEMA
from pipeline.engine.unit_input import UnitCounts, input_batches
from pipeline.engine.work import MEMORY_EXIT, Failure
from pipeline.engine.writers import TableWriter
from stages.stage import GroupStage

_PLACE = struct.Struct("<qq")  # place in the unit's input, stage in the phase
READING = -1  # no stage: the rows were being read


class UnitUnreadable(OSError):
    """The unit's input itself ends the worker, before any record can be named."""


@dataclass(frozen=True)
class Scan:
    """Run a unit's rows [first, last) one by one, noting place and stage in `marker`; nothing is written."""

    task: MapTask | GroupTask
    first: int
    last: int | None
    marker: str
    label: str = "isolation"

    def run(self) -> int:
        """The number of rows gone through."""
        with Path(self.marker).open("r+b") as handle, mmap.mmap(handle.fileno(), _PLACE.size) as note:

            def enter(place: int, stage: int) -> None:
                note[:] = _PLACE.pack(place, stage)

            enter(self.first, READING)
            return self._map(self.task, enter) if isinstance(self.task, MapTask) else self._emit(self.task, enter)

    def _map(self, task: MapTask, enter: Callable[[int, int], None]) -> int:
        place = [self.first]

        def noter(stage: int) -> Callable[[str], None]:
            return lambda name: enter(place[0], stage)

        runners = build_runners(task)
        for index, runner in enumerate(runners):
            runner.setup(lambda path: local_copy(path, task.assets[path]))
            runner.entered = noter(index)
        seen = 0
        with tempfile.TemporaryDirectory() as folder:
            lost = Lost(TableWriter(Path(folder) / "lost", LOST_SCHEMA))
            for batch, places in input_batches(task, UnitCounts(), lost, None, self.first, self.last):
                poison = poison_of(task, batch, places)
                for row, where in enumerate(places.tolist()):
                    place[0] = where
                    one = batch.take([row])
                    known = poison.get(one.values("id")[0])
                    for runner in runners:
                        if not len(one) or (known is not None and known.stage == runner.spec.name):
                            break
                        one = runner(one).kept
                    seen += 1
                enter(place[0], READING)
                if self.last is not None and int(places[-1]) >= self.last - 1:
                    break
            lost.writer.close()
        return seen

    def _emit(self, task: GroupTask, enter: Callable[[int, int], None]) -> int:
        stage: GroupStage = task.stage.stage_class(task.stage.config)  # type: ignore[assignment]
        stage.setup({name: local_copy(path, task.assets[path]) for name, path in stage.assets().items()})
        seen = 0
        for batch, rows in emit_batches(task):
            for index, row in enumerate(rows.tolist()):
                if row < self.first or row in task.poison or (self.last is not None and row >= self.last):
                    continue
                enter(row, 0)
                emit_batch(task, stage, batch.take([index]), rows[index : index + 1], {})
                seen += 1
                enter(row, READING)
            if self.last is not None and int(rows[-1]) >= self.last - 1:
                break
        return seen


@dataclass(frozen=True)
class Isolate:
    """Find the poison records of a unit that died twice: of a map phase, or a shard's messages to a group stage."""

    task: MapTask | GroupTask
    memory: int | None

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.task.label}: looking for the record that ends the worker"

    def run(self) -> dict[int, Poison]:
        """Poison records by place. Raises `UnitUnreadable` if the input cannot be read past a point."""
        poison = dict(self.task.poison)
        with tempfile.TemporaryDirectory(prefix="gristmill-isolate-") as folder:
            marker = f"{folder}/place"
            first, repeats = 0, 0
            while True:
                Path(marker).write_bytes(_PLACE.pack(first, READING))
                task = replace(self.task, poison=poison)
                code = self._scan(Scan(task, first, None, marker))
                if code is None:
                    return poison
                place, stage = _PLACE.unpack(Path(marker).read_bytes())
                alone: int | None = code
                if stage == READING:
                    alone = None
                elif (
                    code != -signal.SIGVTALRM
                ):  # a time limit is a row's own; anything else may have piled up before it
                    alone = self._scan(Scan(task, place, place + 1, marker))
                if alone is None:  # what had piled up before it was too much; go on from here in a fresh process
                    repeats = repeats + 1 if place == first else 0
                    if repeats > 2:
                        raise UnitUnreadable(
                            f"the worker ends ({how_it_ended(code)[1]}) while the rows behind place {place} are read; "
                            "raise engine.unit_memory, or leave the file out"
                        )
                    first = place
                    continue
                place, stage = _PLACE.unpack(Path(marker).read_bytes())
                rule, detail = how_it_ended(alone)
                threshold = self.task.record_seconds if rule == "timeout" else None
                poison[place] = Poison(self._stage_name(stage), rule, detail, threshold)
                first, repeats = place + 1, 0

    def _scan(self, scan: Scan) -> int | None:
        """None if the child came through, else its exit code."""
        child = Child(self.memory)
        try:
            result = child.call(scan)
            if isinstance(result, Failure):
                raise OSError(result.message) if result.user_error else RuntimeError(result.trace)
            return None
        except Died as death:
            return death.code
        finally:
            child.close()

    def _stage_name(self, index: int) -> str:
        if isinstance(self.task, GroupTask):
            return self.task.stage.name
        names = ([self.task.aggregate.name] if self.task.aggregate else []) + [s.name for s in self.task.stages]
        return names[index] if 0 <= index < len(names) else "read"


def how_it_ended(code: int) -> tuple[str, str]:
    """Rule and detail of a death by exit code."""
    if code == -signal.SIGVTALRM:
        return "timeout", "more CPU time than engine.record_seconds"
    if code in (MEMORY_EXIT, -signal.SIGKILL):
        return "memory", "more memory than engine.unit_memory"
    if code < 0:
        return "crash", signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    return "crash", f"exit code {code}"
