"""A document's cluster, from the ledger: what was dropped for what, over all stages that keep one of several."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.report.kept import kept_folders, rows_where
from stages.pii.scrub import scrub_url

ELSEWHERE = "elsewhere"  # the fate of a kept document that is no record of this run, but of one whose index it used
TAGGED = "tagged"  # the rule of documents that a stage with `mode: tag` left in the corpus
_LEDGER = ("id", "url", "source", "file", "offset", "fate", "stage", "rule", "threshold", "kept_id", "similarity")


@dataclass
class Member:
    """A record of a cluster. `kept_id` is the record that it was dropped for, or tagged as a duplicate of; None for the kept one."""

    id: str
    unit: str  # of its shard, as phases/ calls it
    source: str
    url: str | None
    file: str
    offset: int | None
    fate: str
    stage: str | None = None
    rule: str | None = None
    threshold: float | None = None
    kept_id: str | None = None
    similarity: float | None = None


@dataclass
class Cluster:
    """A cluster: its top, and the records that were dropped for it, directly or for one that was dropped in turn."""

    asked: str
    top: Member  # kept, unless another rule dropped it after it had been chosen
    members: list[Member] = field(default_factory=list)  # those that are shown
    removed: Counter[tuple[str, str, str]] = field(default_factory=Counter)  # by stage, rule, source: of all
    known: dict[str, Member] = field(default_factory=dict)  # by id: the top and those shown

    @property
    def size(self) -> int:
        """How many records it has, the top included."""
        return self.removed.total() + 1


def find(run: Path, what: str) -> list[Member]:
    """The records with this id or, where there is none, with this URL (as the ledger has it, or before it was scrubbed).

    A document of another run is found by its id where records were dropped for it.
    """
    what = what.encode("utf-8", "replace").decode()  # bytes of a command line that are no UTF-8
    found = list(_records(run, "id", [what])) or list(_records(run, "url", {what, scrub_url(what)}))
    if not found and next(_records(run, "kept_id", [what]), None) is not None:
        return [_elsewhere(what)]
    return found


def cluster_of(run: Path, asked: Member, limit: int) -> Cluster:
    """The cluster of a record; `limit` of those removed are held to be shown, the asked one and what is between it and the top among them.

    Reads one column of the ledger once for each step of the chain: there are no more steps than stages that deduplicate.
    """
    chain = [asked]
    while (above := _above(run, chain[-1])) is not None and above.id not in {one.id for one in chain}:
        chain.append(above)
    if chain[-1].kept_id is not None and chain[-1].kept_id not in {one.id for one in chain}:
        chain.append(_elsewhere(chain[-1].kept_id))
    top = chain[-1]
    cluster = Cluster(asked.id, top, known={top.id: top})
    wanted = {one.id for one in chain}
    cluster.members = [one for one in reversed(chain) if one is not top]
    seen = {top.id}
    below = [top.id]
    while below:
        above_ids, below = below, []
        for member in _below(run, above_ids):
            if member.id in seen:
                continue
            seen.add(member.id)
            below.append(member.id)
            cluster.removed[(member.stage or "", member.rule or "", member.source)] += 1
            if member.id not in wanted and len(cluster.members) < limit:
                cluster.members.append(member)
    cluster.known |= {one.id: one for one in cluster.members}
    return cluster


def _elsewhere(id_: str) -> Member:
    return Member(id_, unit="", source="(another run)", url=None, file="", offset=None, fate=ELSEWHERE)


def _above(run: Path, member: Member) -> Member | None:
    """The record that a member was dropped for, or tagged as a duplicate of."""
    if member.kept_id is None and member.fate == "kept":
        row = next(_tags(run, "id", [member.id]), None)
        if row is not None and row["duplicate_of"] is not None:
            _tag(member, row)
    return None if member.kept_id is None else next(_records(run, "id", [member.kept_id]), None)


def _below(run: Path, ids: list[str]) -> Iterator[Member]:
    """The records that were dropped for these, or tagged as duplicates of them."""
    yield from _records(run, "kept_id", ids)
    rows = {row["id"]: row for row in _tags(run, "duplicate_of", ids)}
    if rows:
        for member in _records(run, "id", rows):
            _tag(member, rows[member.id])
            yield member


def _tag(member: Member, row: dict[str, Any]) -> None:
    member.rule, member.kept_id, member.similarity = TAGGED, row["duplicate_of"], row.get("dup_similarity")


def _records(run: Path, column: str, values: Iterable[str]) -> Iterator[Member]:
    for row in rows_where(run / "ledger", column, pa.array(sorted(values), pa.string()), _LEDGER):
        unit = row.pop("part").removeprefix("part-")
        yield Member(unit=unit, **row)


def _tags(run: Path, column: str, values: list[str]) -> Iterator[dict[str, Any]]:
    """Rows of documents/ and its like that are duplicates of others: there are some where a stage only tags."""
    wanted = pa.array(sorted(values), pa.string())
    for folder, names in kept_folders(run, ("id", "duplicate_of", "dup_similarity")):
        if "duplicate_of" in names:
            yield from rows_where(folder, column, wanted, names)
