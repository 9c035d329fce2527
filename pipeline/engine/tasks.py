"""From a unit's name to the task that a worker carries out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pipeline.engine.group_unit import AggregateTask, GroupTask
from pipeline.engine.journal import digest
from pipeline.engine.map_unit import MapTask
from pipeline.engine.poison import Poison, load_poison, poison_from
from pipeline.engine.reread import read_segments
from pipeline.engine.shards import Shard, unit_name
from pipeline.engine.stitch import spans_from
from pipeline.plan import Phase
from pipeline.readers.record import Limits, Segment

if TYPE_CHECKING:
    from pipeline.engine.phases import Work


def task_of(work: Work, phase: Phase, unit: str) -> MapTask | GroupTask | AggregateTask:
    """The task of a unit; everything it depends on must be done."""
    if phase.kind == "map":
        return map_task(work, phase, work.shards[int(unit)])
    return group_task(work, phase, unit) if phase.kind == "group" else aggregate_task(work, phase, unit)


def corrected_segments(work: Work, shard: Shard) -> list[tuple[Segment, int]]:
    """A shard's segments with corrected starts, each with the start that was planned."""
    found = []
    for segment in shard.segments:
        place = (segment.source, segment.key, segment.begin)
        start = work.starts.get(place, segment.begin)
        if start is not None:
            corrected = replace(segment, begin=start, exact=True) if place in work.starts else segment
            found.append((corrected, segment.begin))
    return found


def map_task(work: Work, phase: Phase, shard: Shard) -> MapTask:
    """The task of a map unit; everything it depends on must be done."""
    unit = unit_name(shard)
    components = work.components(phase, unit)
    assert components is not None, f"{phase.name} {unit} depends on work that is not done"
    fingerprint = digest(components)
    measured = work.measured(phase, shard)
    old = work.manifest(phase, unit)
    reuse = {}
    if old is not None:
        have = old.extra.get("measured", {})
        files = {o.path: o for o in old.outputs}
        for name, fingerprint_ in measured.items():
            path = f"scores/{name}/part-{unit}.parquet"
            if have.get(name) == fingerprint_ and path in files and work.store.size(path) == files[path].size:
                reuse[name] = path
    task = MapTask(
        store=work.store,
        phase=phase.name,
        shard=shard.index,
        stages=phase.stages,
        all_stages=work.config.stages,
        final=phase.final,
        fingerprint=fingerprint,
        components=components,
        assets=work.assets,
        keep_dropped=work.config.engine.keep_dropped,
        record_seconds=work.config.engine.record_seconds,
        limits=Limits(max_record_bytes=work.config.engine.max_record_bytes),
        reuse=reuse,
        measured=measured,
        reads_again=phase.reads_again,
        leaves_payload=phase.leaves_payload,
        kinds=tuple(sorted({segment.options.kind for segment in shard.segments})),
    )
    if phase.final:
        task = replace(
            task,
            lost_before=tuple(
                f"phases/{p.name}/{unit}.lost.parquet" for p in work.phases[: phase.index] if p.kind == "map"
            ),
        )
    if phase.index == 0:
        segments = corrected_segments(work, shard)
        task = replace(
            task,
            segments=tuple(s for s, _ in segments),
            planned=tuple(p for _, p in segments),
            max_records=work.remaining.get(shard.index),
        )
    if phase.reads_again:
        first = work.manifest(work.phases[0], unit)
        assert first is not None
        task = replace(task, segments=read_segments(shard, spans_from(first.extra["spans"])))
    task = replace(task, poison=load_poison(task))
    if phase.index == 0:
        return task
    task = replace(task, upstream=f"phases/{work.map_before(phase).name}/{unit}.parquet")
    between = work.phases[phase.index - 1]
    if between.kind == "group":
        answers = work.answers(between, "verdicts", None)
        assert answers is not None
        poison = unread_rows(work, between, unit)
        return replace(task, group=between.stages[0], verdicts=answers.of(shard.index), group_poison=poison)
    if between.kind == "aggregate":
        return replace(task, aggregate=between.stages[0], summary=f"phases/{between.name}/summary.parquet")
    return task


def unread_rows(work: Work, phase: Phase, unit: str) -> dict[int, Poison]:
    """Rows of a shard that a group stage could not take in."""
    manifest = work.manifest(phase, f"emit-{unit}")
    return poison_from(manifest.extra.get("poison", {})) if manifest else {}


def group_task(work: Work, phase: Phase, unit: str) -> GroupTask:
    """The task of a group unit."""
    components = work.components(phase, unit)
    assert components is not None
    kind, _, rest = unit.partition("-")
    task = GroupTask(
        store=work.store,
        phase=phase.name,
        stage=phase.stages[0],
        unit=unit,
        fingerprint=digest(components),
        components=components,
        assets=work.assets,
        partitions=work.partitions,
    )
    if kind == "emit":
        return replace(
            task,
            shard=int(rest),
            upstream=f"phases/{work.map_before(phase).name}/{rest}.parquet",
            record_seconds=work.config.engine.record_seconds,
            poison=load_poison(task),
        )
    round_ = int(kind.removeprefix("round"))
    answers = work.answers(phase, f"round{round_}", round_)
    assert answers is not None
    return replace(task, reduce_round=round_, partition=int(rest), sources=answers.of(int(rest)))


def aggregate_task(work: Work, phase: Phase, unit: str) -> AggregateTask:
    """The task of an aggregate unit."""
    components = work.components(phase, unit)
    assert components is not None
    task = AggregateTask(work.store, phase.name, phase.stages[0], unit, digest(components), components, work.assets)
    if unit == "summary":
        return replace(task, summaries=tuple(f"phases/{phase.name}/shard-{unit_name(s)}.parquet" for s in work.shards))
    return replace(task, upstream=f"phases/{work.map_before(phase).name}/{unit.removeprefix('shard-')}.parquet")
