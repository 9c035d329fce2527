"""What the report shows of findings/ (evaluation items in the documents, frequent passages) and of the tables of aggregate stages (the mix)."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.report import scan
from training.report import human

ITEMS_SHOWN = 25
DOCUMENTS_SHOWN = 3  # of an item
ROWS_SHOWN = 200
PASSAGES_SHOWN = 50
PASSAGE_COLUMNS = ("text", "documents", "domains", "domains_counted", "other_documents")
ITEM_COLUMNS = (
    "benchmark",
    "item",
    "state",
    "words",
    "common_in_documents",
    "documents",
    "coverage",
    "covered",
    "found",
)


def contamination(run: Path) -> list[dict[str, Any]]:
    """For each stage that looked for evaluation items: a row for each benchmark, and the items with the most overlap."""
    root = run / "findings"
    names = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    out = []
    for name in names:
        folder = root / name
        if not set(ITEM_COLUMNS) <= set(scan.columns_of(folder)):
            continue
        counts: dict[str, Counter[str]] = {}
        most: list[tuple[float, int, int, dict[str, Any]]] = []  # a heap of the items that documents hold most of
        number = 0
        for batch in scan.batches(scan.row_groups(folder, ITEM_COLUMNS), ITEM_COLUMNS, 512):
            for row in batch.to_pylist():
                seen = counts.setdefault(str(row["benchmark"]), Counter())
                seen.update([str(row["state"]), "items"])
                seen["copied"] += (row["common_in_documents"] or 0) > 0
                number += 1
                if row["documents"]:
                    entry = (row["covered"] or 0.0, row["documents"], -number, _item(row))
                    (heapq.heappush if len(most) < ITEMS_SHOWN else heapq.heappushpop)(most, entry)
        rows = [{"benchmark": human.shown(b, 120), **_counts(n)} for b, n in sorted(counts.items())]
        found = [entry[3] for entry in sorted(most, key=lambda entry: entry[:3], reverse=True)]
        out.append({"stage": human.shown(name, 80), "rows": rows, "items": found})
    return out


def _counts(seen: Counter[str]) -> dict[str, int]:
    return {name: seen[name] for name in ("items", "contaminated", "clean", "too_short", "common", "copied")}


def _item(row: Mapping[str, Any]) -> dict[str, Any]:
    found = [
        human.shown(f"{one['id']} at {', '.join(str(span['start']) for span in (one['spans'] or [])[:3])}", 120)
        for one in (row["found"] or [])[:DOCUMENTS_SHOWN]
    ]
    return {
        "name": human.shown(f"{row['benchmark']}/{row['item']}", 120),
        "words": row["words"],
        "documents": row["documents"],
        "coverage": row["coverage"],
        "covered": row["covered"],
        "found": found,
    }


def passages(run: Path) -> list[dict[str, Any]]:
    """For each stage that counted passages: the most frequent ones, with the domains that have them most often."""
    root = run / "findings"
    names = sorted(path.name for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    out = []
    for name in names:
        folder = root / name
        if not set(PASSAGE_COLUMNS) <= set(scan.columns_of(folder)):
            continue
        most: list[tuple[int, int, dict[str, Any]]] = []
        number = 0
        for batch in scan.batches(scan.row_groups(folder, PASSAGE_COLUMNS), PASSAGE_COLUMNS, 512):
            for row in batch.to_pylist():
                number += 1
                entry = (row["documents"] or 0, -number, _passage(row))
                (heapq.heappush if len(most) < PASSAGES_SHOWN else heapq.heappushpop)(most, entry)
        rows = [entry[2] for entry in sorted(most, key=lambda entry: entry[:2], reverse=True)]
        if rows:
            out.append({"stage": human.shown(name, 80), "rows": rows})
    return out


def _passage(row: Mapping[str, Any]) -> dict[str, Any]:
    domains = [f"{one['domain']} {one['documents']:,}" for one in (row["domains"] or [])[:DOCUMENTS_SHOWN]]
    return {
        "text": human.shown(row["text"] or "(its documents sent no excerpt)", 120),
        "documents": row["documents"],
        "domains_counted": row["domains_counted"],
        "domains": human.shown(", ".join(domains), 200),
    }


def tables(stages: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The tables of aggregate stages: what was asked, what there was, what came out."""
    out = []
    for stage in stages:
        rows = [row for row in stage.get("table") or [] if isinstance(row, Mapping)]
        if not rows:
            continue
        names = [name for name in rows[0] if name != "name"]
        cells = [
            [human.shown(row.get("name"), 120), *(_cell(name, row.get(name)) for name in names)]
            for row in rows[:ROWS_SHOWN]
        ]
        heads = [human.shown(name.replace("_", " "), 60) for name in names]
        more = max(len(rows) - ROWS_SHOWN, 0)
        out.append({"stage": human.shown(stage.get("stage"), 80), "heads": heads, "rows": cells, "more": more})
    return out


def _cell(name: str, value: Any) -> str:
    return human.size(value) if str(name).endswith("_bytes") else human.number(value)
