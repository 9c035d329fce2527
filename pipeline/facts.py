"""run.json: what was run, on what, and what came of it - summed from the units' manifests."""

from __future__ import annotations

import json
from collections import Counter
from importlib import metadata
from typing import Any

from pipeline.config import RunConfig, redact, resolved
from pipeline.engine.phases import Work
from pipeline.engine.store import Store
from stages.stage import MapStage

FILE = "run.json"
FORMAT = 1

SHOWN_VERSIONS = (
    "gristmill",
    "pyarrow",
    "ray",
    "fastwarc",
    "warcio",
    "trafilatura",
    "resiliparse",
    "lxml",
    "fasttext-community",
    "ftfy",
    "datasketch",
    "phonenumbers",
    "tokenizers",
    "torch",
    "numpy",
)


def versions() -> dict[str, str]:
    """Installed versions of the packages that matter."""
    import platform

    found = {"python": platform.python_version(), "machine": platform.machine()}
    for name in SHOWN_VERSIONS:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def read(store: Store) -> dict[str, Any] | None:
    """A run's run.json, or None. Raises `ValueError` if it is of a newer format or damaged."""
    try:
        content = store.read(FILE)
    except FileNotFoundError:
        return None
    try:
        facts: dict[str, Any] = json.loads(content)
    except ValueError:
        raise ValueError(f"{store.root}/{FILE} is damaged; remove it to start the run anew") from None
    if not isinstance(facts, dict) or facts.get("format", 0) > FORMAT:
        raise ValueError(f"{store.root}/{FILE} was written by a newer version; update, or choose another --output")
    return facts


def write(store: Store, facts: dict[str, Any]) -> None:
    """Put run.json in place."""
    store.write(FILE, json.dumps(facts, indent=1, ensure_ascii=False).encode())


def begin(
    config: RunConfig, work: Work, config_file: str, arguments: dict[str, Any], started: str, notes: list[str]
) -> dict[str, Any]:
    """The facts known before the first record is read."""
    return {
        "format": FORMAT,
        "name": config.name,
        "status": "running",
        "started": started,
        "finished": None,
        "seconds": None,
        "config_file": config_file,
        "arguments": redact(arguments),
        "config": resolved(config),
        "versions": versions(),
        "assets": work.assets,
        "phases": [{"name": p.name, "kind": p.kind, "stages": [s.name for s in p.stages]} for p in work.phases],
        "inputs": [],
        "other_records": {},
        "stages": [],
        "sections": {},
        "alarms": notes,
    }


def fill(facts: dict[str, Any], work: Work) -> None:
    """Counts of every stage and input, from the manifests."""
    stages: dict[str, dict[str, Any]] = {}
    sources: dict[str, dict[str, int]] = {}
    others: Counter[str] = Counter()
    for _, manifest in work.map_manifests():
        for name, counts in manifest.counts["stages"].items():
            total = stages.setdefault(
                name,
                {
                    "rows_in": 0,
                    "rows_out": 0,
                    "bytes_in": 0,
                    "bytes_out": 0,
                    "dropped": Counter(),
                    "failed": Counter(),
                    "skipped": Counter(),
                    "seconds": 0.0,
                },
            )
            for key in ("rows_in", "rows_out", "bytes_in", "bytes_out", "seconds"):
                total[key] += counts[key]
            for key in ("dropped", "failed", "skipped"):
                total[key].update(counts[key])
        for source, counts in manifest.counts["sources"].items():
            entry = sources.setdefault(source, {"records": 0, "bytes": 0, "kept": 0, "dropped": 0, "failed": 0})
            entry["records"] += counts["records"]
            entry["bytes"] += counts["bytes"]
        others.update(manifest.counts["other_records"])
    for _, manifest in work.map_manifests():
        for source, fates in manifest.counts["fates"].items():
            entry = sources.setdefault(source, {"records": 0, "bytes": 0, "kept": 0, "dropped": 0, "failed": 0})
            for fate, number in fates.items():
                entry[fate] += number
        for source, number in manifest.counts["kept"].items():
            sources[source]["kept"] += number
    for phase in work.phases:
        if phase.kind != "map" and phase.stages[0].name in stages:  # the exchange, beside applying its verdicts
            manifests = (work.manifest(phase, unit) for unit in work.units(phase))
            stages[phase.stages[0].name]["seconds"] += sum(m.counts.get("seconds", 0.0) for m in manifests if m)
    files: Counter[str] = Counter()
    for source, _ in {(s.source, s.key) for shard in work.shards for s in shard.segments}:
        files[source] += 1
    facts["inputs"] = [{"source": name, "files": files[name], **entry} for name, entry in sorted(sources.items())]
    facts["other_records"] = dict(sorted(others.items()))
    kinds = {spec.name: spec for spec in work.config.stages}
    facts["stages"] = []
    for name in ["read", *kinds]:
        if name not in stages:
            continue
        limits = []
        if name in kinds:
            stage = kinds[name].stage_class(kinds[name].config)
            limits = [limit._asdict() for limit in stage.limits()] if isinstance(stage, MapStage) else []
        entry = stages[name]
        plain = {k: (dict(sorted(v.items())) if isinstance(v, Counter) else v) for k, v in entry.items()}
        facts["stages"].append(
            {
                "stage": name,
                "kind": kinds[name].stage_class.kind if name in kinds else "read",
                **plain,
                "seconds": round(entry["seconds"], 2),
                "limits": limits,
            }
        )


def too_many_failed(facts: dict[str, Any], limit: float) -> list[str]:
    """Inputs of which more than the allowed share of records failed."""
    return [
        f"input {entry['source']!r}: {entry['failed']:,} of {entry['records']:,} records failed, more than engine.max_failed = {limit:g} allows; "
        "the ledger names each (fate = failed)"
        for entry in facts["inputs"]
        if entry["records"] and entry["failed"] / entry["records"] > limit
    ]


def card(facts: dict[str, Any]) -> str:
    """README.md of documents/: a Hugging Face dataset card. It holds no time and no path, so that equal runs give equal bytes."""
    last = facts["stages"][-1] if facts["stages"] else {"rows_out": 0, "bytes_out": 0}
    lines = [
        "---",
        "configs:",
        "- config_name: default",
        "  data_files:",
        "  - split: train",
        '    path: "part-*.parquet"',
        "---",
        "",
        f"# {facts['name']}",
        "",
        f"{last['rows_out']:,} documents, {last['bytes_out']:,} bytes of text, curated by Gristmill.",
        "",
        "| source | records | kept | dropped | failed |",
        "|---|---|---|---|---|",
        *(
            f"| {e['source']} | {e['records']:,} | {e['kept']:,} | {e['dropped']:,} | {e['failed']:,} |"
            for e in facts["inputs"]
        ),
        "",
        "| stage | in | out | dropped by rule |",
        "|---|---|---|---|",
        *(
            f"| {s['stage']} | {s['rows_in']:,} | {s['rows_out']:,} | {', '.join(f'{r} {n:,}' for r, n in [*s['dropped'].items(), *s['failed'].items()]) or '-'} |"
            for s in facts["stages"]
        ),
        "",
        "The ledger of the run has one row for every record read, with the reason why it is not here. The texts belong to their",
        "authors; `url`, `date` and `licence` say where each came from.",
        "",
    ]
    return "\n".join(lines)


def summary(facts: dict[str, Any]) -> str:
    """The table that ends a run on the terminal."""
    rows = [["stage", "documents in", "out", "bytes out", "CPU s", "dropped and failed"]]
    for s in facts["stages"]:
        reasons = Counter({**s["dropped"]})
        reasons.update({f"{rule} (failed)": n for rule, n in s["failed"].items()})
        top = ", ".join(f"{rule} {n:,}" for rule, n in reasons.most_common(4)) + (", ..." if len(reasons) > 4 else "")
        rows.append(
            [s["stage"], f"{s['rows_in']:,}", f"{s['rows_out']:,}", f"{s['bytes_out']:,}", f"{s['seconds']:.1f}", top]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(5)]
    lines = []
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in range(1, 5)), row[5]]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "-" * len(lines[0]))
    return "\n".join(lines)
