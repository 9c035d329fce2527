"""The phases of a run as units with fingerprints: what is done, what must run again and why, and running it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.config import RunConfig, StageSpec
from pipeline.engine import journal
from pipeline.engine.assets import variants
from pipeline.engine.exchange import Slices
from pipeline.engine.group_unit import round_partitions, slices_of
from pipeline.engine.journal import Manifest, digest, version_of
from pipeline.engine.poison import forget_poison
from pipeline.engine.progress import Progress
from pipeline.engine.schedule import run_tasks
from pipeline.engine.shards import Shard, unit_name
from pipeline.engine.stitch import Place, Span, false_start, spans_from
from pipeline.engine.store import Store
from pipeline.engine.tasks import task_of
from pipeline.engine.work import Task
from pipeline.plan import Phase
from pipeline.readers.record import Segment
from stages.stage import OF_RUNS, GroupStage, MapStage

__all__ = ["UnitState", "Work", "unit_name"]

READ_VERSION = 2  # raised whenever reading or the engine's own columns change
READ_LIBRARIES = ("fastwarc", "warcio")
PARTITION_BYTES = 256 << 20  # of input, for one partition of an exchange
MAX_PARTITIONS = 4096


@dataclass(frozen=True)
class UnitState:
    """Where a unit stands: done, or why it must run."""

    done: bool
    reason: str = ""


@dataclass
class Answers:
    """What the units of a group phase sent to one round (or as verdicts), by partition (or shard)."""

    digest: str  # of all of it
    by_place: dict[int, list[Slices]] = field(default_factory=dict)

    def of(self, place: int) -> tuple[Slices, ...]:
        """What stands for one partition or shard, in the order of the units that sent it."""
        return tuple(self.by_place.get(place, ()))


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
        self.shards = shards  # with a limit: those that it reaches, once that is known
        self.every_shard = shards
        self.store = store
        self.assets = assets
        self.limit = limit
        self.remaining: dict[int, int] = {}  # with a limit: records that each shard may still take
        self.starts: dict[Place, int | None] = {}  # corrected starts of segments: None is an empty one
        self._manifests: dict[tuple[str, str], Manifest | None] = {}
        self._finished: bool | None = None  # as `state` found it
        self._stage_prints = {spec.name: self._stage_print(spec) for spec in config.stages}
        self._measure_prints = {
            s.name: self._stage_print(s, s.stage_class(s.config).decide_knobs) for s in _map_specs(config)
        }
        self._summary_prints = {
            s.name: self._stage_print(s, s.stage_class(s.config).decide_knobs)
            for s in config.stages
            if s.stage_class.kind == "aggregate"
        }
        provided = [spec.stage_class(spec.config).provides() for spec in config.stages]
        self._columns = digest([sorted((name, str(kind)) for name, kind in some.items()) for some in provided])
        self._answers: dict[tuple[str, str, int | None], Answers] = {}  # phase, what is sent, rounds before
        self.partitions = self._partitions()

    # ---- fingerprints

    def _partitions(self) -> int:
        wanted = self.config.engine.partitions
        if isinstance(wanted, int):
            return wanted
        return max(1, min(MAX_PARTITIONS, -(-sum(shard.size for shard in self.shards) // PARTITION_BYTES)))

    def _stage_print(self, spec: StageSpec, without: tuple[str, ...] = ()) -> str:
        """Fingerprint of a stage: knobs, version, libraries, assets."""
        knobs = spec.config.model_dump(mode="json", by_alias=True, exclude=set(OF_RUNS))
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

    def measured(self, phase: Phase, shard: Shard) -> dict[str, str]:
        """For each map stage of a phase whose decisions can be re-made from scores: fingerprint of its measurements.

        It covers the input, the stage's own measuring knobs, and whatever earlier stage may have changed a row; which rows
        an earlier stage dropped does not count, since scores are looked up by id.
        """
        lineage = [self._input_print(shard)]
        prints: dict[str, str] = {}
        for spec in self.config.stages:
            stage = spec.stage_class(spec.config)
            if isinstance(stage, MapStage):
                measure = self._measure_prints[spec.name]
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
            before = self.map_before(phase)
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
                if between.kind == "aggregate":  # it decides here, from the summary
                    components[f"stage {between.stages[0].name}"] = self._stage_prints[between.stages[0].name]
        for spec in phase.stages:
            components[f"stage {spec.name}"] = self._stage_prints[spec.name]
        if phase.leaves_payload:
            # rows without payloads, with their hashes: what a phase that reads them again makes is a function of those
            components["payloads"] = "hashed"
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
            components["columns"] = self._columns
            components["earlier phases"] = digest(lost)
        return components

    def map_before(self, phase: Phase) -> Phase:
        """The map phase whose rows a phase reads."""
        return next(p for p in reversed(self.phases[: phase.index]) if p.kind == "map")

    def _between_digest(self, phase: Phase) -> str | None:
        """Hash of what a group or aggregate phase answered."""
        if phase.kind == "group":
            answers = self.answers(phase, "verdicts", None)
            return answers.digest if answers is not None else None
        manifest = self.manifest(phase, "summary")
        return manifest.digest if manifest is not None else None

    # ---- group phases

    def group_units(self, phase: Phase, before: int | None = None) -> list[str]:
        """Names of the units of a group phase: the shards' messages, then the partitions of each round (below `before`)."""
        stage = group_stage(phase)
        units = [f"emit-{unit_name(shard)}" for shard in self.shards]
        for round_ in range(len(stage.messages()) if before is None else before):
            units += [f"round{round_}-{p:05d}" for p in range(round_partitions(stage, round_, self.partitions))]
        return units

    def answers(self, phase: Phase, name: str, before: int | None) -> Answers | None:
        """What was sent to a round (or as verdicts): by the shards, then by the partitions of rounds below `before`.

        None while a unit is not done. Gathered once, not for each unit that asks.
        """
        key = (phase.name, name, before)
        if key not in self._answers:
            digests, answers = [], Answers("")
            for unit in self.group_units(phase, before):
                manifest = self.manifest(phase, unit)
                if manifest is None:
                    return None
                digests.append(manifest.digest)
                for slices in filter(None, [slices_of(manifest, name)]):
                    for place, where in slices.index.items():
                        answers.by_place.setdefault(place, []).append(Slices(slices.path, {place: where}))
            answers.digest = digest(digests)
            self._answers[key] = answers
        return self._answers[key]

    def _commit(self, phase: Phase, unit: str, manifest: Manifest | None) -> None:
        """Take note of a unit's new manifest, or that its old one is gone."""
        self._manifests[(phase.name, unit)] = manifest
        if phase.kind == "group":
            wave = unit.partition("-")[0]
            round_ = -1 if wave == "emit" else int(wave.removeprefix("round"))
            for key in [k for k in self._answers if k[0] == phase.name and (k[2] is None or k[2] > round_)]:
                del self._answers[key]

    def _group_components(self, phase: Phase, unit: str) -> dict[str, str] | None:
        spec = phase.stages[0]
        components = {f"stage {spec.name}": self._stage_prints[spec.name], "engine.partitions": str(self.partitions)}
        kind, _, rest = unit.partition("-")
        if kind == "emit":
            before = self.map_before(phase)
            manifest = self.manifest(before, rest)
            if manifest is None:
                return None
            seconds = str(self.config.engine.record_seconds)
            return {**components, before.name: manifest.digest, "shard": rest, "engine.record_seconds": seconds}
        round_ = int(kind.removeprefix("round"))
        answers = self.answers(phase, f"round{round_}", round_)
        return None if answers is None else {**components, "messages": answers.digest, "partition": unit}

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
        parts = [self.manifest(self.map_before(phase), n) for n in names] or [
            self.manifest(phase, f"shard-{unit_name(s)}") for s in self.shards
        ]
        if any(m is None for m in parts):
            return None
        whole = self._stage_prints[spec.name] if unit == "summary" else self._summary_prints[spec.name]
        return {f"stage {spec.name}": whole, "rows": digest([m.digest for m in parts if m])}

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
        if not phase.final and not journal.passing_present(self.store, manifest) and not self._was_finished():
            return UnitState(False, "its rows, which `clean` removed, are needed again")
        return UnitState(True)

    def _was_finished(self) -> bool:
        if self._finished is None:
            self._finished = self.finished()
        return self._finished

    def finished(self) -> bool:
        """Whether every unit of the last phase is done and its files are there: then no phase has to run."""
        if self.limit is not None and not self.limit_known():
            return False
        return all(self._current(phase, unit) for phase in self.phases for unit in self.units(phase)) and all(
            journal.lasting_present(self.store, m) for m in self.final_manifests()
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

    # ---- running

    def run(self, executor: Any, retry_failed: bool = False, say: Callable[[str], None] = lambda line: None) -> None:
        """Bring every phase up to date. Raises `RunFailed`."""
        if retry_failed:
            self._retry_failed()
        if self.finished():
            say("stages: everything is done already")
            return
        if self.limit is not None:
            self._run_limited(executor)
        for phase in self.phases:
            if phase.kind == "map":
                self._run_units(executor, phase, [unit_name(shard) for shard in self.shards])
                if phase.index == 0 and self.limit is None:
                    self._stitch(executor, phase, self.shards)
            elif phase.kind == "group":
                units = self.group_units(phase)
                waves = ["emit", *(f"round{r}" for r in range(len(group_stage(phase).messages())))]
                for wave in waves:
                    self._run_units(executor, phase, [u for u in units if u.partition("-")[0] == wave], wave)
            else:
                self._run_units(executor, phase, [u for u in self.units(phase) if u != "summary"], "summaries")
                self._run_units(executor, phase, ["summary"], "merge")

    def _run_units(self, executor: Any, phase: Phase, units: list[str], wave: str = "") -> None:
        waiting = [unit for unit in units if not self._ready(phase, unit)]
        if not waiting:
            return
        progress = Progress(f"{phase.name}{f' {wave}' if wave else ''}", len(waiting))

        def done(task: Task, manifest: Manifest) -> None:
            self._commit(phase, manifest.unit, manifest)
            stages = manifest.counts.get("stages", {})
            first: dict[str, int] = next(iter(stages.values()), {})
            progress.add(first.get("rows_in", 0), first.get("bytes_in", 0))

        run_tasks(
            executor,
            (task_of(self, phase, unit) for unit in waiting),
            done,
            self.config.engine.unit_memory,
            progress.show,
        )
        progress.show(last=True)

    def _run_limited(self, executor: Any) -> None:
        """The first N records: shards are read one after the other until they are reached; the rest is left out."""
        while not self.limit_known():
            place = len(self.remaining) - 1  # the first shard that is not read, or not for this limit
            shards = self.every_shard[: place + 1]
            self.shards = shards
            self._run_units(executor, self.phases[0], [unit_name(shards[-1])])
            self._stitch(executor, self.phases[0], shards)

    def limit_known(self) -> bool:
        """With a limit: the shards and their shares as far as what is committed tells; whether it tells all."""
        assert self.limit is not None
        left, self.remaining, self.shards = self.limit, {}, self.every_shard
        for place, shard in enumerate(self.every_shard):
            if left <= 0:
                self.shards = self.every_shard[:place]
                return True
            self.remaining[shard.index] = left
            manifest = self.manifest(self.phases[0], unit_name(shard))
            if manifest is None or not self._current(self.phases[0], unit_name(shard)):
                return False
            left -= int(manifest.extra.get("records", 0))
        return True

    def _stitch(self, executor: Any, phase: Phase, shards: list[Shard]) -> None:
        """Read segments again that began at a false record start, until all segments of a file meet."""

        def spans_of(shard: Shard) -> dict[Place, Span] | None:
            manifest = self.manifest(phase, unit_name(shard))
            return spans_from(manifest.extra["spans"]) if manifest is not None else None

        while (wrong := false_start(shards, spans_of, self.starts)) is not None:
            shard, place, start = wrong
            self.starts[place] = start
            self._commit(phase, unit_name(shard), None)
            self._run_units(executor, phase, [unit_name(shard)], "again, from a true record start")

    def _retry_failed(self) -> None:
        """Forget units with records that failed in a stage or at reading, so that they are tried again."""
        forget_poison(self.store)
        for phase in self.phases:
            for unit in self.units(phase):
                manifest = self.manifest(phase, unit)
                if manifest is not None and (
                    manifest.extra.get("poison")
                    or any(counts.get("failed") for counts in manifest.counts.get("stages", {}).values())
                ):
                    journal.forget(self.store, phase.name, unit)
                    self._commit(phase, unit, None)


def _map_specs(config: RunConfig) -> list[StageSpec]:
    return [spec for spec in config.stages if issubclass(spec.stage_class, MapStage)]


def group_stage(phase: Phase) -> GroupStage:
    """The stage of a group phase."""
    spec = phase.stages[0]
    stage: GroupStage = spec.stage_class(spec.config)  # type: ignore[assignment]
    return stage


def _public(segment: Segment) -> dict[str, Any]:
    """A segment's options as far as they change what is read."""
    return {k: v for k, v in asdict(segment.options).items() if k != "storage_options"}
