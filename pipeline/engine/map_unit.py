"""One unit of a map phase: a shard read or loaded, judged by the fused stages, and written."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from stages.pii.scrub import scrub_url

from pipeline.config import StageSpec
from pipeline.engine import journal
from pipeline.engine.assets import local_copy
from pipeline.engine.exchange import PARTITION, Slices, Sorter, read_slices
from pipeline.engine.journal import Manifest, Output
from pipeline.engine.mapping import (
    MEASURE_BATCH,
    AggregateRunner,
    MapRunner,
    StageCounts,
    apply_edits,
    only_mask,
    text_bytes,
)
from pipeline.engine.rows import (
    LEDGER_SCHEMA,
    LOST_SCHEMA,
    READ_SCHEMA,
    SAMPLE_SCHEMA,
    as_documents,
    documents_schema,
    rows_table,
    stored_rows,
)
from pipeline.engine.store import Store
from pipeline.engine.writers import SAMPLES_PER_RULE, SampleKeeper, TableWriter, offer_samples, row_bytes
from pipeline.readers import open_segment
from pipeline.readers.record import Limits, Record, Segment
from stages.batch import Batch
from stages.stage import VERDICT, Edit, GroupStage

BATCH_BYTES = 8 << 20  # payload bytes of a batch


@dataclass(frozen=True)
class Poison:
    """A record that ends its worker: the stage it was in, the rule, and how the worker died."""

    stage: str
    rule: str
    detail: str


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
    # where the rows come from: segments of the input, or the file of an earlier map phase
    segments: tuple[Segment, ...] = ()
    planned: tuple[int, ...] = ()  # where each segment was planned to begin, before its start was corrected
    limits: Limits = field(default_factory=Limits)
    max_records: int | None = None
    upstream: str | None = None
    # verdicts of the group phase in between, or the summary of the aggregate phase
    group: StageSpec | None = None
    verdicts: tuple[Slices, ...] = ()
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


class Lost:
    """Ledger rows of records that end in this phase."""

    def __init__(self, writer: TableWriter) -> None:
        self.writer = writer
        self.fates: dict[str, Counter[str]] = {}

    def add(self, table: pa.Table, verdicts: list[dict[str, Any]]) -> None:
        """Add rows with their verdicts (fate, stage, rule, ...), aligned."""
        if not verdicts:
            return
        column = {
            name: table.column(name).to_pylist()
            for name in ("id", "record_id", "url", "source", "_file", "_offset", "_seq")
        }
        rows = []
        for i, verdict in enumerate(verdicts):
            self.fates.setdefault(column["source"][i], Counter())[verdict["fate"]] += 1
            rows.append(
                {
                    "id": column["id"][i],
                    "record_id": scrubbed(column["record_id"][i]),
                    "url": scrubbed(column["url"][i]),
                    "source": column["source"][i],
                    "file": column["_file"][i],
                    "offset": column["_offset"][i],
                    "_seq": column["_seq"][i],
                    "kept_id": None,
                    "similarity": None,
                    **verdict,
                }
            )
        self.writer.add(pa.Table.from_pylist(rows, schema=LOST_SCHEMA))


def scrubbed(url: str | None) -> str | None:
    """A URL or record name without personal data, for the ledger."""
    return None if url is None else scrub_url(url)


def run_map(task: MapTask) -> Manifest:
    """Carry out the unit and commit it. Raises `OSError` for storage faults and `StageError` for unusable assets."""
    runners = build_runners(task)
    for runner in runners:
        runner.setup(lambda path: local_copy(path, task.assets[path]))
    store = task.store
    journal.forget(store, task.phase, task.unit)
    counts = UnitCounts()
    keeper = (
        None if task.keep_dropped == "none" else SampleKeeper(None if task.keep_dropped == "all" else SAMPLES_PER_RULE)
    )
    outputs: list[Output] = []
    base = f"phases/{task.phase}/{task.unit}"
    kept_path = f"documents/part-{task.unit}.parquet" if task.final else f"{base}.parquet"
    lost_path, samples_path = f"{base}.lost.parquet", f"{base}.samples.parquet"
    with contextlib.ExitStack() as stack:
        kept_file = stack.enter_context(store.writing(kept_path))
        lost_file = stack.enter_context(store.writing(lost_path))
        samples_file = stack.enter_context(store.writing(samples_path))
        scores: dict[str, ScoreFile] = {}
        for runner in runners:
            if isinstance(runner, MapRunner):
                path = f"scores/{runner.spec.name}/part-{task.unit}.parquet"
                file = stack.enter_context(store.writing(path))
                scores[runner.spec.name] = ScoreFile(path, file, TableWriter(file, score_schema(runner)))
        kept_writer: TableWriter | None = None
        lost_writer = TableWriter(lost_file, LOST_SCHEMA)
        lost = Lost(lost_writer)
        final_schema = documents_schema([s.stage_class(s.config) for s in task.all_stages])
        kept_places: list[pa.Table] = []
        for batch, places in input_batches(task, counts, lost, keeper):
            poison = poison_of(task, batch, places)
            for runner in runners:
                if poison:
                    batch = stop_poison(batch, poison, runner, lost, keeper)
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
                kept_places.append(ledger_facts(table))
                for source, number in Counter(table.column("source").to_pylist()).items():
                    counts.kept[source] += number
                table = as_documents(table, final_schema)
            if table.num_rows:  # a batch that lost all its rows early lacks the later stages' columns
                kept_writer = kept_writer or TableWriter(kept_file, table.schema)
                kept_writer.add(table)
        if kept_writer is None:
            kept_writer = TableWriter(kept_file, final_schema if task.final else empty_schema(runners, task))
        kept_writer.close()
        lost_writer.close()
        for score in scores.values():
            score.writer.close()
        pq.write_table(
            pa.Table.from_pylist(keeper.rows() if keeper else [], schema=SAMPLE_SCHEMA),
            samples_file,
            compression="zstd",
        )
        outputs.append(journal.output(kept_path, kept_file, kept_writer.rows))
        outputs.append(journal.output(lost_path, lost_file, lost_writer.rows))
        outputs.append(journal.output(samples_path, samples_file, 0))
        outputs += [journal.output(score.path, score.file, score.writer.rows) for score in scores.values()]
        if task.final:
            ledger_path = f"ledger/part-{task.unit}.parquet"
            ledger_file = stack.enter_context(store.writing(ledger_path))
            rows = write_ledger(task, ledger_file, kept_places, pq.read_table(lost_file))
            outputs.append(journal.output(ledger_path, ledger_file, rows))
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
class ScoreFile:
    """Where a stage's scores go."""

    path: str
    file: Path
    writer: TableWriter


@dataclass
class UnitCounts:
    """What came in, beside the stages' own counts."""

    sources: dict[str, dict[str, int]] = field(default_factory=dict)  # read: source -> records, bytes
    other_records: Counter[str] = field(default_factory=Counter)
    read: StageCounts = field(default_factory=StageCounts)
    verdicts: StageCounts | None = None
    verdict_stage: str = ""
    kept: Counter[str] = field(default_factory=Counter)
    extra: dict[str, Any] = field(default_factory=dict)

    def to_dict(self, runners: list[MapRunner | AggregateRunner], lost: Lost) -> dict[str, Any]:
        """As plain data for the manifest."""
        stages = {}
        if self.read.rows_in:
            stages["read"] = self.read.to_dict()
        if self.verdicts is not None:
            stages[self.verdict_stage] = self.verdicts.to_dict()
        for runner in runners:
            stages[runner.spec.name] = runner.counts.to_dict()
        return {
            "stages": stages,
            "sources": self.sources,
            "other_records": dict(sorted(self.other_records.items())),
            "fates": {source: dict(sorted(fates.items())) for source, fates in sorted(lost.fates.items())},
            "kept": dict(sorted(self.kept.items())),
        }


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
    for spec in task.all_stages:
        stage = spec.stage_class(spec.config)
        for name, kind in stage.provides().items():
            fields[name] = kind
        for name in stage.consumes:
            fields.pop(name, None)
        if any(runner.spec.name == spec.name for runner in runners) and spec.name == task.stages[-1].name:
            break
    return pa.schema(list(fields.items()))


def input_batches(
    task: MapTask, counts: UnitCounts, lost: Lost, keeper: SampleKeeper | None, first: int = 0, last: int | None = None
) -> Iterator[tuple[Batch, np.ndarray]]:
    """The unit's rows in order with their places, those that end at reading or by verdicts already taken out.

    `first` and `last` limit the rows to a range of places, for isolation.
    """
    source = read_batches(task, counts, lost) if task.segments else stored_batches(task, counts, lost, keeper)
    place = 0
    for table in source:
        places = np.arange(place, place + table.num_rows) if not task.segments else table.column("_seq").to_numpy()
        place += table.num_rows
        keep = (places >= first) if last is None else (places >= first) & (places < last)
        if not keep.all():
            table, places = table.filter(pa.array(keep)), places[keep]
        for start, end in cuts(table, task.batch_rows, BATCH_BYTES):
            yield Batch(table.slice(start, end - start)), places[start:end]


def cuts(table: pa.Table, rows: int, size: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most `rows` rows and about `size` bytes; nothing that is written depends on where they end."""
    ends = np.cumsum(row_bytes(table))
    start = 0
    while start < table.num_rows:
        before = int(ends[start - 1]) if start else 0
        end = min(start + rows, max(start + 1, int(np.searchsorted(ends, before + size, side="right"))))
        yield start, min(end, table.num_rows)
        start = end


def poison_of(task: MapTask, batch: Batch, places: np.ndarray) -> dict[str, Poison]:
    """The batch's poison records, by id."""
    if not task.poison:
        return {}
    ids = batch.values("id")
    return {ids[row]: task.poison[place] for row, place in enumerate(places.tolist()) if place in task.poison}


def stop_poison(
    batch: Batch,
    poison: dict[str, Poison],
    runner: MapRunner | AggregateRunner,
    lost: Lost,
    keeper: SampleKeeper | None,
) -> Batch:
    """The batch without the records that end their worker in this stage; they fail here."""
    rows = [i for i, id_ in enumerate(batch.values("id")) if id_ in poison and poison[id_].stage == runner.spec.name]
    if not rows:
        return batch
    stopped = batch.take(rows)
    verdicts = []
    for id_ in stopped.values("id"):
        found = poison[id_]
        runner.counts.failed[found.rule] += 1
        verdicts.append(
            {
                "fate": "failed",
                "stage": found.stage,
                "rule": found.rule,
                "value": None,
                "threshold": None,
                "detail": found.detail,
            }
        )
    runner.counts.rows_in += len(stopped)
    runner.counts.bytes_in += text_bytes(stopped)
    lost.add(stopped.table, verdicts)
    offer_samples(keeper, stopped, verdicts)
    return batch.take(np.setdiff1d(np.arange(len(batch)), np.array(rows), assume_unique=True))


def read_batches(task: MapTask, counts: UnitCounts, lost: Lost) -> Iterator[pa.Table]:
    """Records of the unit's segments as tables; records settled at reading go straight to the ledger."""
    seq = 0
    size = 0
    waiting: list[tuple[int, str, str, Record]] = []
    has_extract = any(spec.kind == "extract" for spec in task.all_stages)
    spans = []
    for segment, planned in zip(task.segments, task.planned, strict=True):
        if task.max_records is not None and seq >= task.max_records:
            break
        reader = open_segment(segment, task.limits)
        source = counts.sources.setdefault(segment.source, {"records": 0, "bytes": 0})
        for record in reader:
            if task.max_records is not None and seq >= task.max_records:
                break
            payload = len(record.html or b"") + len((record.text or "").encode("utf-8", "replace"))
            source["records"] += 1
            source["bytes"] += payload
            counts.read.rows_in += 1
            counts.read.bytes_in += payload
            if record.fate is None and record.text is None and not has_extract:
                record.fate, record.rule, record.detail = "failed", "no_text", "HTML, and no extract stage"
            if record.fate is not None:
                rule = record.rule or record.fate
                (counts.read.failed if record.fate == "failed" else counts.read.dropped)[rule] += 1
                record.html = record.text = None
                verdict = {
                    "fate": record.fate,
                    "stage": "read",
                    "rule": rule,
                    "value": record.value,
                    "threshold": record.threshold,
                    "detail": record.detail,
                }
                lost.add(rows_table([(seq, segment.source, segment.key, record)]), [verdict])
            else:
                counts.read.rows_out += 1
                counts.read.bytes_out += payload
                waiting.append((seq, segment.source, segment.key, record))
                size += payload
            seq += 1
            if len(waiting) >= MEASURE_BATCH or size >= BATCH_BYTES:
                yield rows_table(waiting)
                waiting, size = [], 0
        counts.other_records.update(reader.other_records)
        spans.append(
            {
                "source": segment.source,
                "key": segment.key,
                "first": reader.first,
                "next": reader.next,
                "planned": planned,
            }
        )
    counts.extra["spans"] = spans
    counts.extra["records"] = seq
    if waiting:
        yield rows_table(waiting)


def stored_batches(task: MapTask, counts: UnitCounts, lost: Lost, keeper: SampleKeeper | None) -> Iterator[pa.Table]:
    """Rows that an earlier phase kept, with the verdicts of the group phase in between applied."""
    assert task.upstream is not None
    verdicts = VerdictCursor(task) if task.group is not None else None
    if verdicts is not None:
        counts.verdicts, counts.verdict_stage = (
            StageCounts(),
            verdicts.stage.name if task.group is None else task.group.name,
        )
    for stored, row in stored_rows(task.store, task.upstream):
        table = stored
        if verdicts is not None and counts.verdicts is not None:
            table = verdicts.apply(Batch(stored), row, counts.verdicts, lost, keeper).table
        yield table


class VerdictCursor:
    """A group stage's verdicts on one shard, in row order."""

    def __init__(self, task: MapTask) -> None:
        assert task.group is not None
        self.spec = task.group
        self.stage: GroupStage = task.group.stage_class(task.group.config)  # type: ignore[assignment]
        self.schema = pa.schema([*VERDICT.items(), *self.stage.provides().items()])
        sorter = Sorter(self.schema, None)
        for table in read_slices(task.store, task.verdicts, task.shard):
            sorter.add(table)
        self.tables = sorter.sorted()
        self.waiting: pa.Table = self.schema.empty_table()

    def _upto(self, row: int) -> pa.Table:
        """Verdicts on rows below `row` that were not handed out yet."""
        parts = [self.waiting]
        while parts[-1].num_rows == 0 or parts[-1].column("row")[-1].as_py() < row:
            table = next(self.tables, None)
            if table is None:
                break
            parts.append(table.drop_columns([PARTITION]))
        whole = pa.concat_tables(parts)
        cut = int(np.searchsorted(whole.column("row").to_numpy(), row))
        self.waiting = whole.slice(cut)
        return whole.slice(0, cut)

    def aligned(self, first: int, rows: int) -> pa.Table:
        """The verdicts on the rows [first, first + rows), one a row, nulls where none was sent; asked for in order."""
        sent = self._upto(first + rows)
        index = np.full(rows, -1, dtype=np.int64)
        for place, row in reversed(
            list(enumerate(sent.column("row").to_pylist()))
        ):  # the first verdict on a row counts
            index[row - first] = place
        return sent.take(pa.array(index, mask=index < 0))

    def apply(self, batch: Batch, first: int, counts: StageCounts, lost: Lost, keeper: SampleKeeper | None) -> Batch:
        """Drop, edit and annotate the rows [first, first + len(batch)) of the shard."""
        rows = len(batch)
        counts.rows_in += rows
        counts.bytes_in += text_bytes(batch)
        skipped = rows - int(only_mask(self.spec, batch).sum())
        if skipped:
            counts.skipped["only"] += skipped
        aligned = self.aligned(first, rows)
        columns: dict[str, pa.Array | pa.ChunkedArray] = dict(self.stage.columns(batch, aligned))
        edits = aligned.column("edits").to_pylist()
        if any(edits):
            texts = batch.texts()
            for row, changes in enumerate(edits):
                if changes:
                    texts[row] = apply_edits(texts[row], [Edit(**change) for change in changes])
            columns["text"] = pa.array(texts, type=pa.large_string())
        after = batch.with_columns(columns)
        rules = aligned.column("rule").to_pylist()
        gone = [row for row, rule in enumerate(rules) if rule is not None]
        if gone:
            facts = (
                aligned.take(pa.array(gone))
                .select(["value", "threshold", "kept_id", "similarity", "detail"])
                .to_pylist()
            )
            verdicts = [
                {"fate": "dropped", "stage": self.spec.name, "rule": rules[row], **fact}
                for row, fact in zip(gone, facts, strict=True)
            ]
            counts.dropped.update(str(rules[row]) for row in gone)
            dropped = batch.take(gone)
            lost.add(dropped.table, verdicts)
            offer_samples(keeper, dropped, verdicts)
            after = after.take(np.setdiff1d(np.arange(rows), np.array(gone), assume_unique=True))
        counts.rows_out += len(after)
        counts.bytes_out += text_bytes(after)
        return after


def ledger_facts(table: pa.Table) -> pa.Table:
    """What the ledger says of kept rows."""
    rows = table.num_rows
    columns: dict[str, Any] = {
        "id": table.column("id"),
        "record_id": pa.array([scrubbed(u) for u in table.column("record_id").to_pylist()], type=pa.string()),
        "url": pa.array([scrubbed(u) for u in table.column("url").to_pylist()], type=pa.string()),
        "source": table.column("source"),
        "file": table.column("_file"),
        "offset": table.column("_offset"),
        "fate": pa.array(["kept"] * rows, type=pa.string()),
    }
    arrays = [columns[f.name] if f.name in columns else pa.nulls(rows, f.type) for f in LEDGER_SCHEMA]
    return pa.table([*arrays, table.column("_seq")], schema=LOST_SCHEMA)


def write_ledger(task: MapTask, path: Any, kept: list[pa.Table], lost_now: pa.Table) -> int:
    """The shard's whole ledger: what every phase lost and what was kept, in the order of the input."""
    tables = [lost_now, *kept]
    for before in task.lost_before:
        with contextlib.closing(task.store.open(before)) as handle:
            tables.append(pq.read_table(handle))
    whole = pa.concat_tables([t.cast(LOST_SCHEMA) for t in tables])
    whole = whole.take(pc.sort_indices(whole, sort_keys=[("_seq", "ascending")])).drop_columns(["_seq"])
    writer = TableWriter(path, LEDGER_SCHEMA)
    writer.add(whole)
    writer.close()
    return whole.num_rows
