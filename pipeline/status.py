"""`plan`, `status` and `clean`: what a run would do, what it has done, what can go."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline import facts as run_facts
from pipeline import sections
from pipeline.config import LATER, RunConfig, read_config, resolve, resolved
from pipeline.engine import journal
from pipeline.engine.lease import LeaseHeld, holder, lease
from pipeline.engine.phases import Work
from pipeline.engine.progress import human_bytes
from pipeline.engine.store import Store, is_url
from pipeline.plan import Phase
from pipeline.run import prepare
from pipeline.yamlfile import ConfigError, Located
from stages.conversation import KINDS


def run_directory(path: str) -> Store:
    """The store of an existing run. Raises `ConfigError` if there is none."""
    store = Store(path if is_url(path) else str(Path(path).expanduser().absolute()))
    if store.local is not None and not store.local.is_dir():
        raise ConfigError(
            f"{path}: {'is a file' if store.local.exists() else 'no such directory'}; give a run directory"
        )
    try:
        if run_facts.read(store) is None:
            raise ConfigError(f"{path} holds no run (there is no {run_facts.FILE})")
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return store


_SECTIONS = {
    "index": "add the documents to an index for later runs",
    "tokenizer": "train and measure a tokenizer on the documents -> tokenizer/",
    "pack": "encode, shuffle and pack the documents -> tokens/",
    "pretrain": "train a model on the tokens -> model/",
    "sft": "fine-tune the model on chat/ -> sft/",
    "reward": "train a reward model on preferences/ -> reward/",
    "ppo": "reinforce the model on prompts/ by PPO -> ppo/",
    "dpo": "fine-tune the model on preferences/ -> dpo/",
    "grpo": "reinforce the model on prompts/ by GRPO -> grpo/",
    "evaluate": "measure the models -> evaluation/",
}


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def describe_plan(work: Work) -> str:
    """Phases, shards and sections, for people."""
    files = {(s.source, s.key) for shard in work.shards for s in shard.segments}
    size = sum(shard.size for shard in work.shards)
    lines = [
        f"{work.config.name}: {_count(len(files), 'file')}, {human_bytes(size)} as stored, in {_count(len(work.shards), 'shard')}",
        f"  run directory: {work.store.root}",
        "",
    ]
    for phase in work.phases:
        names = " > ".join(s.name for s in phase.stages)
        if phase.kind == "map":
            what = ["read"] if phase.index == 0 else ["read the payloads again"] if phase.reads_again else []
            if phase.index and work.phases[phase.index - 1].kind != "map":
                what.append(f"apply {work.phases[phase.index - 1].stages[0].name}")
            what += [names] if names else []
            what += [f"write {written(work.config)} and ledger"] if phase.final else []
            lines.append(f"  {phase.name}: {' > '.join(what)} ({_count(len(work.shards), 'unit')})")
        else:
            lines.append(
                f"  {phase.name}: {phase.kind} stage {names} ({_count(len(work.units(phase)), 'unit')}, "
                f"{_count(work.partitions, 'partition')})"
            )
    for name in LATER:
        if getattr(work.config, name) is not None:
            lines.append(f"  {name}: {_SECTIONS[name]}")
    return "\n".join(lines)


def written(config: RunConfig) -> str:
    """The folders that the stages fill, in words."""
    folders = {KINDS.get(entry.kind, "documents"): None for entry in config.input}
    return ", ".join(sorted(folders))


def config_of(run: str, facts: dict[str, Any], config_file: Path | None, overrides: list[str]) -> RunConfig:
    """The config that was run, or another file with the `--set`s of that run; then `overrides`."""
    if config_file is not None:
        given = [override for override in facts["arguments"]["set"] if not override.endswith("=***")]
        return read_config(config_file, [*given, *overrides])
    hidden = [entry["storage_options"] for entry in facts["config"]["input"]] + [
        facts["config"]["engine"]["storage_options"]
    ]
    if "***" in str(hidden):
        raise ConfigError(f"{run}: run.json holds no credentials; say `status {run} --config {facts['config_file']}`")
    return resolve(Located(json.loads(json.dumps(facts["config"])), f"{run}/{run_facts.FILE}", {}), overrides)


def changes(old: Any, new: Any, name: str = "") -> list[str]:
    """The knobs in which two resolved configs differ, with both values."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = []
        for key in dict.fromkeys([*old, *new]):
            found += changes(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
        return found
    if (old is None and isinstance(new, dict)) or (new is None and isinstance(old, dict)):
        return [f"{name}: {'left out' if new is None else 'added'}"]
    return [] if old == new else [f"{name}: {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = (
        "not there" if value is None else "there" if isinstance(value, dict) else json.dumps(value, ensure_ascii=False)
    )
    return text if len(text) <= 60 else f"{text[:57]}..."


def _by_name(config: dict[str, Any]) -> dict[str, Any]:
    """A resolved config with the stages by name, so that one more or less does not shift the others."""
    stages = {knobs.get("as") or kind: knobs for entry in config["stages"] for kind, knobs in entry.items()}
    return {**stages, **{k: v for k, v in config.items() if k != "stages"}}


def status(run: str, config_file: Path | None, overrides: list[str]) -> str:
    """What is done, what a rerun would recompute and why. By default against the config that was run."""
    store = run_directory(run)
    facts = run_facts.read(store)
    assert facts is not None
    config = config_of(run, facts, config_file, overrides)
    if config.name != facts["name"]:
        raise ConfigError(f"{run} holds the run {facts['name']!r}, but the config is called {config.name!r}")
    work = prepare(config, store.root, facts["arguments"]["limit"])
    lines = [f"{facts['name']}: {facts['status']}" + (" (a run is live)" if holder(store) else "")]
    if facts.get("error"):
        lines.append(f"  error: {facts['error']}")
    before, now = _by_name(facts["config"]), _by_name(resolved(config))
    lines += [f"  changed: {change}" for change in changes(before, now)]
    if [name for name in before if name in now] != [name for name in now if name in before]:
        lines.append("  changed: the order of the stages")
    if work.limit is not None:
        work.limit_known()
        lines.append(f"  the first {work.limit:,} records (--limit)")
    stale: set[str] = set()
    for phase in work.phases:
        lines.append(f"  {phase.name}: {_phase_state(work, phase, stale)}")
    behind = bool(stale)
    for name in LATER:
        if getattr(config, name) is None:
            if journal.read_manifest(store, sections.PHASE, name) is not None:
                lines.append(f"  {name}: not in the config; a run would remove what it made")
            continue
        done, why = sections.state(name, config, work, store, behind)
        behind = behind or not done
        lines.append(f"  {name}: done" if done else f"  {name}: would run: {why}")
    return "\n".join(lines)


def _phase_state(work: Work, phase: Phase, stale: set[str]) -> str:
    """How a phase stands; one that would run joins `stale`."""
    units = work.units(phase)
    reasons = Counter(state.reason for unit in units if not (state := work.state(phase, unit, stale)).done)
    if not reasons:
        return f"done ({_count(len(units), 'unit')})"
    stale.add(phase.name)
    number = reasons.total()
    why = "; ".join(f"{reason} ({n:,})" if len(reasons) > 1 else reason for reason, n in reasons.items())
    if number == len(units):
        return f"would run ({_count(number, 'unit')}): {why}"
    then = "; the others if what they read changes" if phase.kind == "group" else ""
    return f"would run {number:,} of {_count(len(units), 'unit')}: {why}{then}"


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
