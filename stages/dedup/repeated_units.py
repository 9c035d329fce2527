"""What `dedup.lines` and `dedup.spans` share: runs of units of a text (lines, sentences) meet by key, and their documents are judged."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from stages.batch import Batch
from stages.dedup import passages
from stages.dedup.hashing import hash_columns
from stages.dedup.messages import (
    address_keys,
    indices,
    key_values,
    message_table,
    nulls,
    pack,
    places,
    same_as_previous,
    whole_keys,
)
from stages.dedup.passage_findings import FINDINGS_COLUMNS, Passages, excerpts
from stages.dedup.passages import NAMED, Met, Outcome, PassageConfig
from stages.dedup.survivor import name_hashes, rank_names, ranks, scope_keys
from stages.dedup.units import Units
from stages.mix.common import DomainNames
from stages.stage import FINDINGS, Addressed, GroupStage, Resources, knob

MEETING, JUDGING, NAMING = range(3)  # rounds
UNITS = pa.list_(pa.int64())  # WIDTH numbers for each unit of a document
WIDTH = 5
START, END, BREAKS, WORDS, SAME = range(WIDTH)  # code points; newlines before; words; the first unit that is equal
NOTICE = -1  # as `at`: you keep a passage that others lose


class UnitsConfig(PassageConfig):
    """Knobs of the stages that compare lines, paragraphs or sentences."""

    scope: Literal["source", "domain", "global"] = knob(
        "source",
        "where copies are looked for: within an input source, a registrable domain (documents without one are not compared), or"
        " everywhere",
    )
    report: int = knob(
        100,
        "how many of the most frequent passages findings/ has of each partition, with their counts by registrable domain; 0: none, which"
        " makes messages smaller",
        ge=0,
        le=100_000,
    )


class Runs(NamedTuple):
    """What a batch's documents send: the first unit of each run that is compared, and the runs' keys, (n, 2) uint64."""

    units: Units
    first: np.ndarray
    keys: np.ndarray
    same: np.ndarray  # of each unit: the first unit of its document that is equal


class RepeatedUnits(GroupStage):
    """Runs of `run` units meet by key; those that others keep are cut, or count against their document.

    0 meeting, by key: which copy stays. 1 judging, by document: its units, and which are copies. 2 naming, by the document that keeps
    most of what a dropped one has: its id.
    """

    needs: ClassVar[tuple[str, ...]] = ("id", "text", "source")
    libraries: ClassVar[tuple[str, ...]] = ("tldextract", "xxhash")
    resources = Resources(memory=512 << 20)
    column: ClassVar[str]  # what it provides: the share of a document's characters that are copies
    rule: ClassVar[str]  # of documents with too much of it
    config: UnitsConfig

    @abstractmethod
    def runs(self, batch: Batch, scope: np.ndarray) -> Runs:
        """What is compared of a batch; `scope` (uint64) has a number for each row."""

    @abstractmethod
    def run(self) -> int:
        """Units of a run."""

    @abstractmethod
    def most(self) -> int:
        """A key with more messages than this has copies."""

    def scopes(self, batch: Batch, domains: list[str | None]) -> tuple[np.ndarray, np.ndarray]:
        """A number (uint64) for each row, and which rows (bool) are compared at all."""
        everywhere = np.ones(len(batch), dtype=bool)
        if self.config.scope == "domain":
            return name_hashes(domains), np.array([name is not None for name in domains], dtype=bool)
        return scope_keys(batch, self.config.scope), everywhere

    def setup(self, assets: Mapping[str, Path]) -> None:
        """Load the public suffix list, where domains are asked for."""
        wanted = self.config.report or self.config.scope == "domain"
        self._domains = DomainNames() if wanted else None

    def provides(self) -> dict[str, pa.DataType]:
        """The share of the document's characters that stand in copies; null: none."""
        return {self.column: pa.float64()}

    def messages(self) -> tuple[dict[str, pa.DataType], ...]:
        """Payloads of the rounds, see the class."""
        ranked: dict[str, pa.DataType] = {name: pa.int64() for name in rank_names(self.config.survivor)}
        told: dict[str, pa.DataType] = {"domain": pa.string(), "text": pa.string()} if self.config.report else {}
        own: dict[str, pa.DataType] = {"units": UNITS, "id": pa.string()}
        hit: dict[str, pa.DataType] = {"at": pa.int64(), "kept_shard": pa.int32(), "kept_row": pa.int64()}
        return ({"at": pa.int64(), **ranked, **told}, {**own, **hit}, NAMED)

    def findings(self) -> dict[str, pa.DataType]:
        """The most frequent passages."""
        return FINDINGS_COLUMNS if self.config.report else {}

    def emit(self, batch: Batch, shard: int, rows: np.ndarray) -> Iterable[Addressed]:
        """Each run to its key; to each document that has one its units."""
        domains = self._domains(batch.values("url")) if self._domains else []
        scope, compared = self.scopes(batch, domains)
        units, first, keys, same = self.runs(batch, scope)
        row = units.row[first]
        looked = compared[row]
        first, keys, row = first[looked], keys[looked], row[looked]
        if not len(first):
            return
        every = pack(np.full(len(batch), shard), np.asarray(rows))
        payload: dict[str, Any] = {"at": pa.array(first - units.rows[row])}
        for name, rank in ranks(batch, self.config.survivor).items():
            payload[name] = pa.array(rank[row])
        if self.config.report:
            payload["domain"] = pa.array(domains, pa.string()).take(indices(row))
            payload["text"] = excerpts(batch, units, first, self.run(), keys, row)
        yield Addressed(MEETING, message_table(keys, every[row], payload))
        senders = np.unique(row)
        own = np.stack([units.start, units.end, units.breaks, units.words, same], axis=1)
        own[:, SAME] -= units.rows[units.row]
        chosen = np.isin(units.row, senders)
        counts = np.diff(units.rows)[senders]
        offsets = np.concatenate([[0], np.cumsum(counts * WIDTH)]).astype(np.int32)
        told = {
            "units": pa.ListArray.from_arrays(pa.array(offsets), pa.array(own[chosen].ravel())),
            "id": batch.column("id").take(indices(senders)).cast(pa.string()),
        }
        absent = {
            name: nulls(len(senders), kind) for name, kind in self.messages()[JUDGING].items() if name not in told
        }
        yield Addressed(JUDGING, message_table(address_keys(every[senders]), every[senders], {**told, **absent}))

    def reduce(self, round: int, messages: Iterator[pa.Table]) -> Iterable[Addressed]:
        """One partition of a round, see the class."""
        if round == MEETING:
            return self._meet(messages)
        if round == JUDGING:
            return self._judge(messages)
        return passages.named(messages, self.column)

    def columns(self, batch: Batch, verdicts: pa.Table) -> dict[str, pa.Array]:
        """The share; of a document without a verdict what an earlier use of the stage left."""
        return passages.filled(batch, verdicts, self.provides())

    def _meet(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        frequent = Passages(self.config.report)
        names = rank_names(self.config.survivor)
        for met in passages.meet(messages, names, self.most(), self.config.keep):
            frequent.add(met)
            yield Addressed(JUDGING, self._hits(met))
        if self.config.report and (table := frequent.table()).num_rows:
            yield Addressed(FINDINGS, table)

    def _hits(self, met: Met) -> pa.Table:
        """To the documents that lose a copy; and to those that keep one, if any does."""
        place = places(met.table)
        copies, kept = place[met.copies], place[met.kept]
        at = met.table.column("at").to_numpy()[met.copies]
        keepers = np.unique(kept) if self.config.keep == "first" else kept[:0]
        target = np.concatenate([copies, keepers])
        kept_shard, kept_row = passages.unpack(np.concatenate([kept, keepers]))
        rows = len(target)
        nobody = np.full(rows, self.config.keep == "none")
        payload = {
            "units": nulls(rows, UNITS),
            "id": pa.nulls(rows, pa.string()),
            "at": pa.array(np.concatenate([at, np.full(len(keepers), NOTICE)])),
            "kept_shard": pa.array(kept_shard, mask=nobody),
            "kept_row": pa.array(kept_row, mask=nobody),
        }
        return message_table(address_keys(target), target, payload)

    def _judge(self, messages: Iterator[pa.Table]) -> Iterator[Addressed]:
        for table in whole_keys(messages):
            table = table.combine_chunks()
            starts = np.flatnonzero(~same_as_previous(key_values(table)))
            ends = np.append(starts[1:], table.num_rows)
            at_column = table.column("at")
            own, at = at_column.is_null().to_numpy(), at_column.fill_null(NOTICE).to_numpy()
            keeps = np.unique((np.cumsum(~same_as_previous(key_values(table))) - 1)[(at == NOTICE) & ~own])
            if len(keeps):
                rows = starts[keeps] + [int(np.argmax(own[starts[one] : ends[one]])) for one in keeps.tolist()]
                told = table.take(indices(rows))
                yield Addressed(NAMING, passages.own_ids(places(told), told.column("id")))
            hit = np.flatnonzero(np.add.reduceat(at >= 0, starts) > 0).tolist() if len(starts) else []
            if hit:
                place, kept = places(table), _kept_places(table)
                found = (self._outcome(table, own, at, kept, place, int(starts[one]), int(ends[one])) for one in hit)
                yield from passages.judged(found, self.config, self.column, self.rule, NAMING)

    def _outcome(
        self,
        table: pa.Table,
        own: np.ndarray,
        at: np.ndarray,
        kept: np.ndarray,
        place: np.ndarray,
        start: int,
        end: int,
    ) -> Outcome:
        """What becomes of the document whose messages are the rows [start, end)."""
        itself = start + int(np.argmax(own[start:end]))
        units = np.array(table.column("units")[itself].values, dtype=np.int64).reshape(-1, WIDTH)
        rows = start + np.flatnonzero(at[start:end] >= 0)
        marked = np.zeros(len(units) + 1, dtype=np.int64)
        np.add.at(marked, at[rows], 1)
        np.add.at(marked, np.minimum(at[rows] + self.run(), len(units)), -1)
        copy = np.cumsum(marked)[:-1] > 0
        copy = copy[units[:, SAME]] if self.run() == 1 else copy
        sizes = units[:, END] - units[:, START]
        cut = np.flatnonzero(copy)
        return Outcome(
            place=int(place[itself]),
            share=float(sizes[copy].sum() / sizes.sum()),
            words_left=int(units[~copy, WORDS].sum()),
            edits=removals(units, cut) if self.config.mode == "trim" else [],
            kept=passages.most_kept(kept[rows], sizes[at[rows]]),
            detail=f"{len(cut)} of {len(units)}",
            left=self.limits(units[~copy]),
        )

    def limits(self, left: np.ndarray) -> tuple[tuple[str, int, int], ...]:
        """Further limits on what is left of a document: rule, what there is, the least there may be."""
        return ()


def _kept_places(table: pa.Table) -> np.ndarray:
    shard, row = table.column("kept_shard").fill_null(0), table.column("kept_row").fill_null(0)
    kept = pack(shard.to_numpy(), row.to_numpy())
    return np.where(table.column("kept_row").is_null().to_numpy(), -1, kept)


def removals(units: np.ndarray, cut: np.ndarray) -> list[dict[str, Any]]:
    """Edits that take out units (rows of `units` by number, ascending).

    With each run of them goes the white space before or behind it; what has more newlines stays. At the text's ends nothing stays.
    """
    edits = []
    borders = np.flatnonzero(np.diff(cut) > 1)
    for first, last in zip(
        cut[np.append(0, borders + 1)].tolist(), cut[np.append(borders, len(cut) - 1)].tolist(), strict=True
    ):
        start, end = int(units[first, START]), int(units[last, END])
        if last + 1 < len(units) and (first == 0 or units[first, BREAKS] >= units[last + 1, BREAKS]):
            end = int(units[last + 1, START])
        elif first > 0:
            start = int(units[first - 1, END])
        edits.append({"start": start, "end": end, "replacement": ""})
    return edits


def first_equal(units: Units, looked: np.ndarray, keys: np.ndarray) -> np.ndarray:
    """Of each unit the first one of its document with the same key, itself if it is not looked at. `keys` (units, 2)."""
    same = np.arange(len(looked), dtype=np.int64)
    rows = np.flatnonzero(looked)
    if len(rows):
        row = units.row[rows]
        order = np.lexsort((rows, keys[rows, 1], keys[rows, 0], row))
        sorted_keys, sorted_row = keys[rows[order]], row[order]
        new = np.ones(len(rows), dtype=bool)
        new[1:] = (sorted_row[1:] != sorted_row[:-1]) | (sorted_keys[1:] != sorted_keys[:-1]).any(axis=1)
        heads = order[new]
        same[rows[order]] = rows[heads[np.cumsum(new) - 1]]
    return same


def scoped(keys: np.ndarray, scope: np.ndarray) -> np.ndarray:
    """Keys, (n, 2), that are equal where those and their scopes (uint64) are."""
    return hash_columns(keys[:, 0], keys[:, 1], scope)
