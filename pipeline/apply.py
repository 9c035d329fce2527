"""`python -m pipeline apply`: one stage on one file. Dropped rows stay, with the rule in `verdict`."""

from __future__ import annotations

import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.apply_rows import HASH, STRINGS, as_batch, check_columns
from pipeline.config import StageSpec, stage_spec
from pipeline.engine.assets import hash_assets, local_copy, pinned
from pipeline.engine.config import EngineConfig
from pipeline.engine.executors import Death, Executor, make_executor
from pipeline.engine.group_unit import GroupTask, round_partitions, slices_of
from pipeline.engine.journal import Manifest
from pipeline.engine.map_unit import MapTask, VerdictCursor
from pipeline.engine.mapping import MEASURE_BATCH, MapRunner, apply_edits, only_mask
from pipeline.engine.poison import poison_from
from pipeline.engine.schedule import RunFailed, run_tasks
from pipeline.engine.store import TEMPORARY, Store
from pipeline.engine.work import Call, Failure, spare_pandas
from pipeline.overrides import put, split_override
from pipeline.run import preflight, with_given_paths
from pipeline.tables import Chunk, ChunkWriter, as_table, check_source, file_kind, file_schema, read_chunks
from pipeline.yamlfile import ConfigError, Located
from stages.batch import Batch
from stages.stage import OF_RUNS, Edit, GroupStage, MapStage, Stage, StageError

KEEP = "keep"
CRASH = "crash"  # rule of a row that ends its worker
SPLIT = 8  # parts that rows whose worker died are tried again in
SPREAD = 8  # partitions of a group stage's exchange


@dataclass(frozen=True)
class Job:
    """A stage, the file it is applied to, the assets' hashes, and the columns that it sets in the output."""

    spec: StageSpec
    source: Path
    assets: dict[str, str]
    added: dict[str, pa.DataType]  # `verdict` is the last

    @property
    def stage(self) -> Stage:
        """The stage, not set up."""
        return self.spec.stage_class(self.spec.config)

    def verdict(self, rule: str | None) -> str:
        """What the column `verdict` says."""
        return KEEP if rule is None else f"{self.spec.name}:{rule}"


def make_job(spec: StageSpec, source: Path) -> Job:
    """Look at assets and columns. Raises `ConfigError`."""
    (spec,) = pinned([spec], None)
    stage = spec.stage_class(spec.config)
    first = next(read_chunks(source))
    added = dict(stage.provides())
    if isinstance(stage, MapStage):
        added |= {n: t for n, t in stage.measures().items() if n in stage.apply_only}
    if (stage.edits if isinstance(stage, MapStage) else isinstance(stage, GroupStage)) and "text" in first.names:
        kind = first.table.column("text").type if first.table is not None else pa.large_string()
        added.setdefault("text", kind if pa.types.is_string(kind) else pa.large_string())
    check_columns(spec, source, first, added)
    return Job(spec, source, hash_assets([spec]), {**added, "verdict": pa.string()})


def parse_spec(stage: str, overrides: list[str]) -> StageSpec:
    """The stage with its knobs from `KNOB=VALUE` and `STAGE.KNOB=VALUE`. Raises `ConfigError` with every mistake."""
    raw = Located({"stages": [{stage: {}}]}, "apply", {})
    refused = []
    for override in overrides:
        try:
            parts, value = split_override(override, "threshold=0.8")
            words = stage.split(".")
            knob = parts[len(words) :] if parts[: len(words)] == words else parts
            if not knob or knob[0] in OF_RUNS:
                raise ConfigError(
                    f"--set {override}: expected a knob of {stage}; `python -m pipeline stages {stage}` lists them"
                )
            put(raw, ("stages", 0, stage, *knob), value, override)
        except ConfigError as error:
            refused.append(str(error))
    try:
        spec = stage_spec(stage, raw.data["stages"][0][stage], raw, ("stages", 0, stage))
    except ConfigError as error:
        refused.insert(0, str(error))
    if refused:
        raise ConfigError("\n".join(refused))
    return spec


def apply(
    stage: str,
    source: Path,
    target: Path,
    overrides: list[str],
    executor: str,
    workers: int | None,
    say: Callable[[str], None],
) -> int:
    """Run the stage over the file; returns the exit code. Raises `ConfigError` for the user's mistakes."""
    spare_pandas()
    spec = parse_spec(stage, overrides)
    if spec.stage_class.kind == "aggregate":
        raise ConfigError(f"{stage} needs a whole run: it decides with a summary of all documents")
    if executor == "inline" and workers is not None and workers > 1:
        raise ConfigError("--workers: the inline executor works on one part at a time; use --executor ray")
    check_source(source)
    file_kind(target)
    if target.is_dir():
        raise ConfigError(f"{target}: is a directory; give a file")
    job = make_job(spec, source)
    target = target.resolve()  # a link is kept, what it points to is replaced
    temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:12]}-{target.name}")
    counts: Counter[str] = Counter()
    runner: Executor | None = None
    writer: ChunkWriter | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        writer = ChunkWriter(source, target, temporary, job.added, spec.stage_class.consumes)
        runner = make_executor(EngineConfig(executor=executor, workers=workers or "auto"), debug=False)  # type: ignore[arg-type]
        for chunk, columns in (
            map_results(job, runner) if spec.stage_class.kind == "map" else group_results(job, runner)
        ):
            counts.update(columns["verdict"].to_pylist())
            writer.add(chunk, columns)
        writer.close()
        temporary.replace(target)
    except RunFailed as error:
        if error.kind == StageError.__name__:  # the stage's own word on the user's mistake
            raise ConfigError(str(error)) from None
        say(f"{error.trace}error: {error}")
        return 1
    except OSError as error:
        say(f"error: {target}: {error}")
        return 1
    finally:
        if runner is not None:
            runner.close()
        if writer is not None:
            writer.abandon()
        temporary.unlink(missing_ok=True)
    for verdict, number in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        say(f"{number:>10,}  {verdict}")
    say(f"{counts.total():>10,}  rows in {target}")
    return 0


@dataclass(frozen=True)
class ApplyTask:
    """A map stage on some rows; gives back the columns to set, `verdict` among them."""

    job: Job
    table: pa.Table
    number: int

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.job.spec.name}, part {self.number}"

    def run(self) -> pa.Table:
        """Judge the rows."""
        runner = _runner(self.job)
        parts = [empty_columns(self.job)]
        for start in range(0, self.table.num_rows, MEASURE_BATCH):
            batch = Batch(self.table.slice(start, MEASURE_BATCH))
            outcome = runner(batch)
            columns: dict[str, Any] = {}
            for name, kind in self.job.added.items():
                if name in runner.base.apply_only:
                    columns[name] = outcome.values.column(name)
                elif name != "verdict":
                    columns[name] = outcome.after.column(name).cast(kind)
            if "text" in columns and batch.has("text"):  # a page that was refused, a row that failed: as it was
                columns["text"] = pc.coalesce(columns["text"], batch.column("text").cast(columns["text"].type))
            columns["verdict"] = pa.array([self.job.verdict(rule) for rule in outcome.rules], pa.string())
            parts.append(pa.table(columns).cast(parts[0].schema))
        return pa.concat_tables(parts)


def empty_columns(job: Job) -> pa.Table:
    """No rows of the columns that the stage sets."""
    return pa.schema(list(job.added.items())).empty_table()


def crashed(task: ApplyTask) -> pa.Table:
    """The columns of a row that ends its worker: as they were, and the verdict."""
    table = task.table
    columns = {
        name: table.column(name).cast(kind) if name in table.column_names else pa.nulls(table.num_rows, kind)
        for name, kind in task.job.added.items()
    }
    columns["verdict"] = pa.array([task.job.verdict(CRASH)] * table.num_rows, pa.string())
    return pa.table(columns)


_runners: dict[Any, MapRunner] = {}


def _runner(job: Job) -> MapRunner:
    """The stage, set up once a worker."""
    key = (job.spec.name, job.spec.config.model_dump_json(), tuple(sorted(job.assets.items())))
    if key not in _runners:
        runner = MapRunner(job.spec, EngineConfig().record_seconds)
        try:
            runner.setup(lambda path: local_copy(path, job.assets[path]))
        except ImportError as error:
            raise StageError(
                f"a package is missing or broken: {error}; install the project's dependencies again"
            ) from None
        except StageError as error:
            raise StageError(with_given_paths(str(error), runner.base, job.assets)) from error
        _runners[key] = runner
    return _runners[key]


EXPLAINED = 20  # rows that `--explain` shows


def explain(stage: str, source: Path, target: Path, overrides: list[str]) -> None:
    """Write the stage's view of the file's first rows. Raises `ConfigError` for a stage or a choice of knobs that has none."""
    spec = parse_spec(stage, overrides)
    check_source(source)
    job = make_job(spec, source)
    page = None
    if isinstance(job.stage, MapStage):
        try:
            runner = _runner(job)
        except StageError as error:
            raise ConfigError(str(error)) from None
        page = runner.base.explain(Batch(as_batch(next(read_chunks(source)), 0).table.slice(0, EXPLAINED)))
    if page is None:
        raise ConfigError(
            f"--explain: {stage} has no such view with these knobs; it is for extract with method gristmill"
        )
    temporary = target.with_name(f"{TEMPORARY}{uuid.uuid4().hex[:12]}-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(page, encoding="utf-8")
        temporary.replace(target)
    except OSError as error:
        raise ConfigError(f"--explain {target}: cannot be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def map_results(job: Job, executor: Executor) -> Iterator[tuple[Chunk, dict[str, pa.Array]]]:
    """The file's chunks with the columns to set, in order.

    Rows whose worker died are tried again in smaller parts, then one by one; a row whose worker dies twice is at fault.
    """
    chunks = enumerate(read_chunks(job.source))
    waiting: dict[int, Chunk] = {}
    done: dict[int, dict[int, pa.Table]] = {}  # chunk -> first row of a part -> its columns
    queue: list[tuple[int, int, pa.Table, int]] = []  # chunk, first row, rows, deaths of these very rows
    running: dict[int, tuple[int, int, int]] = {}  # task -> chunk, first row, deaths
    first = tasks = next_out = 0
    exhausted = False
    while True:
        while not exhausted and not queue and len(running) < executor.slots and len(waiting) < 4 * executor.slots:
            number, chunk = next(chunks, (-1, None))
            if chunk is None:
                exhausted = True
                break
            waiting[number] = chunk
            done[number] = {}
            if len(chunk):
                queue.append((number, 0, as_batch(chunk, first, "messages" in job.stage.needs).table, 0))
            first += len(chunk)
            while queue and len(running) < executor.slots:
                tasks = _submit(job, executor, queue, running, tasks)
        while queue and len(running) < executor.slots:
            tasks = _submit(job, executor, queue, running, tasks)
        for answer in executor.wait(0.5) if running else []:
            task: ApplyTask = answer.task  # type: ignore[assignment]
            owner, start, deaths = running.pop(task.number)
            rows = task.table.num_rows
            if isinstance(answer.result, Failure):
                _raise(job.spec.name, answer.result)
            if not isinstance(answer.result, Death):
                done[owner][start] = answer.result
            elif answer.result.node_lost or (rows == 1 and deaths == 0):
                queue.append((owner, start, task.table, deaths + (not answer.result.node_lost)))
            elif rows == 1:
                done[owner][start] = crashed(task)
            else:
                step = -(-rows // SPLIT)
                queue += [(owner, start + at, task.table.slice(at, step), 0) for at in range(0, rows, step)]
        while next_out in waiting and sum(t.num_rows for t in done[next_out].values()) == len(waiting[next_out]):
            parts = [table for _, table in sorted(done.pop(next_out).items(), key=lambda part: part[0])]
            whole = pa.concat_tables([empty_columns(job), *parts]).combine_chunks()
            yield waiting.pop(next_out), {name: _flat(whole.column(name)) for name in whole.column_names}
            next_out += 1
        if exhausted and not waiting:
            return


def _submit(
    job: Job,
    executor: Executor,
    queue: list[tuple[int, int, pa.Table, int]],
    running: dict[int, tuple[int, int, int]],
    number: int,
) -> int:
    """Start the first of the queue; returns the number of the next task."""
    owner, start, table, deaths = queue.pop(0)
    running[number] = (owner, start, deaths)
    executor.submit(ApplyTask(job, table, number))
    return number + 1


def _raise(name: str, failure: Failure) -> None:
    """A worker's exception as the command's: the user's mistake, or a failed run."""
    if failure.kind in ("StageError", "ConfigError"):
        raise ConfigError(failure.message if failure.message.startswith(name) else f"{name}: {failure.message}")
    raise RunFailed(f"{name}: {failure.kind}: {failure.message}", "" if failure.user_error else failure.trace)


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """A column as one array."""
    flat = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return pa.concat_arrays(flat.chunks) if isinstance(flat, pa.ChunkedArray) else flat


def group_results(job: Job, executor: Executor) -> Iterator[tuple[Chunk, dict[str, pa.Array]]]:
    """The file as one shard through the stage's exchange, then its chunks with the columns to set."""
    spec = job.spec
    executor.submit(Call(spec.name, preflight, {"specs": (spec,), "assets": job.assets}))
    while not (answers := executor.wait(0.5)):
        pass
    if isinstance(answers[0].result, Failure):
        _raise(spec.name, answers[0].result)
    with tempfile.TemporaryDirectory(prefix="gristmill-apply-") as folder:
        store = Store(folder)
        rows_path = "phases/rows/00000.parquet"
        with store.writing(rows_path) as temporary:
            write_rows(job, temporary)
        manifests = exchange(job, store, rows_path, executor)
        verdicts = tuple(s for m in manifests if (s := slices_of(m, "verdicts")) is not None)
        poison = poison_from(manifests[0].extra["poison"])
        task = MapTask(
            store,
            "apply",
            0,
            (),
            (spec,),
            False,
            "",
            {},
            job.assets,
            group=spec,
            verdicts=verdicts,
            group_poison=poison,
        )
        cursor = VerdictCursor(task)
        first = 0
        for chunk in read_chunks(job.source):
            yield chunk, _group_columns(job, cursor, as_batch(chunk, first), first)
            first += len(chunk)


def write_rows(job: Job, path: Path) -> None:
    """The rows as the exchange reads them: columns that keep one type all along the file."""
    schema = file_schema(job.source, only_scalars=True)
    writer: pq.ParquetWriter | None = None
    first = 0
    for chunk in read_chunks(job.source):
        batch = as_batch(chunk, first)
        fixed = ("id", *STRINGS, "html", HASH, "date")
        rest = as_table(chunk, pa.schema([f for f in schema if f.name not in fixed]))
        known = Batch(batch.table.select([n for n in fixed if batch.has(n)]))
        table = known.with_columns({n: rest.column(n) for n in rest.column_names}).table
        writer = writer or pq.ParquetWriter(path, table.schema)
        for name in writer.schema.names:
            if name not in table.column_names:  # a field that these rows lack
                table = table.append_column(name, pa.nulls(len(chunk), writer.schema.field(name).type))
        writer.write_table(table.select(writer.schema.names).cast(writer.schema))
        first += len(chunk)
    assert writer is not None
    writer.close()


def exchange(job: Job, store: Store, rows_path: str, executor: Executor) -> list[Manifest]:
    """Run all rounds of a group stage over one stored shard; the manifests of all units, the shard's own first."""
    stage: GroupStage = job.stage  # type: ignore[assignment]
    manifests: list[Manifest] = []

    def task(unit: str, **more: Any) -> GroupTask:
        return GroupTask(store, "exchange", job.spec, unit, "", {}, job.assets, SPREAD, **more)

    run_tasks(executor, [task("emit-00000", upstream=rows_path)], lambda t, m: manifests.append(m))
    for round_ in range(len(stage.messages())):
        sources = [s for m in manifests if (s := slices_of(m, f"round{round_}")) is not None]
        units = [
            task(
                f"round{round_}-{p:05d}",
                reduce_round=round_,
                partition=p,
                sources=tuple(s for s in sources if p in s.index),
            )
            for p in range(round_partitions(stage, round_, SPREAD))
        ]
        found: dict[str, Manifest] = {}
        run_tasks(executor, units, lambda t, m, found=found: found.update({m.unit: m}))  # type: ignore[misc]
        manifests += [found[unit.unit] for unit in units]
    return manifests


def _group_columns(job: Job, cursor: VerdictCursor, batch: Batch, first: int) -> dict[str, pa.Array]:
    aligned = cursor.aligned(first, len(batch))
    columns: dict[str, Any] = dict(cursor.stage.columns(batch, aligned))
    if "text" in job.added:
        texts = batch.values("text")
        edits = aligned.column("edits").to_pylist()
        edited = [apply_edits(t or "", [Edit(**c) for c in e]) if e else t for t, e in zip(texts, edits, strict=True)]
        columns["text"] = pa.array(edited, pa.large_string())
    looked = only_mask(cursor.spec, batch)
    rules = [rule if looked[i] else None for i, rule in enumerate(aligned.column("rule").to_pylist())]
    for row in range(len(batch)):  # a row that the stage could not take in
        if first + row in cursor.poison:
            rules[row] = cursor.poison[first + row].rule
    columns["verdict"] = pa.array([job.verdict(rule) for rule in rules], pa.string())
    return {name: _flat(columns[name]).cast(kind) for name, kind in job.added.items()}
