"""A stratified sample of a run's documents: some of those kept, some of those that each rule dropped."""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.report import scan
from pipeline.report.kept import kept_folders, kept_rows
from stages.pii.scrub import Scrubber, scrub_url

SHOWN = 6_000  # characters of a text; enough to judge it by
SCRUBBED = 8_000  # characters that are scrubbed, so that nothing is cut in two where the shown part ends


class Stratum(NamedTuple):
    """What became of some documents and why: stage and rule are None for those kept."""

    fate: str
    stage: str | None
    rule: str | None

    @property
    def name(self) -> str:
        """`kept`, or `stage:rule`."""
        return self.fate if self.rule is None else f"{self.stage}:{self.rule}"


@dataclass
class Drawn:
    """The documents of one stratum, and how many it has in all."""

    stratum: Stratum
    population: int
    rows: list[dict[str, Any]] = field(default_factory=list)


def strata(run: Path) -> Counter[Stratum]:
    """How many records ended in each stratum, from the ledger."""
    found: Counter[Stratum] = Counter()
    columns = ["fate", "stage", "rule"]
    for batch in scan.batches(scan.row_groups(run / "ledger", columns), columns):
        counts = pa.Table.from_batches([batch]).group_by(columns).aggregate([([], "count_all")])
        for row in counts.to_pylist():
            found[Stratum(row["fate"], row["stage"], row["rule"])] += row["count_all"]
    return found


def fates(run: Path, ids: set[str]) -> dict[str, Stratum]:
    """What the ledger says of these records; unknown ids are left out."""
    wanted = pa.array(sorted(ids), pa.string())
    found: dict[str, Stratum] = {}
    columns = ["id", "fate", "stage", "rule"]
    for batch in scan.batches(scan.row_groups(run / "ledger", columns), columns):
        for row in batch.filter(pc.is_in(batch.column("id"), value_set=wanted)).to_pylist():
            found[row["id"]] = Stratum(row["fate"], row["stage"], row["rule"])
    return found


def draw(run: Path, rows: int) -> list[Drawn]:
    """`rows` documents of each stratum, the kept ones first, then by size; scrubbed of structured personal data.

    Those with the smallest ids are taken. An id is a hash of where a record stands, so that they are as good as drawn by lot,
    and the same ones whenever they are drawn; samples/ is made in the same way.
    """
    counts = strata(run)
    order = sorted(counts, key=lambda s: (s.fate != "kept", -counts[s], s.name))
    drawn = {stratum: Drawn(stratum, counts[stratum]) for stratum in order}
    for key, found in _dropped(run, rows).items():
        for stratum in order:
            if (stratum.stage, stratum.rule) == key:
                drawn[stratum].rows = found
    for stratum in order:
        if stratum.fate == "kept":
            drawn[stratum].rows = _kept(run, rows)
    wanted = {row["kept_id"] for one in drawn.values() for row in one.rows if row.get("kept_id")}
    partners = kept_rows(run, wanted)
    scrubber = Scrubber()
    for one in drawn.values():
        one.rows = [_shown(row, partners, scrubber) for row in one.rows]
    return list(drawn.values())


class _First:
    """The rows with the smallest ids."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self._heap: list[tuple[_Backwards, Any]] = []

    def wants(self, id_: str) -> bool:
        return len(self._heap) < self.rows or id_ < self._heap[0][0].id

    def add(self, id_: str, row: Any) -> None:
        entry = (_Backwards(id_), row)
        if len(self._heap) < self.rows:
            heapq.heappush(self._heap, entry)
        elif id_ < self._heap[0][0].id:
            heapq.heapreplace(self._heap, entry)

    def sorted(self) -> list[Any]:
        return [row for _, row in sorted(self._heap, key=lambda entry: entry[0].id)]


class _Backwards:
    """Orders ids backwards, so that a heap's first is the largest; no two are equal."""

    __slots__ = ("id",)

    def __init__(self, id_: str) -> None:
        self.id = id_

    def __lt__(self, other: _Backwards) -> bool:
        return self.id > other.id


def _dropped(run: Path, rows: int) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Rows of samples/ by stage and rule."""
    folder = run / "samples"
    have = scan.columns_of(folder)
    names = ("id", "url", "source", "stage", "rule", "value", "threshold", "kept_id", "similarity", "detail", "text")
    columns = [name for name in names if name in have]
    first: dict[tuple[str, str], _First] = {}
    for batch in scan.batches(scan.row_groups(folder, columns), columns, rows=256):
        ids, stages, rules = (batch.column(name).to_pylist() for name in ("id", "stage", "rule"))
        for place, key in enumerate(zip(stages, rules, strict=True)):
            keeper = first.setdefault(key, _First(rows))
            if keeper.wants(ids[place]):
                keeper.add(ids[place], batch.slice(place, 1).to_pylist()[0])
    return {key: keeper.sorted() for key, keeper in first.items()}


def _kept(run: Path, rows: int) -> list[dict[str, Any]]:
    """Kept rows; their ids are read first, and only then what is shown of them."""
    keeper = _First(rows)
    for folder, _ in kept_folders(run):
        for batch in scan.batches(scan.row_groups(folder, ["id"]), ["id"], rows=65536):
            for id_ in batch.column("id").to_pylist():
                if keeper.wants(id_):
                    keeper.add(id_, id_)
    ids = keeper.sorted()
    found = kept_rows(run, set(ids))
    return [found[id_] for id_ in ids]


def _shown(row: dict[str, Any], partners: dict[str, dict[str, Any]], scrubber: Scrubber) -> dict[str, Any]:
    """What the page shows of a row."""
    text = row.get("text") or ""
    partner = partners.get(row.get("kept_id") or "")
    facts = {name: row.get(name) for name in ("value", "threshold", "kept_id", "similarity")}
    return {
        "id": row["id"],
        "source": row.get("source"),
        "url": scrub_url(row["url"]) if row.get("url") else None,
        **{name: value for name, value in facts.items() if value is not None},
        "detail": scrubber.text(row["detail"]) if row.get("detail") else None,
        "text": scrubber.text(text[:SCRUBBED])[:SHOWN],
        "more": max(len(text) - SHOWN, 0),
        "kept": scrubber.text((partner.get("text") or "")[:SCRUBBED])[:SHOWN] if partner else None,
    }
