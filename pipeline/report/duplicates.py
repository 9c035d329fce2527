"""What the report shows of deduplication, from the ledger and documents/, in streams: nothing here grows with the corpus."""

from __future__ import annotations

import heapq
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from xxhash import xxh3_64_intdigest

from pipeline.report import charts, corpus, scan
from pipeline.report.histogram import Histogram
from pipeline.report.kept import kept_folders, kept_rows
from stages.pii.scrub import Scrubber, scrub_url
from training.report import human

BINS = 100  # of similarity, from 0 to 1
SOURCES_SHOWN = 30  # of a stage
SOURCES_CROSSED = 10  # in the heat map; the others are one
CLUSTERS_HELD = 500_000  # clusters whose kept documents are looked up; of more, an even sample of them
LARGEST = 20
BEGINNING = 200  # characters of a text shown
_STARTS = [1, 2, 3, 4, 5, 10, 20, 50, 100, 1000]
_CLASSES = ["1", "2", "3", "4", "5–9", "10–19", "20–49", "50–99", "100–999", "1,000+"]


@dataclass
class Counts:
    """What one pass over the ledger counts."""

    ended: Counter[tuple[str, str]] = field(default_factory=Counter)  # (stage, source); stage empty: kept
    removed: Counter[tuple[str, str]] = field(default_factory=Counter)  # (stage, source) of those with a `kept_id`
    similar: dict[str, np.ndarray] = field(default_factory=dict)  # stage -> counts by similarity
    extremes: dict[str, tuple[float, float]] = field(default_factory=dict)


def duplicates(run: Path, stages: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The section; None if nothing looked for duplicates. `stages` and `config` are run.json's."""
    clusters = _clusters(run)
    counts = _count(run / "ledger")
    if clusters is None and not counts.removed:
        return None
    order = {str(stage["stage"]): place for place, stage in enumerate(stages)}
    names = sorted({stage for stage, _ in counts.removed}, key=lambda name: (order.get(name, len(order)), name))
    bands = _bands(stages, config)
    measured = [name for name in names if counts.extremes.get(name, (1.0, 1.0))[0] < 1]  # not those of equal contents
    return {
        "clusters": clusters,
        "stages": [_stage(name, counts, order) for name in names],
        "overlap": _overlap(run / "ledger", counts),
        "curves": [_curve(name, counts, *bands[name]) for name in measured if name in bands],
        "plots": [_plot(name, counts) for name in measured if name not in bands],
        "command": f"python -m pipeline dups {shlex.quote(str(_shortest(run)))}",
    }


def _shortest(run: Path) -> Path:
    """The run directory as one would type it here."""
    here = Path.cwd()
    return run.relative_to(here) if run.is_relative_to(here) else run


def _count(ledger: Path) -> Counts:
    counts = Counts()
    columns = ["stage", "source", "kept_id", "similarity"]
    if not set(columns) <= set(scan.columns_of(ledger)):
        return counts
    edges = np.linspace(0, 1, BINS + 1)
    for batch in scan.batches(scan.row_groups(ledger, columns), columns, 65536):
        table = pa.table({"stage": batch["stage"], "source": batch["source"], "removed": batch["kept_id"].is_valid()})
        for row in table.group_by(["stage", "source", "removed"]).aggregate([([], "count_all")]).to_pylist():
            key = (row["stage"] or "", row["source"] or "")
            counts.ended[key] += row["count_all"]
            if row["removed"]:
                counts.removed[key] += row["count_all"]
        found = pc.drop_null(pa.table({"stage": batch["stage"], "similarity": batch["similarity"]}))
        for stage in found.column("stage").unique().to_pylist():
            values = found.filter(pc.equal(found.column("stage"), stage)).column("similarity").to_numpy()
            values = values[np.isfinite(values)]
            if len(values):
                into = counts.similar.setdefault(stage, np.zeros(BINS, np.int64))
                into += np.histogram(np.clip(values, 0, 1) + 1e-12, edges)[0]  # 0.29 is in the bin that begins there
                low, high = counts.extremes.get(stage, (np.inf, -np.inf))
                counts.extremes[stage] = (min(low, float(values.min())), max(high, float(values.max())))
    return counts


def _stage(name: str, counts: Counts, order: Mapping[str, int]) -> dict[str, Any]:
    """Of each source what reached the stage and what it removed, largest share first."""
    place = order.get(name, len(order))
    before = {"read"} | {other for other, at in order.items() if at < place}
    reached: Counter[str] = Counter()
    for (stage, source), number in counts.ended.items():
        if stage not in before:
            reached[source] += number
    found = sorted(reached, key=lambda source: (-counts.removed[(name, source)] / reached[source], source))
    rows = [
        {"source": human.shown(source, 120), "reached": reached[source], "removed": counts.removed[(name, source)]}
        for source in found[:SOURCES_SHOWN]
    ]
    return {"stage": human.shown(name, 80), "rows": rows, "more": max(len(found) - SOURCES_SHOWN, 0)}


def _bands(stages: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> dict[str, tuple[int, int, float | None]]:
    """Bands, rows and threshold of the stages that have them: as run.json notes them, or else as the config gives them."""
    found: dict[str, tuple[int, int, float | None]] = {}
    for entry in config.get("stages") or []:
        for kind, given in entry.items() if isinstance(entry, Mapping) else ():
            knobs = given or {}
            if not knobs.get("permutations") and {"bands", "rows"} <= set(knobs):  # else they follow from the threshold
                found[str(knobs.get("as") or kind)] = (knobs["bands"], knobs["rows"], knobs.get("threshold"))
    for stage in stages:
        noted = stage.get("figures") or {}
        if {"bands", "rows"} <= set(noted):
            found[str(stage["stage"])] = (int(noted["bands"]), int(noted["rows"]), noted.get("threshold"))
    return found


def candidate(similarity: float, bands: int, rows: int) -> float:
    """The probability that a pair of this Jaccard similarity shares a band: 1 - (1 - s^rows)^bands."""
    return float(1 - (1 - similarity**rows) ** bands)


def _curve(name: str, counts: Counts, bands: int, rows: int, threshold: float | None) -> dict[str, Any]:
    low, high = counts.extremes[name]
    label = f"probability of being compared by similarity, {bands} bands of {rows}; removed documents by similarity"
    steps = sorted({*(at / 10 for at in range(4, 10)), *([threshold] if threshold else [])})
    return {
        "stage": human.shown(name, 80),
        "bands": bands,
        "rows": rows,
        "chart": charts.curve(lambda s: candidate(s, bands, rows), counts.similar[name], threshold, label),
        "note": f"{human.count(int(counts.similar[name].sum()))} values from {human.number(low)} to {human.number(high)}",
        "points": [(at, candidate(at, bands, rows)) for at in steps],
    }


def _plot(name: str, counts: Counts) -> dict[str, Any]:
    low, high = counts.extremes[name]
    used = np.flatnonzero(counts.similar[name])
    first, last = int(used.min()), int(used.max()) + 1
    bars = counts.similar[name][first:last]
    edges = np.linspace(0, 1, BINS + 1)[first : last + 1]
    return corpus.plot(
        human.shown(name, 80), Histogram(edges, bars, False, False, int(bars.sum()), 0, low, high, 0, 0), []
    )


# ---- sources


def _overlap(ledger: Path, counts: Counts) -> dict[str, Any] | None:
    """Removed documents by source and by the source of what was kept for them; None where there is one source."""
    sources = Counter[str]()
    for (_, source), number in counts.ended.items():
        sources[source] += number
    if len(sources) < 2 or not counts.removed:
        return None
    removed_of = Counter[str]()
    for (_, source), number in counts.removed.items():
        removed_of[source] += number
    order = sorted(sources, key=lambda source: (-removed_of[source], -sources[source], source))
    code = {source: min(place, SOURCES_CROSSED) for place, source in enumerate(order)}
    names = [human.shown(source, 60) for source in order[:SOURCES_CROSSED]]
    names += [f"{len(order) - SOURCES_CROSSED:,} others"] if len(order) > SOURCES_CROSSED else []
    every = -(-counts.removed.total() // CLUSTERS_HELD)
    pairs = Counter[tuple[int, int]]()  # (hash of the kept id, source of the removed)
    for hashes, codes in _hashed(ledger, "kept_id", code, every):
        pairs.update(zip(hashes.tolist(), codes.tolist(), strict=True))
    wanted = np.array(sorted({hashed for hashed, _ in pairs}), dtype=np.uint64)
    owner = np.full(len(wanted), -1, dtype=np.int64)
    for hashes, codes in _hashed(ledger, "id", code, every):
        place = np.minimum(np.searchsorted(wanted, hashes), len(wanted) - 1)
        hit = wanted[place] == hashes
        owner[place[hit]] = codes[hit]
    kept_source = dict(zip(wanted.tolist(), owner.tolist(), strict=True))
    crossed = np.zeros((len(names), len(names)), np.int64)
    same = 0
    for (hashed, removed), number in pairs.items():
        if kept_source[hashed] >= 0:
            crossed[kept_source[hashed], removed] += number
    same = int(np.trace(crossed))  # what crosses among the others counts as theirs
    total = int(crossed.sum())
    chart = charts.heat_map(names, crossed, "removed documents by source", "kept in", "removed from")
    return {"chart": chart, "removed": total, "across": total - same, "every": every}


def _hashed(ledger: Path, column: str, code: Mapping[str, int], every: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Ids of a column as 64-bit hashes with the codes of their rows' sources; of all ids one in `every`, the same in each column."""
    for batch in scan.batches(scan.row_groups(ledger, [column, "source"]), [column, "source"], 65536):
        found = batch.filter(batch[column].is_valid())
        ids = found[column].cast(pa.binary()).to_pylist()
        hashes = np.array([xxh3_64_intdigest(id_) for id_ in ids], dtype=np.uint64)
        codes = np.array([code[source or ""] for source in found["source"].to_pylist()], dtype=np.int64)
        chosen = hashes % np.uint64(every) == 0
        if chosen.any():
            yield hashes[chosen], codes[chosen]


# ---- clusters


def _clusters(run: Path) -> dict[str, Any] | None:
    """Cluster sizes of the documents that stand for one, as classes, and the largest clusters."""
    counts = np.zeros(len(_STARTS), np.int64)
    largest: list[tuple[int, str]] = []  # a heap
    seen = False
    for folder, columns in kept_folders(run, ("id", "dup_cluster_size", "duplicate_of")):
        if not {"id", "dup_cluster_size"} <= set(columns):
            continue
        seen = True
        for batch in scan.batches(scan.row_groups(folder, columns), columns, 65536):
            if "duplicate_of" in columns:  # tagged ones stand for nothing
                batch = batch.filter(batch["duplicate_of"].is_null())
            sizes = batch["dup_cluster_size"].fill_null(1).to_numpy(zero_copy_only=False).astype(np.int64)
            counts += np.bincount(
                np.clip(np.searchsorted(_STARTS, sizes, "right") - 1, 0, None), minlength=len(_STARTS)
            )
            for row in np.argsort(-sizes, kind="stable")[:LARGEST].tolist():
                if sizes[row] > 1:
                    entry = (int(sizes[row]), str(batch["id"][row]))
                    (heapq.heappush if len(largest) < LARGEST else heapq.heappushpop)(largest, entry)
    if not seen:
        return None
    used = int(np.flatnonzero(counts).max()) + 1 if counts.any() else 0
    return {
        "chart": charts.bars(
            _CLASSES[:used], counts[:used].tolist(), "documents by the size of their duplicate cluster"
        ),
        "alone": int(counts[0]),
        "clustered": int(counts[1:].sum()),
        "largest": _shown(run, sorted(largest, key=lambda item: (-item[0], item[1]))),
    }


def _shown(run: Path, largest: Sequence[tuple[int, str]]) -> list[dict[str, Any]]:
    """The largest clusters with what their kept documents are."""
    found = kept_rows(run, {id_ for _, id_ in largest})
    scrubber = Scrubber() if found else None
    rows = []
    for size, id_ in largest:
        row = found.get(id_) or {}
        text = scrubber.text((row.get("text") or "")[: 4 * BEGINNING]) if scrubber is not None else ""
        url = scrub_url(row["url"]) if row.get("url") else ""
        source = human.shown(row.get("source") or "", 120)
        rows.append({"id": id_, "size": size, "source": source, "url": human.shown(url, 200)})
        rows[-1]["text"] = human.shown(" ".join(text.split()), BEGINNING)
    return rows
