"""The phases of a run as units with fingerprints: what is done, what must run again and why, and running it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from pipeline.config import RunConfig, StageSpec
from pipeline.engine import journal
from pipeline.engine.exchange import Slices
from pipeline.engine.group_unit import AggregateTask, GroupTask, round_partitions, slices_of
from pipeline.engine.journal import Manifest, digest, version_of
from pipeline.engine.map_unit import MapTask
from pipeline.engine.poison import Poison, forget_poison, load_poison, poison_from
from pipeline.engine.progress import Progress
from pipeline.engine.schedule import run_tasks
from pipeline.engine.shards import Shard
from pipeline.engine.store import Store
from pipeline.engine.work import Task
from pipeline.plan import Phase
from pipeline.readers.record import UNKNOWN, Limits, Segment
from stages.stage import GroupStage, MapStage

READ_VERSION = 1  # raised whenever reading or the engine's own columns change
READ_LIBRARIES = ("fastwarc", "warcio")
PARTITION_BYTES = 256 << 20  # of input, for one partition of an exchange
MAX_PARTITIONS = 4096


@dataclass(frozen=True)
class UnitState:
    """Where a unit stands: done, or why it must run."""

    done: bool
    reason: str = ""


class Work:
    """One run's units. `manifests` holds what is committed, read once and kept up to date while the run goes on."""

    def __init__(
        self,
        config: RunConfig,
        phases: list[Phase],
        shards: list[Shard],
        store: Store,
        assets: dict[str, str],
        limit: int | None = None,
    ) -> None:
        self.config = config
        self.phases = phases
        self.shards = shards
        self.store = store
        self.assets = assets
        self.limit = limit
        self.remaining: dict[int, int] = {}  # with a limit: records that each shard may still take
        self.starts: dict[tuple[str, str, int], int | None] = {}  # corrected starts of segments: None is an empty one
        self._manifests: dict[tuple[str, str], Manifest | None] = {}
        self._stage_prints = {spec.name: self._stage_print(spec) for spec in config.stages}
        self.partitions = self._partitions()

    # ---- fingerprints

    def _partitions(self) -> int:
        wanted = self.config.engine.partitions
        if isinstance(wanted, int):
            return wanted
        return max(1, min(MAX_PARTITIONS, -(-sum(shard.size for shard in self.shards) // PARTITION_BYTES)))

    def _stage_print(self, spec: StageSpec, without: tuple[str, ...] = ()) -> str:
        """Fingerprint of a stage: knobs, version, libraries, assets."""
        from pipeline.engine.assets import variants

        knobs = spec.config.model_dump(mode="json", by_alias=True, exclude={"checkpoint"})
        for name in without:
            knobs.pop(name, None)
            knobs["by_language"] = {
                lang: {k: v for k, v in values.items() if k != name} for lang, values in knobs["by_language"].items()
            }
        assets = {path for stage in variants(spec) for path in stage.assets().values()}
        stage_class = spec.stage_class
        return digest(
            {
                "kind": spec.kind,
                "name": spec.name,
                "version": stage_class.version,
                "knobs": knobs,
                "libraries": {name: version_of(name) for name in stage_class.libraries},
                "assets": sorted(self.assets[path] for path in assets),
            }
        )

    def _measured(self, phase: Phase, shard: Shard) -> dict[str, str]:
        """For each map stage of a phase whose decisions can be re-made from scores: fingerprint of its measurements.

        It covers the input, the stage's own measuring knobs, and whatever earlier stage may have changed a row; which rows
        an earlier stage dropped does not count, since scores are looked up by id.
        """
        lineage = [self._input_print(shard)]
        prints: dict[str, str] = {}
        for spec in self.config.stages:
            stage = spec.stage_class(spec.config)
            if isinstance(stage, MapStage):
                measure = self._stage_print(spec, spec.stage_class.decide_knobs)
                if spec in phase.stages and set(stage.measures()) == set(stage.scored()):
                    prints[spec.name] = digest([*lineage, measure])
                if stage.edits:
                    lineage.append(self._stage_prints[spec.name])
                elif stage.provides():
                    lineage.append(measure)
            else:
                lineage.append(self._stage_prints[spec.name])
        return prints

    def _input_print(self, shard: Shard) -> str:
        return digest(
            [
                READ_VERSION,
                [version_of(name) for name in READ_LIBRARIES],
                self.config.engine.max_record_bytes,
                self.remaining.get(shard.index) if self.limit is not None else None,
                [
                    [s.source, s.key, s.format, s.begin, s.end, s.base_row, _public(s), v]
                    for s, v in zip(shard.segments, shard.versions, strict=True)
                ],
            ]
        )

    def manifest(self, phase: Phase, unit: str) -> Manifest | None:
        """A unit's manifest, if it was committed."""
        key = (phase.name, unit)
        if key not in self._manifests:
            self._manifests[key] = journal.read_manifest(self.store, phase.name, unit)
        return self._manifests[key]

    def _map_components(self, phase: Phase, shard: Shard) -> dict[str, str] | None:
        """What a map unit's fingerprint is made of; None while it depends on work that is not done."""
        components: dict[str, str] = {}
        if phase.index == 0:
            components["input"] = self._input_print(shard)
        else:
            before = self._map_before(phase)
            manifest = self.manifest(before, unit_name(shard))
            if manifest is None:
                return None
            components[before.name] = manifest.digest
            between = self.phases[phase.index - 1]
            if between.kind != "map":
                verdicts = self._between_digest(between)
                if verdicts is None:
                    return None
                components[between.name] = verdicts
        for spec in phase.stages:
            components[f"stage {spec.name}"] = self._stage_prints[spec.name]
        components["engine.keep_dropped"] = self.config.engine.keep_dropped
        components["engine.record_seconds"] = str(self.config.engine.record_seconds)
        if phase.final:
            lost = []
            for earlier in self.phases[: phase.index]:
                if earlier.kind == "map":
                    manifest = self.manifest(earlier, unit_name(shard))
                    if manifest is None:
                        return None
                    lost.append(manifest.digest)
            components["columns"] = digest(
                [sorted((n, str(t)) for n, t in s.stage_class(s.config).provides().items()) for s in self.config.stages]
            )
            components["earlier phases"] = digest(lost)
        return components

    def _map_before(self, phase: Phase) -> Phase:
        """The map phase whose rows a phase reads."""
        return next(p for p in reversed(self.phases[: phase.index]) if p.kind == "map")

    def _between_digest(self, phase: Phase) -> str | None:
        """Hash of what a group or aggregate phase answered."""
        units = self.group_units(phase) if phase.kind == "group" else ["summary"]
        digests = []
        for unit in units:
            manifest = self.manifest(phase, unit)
            if manifest is None:
                return None
            digests.append(manifest.digest)
        return digest(digests)

    # ---- group phases

    def group_units(self, phase: Phase) -> list[str]:
        """Names of all units of a group phase: the shards' messages, then the partitions of each round."""
        stage = group_stage(phase)
        units = [f"emit-{unit_name(shard)}" for shard in self.shards]
        for round_ in range(len(stage.messages())):
            units += [f"round{round_}-{p:05d}" for p in range(round_partitions(stage, round_, self.partitions))]
        return units

    def _sources(self, phase: Phase, name: str, before: int | None) -> list[Slices] | None:
        """Where messages to a round (or verdicts) stand: all emitting units, then the partitions of rounds below `before`."""
        stage = group_stage(phase)
        units = [f"emit-{unit_name(shard)}" for shard in self.shards]
        for round_ in range(len(stage.messages()) if before is None else before):
            units += [f"round{round_}-{p:05d}" for p in range(round_partitions(stage, round_, self.partitions))]
        found = []
        for unit in units:
            manifest = self.manifest(phase, unit)
            if manifest is None:
                return None
            slices = slices_of(manifest, name)
            if slices is not None:
                found.append(slices)
        return found

    def _group_components(self, phase: Phase, unit: str) -> dict[str, str] | None:
        spec = phase.stages[0]
        components = {f"stage {spec.name}": self._stage_prints[spec.name], "engine.partitions": str(self.partitions)}
        kind, _, rest = unit.partition("-")
        if kind == "emit":
            before = self._map_before(phase)
            manifest = self.manifest(before, rest)
            if manifest is None:
                return None
            seconds = str(self.config.engine.record_seconds)
            return {**components, before.name: manifest.digest, "shard": rest, "engine.record_seconds": seconds}
        round_ = int(kind.removeprefix("round"))
        sources = self._sources(phase, f"round{round_}", round_)
        if sources is None:
            return None
        by_path = {
            o.path: o.sha256 for key, m in self._manifests.items() if key[0] == phase.name and m for o in m.outputs
        }
        return {**components, "messages": digest([[s.path, by_path.get(s.path)] for s in sources]), "partition": unit}

    # ---- state

    def units(self, phase: Phase) -> list[str]:
        """Names of a phase's units, in order."""
        if phase.kind == "map":
            return [unit_name(shard) for shard in self.shards]
        if phase.kind == "group":
            return self.group_units(phase)
        return [*(f"shard-{unit_name(shard)}" for shard in self.shards), "summary"]

    def components(self, phase: Phase, unit: str) -> dict[str, str] | None:
        """What a unit's fingerprint is made of now; None while that depends on work that is not done."""
        if phase.kind == "map":
            return self._map_components(phase, self.shards[int(unit)])
        if phase.kind == "group":
            return self._group_components(phase, unit)
        spec = phase.stages[0]
        names = [unit.removeprefix("shard-")] if unit != "summary" else []
        parts = [self.manifest(self._map_before(phase), n) for n in names] or [
            self.manifest(phase, f"shard-{unit_name(s)}") for s in self.shards
        ]
        if any(m is None for m in parts):
            return None
        return {f"stage {spec.name}": self._stage_prints[spec.name], "rows": digest([m.digest for m in parts if m])}

    def state(self, phase: Phase, unit: str, stale: set[str]) -> UnitState:
        """Whether a unit is done; `stale` names earlier phases that will run again."""
        manifest = self.manifest(phase, unit)
        if manifest is None:
            return UnitState(False, "not done yet")
        components = self.components(phase, unit)
        if components is None:
            return UnitState(False, "an earlier phase is not done yet")
        if digest(components) != manifest.fingerprint:
            return UnitState(False, journal.difference(manifest.components, components))
        changed = [name for name in components if name in stale]
        if changed:
            return UnitState(False, f"{changed[0]} will run again")
        if phase.final and not journal.lasting_present(self.store, manifest):
            return UnitState(False, "its output is missing")
        return UnitState(True)

    def finished(self) -> bool:
        """Whether every unit of the last phase is done and its files are there: then no phase has to run."""
        final = self.phases[-1]
        return (
            all(self._current(phase, unit) for phase in self.phases for unit in self.units(phase))
            and all(journal.lasting_present(self.store, m) for m in self.final_manifests())
            and bool(final)
        )

    def final_manifests(self) -> list[Manifest]:
        """Manifests of the last phase, in shard order."""
        found = [self.manifest(self.phases[-1], unit_name(shard)) for shard in self.shards]
        return [m for m in found if m is not None]

    def map_manifests(self) -> Iterator[tuple[Phase, Manifest]]:
        """Manifests of all map phases, phase by phase."""
        for phase in self.phases:
            if phase.kind == "map":
                for shard in self.shards:
                    manifest = self.manifest(phase, unit_name(shard))
                    if manifest is not None:
                        yield phase, manifest

    def _current(self, phase: Phase, unit: str) -> bool:
        manifest = self.manifest(phase, unit)
        components = self.components(phase, unit) if manifest is not None else None
        return manifest is not None and components is not None and digest(components) == manifest.fingerprint

    def _ready(self, phase: Phase, unit: str) -> bool:
        """Whether a unit is done and what later units read of it is still there."""
        manifest = self.manifest(phase, unit)
        if manifest is None or not self._current(phase, unit):
            return False
        return journal.lasting_present(self.store, manifest) and (
            phase.final or journal.passing_present(self.store, manifest)
        )

    # ---- tasks

    def segments(self, shard: Shard) -> list[tuple[Segment, int]]:
        """A shard's segments with corrected starts, each with the start that was planned."""
        found = []
        for segment in shard.segments:
            place = (segment.source, segment.key, segment.begin)
            start = self.starts.get(place, segment.begin)
            if start is not None:
                corrected = replace(segment, begin=start, exact=True) if place in self.starts else segment
                found.append((corrected, segment.begin))
        return found

    def map_task(self, phase: Phase, shard: Shard) -> MapTask:
        """The task of a map unit; everything it depends on must be done."""
        components = self._map_components(phase, shard)
        assert components is not None, f"{phase.name} {shard.index} depends on work that is not done"
        fingerprint = digest(components)
        unit = unit_name(shard)
        measured = self._measured(phase, shard)
        old = self.manifest(phase, unit)
        reuse = {}
        if old is not None:
            have = old.extra.get("measured", {})
            files = {o.path: o for o in old.outputs}
            for name, fingerprint_ in measured.items():
                path = f"scores/{name}/part-{unit}.parquet"
                if have.get(name) == fingerprint_ and path in files and self.store.size(path) == files[path].size:
                    reuse[name] = path
        task = MapTask(
            store=self.store,
            phase=phase.name,
            shard=shard.index,
            stages=phase.stages,
            all_stages=self.config.stages,
            final=phase.final,
            fingerprint=fingerprint,
            components=components,
            assets=self.assets,
            keep_dropped=self.config.engine.keep_dropped,
            record_seconds=self.config.engine.record_seconds,
            limits=Limits(max_record_bytes=self.config.engine.max_record_bytes),
            reuse=reuse,
            measured=measured,
        )
        if phase.final:
            task = replace(
                task,
                lost_before=tuple(
                    f"phases/{p.name}/{unit}.lost.parquet" for p in self.phases[: phase.index] if p.kind == "map"
                ),
            )
        if phase.index == 0:
            segments = self.segments(shard)
            task = replace(
                task,
                segments=tuple(s for s, _ in segments),
                planned=tuple(p for _, p in segments),
                max_records=self.remaining.get(shard.index),
            )
        task = replace(task, poison=load_poison(task))
        if phase.index == 0:
            return task
        task = replace(task, upstream=f"phases/{self._map_before(phase).name}/{unit}.parquet")
        between = self.phases[phase.index - 1]
        if between.kind == "group":
            verdicts = self._sources(between, "verdicts", None)
            return replace(
                task, group=between.stages[0], verdicts=tuple(verdicts or ()), group_poison=self._unread(between, unit)
            )
        if between.kind == "aggregate":
            return replace(task, aggregate=between.stages[0], summary=f"phases/{between.name}/summary.parquet")
        return task

    def _unread(self, phase: Phase, unit: str) -> dict[int, Poison]:
        """Rows of a shard that a group stage could not take in."""
        manifest = self.manifest(phase, f"emit-{unit}")
        return poison_from(manifest.extra.get("poison", {})) if manifest else {}

    def group_task(self, phase: Phase, unit: str) -> GroupTask:
        """The task of a group unit."""
        components = self._group_components(phase, unit)
        assert components is not None
        kind, _, rest = unit.partition("-")
        task = GroupTask(
            store=self.store,
            phase=phase.name,
            stage=phase.stages[0],
            unit=unit,
            fingerprint=digest(components),
            components=components,
            assets=self.assets,
            partitions=self.partitions,
        )
        if kind == "emit":
            return replace(
                task,
                shard=int(rest),
                upstream=f"phases/{self._map_before(phase).name}/{rest}.parquet",
                record_seconds=self.config.engine.record_seconds,
                poison=load_poison(task),
            )
        round_ = int(kind.removeprefix("round"))
        sources = self._sources(phase, f"round{round_}", round_)
        partition = int(rest)
        here = tuple(Slices(s.path, {partition: s.index[partition]}) for s in sources or () if partition in s.index)
        return replace(task, reduce_round=round_, partition=partition, sources=here)

    def aggregate_task(self, phase: Phase, unit: str) -> AggregateTask:
        """The task of an aggregate unit."""
        components = self.components(phase, unit)
        assert components is not None
        task = AggregateTask(self.store, phase.name, phase.stages[0], unit, digest(components), components, self.assets)
        if unit == "summary":
            return replace(
                task, summaries=tuple(f"phases/{phase.name}/shard-{unit_name(s)}.parquet" for s in self.shards)
            )
        return replace(task, upstream=f"phases/{self._map_before(phase).name}/{unit.removeprefix('shard-')}.parquet")

    # ---- running

    def run(self, executor: Any, retry_failed: bool = False, say: Callable[[str], None] = lambda line: None) -> None:
        """Bring every phase up to date. Raises `RunFailed`."""
        if retry_failed:
            self._retry_failed()
        if self.limit is not None:
            self._run_limited(executor)
        if self.finished():
            say("stages: everything is done already")
            return
        for phase in self.phases:
            if phase.kind == "map":
                self._run_units(executor, phase, [unit_name(shard) for shard in self.shards])
                if phase.index == 0 and self.limit is None:
                    self._stitch(executor, phase)
            elif phase.kind == "group":
                units = self.group_units(phase)
                waves = ["emit", *(f"round{r}" for r in range(len(group_stage(phase).messages())))]
                for wave in waves:
                    self._run_units(executor, phase, [u for u in units if u.partition("-")[0] == wave], wave)
            else:
                self._run_units(executor, phase, [u for u in self.units(phase) if u != "summary"], "summaries")
                self._run_units(executor, phase, ["summary"], "merge")

    def _task(self, phase: Phase, unit: str) -> MapTask | GroupTask | AggregateTask:
        if phase.kind == "map":
            return self.map_task(phase, self.shards[int(unit)])
        return self.group_task(phase, unit) if phase.kind == "group" else self.aggregate_task(phase, unit)

    def _run_units(self, executor: Any, phase: Phase, units: list[str], wave: str = "") -> None:
        waiting = [unit for unit in units if not self._ready(phase, unit)]
        if not waiting:
            return
        progress = Progress(f"{phase.name}{f' {wave}' if wave else ''}", len(waiting))

        def done(task: Task, manifest: Manifest) -> None:
            self._manifests[(phase.name, manifest.unit)] = manifest
            stages = manifest.counts.get("stages", {})
            first: dict[str, int] = next(iter(stages.values()), {})
            progress.add(first.get("rows_in", 0), first.get("bytes_in", 0))

        run_tasks(
            executor, (self._task(phase, unit) for unit in waiting), done, self.config.engine.unit_memory, progress.show
        )
        progress.show(last=True)

    def _run_limited(self, executor: Any) -> None:
        """The first N records: shards are read one after the other until they are reached; the rest is left out."""
        assert self.limit is not None
        phase, left = self.phases[0], self.limit
        for place, shard in enumerate(self.shards):
            if left <= 0:
                self.shards = self.shards[:place]
                break
            self.remaining[shard.index] = left
            self._run_units(executor, phase, [unit_name(shard)])
            self._stitch(executor, phase, self.shards[: place + 1])
            manifest = self.manifest(phase, unit_name(shard))
            left -= int(manifest.extra.get("records", 0)) if manifest else 0

    def limit_known(self) -> None:
        """With a limit: the shards and their shares as far as what is committed tells."""
        left = self.limit or 0
        for place, shard in enumerate(self.shards):
            if left <= 0:
                self.shards = self.shards[:place]
                return
            self.remaining[shard.index] = left
            manifest = self.manifest(self.phases[0], unit_name(shard))
            left -= int(manifest.extra.get("records", 0)) if manifest else 0

    def _stitch(self, executor: Any, phase: Phase, shards: list[Shard] | None = None) -> None:
        """Check that consecutive segments of a file meet exactly; one that began at a false record start is read again.

        A record start is found by looking for its magic bytes, which a payload may hold too (an archive inside an archive).
        The segment before knows where its last record truly ends.
        """
        while True:
            wrong = self._false_start(shards if shards is not None else self.shards)
            if wrong is None:
                return
            shard, place, start = wrong
            self.starts[place] = start
            self._manifests[(phase.name, unit_name(shard))] = None
            self._run_units(executor, phase, [unit_name(shard)])

    def _false_start(self, shards: list[Shard]) -> tuple[Shard, tuple[str, str, int], int | None] | None:
        after: dict[tuple[str, str], int | None] = {}  # file -> where its next record starts
        for shard in shards:
            manifest = self.manifest(self.phases[0], unit_name(shard))
            spans = {(s["source"], s["key"], s["planned"]): s for s in (manifest.extra["spans"] if manifest else [])}
            for segment in shard.segments:
                file, place = (segment.source, segment.key), (segment.source, segment.key, segment.begin)
                span = spans.get(place)
                if after.get(file) == UNKNOWN:  # the file could not be read on: nothing to compare with
                    after[file] = span["next"] if span else UNKNOWN
                    continue
                if file in after and segment.format in ("warc", "wet") and segment.begin > 0:
                    start = after[file]
                    end = segment.end if segment.end is not None else segment.size
                    wanted = None if start is None or start >= end else start
                    if (span["first"] if span else None) != wanted:
                        return shard, place, wanted
                    if wanted is None:
                        continue
                after[file] = span["next"] if span else None
        return None

    def _retry_failed(self) -> None:
        """Forget units with records that failed in a stage or at reading, so that they are tried again."""
        forget_poison(self.store)
        for phase, manifest in list(self.map_manifests()):
            if any(counts.get("failed") for counts in manifest.counts["stages"].values()):
                journal.forget(self.store, phase.name, manifest.unit)
                self._manifests[(phase.name, manifest.unit)] = None
        for phase in self.phases:
            for shard in self.shards if phase.kind == "group" else ():
                unit = f"emit-{unit_name(shard)}"
                if self._unread(phase, unit_name(shard)):
                    journal.forget(self.store, phase.name, unit)
                    self._manifests[(phase.name, unit)] = None


def unit_name(shard: Shard) -> str:
    """A map unit is called by its shard."""
    return f"{shard.index:05d}"


def group_stage(phase: Phase) -> GroupStage:
    """The stage of a group phase."""
    spec = phase.stages[0]
    stage: GroupStage = spec.stage_class(spec.config)  # type: ignore[assignment]
    return stage


def _public(segment: Segment) -> dict[str, Any]:
    """A segment's options as far as they change what is read."""
    return {k: v for k, v in asdict(segment.options).items() if k != "storage_options"}
