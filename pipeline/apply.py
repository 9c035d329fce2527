"""`python -m pipeline apply`: one stage on one file. Dropped rows stay, with the rule in `verdict`."""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.config import EngineConfig, StageSpec, stage_spec
from pipeline.engine.assets import hash_assets, local_copy
from pipeline.engine.exchange import Slices
from pipeline.engine.executors import Death, Executor, make_executor
from pipeline.engine.group_unit import GroupTask, round_partitions, slices_of
from pipeline.engine.journal import Manifest
from pipeline.engine.map_unit import MapTask, VerdictCursor
from pipeline.engine.mapping import MEASURE_BATCH, MapRunner, apply_edits, only_mask
from pipeline.engine.schedule import RunFailed, run_tasks
from pipeline.engine.store import Store
from pipeline.engine.work import Failure
from pipeline.tables import Chunk, ChunkWriter, file_kind, read_chunks
from pipeline.yamlfile import ConfigError, Located, parse_value
from stages.batch import Batch
from stages.stage import Edit, GroupStage, StageError, registry

KEEP = "keep"
SPREAD = 8  # partitions of a group stage's exchange


def parse_knobs(stage: str, overrides: list[str]) -> dict[str, Any]:
    """`KNOB=VALUE` or `STAGE.KNOB=VALUE` as nested plain data."""
    knobs: dict[str, Any] = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise ConfigError(f"--set {override}: expected KNOB=VALUE, as in --set threshold=0.8")
        parts = key.strip().removeprefix(f"{stage}.").split(".")
        target = knobs
        for part in parts[:-1]:
            target = target.setdefault(part, {})
        target[parts[-1]] = parse_value(text)
    return knobs


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
    spec = stage_spec(stage, parse_knobs(stage, overrides) if stage in registry() else {}, Located({}, "--set", {}), ())
    file_kind(target)
    assets = hash_assets([spec])
    kind = spec.stage_class.kind
    if kind == "aggregate":
        raise ConfigError(f"{stage} needs a whole run: it decides with a summary of all documents")
    if executor == "inline" and workers is not None and workers > 1:
        raise ConfigError("--workers: the inline executor works on one part at a time; use --executor ray")
    engine = EngineConfig(executor=executor, workers=workers or "auto", unit_memory=4 << 30)  # type: ignore[arg-type]
    _check_columns(spec, source)
    counts: Counter[str] = Counter()
    temporary = target.with_name(f".tmp-{target.name}")
    runner: Executor | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        runner = make_executor(engine, debug=False)
        writer = ChunkWriter(target, temporary)
        results = (
            map_results(spec, source, assets, runner) if kind == "map" else group_results(spec, source, assets, runner)
        )
        for chunk, columns in results:
            counts.update(columns["verdict"].to_pylist())
            writer.add(chunk, columns, spec.stage_class.consumes)
        writer.close()
        temporary.replace(target)
    except RunFailed as error:
        say(f"error: {error}")
        return 1
    except OSError as error:
        say(f"error: {target}: {error}")
        return 1
    finally:
        if runner is not None:
            runner.close()
        for leftover in target.parent.glob(f".tmp-{target.name}*") if target.parent.is_dir() else ():
            leftover.unlink(missing_ok=True)
    for verdict, number in counts.most_common():
        say(f"{number:>10,}  {verdict}")
    return 0


def _check_columns(spec: StageSpec, source: Path) -> None:
    first = next(read_chunks(source), None)
    if first is None:
        return
    have = first.arrow().column_names
    missing = [name for name in spec.stage_class.needs if name not in have]
    if missing and not (missing == ["html"] and "text" in have):
        raise ConfigError(f"{source}: {spec.kind} needs the column {missing[0]!r}; the file has {', '.join(have)}")


def as_batch(chunk: Chunk, first: int) -> Batch:
    """A chunk as a stage sees it: `id` a string (the row's number where the file has none), texts as strings."""
    table = chunk.arrow()
    columns: dict[str, pa.Array | pa.ChunkedArray] = {}
    if "id" in table.column_names:
        columns["id"] = pa.array(
            [None if v is None else str(v) for v in table.column("id").to_pylist()], type=pa.string()
        )
    else:
        columns["id"] = pa.array([str(first + i) for i in range(table.num_rows)], type=pa.string())
    for name in ("text", "url", "source", "language", "html_charset"):
        if name in table.column_names:
            kind = pa.large_string() if name == "text" else pa.string()
            columns[name] = pa.array(
                [v if isinstance(v, str) else None for v in table.column(name).to_pylist()], type=kind
            )
    if "html" in table.column_names:
        columns["html"] = pa.array(
            [
                v.encode("utf-8", "replace") if isinstance(v, str) else v if isinstance(v, bytes) else None
                for v in table.column("html").to_pylist()
            ],
            type=pa.large_binary(),
        )
        if "html_charset" not in columns and chunk.rows is not None:
            columns["html_charset"] = pa.array(
                ["utf-8" if isinstance(v, str) else None for v in table.column("html").to_pylist()], type=pa.string()
            )
    return Batch(table).with_columns(columns)


@dataclass(frozen=True)
class ApplyTask:
    """A map stage on some rows; gives back the columns to set, `verdict` among them."""

    spec: StageSpec
    table: pa.Table
    assets: dict[str, str]
    number: int

    @property
    def label(self) -> str:
        """How messages call it."""
        return f"{self.spec.name}, part {self.number}"

    def run(self) -> pa.Table:
        """Judge the rows."""
        runner = _runner(self.spec, tuple(self.assets.items()))
        stage = runner.base
        parts = []
        for start in range(0, self.table.num_rows, MEASURE_BATCH):
            batch = Batch(self.table.slice(start, MEASURE_BATCH))
            outcome = runner(batch)
            names = [n for n in stage.provides() if outcome.after.has(n)]
            if stage.edits and "text" not in names:
                names.append("text")
            columns = {n: outcome.after.column(n) for n in names}
            columns |= {n: outcome.values.column(n) for n in stage.apply_only}
            columns["verdict"] = pa.array(
                [KEEP if rule is None else f"{self.spec.name}:{rule}" for rule in outcome.rules], type=pa.string()
            )
            parts.append(pa.table(columns))
        return pa.concat_tables(parts)


_runners: dict[Any, MapRunner] = {}


def _runner(spec: StageSpec, assets: tuple[tuple[str, str], ...]) -> MapRunner:
    """The stage, set up once a worker."""
    key = (spec.name, spec.config.model_dump_json(), assets)
    if key not in _runners:
        runner = MapRunner(spec, EngineConfig().record_seconds)
        digests = dict(assets)
        try:
            runner.setup(lambda path: local_copy(path, digests[path]))
        except ImportError as error:
            raise StageError(f"a package is missing or broken: {error}") from None
        _runners[key] = runner
    return _runners[key]


def map_results(
    spec: StageSpec, source: Path, assets: dict[str, str], executor: Executor
) -> Iterator[tuple[Chunk, dict[str, pa.Array]]]:
    """The file's chunks with the columns to set, in order; a row that ends its worker is found by halving."""
    chunks = read_chunks(source)
    waiting: dict[int, Chunk] = {}
    done: dict[int, dict[int, pa.Table]] = {}  # chunk -> first row of a part -> its columns
    first = number = next_out = tasks = 0
    exhausted = False
    running: dict[int, tuple[int, int, int]] = {}  # task number -> chunk, first row, deaths

    def submit(chunk: int, start: int, table: pa.Table, deaths: int) -> None:
        nonlocal tasks
        running[tasks] = (chunk, start, deaths)
        executor.submit(ApplyTask(spec, table, assets, tasks))
        tasks += 1

    while True:
        while not exhausted and len(running) < executor.slots and len(waiting) < 4 * executor.slots:
            chunk = next(chunks, None)
            if chunk is None:
                exhausted = True
                break
            waiting[number] = chunk
            submit(number, 0, as_batch(chunk, first).table, 0)
            first += len(chunk)
            number += 1
        if exhausted and not waiting:
            return
        for answer in executor.wait(0.5):
            task: ApplyTask = answer.task  # type: ignore[assignment]
            owner, start, deaths = running.pop(task.number)
            if isinstance(answer.result, Failure):
                if answer.result.user_error:
                    raise ConfigError(f"{spec.name}: {answer.result.message}")
                raise RunFailed(f"{task.label}: {answer.result.kind}: {answer.result.message}", answer.result.trace)
            if isinstance(answer.result, Death):
                rows = task.table.num_rows
                if deaths == 0:
                    submit(owner, start, task.table, 1)
                elif rows > 1:
                    submit(owner, start, task.table.slice(0, rows // 2), 1)
                    submit(owner, start + rows // 2, task.table.slice(rows // 2), 1)
                else:
                    done.setdefault(owner, {})[start] = pa.table({"verdict": pa.array([f"{spec.name}:crash"])})
                continue
            done.setdefault(owner, {})[start] = answer.result
        while next_out in waiting and sum(t.num_rows for t in done.get(next_out, {}).values()) == len(
            waiting[next_out]
        ):
            parts = [table for _, table in sorted(done.pop(next_out).items())]
            whole = pa.concat_tables(parts, promote_options="default").combine_chunks()
            yield waiting.pop(next_out), {name: whole.column(name).combine_chunks() for name in whole.column_names}
            next_out += 1


def group_results(
    spec: StageSpec, source: Path, assets: dict[str, str], executor: Executor
) -> Iterator[tuple[Chunk, dict[str, pa.Array]]]:
    """The file as one shard through the stage's exchange, then its chunks with the columns to set."""
    with tempfile.TemporaryDirectory(prefix="gristmill-apply-") as folder:
        store = Store(folder)
        rows_path = "phases/rows/00000.parquet"
        with store.writing(rows_path) as temporary:
            _write_rows(source, temporary)
        verdicts = exchange(spec, store, rows_path, assets, executor)
        task = MapTask(store, "apply", 0, (), (spec,), False, "", {}, assets, group=spec, verdicts=tuple(verdicts))
        cursor = VerdictCursor(task)
        first = 0
        for chunk in read_chunks(source):
            batch = as_batch(chunk, first)
            yield chunk, _group_columns(cursor, batch, first)
            first += len(chunk)


def _write_rows(source: Path, path: Path) -> None:
    """The rows as the exchange reads them: columns that keep one type all along the file."""
    writer: pq.ParquetWriter | None = None
    first = 0
    for chunk in read_chunks(source):
        table = as_batch(chunk, first).table
        if "source" not in table.column_names:
            table = table.append_column("source", pa.array([""] * table.num_rows, pa.string()))
        first += table.num_rows
        if writer is None:
            writer = pq.ParquetWriter(path, table.schema)
        columns = []
        for field in writer.schema:
            column = (
                table.column(field.name) if field.name in table.column_names else pa.nulls(table.num_rows, field.type)
            )
            try:
                columns.append(column.cast(field.type))
            except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
                columns.append(pa.nulls(table.num_rows, field.type))
        writer.write_table(pa.table(columns, schema=writer.schema))
    if writer is None:
        pq.write_table(
            pa.table(
                {
                    "id": pa.array([], pa.string()),
                    "text": pa.array([], pa.large_string()),
                    "source": pa.array([], pa.string()),
                }
            ),
            path,
        )
    else:
        writer.close()


def exchange(spec: StageSpec, store: Store, rows_path: str, assets: dict[str, str], executor: Executor) -> list[Slices]:
    """Run all rounds of a group stage over one stored shard; where its verdicts stand."""
    stage: GroupStage = spec.stage_class(spec.config)  # type: ignore[assignment]
    manifests: list[Manifest] = []

    def task(unit: str, **more: Any) -> GroupTask:
        return GroupTask(store, "exchange", spec, unit, "", {}, assets, SPREAD, **more)

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
    return [s for m in manifests if (s := slices_of(m, "verdicts")) is not None]


def _group_columns(cursor: VerdictCursor, batch: Batch, first: int) -> dict[str, pa.Array]:
    aligned = cursor.aligned(first, len(batch))
    columns: dict[str, Any] = dict(cursor.stage.columns(batch, aligned))
    edits = aligned.column("edits").to_pylist()
    if any(edits):
        texts = batch.texts()
        columns["text"] = pa.array(
            [apply_edits(t, [Edit(**c) for c in e]) if e else t for t, e in zip(texts, edits, strict=True)],
            pa.large_string(),
        )
    looked = only_mask(cursor.spec, batch)
    rules = [rule if looked[i] else None for i, rule in enumerate(aligned.column("rule").to_pylist())]
    columns["verdict"] = pa.array(
        [KEEP if rule is None else f"{cursor.spec.name}:{rule}" for rule in rules], pa.string()
    )
    return {
        name: column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
        for name, column in columns.items()
    }
