"""run.json: what was run, on what, and what came of it - summed from the units' manifests."""

from __future__ import annotations

import json
from collections import Counter
from importlib import metadata
from typing import Any

from pipeline.config import RunConfig, StageSpec, redact, resolved
from pipeline.engine.journal import Manifest
from pipeline.engine.phases import Work
from pipeline.engine.store import Store
from pipeline.plan import Phase
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
    tallies: dict[str, dict[str, Counter[str]]] = {}
    sources: dict[str, dict[str, int]] = {}
    others: Counter[str] = Counter()
    ended: dict[str, dict[str, Counter[str]]] = {}  # stage -> source -> fates
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
            for row, numbers in counts.get("tally", {}).items():
                tallies.setdefault(name, {}).setdefault(row, Counter()).update(numbers)
        for source, counts in manifest.counts["sources"].items():
            entry = sources.setdefault(source, {"records": 0, "bytes": 0, "kept": 0, "dropped": 0, "failed": 0})
            entry["records"] += counts["records"]
            entry["bytes"] += counts["bytes"]
        others.update(manifest.counts["other_records"])
        for name, of in manifest.counts.get("ended", {}).items():
            for source, fates in of.items():
                ended.setdefault(name, {}).setdefault(source, Counter()).update(fates)
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
    plans = {p.stages[0].name: m.counts.get("plan", {}) for p in work.phases if (m := _summary(work, p)) is not None}
    files: Counter[str] = Counter()
    for source, _ in {(s.source, s.key) for shard in work.shards for s in shard.segments}:
        files[source] += 1
    facts["inputs"] = [{"source": name, "files": files[name], **entry} for name, entry in sorted(sources.items())]
    facts["other_records"] = dict(sorted(others.items()))
    kinds = {spec.name: spec for spec in work.config.stages}
    facts["stages"] = []
    reached = Counter({name: entry["records"] for name, entry in sources.items()})
    for name in ["read", *kinds]:
        if name not in stages:
            continue
        limits, figures = [], {}
        if name in kinds:
            stage = kinds[name].stage_class(kinds[name].config)
            figures = stage.figures()
            limits = [limit._asdict() for limit in stage.limits()] if isinstance(stage, MapStage) else []
        entry = stages[name]
        table = _table(plans.get(name, {}), tallies.get(name, {}))
        lost = sorted(ended.get(name, {}).items())
        by_source = {s: {"in": reached[s], "dropped": fates["dropped"]} for s, fates in lost if fates["dropped"]}
        reached.subtract({source: fates.total() for source, fates in lost})
        plain = {k: (dict(sorted(v.items())) if isinstance(v, Counter) else v) for k, v in entry.items()}
        facts["stages"].append(
            {
                "stage": name,
                "kind": kinds[name].stage_class.kind if name in kinds else "read",
                **plain,
                "seconds": round(entry["seconds"], 2),
                "limits": limits,
                **({"by_source": by_source} if by_source else {}),
                **({"figures": figures} if figures else {}),
                **({"table": table} if table else {}),
            }
        )


def add_tokens(facts: dict[str, Any]) -> None:
    """Put the packer's tokens beside the bytes of the mix: all copies, those of held-out documents too."""
    tokens = facts["sections"].get("pack", {}).get("mixture", {})
    for stage in facts["stages"]:
        if tokens and stage["stage"] == "mix":
            for row in stage.get("table", []):
                row["got_tokens"] = tokens.get(row["name"], 0)


def _summary(work: Work, phase: Phase) -> Manifest | None:
    """The manifest of an aggregate phase's last unit."""
    return work.manifest(phase, "summary") if phase.kind == "aggregate" else None


def _table(plan: dict[str, Any], tally: dict[str, Counter[str]]) -> list[dict[str, Any]]:
    """What an aggregate stage planned and what came of it, a row each, in the order of the plan."""
    names = list(dict.fromkeys([*plan, *sorted(tally)]))
    kinds = dict.fromkeys(kind for numbers in tally.values() for kind in sorted(numbers))
    return [{"name": n, **plan.get(n, {}), **{k: tally.get(n, Counter())[k] for k in kinds}} for n in names]


def too_many_failed(facts: dict[str, Any], limit: float) -> list[str]:
    """Inputs of which more than the allowed share of records failed."""
    return [
        f"input {entry['source']!r}: {entry['failed']:,} of {entry['records']:,} records failed, more than engine.max_failed = {limit:g} allows; "
        "the ledger names each (fate = failed)"
        for entry in facts["inputs"]
        if entry["records"] and entry["failed"] / entry["records"] > limit
    ]


ALARM_LEAST = 100  # documents of a source below which a share says little


def stage_alarms(facts: dict[str, Any], spec: StageSpec) -> list[str]:
    """Sources of which a stage dropped more than its `alarm_share`, in words."""
    share = spec.config.alarm_share
    if share is None:
        return []
    stage: dict[str, Any] = next((s for s in facts["stages"] if s["stage"] == spec.name), {})
    by_source: dict[str, dict[str, int]] = stage.get("by_source", {})
    return [
        f"{spec.name} dropped {n['dropped']:,} of the {n['in']:,} documents of source {source!r} that reached it "
        f"({100 * n['dropped'] / n['in']:.1f} %), more than {spec.name}.alarm_share = {share:g}; report.html and samples/ show some of them"
        for source, n in by_source.items()
        if n["in"] >= ALARM_LEAST and n["dropped"] / n["in"] > share
    ]


WHAT = {
    "documents": "{rows:,} documents, {bytes:,} bytes of text, curated by Gristmill.",
    "chat": "Conversations (`messages`: role, content), curated by Gristmill.",
    "preferences": "Preference pairs (`prompt`, `chosen`, `rejected`: messages of role, content), curated by Gristmill.",
    "prompts": "Prompts (messages of role, content) with `answer` and `verifier`, curated by Gristmill.",
}


def card(facts: dict[str, Any], folder: str = "documents") -> str:
    """README.md of documents/ and its like: a Hugging Face dataset card. It holds no time and no path, so that equal runs give equal bytes."""
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
        WHAT[folder].format(rows=last["rows_out"], bytes=last["bytes_out"]),
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
    lines = _aligned(rows)
    for s in facts["stages"]:
        if s.get("table"):
            lines += ["", f"{s['stage']}:", *_aligned(_table_rows(s["table"]))]
    return "\n".join(lines)


SHOWN_ROWS = 20  # of a stage's table


def _table_rows(table: list[dict[str, Any]]) -> list[list[str]]:
    """A stage's table as cells, its first rows."""
    names = [name for name in table[0] if name != "name"]
    rows = [["", *(name.replace("_", " ") for name in names)]]
    for row in table[:SHOWN_ROWS]:
        rows.append([row["name"], *(f"{row[n]:,}" if isinstance(row[n], int) else f"{row[n]:.4g}" for n in names)])
    if len(table) > SHOWN_ROWS:
        rows.append([f"... {len(table) - SHOWN_ROWS:,} more in run.json", *([""] * len(names))])
    return rows


def _aligned(rows: list[list[str]]) -> list[str]:
    """Cells as lines: the first column to the left, the others to the right; a sixth, of words, as it is."""
    last = len(rows[0])
    widths = [max(len(row[i]) for row in rows) for i in range(last)]
    lines = []
    for row in rows:
        words = last == 6 and rows[0][5] == "dropped and failed"
        numbers = [row[i].rjust(widths[i]) for i in range(1, last - words)]
        lines.append("  ".join([row[0].ljust(widths[0]), *numbers, *([row[5]] if words else [])]).rstrip())
    lines.insert(1, "-" * len(lines[0]))
    return lines
