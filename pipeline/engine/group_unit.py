"""Units of group and aggregate phases: emit messages, reduce a partition of a round, summarise, merge."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import StageSpec
from pipeline.engine import journal
from pipeline.engine.assets import local_copy
from pipeline.engine.exchange import Slices, Sorter, read_partition, write_sorted
from pipeline.engine.journal import Manifest, Output
from pipeline.engine.mapping import MACHINE, RecordTimeout, cpu_seconds, failure, limited, only_mask
from pipeline.engine.poison import Poison, plain_poison
from pipeline.engine.rows import STORED_BATCH, stored_rows
from pipeline.engine.store import Store
from pipeline.engine.unit_input import BATCH_BYTES, cuts
from pipeline.engine.writers import TableWriter
from stages.batch import Batch
from stages.stage import ADDRESSED, FINDINGS, VERDICT, Addressed, AggregateStage, GroupStage, StageError


@dataclass(frozen=True)
class GroupTask:
    """One unit of a group phase: the messages of a shard (`reduce_round` None), or a partition of a round."""

    store: Store
    phase: str
    stage: StageSpec
    unit: str
    fingerprint: str
    components: dict[str, str]
    assets: dict[str, str]
    partitions: int
    shard: int = 0
    upstream: str | None = None
    reduce_round: int | None = None
    partition: int = 0
    sources: tuple[Slices, ...] = field(default=())
    record_seconds: float | None = 60.0
    poison: dict[int, Poison] = field(default_factory=dict)  # by row of the shard
    batch_rows: int = STORED_BATCH

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.phase} {self.unit}"

    def run(self) -> Manifest:
        """Carry the unit out and commit it."""
        return run_group(self)


def message_schema(stage: GroupStage, round: int) -> pa.Schema:
    """Columns of a round's messages."""
    return pa.schema([*ADDRESSED.items(), *stage.messages()[round].items()])


def verdict_schema(stage: GroupStage) -> pa.Schema:
    """Columns of a group stage's verdicts."""
    return pa.schema([*VERDICT.items(), *stage.provides().items()])


def round_partitions(stage: GroupStage, round: int, wanted: int) -> int:
    """Into how many partitions a round is cut."""
    return max(1, stage.partitions(round, wanted))


def run_group(task: GroupTask) -> Manifest:
    """Carry out the unit and commit it."""
    started = cpu_seconds()
    stage: GroupStage = task.stage.stage_class(task.stage.config)  # type: ignore[assignment]
    stage.setup({name: local_copy(path, task.assets[path]) for name, path in stage.assets().items()})
    journal.forget(task.store, task.phase, task.unit)
    poison = dict(task.poison)
    outputs = emit_outputs(task, stage, poison) if task.reduce_round is None else reduce_outputs(task, stage)
    files, slices = write_addressed(task, stage, outputs)
    manifest = Manifest(
        phase=task.phase,
        unit=task.unit,
        fingerprint=task.fingerprint,
        components=task.components,
        outputs=files,
        counts={"seconds": round(cpu_seconds() - started, 3)},
        extra={"slices": {str(k): v.to_extra() for k, v in slices.items()}, "poison": plain_poison(poison)},
    )
    journal.commit(task.store, manifest)
    return manifest


def emit_outputs(task: GroupTask, stage: GroupStage, poison: dict[int, Poison]) -> Iterator[Addressed]:
    """Messages of a shard's rows that `only` lets through; rows that cannot be taken in are added to `poison`."""
    for batch, rows in emit_batches(task):
        good = np.array([row not in poison for row in rows.tolist()], dtype=bool)
        if not good.all():
            batch, rows = batch.take(np.flatnonzero(good)), rows[good]
        if len(rows):
            yield from emit_batch(task, stage, batch, rows, poison)


def emit_batches(task: GroupTask) -> Iterator[tuple[Batch, np.ndarray]]:
    """A shard's rows that `only` lets through, with their places in the shard."""
    assert task.upstream is not None
    for table, first in stored_rows(task.store, task.upstream):
        for start, end in cuts(table, task.batch_rows, BATCH_BYTES):
            batch = Batch(table.slice(start, end - start))
            rows = np.flatnonzero(only_mask(task.stage, batch))
            if len(rows):
                yield batch if len(rows) == len(batch) else batch.take(rows), rows + first + start


def emit_batch(
    task: GroupTask, stage: GroupStage, batch: Batch, rows: np.ndarray, poison: dict[int, Poison]
) -> list[Addressed]:
    """The messages of a batch; if they cannot be had, those of each row alone, so that one bad row fails alone."""
    try:
        return limited(task.record_seconds, lambda: list(stage.emit(batch, task.shard, rows)))
    except StageError:
        raise
    except (Exception, RecordTimeout, SystemExit) as error:
        if isinstance(error, OSError) and error.errno in MACHINE:
            raise
        if len(rows) == 1:
            rule, _, threshold, detail = failure(error, task.record_seconds)
            poison[int(rows[0])] = Poison(task.stage.name, rule, detail, threshold)
            return []
    return [
        message
        for row in range(len(rows))
        for message in emit_batch(task, stage, batch.take([row]), rows[row : row + 1], poison)
    ]


def reduce_outputs(task: GroupTask, stage: GroupStage) -> Iterator[Addressed]:
    """What a partition of a round answers."""
    assert task.reduce_round is not None
    schema = message_schema(stage, task.reduce_round)
    partitions = round_partitions(stage, task.reduce_round, task.partitions)
    messages = read_partition(task.store, list(task.sources), task.partition, schema, partitions)
    yield from stage.reduce(task.reduce_round, messages)


def write_addressed(
    task: GroupTask, stage: GroupStage, addressed: Iterable[Addressed]
) -> tuple[list[Output], dict[str, Slices]]:
    """One sorted file for each round written to (and one for verdicts), each with its index; and one of findings."""
    sorters: dict[str, Sorter] = {}
    findings: Findings | None = None
    with contextlib.ExitStack() as stack:
        for round_, table in addressed:
            if round_ == FINDINGS:
                if findings is None:
                    findings = open_findings(task, stage, stack)
                findings.writer.add(table.select(findings.writer.schema.names).cast(findings.writer.schema))
                continue
            name = "verdicts" if round_ is None else f"round{round_}"
            if name not in sorters:
                schema = verdict_schema(stage) if round_ is None else message_schema(stage, round_)
                sorters[name] = Sorter(
                    schema, None if round_ is None else round_partitions(stage, round_, task.partitions)
                )
                stack.callback(sorters[name].close)
            sorters[name].add(table)
        files: list[Output] = []
        slices = {}
        if findings is not None:
            findings.writer.close()
            files.append(journal.output(findings.path, findings.file, findings.writer.rows))
        for name in sorted(sorters):
            path = f"phases/{task.phase}/{task.unit}.{name}.parquet"
            with task.store.writing(path) as temporary:
                slices[name], rows = write_sorted(sorters[name].sorted(), sorters[name].schema, temporary, path)
                files.append(journal.output(path, temporary, rows))
        return files, slices


@dataclass
class Findings:
    """Where a unit's findings go."""

    path: str
    file: Path
    writer: TableWriter


def open_findings(task: GroupTask, stage: GroupStage, stack: contextlib.ExitStack) -> Findings:
    """The file of a unit's findings, put in place when `stack` ends well."""
    path = f"findings/{task.stage.name}/{task.unit}.parquet"
    file = stack.enter_context(task.store.writing(path))
    return Findings(path, file, TableWriter(file, pa.schema(list(stage.findings().items()))))


@dataclass(frozen=True)
class AggregateTask:
    """One unit of an aggregate phase: a shard's summary, or (`upstream` None) all shards' summaries merged."""

    store: Store
    phase: str
    stage: StageSpec
    unit: str
    fingerprint: str
    components: dict[str, str]
    assets: dict[str, str]
    upstream: str | None = None
    summaries: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.phase} {self.unit}"

    def run(self) -> Manifest:
        """Carry the unit out and commit it."""
        return run_aggregate(self)


def run_aggregate(task: AggregateTask) -> Manifest:
    """Carry out the unit and commit it."""
    stage: AggregateStage = task.stage.stage_class(task.stage.config)  # type: ignore[assignment]
    stage.setup({name: local_copy(path, task.assets[path]) for name, path in stage.assets().items()})
    journal.forget(task.store, task.phase, task.unit)
    parts: Iterator[pa.Table] = summarised(task, stage) if task.upstream else stored_summaries(task)
    summary = stage.merge(parts)
    path = f"phases/{task.phase}/{task.unit}.parquet"
    with task.store.writing(path) as temporary:
        pq.write_table(summary, temporary, compression="zstd")
        written = journal.output(path, temporary, summary.num_rows)
    counts = {} if task.upstream else {"plan": stage.plan(summary)}
    manifest = Manifest(task.phase, task.unit, task.fingerprint, task.components, [written], counts)
    journal.commit(task.store, manifest)
    return manifest


def summarised(task: AggregateTask, stage: AggregateStage) -> Iterator[pa.Table]:
    """Summaries of a shard's batches."""
    assert task.upstream is not None
    for table, _ in stored_rows(task.store, task.upstream):
        batch = Batch(table)
        mask = only_mask(task.stage, batch)
        yield stage.summarise(batch if mask.all() else batch.take(np.flatnonzero(mask)))


def stored_summaries(task: AggregateTask) -> Iterator[pa.Table]:
    """The shards' summaries, in shard order."""
    for path in task.summaries:
        with contextlib.closing(task.store.open(path)) as handle:
            yield pq.read_table(handle)


def slices_of(manifest: Manifest, name: str) -> Slices | None:
    """Where a unit's messages to a round (or its verdicts) stand."""
    data: dict[str, Any] | None = manifest.extra.get("slices", {}).get(name)
    return Slices.from_extra(data) if data else None
