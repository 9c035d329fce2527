"""`plan`, `status` and `clean`: what a run would do, what it has done, what can go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import facts as run_facts
from pipeline import sections
from pipeline.config import SECTIONS, RunConfig, read_config, resolve
from pipeline.engine.lease import LeaseHeld, holder, lease
from pipeline.engine.phases import Work
from pipeline.engine.progress import human_bytes
from pipeline.engine.store import Store, is_url
from pipeline.run import prepare
from pipeline.yamlfile import ConfigError, Located


def run_directory(path: str) -> Store:
    """The store of an existing run. Raises `ConfigError` if there is none."""
    store = Store(path if is_url(path) else str(Path(path).expanduser().absolute()))
    try:
        if run_facts.read(store) is None:
            raise ConfigError(f"{path} holds no run (there is no {run_facts.FILE})")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return store


def describe_plan(work: Work) -> str:
    """Phases, shards and sections, for people."""
    files = {(s.source, s.key) for shard in work.shards for s in shard.segments}
    size = sum(shard.size for shard in work.shards)
    lines = [
        f"{work.config.name}: {len(files):,} files, {human_bytes(size)} as stored, in {len(work.shards):,} shards -> {work.store.root}",
        "",
    ]
    for phase in work.phases:
        names = " > ".join(s.name for s in phase.stages)
        if phase.kind == "map":
            what = ["read"] if phase.index == 0 else []
            if phase.index and work.phases[phase.index - 1].kind != "map":
                what.append(f"apply {work.phases[phase.index - 1].stages[0].name}")
            what += [names] if names else []
            what += ["write documents and ledger"] if phase.final else []
            lines.append(f"  {phase.name}: {' > '.join(what)} ({len(work.shards):,} units)")
        else:
            lines.append(
                f"  {phase.name}: {phase.kind} stage {names} ({len(work.units(phase)):,} units, {work.partitions} partitions)"
            )
    for name in SECTIONS[1:]:
        if getattr(work.config, name) is not None:
            lines.append(f"  {name}")
    return "\n".join(lines)


def _work_of(run: str, config_file: Path | None, overrides: list[str]) -> tuple[Store, dict[str, Any], RunConfig, Work]:
    store = run_directory(run)
    facts = run_facts.read(store)
    assert facts is not None
    if config_file is None:
        config = resolve(Located(facts["config"], f"{run}/{run_facts.FILE}", {}), overrides)
    else:
        config = read_config(config_file, [*facts["arguments"]["set"], *overrides])
    work = prepare(config, store.root, facts["arguments"]["limit"])
    return store, facts, config, work


def status(run: str, config_file: Path | None, overrides: list[str]) -> str:
    """What is done, what a rerun would recompute and why. By default against the config that was run."""
    store, facts, config, work = _work_of(run, config_file, overrides)
    lines = [f"{facts['name']}: {facts['status']}" + (" (a run is live)" if holder(store) else "")]
    if facts.get("error"):
        lines.append(f"  error: {facts['error']}")
    if work.limit is not None:
        work.limit_known()
    stale: set[str] = set()
    for phase in work.phases:
        units = work.units(phase)
        reasons: dict[str, int] = {}
        for unit in units:
            state = work.state(phase, unit, stale)
            if not state.done:
                reasons[state.reason] = reasons.get(state.reason, 0) + 1
        if reasons:
            stale.add(phase.name)
            why = "; ".join(
                f"{reason} ({number})" if len(reasons) > 1 else reason for reason, number in reasons.items()
            )
            lines.append(
                f"  {phase.name}: {len(units) - sum(reasons.values())}/{len(units)} units done; would run {sum(reasons.values())}: {why}"
            )
        else:
            lines.append(f"  {phase.name}: done ({len(units)} units)")
    behind = bool(stale)
    for name in SECTIONS[1:]:
        if getattr(config, name) is None:
            continue
        done, why = sections.state(name, config, work, store, behind)
        behind = behind or not done
        lines.append(f"  {name}: done" if done else f"  {name}: would run: {why}")
    return "\n".join(lines)


def clean(run: str) -> str:
    """Remove intermediate files, which hold raw text and hashes of it. A finished run stays finished."""
    store = run_directory(run)
    try:
        with lease(store):
            removed = 0
            for folder in ("phases", "scores"):
                for path in store.files(folder):
                    removed += store.size(path) or 0
                store.remove(folder)
    except LeaseHeld as error:
        raise ConfigError(str(error)) from None
    return f"{run}: removed {human_bytes(removed)} of intermediate files"
