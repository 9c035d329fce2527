"""What the report shows of documents/, ledger/, scores/ and samples/, read in streams. Duplicates: duplicates.py."""

from __future__ import annotations

import heapq
import ipaddress
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report import charts, scan
from pipeline.report.histogram import Histogram, histograms
from training.report import human

TEXT_BUDGET = 2 << 30  # bytes of text read for lengths; more than that is sampled evenly
URL_BUDGET = 2 << 30  # bytes of ledger URLs read for the table of domains, likewise
SCORE_BUDGET = 2 << 30
HOSTS_HELD = 200_000  # distinct domains counted at once
SAMPLES_SHOWN = 5  # a rule
SAMPLE_CHARACTERS = 1500

# Second-level labels under which registries sell names (example.co.uk); a simple list, for grouping in a table only.
_SECOND_LEVEL = frozenset(
    ["ac", "co", "com", "edu", "gob", "gouv", "gov", "go", "ltd", "mil", "ne", "net", "nom", "or", "org", "plc", "sch"]
)


def domain(url: str | None) -> str:
    """The registrable domain of a URL by simple rules: the last two labels, three below co.uk and its like; an IP whole."""
    try:
        host = (urlsplit(url or "").hostname or "").rstrip(".")
    except ValueError:
        return "(no valid URL)"
    if not host:
        return "(no host)"
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        labels = host.split(".")
    three = len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in _SECOND_LEVEL
    return ".".join(labels[-3:] if three else labels[-2:])


def _floats(column: pa.Array) -> np.ndarray:
    return np.asarray(column.cast(pa.float64()).fill_null(float("nan")).to_numpy(zero_copy_only=False))


def _numeric(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def domains(run: Path, top: int = 25) -> dict[str, Any] | None:
    """Records and kept documents by registrable domain, from the ledger."""
    folder = run / "ledger"
    if not {"url", "fate"} <= set(scan.columns_of(folder)):
        return None
    groups = scan.row_groups(folder, ["url"])
    chosen = scan.spread(groups, URL_BUDGET)
    records: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    known: dict[str, str] = {}  # host part -> domain, since most URLs of a shard share their hosts
    cut = False
    for batch in scan.batches(chosen, ["url", "fate"]):
        for url, fate in zip(batch.column("url").to_pylist(), batch.column("fate").to_pylist(), strict=True):
            host = (url or "").split("/", 3)[:3]
            key = "/".join(host)
            name = known.get(key)
            if name is None:
                if len(known) >= HOSTS_HELD:
                    known.clear()
                name = known[key] = domain(key)
            records[name] += 1
            kept[name] += fate == "kept"
        if len(records) > HOSTS_HELD:  # the long tail is forgotten: counts of rare domains become lower bounds
            records = Counter(dict(records.most_common(HOSTS_HELD // 2)))
            kept = Counter({name: kept[name] for name in records})
            cut = True
    if not records:
        return None
    order = sorted(records, key=lambda name: (-records[name], name))
    rows = [{"domain": human.shown(n, 120), "records": records[n], "kept": kept[n]} for n in order[:top]]
    read, everything = sum(g.rows for g in chosen), sum(g.rows for g in groups)
    return {"rows": rows, "distinct": len(records), "cut": cut, "read": read, "of": everything}


def documents(run: Path) -> dict[str, Any] | None:
    """Languages, sources and lengths of the kept documents."""
    folder = run / "documents"
    present = scan.columns_of(folder)
    if not present:
        return None
    total = sum(g.rows for g in scan.row_groups(folder, []))
    out: dict[str, Any] = {"documents": total}
    keys = [name for name in ("language", "source") if name in present]
    counted = {name: Counter[str]() for name in keys}
    weights = {name: Counter[str]() for name in keys}  # UTF-8 bytes
    for batch in scan.batches(scan.row_groups(folder, keys), keys) if keys else ():
        for name in keys:
            values, counts = pc.value_counts(batch.column(name)).flatten()
            for key, n in zip(values.to_pylist(), counts.to_pylist(), strict=True):
                counted[name][str(key if key is not None else "(none)")] += n or 0
    read = 0
    if "text" in present:
        chosen = scan.spread(scan.row_groups(folder, ["text"]), TEXT_BUDGET)
        read = sum(g.rows for g in chosen)
        for batch in scan.batches(chosen, ["text", *keys], 512):
            text: Any = batch.column("text")  # string or large_string
            sizes = pc.binary_length(text).fill_null(0).to_numpy(zero_copy_only=False)
            for name in keys:
                for key, size in zip(batch.column(name).to_pylist(), sizes.tolist(), strict=True):
                    weights[name][str(key if key is not None else "(none)")] += size

        def lengths() -> Iterator[Mapping[str, np.ndarray]]:
            for batch in scan.batches(chosen, ["text"], 512):
                text: Any = batch.column("text")
                yield {"characters": _floats(pc.utf8_length(text))}

        out["lengths"] = histograms(lengths, {}).get("characters")
    out["sampled"] = None if read == total or "text" not in present else {"read": read, "of": total}
    for name in keys:
        order = sorted(counted[name], key=lambda key, seen=counted[name]: (-seen[key], key))  # type: ignore[misc]
        out[name] = [
            {"name": human.shown(k, 120), "documents": counted[name][k], "bytes": weights[name][k]} for k in order[:60]
        ]
        out[f"{name}s"] = len(order)
    return out


def scores(run: Path, stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each stage with scores: a histogram of every number column, thresholds drawn in."""
    root = run / "scores"
    names = [path.name for path in root.iterdir() if path.is_dir()] if root.is_dir() else []
    order = {stage["stage"]: i for i, stage in enumerate(stages)}
    out = []
    for name in sorted(names, key=lambda n: (order.get(n, len(order)), n)):
        folder = root / name
        columns = [c for c, kind in scan.columns_of(folder).items() if c != "id" and _numeric(kind)]
        limits: list[Mapping[str, Any]] = next((stage["limits"] for stage in stages if stage["stage"] == name), [])
        wanted = {c: [(x["rule"], x["threshold"]) for x in limits if x["column"] == c] for c in columns}
        groups = scan.row_groups(folder, columns)
        chosen = scan.spread(groups, SCORE_BUDGET)

        def batches(
            chosen: list[scan.RowGroup] = chosen, columns: list[str] = columns
        ) -> Iterator[Mapping[str, np.ndarray]]:
            for batch in scan.batches(chosen, columns, 65536):
                yield {c: _floats(batch.column(c)) for c in columns}

        found = histograms(batches, {c: [t for _, t in pairs] for c, pairs in wanted.items()}) if columns else {}
        if found:
            read, everything = sum(g.rows for g in chosen), sum(g.rows for g in groups)
            plots = [plot(c, found[c], wanted[c]) for c in columns if c in found]
            out.append({"stage": name, "plots": plots, "rows": everything, "read": read})
    return out


def plot(name: str, h: Histogram, limits: Sequence[tuple[str, float]]) -> dict[str, Any]:
    """A histogram as the page shows it: its name, chart, and what the chart leaves out."""
    notes = [f"{human.count(h.total)} values from {human.number(h.low)} to {human.number(h.high)}"]
    if h.missing:
        notes.append(f"{human.count(h.missing)} without a value")
    if h.below + h.above:
        notes.append(f"{human.count(h.below + h.above)} beyond the axis, in the outermost bars")
    if h.log:
        notes.append("log scale")
    label = f"histogram of {name}; " + "; ".join(f"{rule} at {human.number(at)}" for rule, at in limits)
    return {"name": name, "svg": charts.histogram(h, label, limits), "note": "; ".join(notes)}


def length_plot(h: Histogram) -> dict[str, Any]:
    """The histogram of document lengths."""
    return plot("length in characters", h, [])


def samples(run: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """By (stage, rule), the sample rows with the smallest ids. Texts are read for the rows that are shown only."""
    folder = run / "samples"
    present = scan.columns_of(folder)
    if not {"id", "stage", "rule"} <= set(present):
        return {}
    best: dict[tuple[str, str], list[tuple[int, int, int]]] = {}  # heaps of (-id, group, row) of the smallest ids
    groups = scan.row_groups(folder, ["id"])
    for g, group in enumerate(groups):
        row = 0
        for batch in scan.batches([group], ["id", "stage", "rule"]):
            keys = zip(*(batch.column(name).to_pylist() for name in ("id", "stage", "rule")), strict=True)
            for identity, stage, rule in keys:
                heap = best.setdefault((str(stage), str(rule)), [])
                entry = (-_order(identity), g, row)
                if len(heap) < SAMPLES_SHOWN:
                    heapq.heappush(heap, entry)
                else:
                    heapq.heappushpop(heap, entry)
                row += 1
    wanted: dict[int, dict[int, tuple[str, str]]] = {}
    for key, heap in best.items():
        for _, g, row in heap:
            wanted.setdefault(g, {})[row] = key
    out: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for g, rows in sorted(wanted.items()):
        start = 0
        for batch in scan.batches([groups[g]], list(present), 64):
            for row in range(start, start + batch.num_rows):
                if row in rows:
                    out.setdefault(rows[row], []).append(_sample(batch.slice(row - start, 1)))
            start += batch.num_rows
    return {key: sorted(found, key=lambda s: s["id"]) for key, found in out.items()}


def _order(identity: Any) -> int:
    try:
        return int(str(identity), 16)
    except ValueError:
        return int.from_bytes(str(identity).encode()[:16].ljust(16, b"\0"), "big")


def _sample(row: pa.RecordBatch) -> dict[str, Any]:
    def value(name: str) -> Any:
        return row.column(name)[0].as_py() if name in row.schema.names and name != "text" else None

    text, length = "", 0
    if "text" in row.schema.names:
        column: Any = row.column("text")
        length = pc.utf8_length(column)[0].as_py() or 0
        text = pc.utf8_slice_codeunits(column, 0, SAMPLE_CHARACTERS)[0].as_py() or ""
    out = {k: human.shown(value(k), 300) for k in ("id", "url", "source", "kept_id", "detail") if value(k) is not None}
    out |= {k: human.number(value(k)) for k in ("value", "threshold", "similarity") if value(k) is not None}
    return {"id": "", **out, "text": human.shown(text), "cut": max(length - SAMPLE_CHARACTERS, 0)}
