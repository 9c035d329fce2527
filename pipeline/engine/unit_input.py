"""The rows of a map unit: read from the input, or loaded from an earlier phase with a group stage's verdicts applied."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pyarrow as pa

from pipeline.engine.ledger import Lost
from pipeline.engine.mapping import MEASURE_BATCH, AggregateRunner, MapRunner, StageCounts, cpu_seconds
from pipeline.engine.reread import rows_with_payload
from pipeline.engine.rows import rows_table, stored_rows
from pipeline.engine.verdicts import VerdictCursor
from pipeline.engine.writers import SampleKeeper, row_bytes
from pipeline.readers import open_segment
from pipeline.readers.record import Record
from stages.batch import Batch

if TYPE_CHECKING:
    from pipeline.engine.map_unit import MapTask

T = TypeVar("T")

BATCH_BYTES = 8 << 20  # payload bytes of a batch


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
        if not self.read.rows_in and self.read.seconds:  # read again: the records were counted before, the time was not
            stages["read"] = self.read.to_dict()
        return {
            "stages": stages,
            "sources": self.sources,
            "other_records": dict(sorted(self.other_records.items())),
            "fates": {source: dict(sorted(fates.items())) for source, fates in sorted(lost.fates.items())},
            "ended": {
                stage: {source: dict(sorted(fates.items())) for source, fates in sorted(of.items())}
                for stage, of in sorted(lost.ended.items())
            },
            "kept": dict(sorted(self.kept.items())),
        }


def input_batches(
    task: MapTask, counts: UnitCounts, lost: Lost, keeper: SampleKeeper | None, first: int = 0, last: int | None = None
) -> Iterator[tuple[Batch, np.ndarray]]:
    """The unit's rows in order with their places, those that end at reading or by verdicts already taken out.

    `first` and `last` limit the rows to a range of places, for isolation.
    """
    reads = task.upstream is None  # all segments may have turned out to be empty
    if reads:
        source = timed(read_batches(task, counts, lost), counts.read)
    else:
        source = stored_batches(task, counts, lost, keeper)
    place = 0
    for table in source:
        places = np.arange(place, place + table.num_rows) if not reads else table.column("_seq").to_numpy()
        place += table.num_rows
        keep = (places >= first) if last is None else (places >= first) & (places < last)
        if not keep.all():
            table, places = table.filter(pa.array(keep)), places[keep]
        for start, end in cuts(table, task.batch_rows, BATCH_BYTES):
            yield Batch(table.slice(start, end - start)), places[start:end]


def timed(tables: Iterator[T], counts: StageCounts) -> Iterator[T]:
    """The same tables, with the CPU time that making them took added to the counts."""
    while True:
        started = cpu_seconds()
        table = next(tables, None)
        counts.seconds += cpu_seconds() - started
        if table is None:
            return
        yield table


def cuts(table: pa.Table, rows: int, size: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most `rows` rows and about `size` bytes; nothing that is written depends on where they end."""
    if table.num_rows <= rows and table.nbytes <= size:
        if table.num_rows:
            yield 0, table.num_rows
        return
    ends = np.cumsum(row_bytes(table))
    start = 0
    while start < table.num_rows:
        before = int(ends[start - 1]) if start else 0
        end = min(start + rows, max(start + 1, int(np.searchsorted(ends, before + size, side="right"))))
        yield start, min(end, table.num_rows)
        start = end


def read_batches(task: MapTask, counts: UnitCounts, lost: Lost) -> Iterator[pa.Table]:
    """Records of the unit's segments as tables; records settled at reading go straight to the ledger."""
    seq = 0
    size = 0
    waiting: list[tuple[int, str, str, Record]] = []
    has_extract = any(spec.kind == "extract" for spec in task.all_stages)
    spans = []
    conversations = bool(set(task.kinds) - {"text"})
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
                record.html = record.text = record.conversation = None
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
                yield rows_table(waiting, task.leaves_payload, conversations)
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
        yield rows_table(waiting, task.leaves_payload, conversations)


def stored_batches(task: MapTask, counts: UnitCounts, lost: Lost, keeper: SampleKeeper | None) -> Iterator[pa.Table]:
    """Rows that an earlier phase kept, with the verdicts of the group phase in between applied."""
    assert task.upstream is not None
    verdicts = VerdictCursor(task) if task.group is not None else None
    if verdicts is not None:
        counts.verdicts, counts.verdict_stage = (
            StageCounts(),
            verdicts.stage.name if task.group is None else task.group.name,
        )
    rows = timed(rows_with_payload(task), counts.read) if task.reads_again else stored_rows(task.store, task.upstream)
    for stored, row in rows:
        table = stored
        if verdicts is not None and counts.verdicts is not None:
            table = verdicts.apply(Batch(stored), row, counts.verdicts, lost, keeper).table
        yield table
