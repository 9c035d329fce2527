"""One unit of a map phase: a shard read or loaded, judged by the fused stages, and written."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import StageSpec
from pipeline.engine import journal
from pipeline.engine.assets import local_copy
from pipeline.engine.exchange import Slices
from pipeline.engine.journal import Manifest, Output
from pipeline.engine.ledger import Lost, WholeLedger, ledger_facts
from pipeline.engine.mapping import MEASURE_BATCH, AggregateRunner, MapRunner
from pipeline.engine.poison import Poison, poison_of, stop_poison
from pipeline.engine.rows import (
    LOST_SCHEMA,
    PAYLOAD_HASH,
    READ_SCHEMA,
    SAMPLE_SCHEMA,
    as_documents,
    conversations_schema,
    documents_schema,
    of_kind,
    without_payload,
)
from pipeline.engine.store import Store
from pipeline.engine.unit_input import UnitCounts, input_batches
from pipeline.engine.verdicts import VerdictCursor
from pipeline.engine.writers import SampleKeeper, TableWriter, offer_samples
from pipeline.readers.record import Limits, Segment
from stages.conversation import CONVERSATION, KINDS

__all__ = ["MapTask", "SideFile", "VerdictCursor", "build_runners", "run_map", "score_schema"]


@dataclass(frozen=True)
class MapTask:
    """Everything a worker needs to carry out one unit of a map phase."""

    store: Store
    phase: str
    shard: int
    stages: tuple[StageSpec, ...]
    all_stages: tuple[StageSpec, ...]  # of the whole run, for the columns of documents/
    final: bool
    fingerprint: str
    components: dict[str, str]
    assets: dict[str, str]  # path -> SHA-256
    keep_dropped: str = "sample"
    record_seconds: float | None = 60.0
    # where the rows come from: segments of the input, or the file of an earlier map phase, or both: see `reread.py`
    segments: tuple[Segment, ...] = ()
    planned: tuple[int, ...] = ()  # where each segment was planned to begin, before its start was corrected
    limits: Limits = field(default_factory=Limits)
    max_records: int | None = None
    kinds: tuple[str, ...] = ("text",)  # of the shard's inputs
    upstream: str | None = None
    reads_again: bool = False  # payloads come from the segments, all else from the file
    leaves_payload: bool = False  # rows are stored without `html`, with its hash
    # verdicts of the group phase in between, or the summary of the aggregate phase
    group: StageSpec | None = None
    verdicts: tuple[Slices, ...] = ()
    group_poison: dict[int, Poison] = field(default_factory=dict)  # rows that the group stage could not take in
    aggregate: StageSpec | None = None
    summary: str | None = None
    lost_before: tuple[str, ...] = ()  # ledger files of earlier phases, merged by the final one
    poison: dict[int, Poison] = field(default_factory=dict)  # by place in this unit's input
    batch_rows: int = MEASURE_BATCH  # rows at a time; fewer where a unit needs less memory than it takes
    reuse: dict[str, str] = field(default_factory=dict)  # stage -> scores file of an earlier run, same measurements
    measured: dict[str, str] = field(default_factory=dict)  # stage -> fingerprint of its measurements

    @property
    def unit(self) -> str:
        """Name of the unit in its phase."""
        return f"{self.shard:05d}"

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.phase} {self.unit}"

    def run(self) -> Manifest:
        """Carry the unit out and commit it."""
        return run_map(self)


def run_map(task: MapTask) -> Manifest:
    """Carry out the unit and commit it. Raises `OSError` for storage faults and `StageError` for unusable assets."""
    runners = build_runners(task)
    for runner in runners:
        runner.setup(lambda path: local_copy(path, task.assets[path]))
    store = task.store
    journal.forget(store, task.phase, task.unit)
    counts = UnitCounts()
    outputs: list[Output] = []
    base = f"phases/{task.phase}/{task.unit}"
    kept_path = f"documents/part-{task.unit}.parquet" if task.final else f"{base}.parquet"
    lost_path, samples_path = f"{base}.lost.parquet", f"{base}.samples.parquet"
    with contextlib.ExitStack() as stack:
        kept_file = stack.enter_context(store.writing(kept_path))
        lost_file = stack.enter_context(store.writing(lost_path))
        samples_file = stack.enter_context(store.writing(samples_path))
        keeper = SampleKeeper(samples_file, SAMPLE_SCHEMA, task.keep_dropped)
        scores: dict[str, SideFile] = {}
        for runner in runners:
            if isinstance(runner, MapRunner):
                path = f"scores/{runner.spec.name}/part-{task.unit}.parquet"
                file = stack.enter_context(store.writing(path))
                scores[runner.spec.name] = SideFile(path, file, TableWriter(file, score_schema(runner)))
        kept_writer: TableWriter | None = None
        lost_writer = TableWriter(lost_file, LOST_SCHEMA)
        lost = Lost(lost_writer)
        stages = [s.stage_class(s.config) for s in task.all_stages]
        final_schema = documents_schema(stages)
        talks: dict[str, SideFile] = {}  # kind -> its file, beside documents/
        for kind in task.kinds if task.final else ():
            if kind in KINDS:
                path = f"{KINDS[kind]}/part-{task.unit}.parquet"
                file = stack.enter_context(store.writing(path))
                talks[kind] = SideFile(path, file, TableWriter(file, conversations_schema(kind, stages)))
        ledger = WholeLedger()
        for batch, places in input_batches(task, counts, lost, keeper):
            poison = poison_of(task, batch, places)
            for runner in runners:
                if poison:
                    batch = stop_poison(batch, poison, runner.spec.name, runner.counts, lost, keeper)
                if not len(batch):
                    break
                outcome = runner(batch)
                lost.add(outcome.dropped.table, outcome.verdicts)
                offer_samples(keeper, outcome.dropped, outcome.verdicts)
                if isinstance(runner, MapRunner):
                    score = scores[runner.spec.name]
                    score.writer.add(outcome.measured.cast(score.writer.schema))
                batch = outcome.kept
            table = batch.table
            if task.final:
                ledger.add(ledger_facts(table))
                for source, number in Counter(table.column("source").to_pylist()).items():
                    counts.kept[source] += number
                for kind, talk in talks.items():
                    talk.writer.add(as_documents(of_kind(table, kind), talk.writer.schema))
                table = as_documents(of_kind(table, "text"), final_schema)
            if task.leaves_payload:
                table = without_payload(table)
            if table.num_rows:  # a batch that lost all its rows early lacks the later stages' columns
                kept_writer = kept_writer or TableWriter(kept_file, table.schema)
                kept_writer.add(table)
        if kept_writer is None:
            kept_writer = TableWriter(kept_file, final_schema if task.final else empty_schema(runners, task))
        kept_writer.close()
        lost_writer.close()
        for side in [*scores.values(), *talks.values()]:
            side.writer.close()
        keeper.close()
        outputs.append(journal.output(kept_path, kept_file, kept_writer.rows))
        outputs.append(journal.output(lost_path, lost_file, lost_writer.rows))
        outputs.append(journal.output(samples_path, samples_file, 0))
        outputs += [journal.output(s.path, s.file, s.writer.rows) for s in [*scores.values(), *talks.values()]]
        if task.final:
            ledger_path = f"ledger/part-{task.unit}.parquet"
            ledger_file = stack.enter_context(store.writing(ledger_path))
            ledger.add_file(lost_file)
            for earlier in task.lost_before:
                with contextlib.closing(store.open(earlier)) as handle:
                    ledger.add_file(handle)
            outputs.append(journal.output(ledger_path, ledger_file, ledger.write(ledger_file)))
    manifest = Manifest(
        phase=task.phase,
        unit=task.unit,
        fingerprint=task.fingerprint,
        components=task.components,
        outputs=outputs,
        counts=counts.to_dict(runners, lost),
        extra={"measured": task.measured, **counts.extra},
    )
    journal.commit(store, manifest)
    return manifest


@dataclass
class SideFile:
    """Where a stage's scores, or a kind's conversations, go."""

    path: str
    file: Path
    writer: TableWriter


def build_runners(task: MapTask) -> list[MapRunner | AggregateRunner]:
    """The phase's stages, ready for `setup`."""
    runners: list[MapRunner | AggregateRunner] = []
    if task.aggregate is not None and task.summary is not None:
        with contextlib.closing(task.store.open(task.summary)) as handle:
            runners.append(AggregateRunner(task.aggregate, pq.read_table(handle)))
    for spec in task.stages:
        runner = MapRunner(spec, task.record_seconds)
        if spec.name in task.reuse:
            with contextlib.closing(task.store.open(task.reuse[spec.name])) as handle:
                runner.reuse(pq.read_table(handle))
        runners.append(runner)
    return runners


def score_schema(runner: MapRunner) -> pa.Schema:
    """Columns of a stage's scores: the id, then its scored values."""
    measures = runner.base.measures()
    return pa.schema([("id", pa.string()), *((name, measures[name]) for name in runner.base.scored())])


def empty_schema(runners: list[MapRunner | AggregateRunner], task: MapTask) -> pa.Schema:
    """The columns of a phase's output when no row came through it."""
    fields = {f.name: f.type for f in READ_SCHEMA}
    if set(task.kinds) - {"text"}:
        fields |= CONVERSATION
    if task.leaves_payload:
        fields = {name: kind for name, kind in fields.items() if name != "html"} | {"payload_hash": PAYLOAD_HASH}
    for spec in task.all_stages:
        stage = spec.stage_class(spec.config)
        for name, kind in stage.provides().items():
            fields[name] = kind
        for name in stage.consumes:
            fields.pop(name, None)
        if runners and spec.name == runners[-1].spec.name:
            break
    return pa.schema(list(fields.items()))
