"""Fused map stages over batches: `only`, `by_language`, measure, decide, edit, and one bad row failing alone."""

from __future__ import annotations

import errno
import resource
import signal
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.config import StageSpec
from stages.batch import Batch
from stages.conversation import with_edits
from stages.stage import AggregateStage, Decision, Edit, MapStage, StageError

T = TypeVar("T")
Error = tuple[str, float | None, float | None, str | None]  # rule, value, threshold, detail of a row not measured

# The machine's fault, not a record's: full disk, quota, I/O error, out of file handles or memory, read-only or stale file system.
MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EROFS, errno.ESTALE}

MEASURE_BATCH = 64  # rows measured under one time limit; small enough that redoing them one by one is cheap


class RecordTimeout(BaseException):
    """A record took more CPU time than it may. Not an `Exception`: no library's `except Exception` may swallow it."""


def limited(seconds: float | None, work: Callable[[], T]) -> T:
    """`work()`; raises `RecordTimeout` after this much CPU time of the process, and ends the process if native code hangs on.

    CPU time, so a busy machine changes nothing. Python code is interrupted by SIGPROF; a native parser that never returns
    is ended by SIGVTALRM, whose default action is to terminate, and its record is found by isolation.
    Only the main thread can set signal handlers; elsewhere there is no limit.
    """
    if seconds is None or threading.current_thread() is not threading.main_thread():
        return work()
    over = False

    def expired(signum: int, frame: Any) -> None:
        if not over:
            raise RecordTimeout

    previous = signal.signal(signal.SIGPROF, expired)
    previous_kill = signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
    try:
        try:
            signal.setitimer(signal.ITIMER_VIRTUAL, 1.25 * seconds + 1.0)
            signal.setitimer(signal.ITIMER_PROF, seconds)
            return work()
        finally:  # the timer may go off in here too, once; the outer block is then undisturbed
            over = True
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGPROF, previous)
        signal.signal(signal.SIGVTALRM, previous_kill)


@dataclass
class StageCounts:
    """What one stage did, summed over batches."""

    rows_in: int = 0
    rows_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    tally: dict[str, Counter[str]] = field(default_factory=dict)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As plain data for a manifest."""
        return {
            "rows_in": self.rows_in,
            "rows_out": self.rows_out,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "dropped": dict(sorted(self.dropped.items())),
            "failed": dict(sorted(self.failed.items())),
            "skipped": dict(sorted(self.skipped.items())),
            **(
                {"tally": {row: dict(sorted(of.items())) for row, of in sorted(self.tally.items())}}
                if self.tally
                else {}
            ),
            "seconds": round(self.seconds, 3),
        }


@dataclass
class Outcome:
    """What a stage made of a batch: the rows that go on, and verdicts on the others (aligned with `dropped`'s rows)."""

    kept: Batch
    dropped: Batch  # the rows as they came in
    verdicts: list[dict[str, Any]]  # fate, stage, rule, value, threshold, detail of each dropped row
    measured: pa.Table  # scored values of every row that the stage could measure, with its id
    after: Batch  # all rows, dropped ones too, with the columns that the stage wrote
    rules: list[str | None]  # of all rows
    values: pa.Table  # all measured values of all rows, nulls where the stage did not look or could not measure


def cpu_seconds() -> float:
    """CPU time of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def text_bytes(batch: Batch) -> int:
    """UTF-8 bytes of the texts, and of the payload of rows that have no text yet."""
    if not len(batch):
        return 0
    sizes = pc.binary_length(batch.column("text")) if batch.has("text") else pa.nulls(len(batch), pa.int64())
    if batch.has("html"):
        sizes = pc.coalesce(sizes.cast(pa.int64()), pc.binary_length(batch.column("html")).cast(pa.int64()))
    return int(pc.sum(sizes).as_py() or 0)


def apply_edits(text: str, edits: list[Edit]) -> str:
    """A text with its edits carried out; they must be in order, disjoint and inside the text."""
    parts, position = [], 0
    for start, end, replacement in edits:
        if not position <= start <= end <= len(text):
            raise ValueError(f"edit [{start}, {end}) is out of order or outside a text of {len(text)} characters")
        parts += [text[position:start], replacement]
        position = end
    parts.append(text[position:])
    return "".join(parts)


class MapRunner:
    """One configured map stage in a worker, with an instance for each `by_language` variant."""

    def __init__(self, spec: StageSpec, seconds: float | None = None) -> None:
        self.spec = spec
        self.seconds = seconds
        self.counts = StageCounts()
        self.entered: Callable[[str], None] = lambda stage: None  # told the stage's name before it measures
        base: MapStage = spec.stage_class(spec.config)  # type: ignore[assignment]
        self.stages: dict[str | None, MapStage] = {None: base}
        for language, values in spec.config.by_language.items():
            own = spec.config.model_dump(by_alias=True, exclude_unset=True)
            config = type(spec.config).model_validate({**own, **values, "by_language": {}})
            self.stages[language] = spec.stage_class(config)  # type: ignore[assignment]
        self.known_values: pa.Table | None = None  # measured by an earlier run
        self._known_ids = np.empty(0, dtype="S1")  # their ids, sorted
        self._known_rows = np.empty(0, dtype=np.int64)  # and where each stands

    @property
    def base(self) -> MapStage:
        """The stage with its own knobs."""
        return self.stages[None]

    def setup(self, resolve: Callable[[str], Path]) -> None:
        """Load models and lists; `resolve` gives a local path for an asset."""
        for stage in self.stages.values():
            stage.setup({name: resolve(path) for name, path in stage.assets().items()})

    def reuse(self, values: pa.Table) -> None:
        """Take scores that an earlier run measured with the same knobs, so that only unknown rows are measured."""
        self.known_values = values
        ids = np.array(values.column("id").cast(pa.binary()).to_pylist(), dtype=np.bytes_)
        self._known_rows = np.argsort(ids)
        self._known_ids = ids[self._known_rows]

    def _find_known(self, ids: list[str]) -> np.ndarray:
        """Where the values of these rows stand, -1 for those that were never measured."""
        wanted = np.array([id_.encode() for id_ in ids], dtype=np.bytes_)
        place = np.minimum(np.searchsorted(self._known_ids, wanted), max(len(self._known_ids) - 1, 0))
        if not len(self._known_ids):
            return np.full(len(ids), -1, dtype=np.int64)
        found: np.ndarray = np.where(self._known_ids[place] == wanted, self._known_rows[place], -1)
        return found

    def __call__(self, batch: Batch) -> Outcome:
        """Judge a batch. Raises only for a fault of the stage itself that no single row explains."""
        started = cpu_seconds()
        rows = len(batch)
        self.counts.rows_in += rows
        self.counts.bytes_in += text_bytes(batch)
        groups, skipped = self._variants(batch)
        if skipped:
            self.counts.skipped["only"] += skipped
        decision = Decision.keep(rows)
        measured = self._empty(rows)
        judged = np.zeros(rows, dtype=bool)
        for variant, members in groups.items():
            part = batch if len(members) == rows else batch.take(members)
            values, good, errors = self._measure(self.stages[variant], part)
            places = members[good]
            verdicts = self.stages[variant].decide(values)  # of measured rows alone
            for row, place in enumerate(places.tolist()):
                if verdicts.rule[row] is not None:
                    decision.drop(
                        place,
                        verdicts.rule[row] or "",
                        verdicts.value[row],
                        verdicts.threshold[row],
                        verdicts.detail[row],
                        row in verdicts.failed,
                    )
                elif row in verdicts.edits:
                    decision.edits[place] = verdicts.edits[row]
            for row, error in errors.items():
                decision.drop(int(members[row]), *error, failed=True)
            self.counts.skipped.update(verdicts.skipped)
            judged[places] = True
            measured = _scatter(measured, values, places, rows)
        outcome = self._outcome(batch, decision, measured, judged)
        self.counts.rows_out += len(outcome.kept)
        self.counts.bytes_out += text_bytes(outcome.kept)
        self.counts.seconds += cpu_seconds() - started
        return outcome

    def _variants(self, batch: Batch) -> tuple[dict[str | None, np.ndarray], int]:
        """Rows of each by_language variant, and how many rows `only` leaves out."""
        rows = len(batch)
        mask = only_mask(self.spec, batch)
        skipped = rows - int(mask.sum())
        if len(self.stages) == 1:
            members = np.flatnonzero(mask)
            return ({None: members} if len(members) else {}), skipped
        languages = batch.values("language")
        places: dict[str | None, list[int]] = {}
        for row in np.flatnonzero(mask).tolist():
            language = languages[row] if languages[row] in self.stages else None
            places.setdefault(language, []).append(row)
        return {language: np.array(places[language]) for language in self.stages if language in places}, skipped

    def _empty(self, rows: int) -> pa.Table:
        return pa.table({n: pa.nulls(rows, t) for n, t in self.base.measures().items()})

    def _measure(self, stage: MapStage, batch: Batch) -> tuple[pa.Table, np.ndarray, dict[int, Error]]:
        """The values of the rows that could be measured, those rows' places (ascending), and the other rows' verdicts."""
        schema = pa.schema(list(stage.measures().items()))
        if self.known_values is None:
            values, places, errors = self._measure_fresh(stage, batch, schema)
            return values, np.array(places, dtype=np.int64), errors
        found = self._find_known(batch.column("id").to_pylist())
        missing, have = np.flatnonzero(found < 0), np.flatnonzero(found >= 0)
        known = self.known_values.take(pa.array(found[have])).select(schema.names).cast(schema)
        if not len(missing):
            return known, have, {}
        fresh, places, errors = self._measure_fresh(stage, batch.take(missing), schema)
        good = np.concatenate([have, missing[np.array(places, dtype=np.int64)]])
        order = np.argsort(good)
        values = pa.concat_tables([known, fresh]).take(pa.array(order))
        return values, good[order], {int(missing[row]): error for row, error in errors.items()}

    def _measure_fresh(
        self, stage: MapStage, batch: Batch, schema: pa.Schema
    ) -> tuple[pa.Table, list[int], dict[int, Error]]:
        self.entered(self.spec.name)
        try:
            values = limited(self.seconds, lambda: stage.measure(batch)).select(schema.names).cast(schema)
            if values.num_rows != len(batch):
                raise ValueError(f"{self.spec.name} measured {values.num_rows} rows of {len(batch)}")
            return values, list(range(len(batch))), {}
        except StageError:
            raise
        except (Exception, RecordTimeout, SystemExit) as error:
            if isinstance(error, OSError) and error.errno in MACHINE:
                raise
            if len(batch) == 1:
                return schema.empty_table(), [], {0: failure(error, self.seconds)}
        tables: list[pa.Table] = []
        good: list[int] = []
        errors: dict[int, Error] = {}
        for row in range(len(batch)):  # one by one: only the row at fault fails
            table, measured, bad = self._measure_fresh(stage, batch.take([row]), schema)
            tables.append(table)
            good += [row] * len(measured)
            if bad:
                errors[row] = bad[0]
        return pa.concat_tables(tables), good, errors

    def _outcome(self, batch: Batch, decision: Decision, measured: pa.Table, judged: np.ndarray) -> Outcome:
        stage = self.base
        columns: dict[str, pa.Array | pa.ChunkedArray] = {}
        for name, kind in stage.provides().items():
            if name in measured.column_names:
                new = measured.column(name)
                if batch.has(name) and not judged.all():  # rows that the stage did not look at keep what they had
                    new = _choose(judged, new, batch.column(name).cast(kind))
                columns[name] = new
        if decision.edits:
            texts = (columns["text"] if "text" in columns else batch.column("text")).to_pylist()
            for row, edits in decision.edits.items():
                texts[row] = apply_edits(texts[row] or "", edits)
            talks, renderings = with_edits(batch, decision.edits)
            for row, text in renderings.items():
                texts[row] = text
            columns |= talks
            columns["text"] = pa.array(texts, type=pa.large_string())
        after = (batch.with_columns(columns) if columns else batch).without(stage.consumes)
        scored = [n for n in stage.scored() if n in measured.column_names]
        scores = pa.table({"id": batch.column("id"), **{n: measured.column(n) for n in scored}})
        if not judged.all():
            scores = scores.filter(pa.array(judged))
        shown = after if stage.provides().get("text") else batch  # a dropped page is best shown as text
        kept, dropped, verdicts = settle(self.spec, self.counts, decision, after, shown)
        return Outcome(kept, dropped, verdicts, scores, after, decision.rule, measured)


def settle(
    spec: StageSpec, counts: StageCounts, decision: Decision, after: Batch, shown: Batch
) -> tuple[Batch, Batch, list[dict[str, Any]]]:
    """Rows that go on, rows that end here (taken from `shown`), and the ledger's words on the latter; counted."""
    lost = [row for row, rule in enumerate(decision.rule) if rule is not None]
    if not lost:
        return after, Batch(shown.table.slice(0, 0)), []
    verdicts = []
    for row in lost:
        rule = decision.rule[row] or ""
        fate = "failed" if row in decision.failed else "dropped"
        (counts.failed if fate == "failed" else counts.dropped)[rule] += 1
        verdicts.append(
            {
                "fate": fate,
                "stage": spec.name,
                "rule": rule,
                "value": decision.value[row],
                "threshold": decision.threshold[row],
                "detail": decision.detail[row],
            }
        )
    kept = np.setdiff1d(np.arange(len(after)), np.array(lost), assume_unique=True)
    return after.take(kept), shown.take(lost), verdicts


def failure(error: BaseException, seconds: float | None) -> Error:
    """Rule, value, threshold and detail of a row that could not be measured; never its content."""
    if isinstance(error, RecordTimeout):
        return "timeout", None, seconds, "more CPU time than engine.record_seconds"
    if isinstance(error, MemoryError):
        return "memory", None, None, "more memory than the process may take"
    return "error", None, None, type(error).__name__


def only_mask(spec: StageSpec, batch: Batch) -> np.ndarray:
    """Which rows a stage's `only` lets through, as booleans."""
    only = spec.config.only
    mask = np.ones(len(batch), dtype=bool)
    if only is None:
        return mask
    for name, wanted in (("language", only.language), ("source", only.source)):
        if wanted is not None:
            mask &= np.array([value in wanted for value in batch.values(name)], dtype=bool)
    return mask


def _scatter(into: pa.Table, values: pa.Table, members: np.ndarray, rows: int) -> pa.Table:
    """`values` put at the places `members` of a table of `rows` rows, the other places as they were."""
    if len(members) == rows:
        return values.select(into.column_names)
    index = np.arange(rows)
    index[members] = rows + np.arange(len(members))
    both = pa.concat_tables([into, values.select(into.column_names)])
    return both.take(pa.array(index))


def _choose(mask: np.ndarray, yes: pa.ChunkedArray, no: pa.ChunkedArray) -> pa.Array:
    """`yes` where the mask holds, else `no`; for every Arrow type."""
    both = pa.chunked_array([*no.chunks, *yes.chunks], type=no.type)
    return both.take(pa.array(np.arange(len(mask)) + np.where(mask, len(mask), 0)))


class AggregateRunner:
    """An aggregate stage's decisions, with the summary of the whole corpus at hand."""

    def __init__(self, spec: StageSpec, summary: pa.Table) -> None:
        self.spec = spec
        self.summary = summary
        self.counts = StageCounts()
        self.entered: Callable[[str], None] = lambda stage: None
        self.stage: AggregateStage = spec.stage_class(spec.config)  # type: ignore[assignment]

    def setup(self, resolve: Callable[[str], Path]) -> None:
        """Load models and lists."""
        self.stage.setup({name: resolve(path) for name, path in self.stage.assets().items()})

    def __call__(self, batch: Batch) -> Outcome:
        """Judge a batch with the summary; rows that `only` leaves out pass, their provided columns as they were, or null."""
        started = cpu_seconds()
        rows = len(batch)
        self.counts.rows_in += rows
        self.counts.bytes_in += text_bytes(batch)
        self.entered(self.spec.name)
        mask = only_mask(self.spec, batch)
        members = np.flatnonzero(mask)
        if len(members) < rows:
            self.counts.skipped["only"] += rows - len(members)
        provided = {n: k for n, k in self.stage.provides().items()}
        before = {n: batch.column(n).cast(k) if batch.has(n) else pa.nulls(rows, k) for n, k in provided.items()}
        after, decision = batch, Decision.keep(rows)
        if len(members):
            verdicts, columns = self.stage.decide(batch if len(members) == rows else batch.take(members), self.summary)
            for row, place in enumerate(members.tolist()):
                rule = verdicts.rule[row]
                if rule is not None:
                    value, threshold, detail = verdicts.value[row], verdicts.threshold[row], verdicts.detail[row]
                    decision.drop(place, rule, value, threshold, detail, row in verdicts.failed)
            self.counts.skipped.update(verdicts.skipped)
            for name, numbers in verdicts.tally.items():
                self.counts.tally.setdefault(name, Counter()).update(numbers)
            values = pa.table({n: columns[n] for n in provided}, schema=pa.schema(list(provided.items())))
            before_table = pa.table(before, schema=values.schema)
            both = _scatter(before_table, values, members, rows)
            before = {n: both.column(n) for n in provided}
        if before:
            after = batch.with_columns(before)
        after = after.without(self.stage.consumes)
        kept, dropped, facts = settle(self.spec, self.counts, decision, after, batch)
        empty = pa.table({"id": batch.column("id").slice(0, 0)})
        outcome = Outcome(kept, dropped, facts, empty, after, decision.rule, empty)
        self.counts.rows_out += len(outcome.kept)
        self.counts.bytes_out += text_bytes(outcome.kept)
        self.counts.seconds += cpu_seconds() - started
        return outcome
