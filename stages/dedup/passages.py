"""What the three deduplications of passages share: how copies meet, what becomes of their documents, and who kept what was removed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from pydantic import model_validator

from stages.batch import Batch
from stages.dedup.hashing import mix
from stages.dedup.messages import (
    address_keys,
    indices,
    key_values,
    message_table,
    places,
    same_as_previous,
    unpack,
    whole_keys,
)
from stages.dedup.survivor import CRITERIA, Survivor
from stages.stage import EDITS, VERDICT, Addressed, StageConfig, knob

PIECE = 1 << 16  # messages of one key handled at a time
NAMED: dict[
    str, pa.DataType
] = {  # messages of the last round: a document's id, or a verdict that waits for the id of another
    "id": pa.string(),
    "rule": pa.string(),
    "value": pa.float64(),
    "threshold": pa.float64(),
    "detail": pa.string(),
    "share": pa.float64(),
}
_OWN = -1  # as `shard`: what a key's receiver is told about itself, which comes before all else


class PassageConfig(StageConfig):
    """Knobs of every stage that looks for passages."""

    keep: Literal["first", "none"] = knob(
        "first", "first: one copy of each passage stays, in the first document in survivor order; none: all go"
    )
    survivor: Survivor = knob(("first",), "in which document a passage stays: " + CRITERIA)
    mode: Literal["trim", "drop", "tag"] = knob(
        "trim",
        "trim: cut the copies out of the text; drop: drop documents of which more than `max_share` is copies, and change no text;"
        " tag: only write the column",
    )
    max_share: float = knob(
        0.5, "drop: a document is dropped if more than this share of its characters is copies", ge=0, lt=1
    )
    min_left: int = knob(1, "trim: a document that lost something and has fewer words left is dropped", ge=1)

    @model_validator(mode="after")
    def _each_in_its_mode(self) -> PassageConfig:
        for name, mode in self.of_mode().items():
            if name in self.model_fields_set and self.mode != mode:
                raise ValueError(f"{name}: says nothing with mode: {self.mode}; it belongs to mode: {mode}")
        if self.keep == "none" and "survivor" in self.model_fields_set:
            raise ValueError("survivor: says nothing with keep: none, which keeps no copy; leave one of them out")
        return self

    def of_mode(self) -> dict[str, str]:
        """Knobs that have a meaning in one mode only."""
        return {"max_share": "drop", "min_left": "trim"}


class Met(NamedTuple):
    """Copies that met: rows of `table` that are no first copy, and for each the row of the copy that stays."""

    table: pa.Table
    copies: np.ndarray
    kept: np.ndarray
    sizes: np.ndarray  # rows of each key so far, for each of `heads`
    heads: np.ndarray  # the first rows of the keys that have copies
    ends: np.ndarray  # behind their last ones
    begun: np.ndarray  # whether such a key began in an earlier table


def meet(messages: Iterable[pa.Table], rank_columns: list[str], most: int, keep: str) -> Iterator[Met]:
    """The copies among the messages of each key that has more than `most` of them; the best in survivor order stays.

    Ranks come first, then the place, then `at`. With `keep` "none" the best is a copy of itself. A key of very many
    messages comes in pieces, each with the best of all so far as its first row. Memory: `PIECE` messages (or `most`, if more).
    """
    held: pa.Table | None = None  # the best row of the last key so far
    count = 0  # messages of that key
    for table in whole_keys(messages, limit=max(PIECE, most + 1)):
        goes_on = held is not None and bool((key_values(held)[0] == key_values(table)[0]).all())
        if held is not None and not goes_on:
            yield from _kept_too(held, count, most, keep)
        if goes_on:
            assert held is not None
            table = pa.concat_tables([held, table])
        table = table.combine_chunks()
        run = np.cumsum(~same_as_previous(key_values(table))) - 1
        starts = np.flatnonzero(np.diff(run, prepend=-1))
        ends = np.append(starts[1:], len(run))
        sizes = ends - starts
        if goes_on:
            sizes[0] += count - 1
        ranks = [table.column(name).to_numpy() for name in rank_columns]
        order = np.lexsort((table.column("at").to_numpy(), places(table), *reversed(ranks), run))
        best, over = order[starts], sizes > most
        copy = over[run]
        if keep == "first":
            copy[best] = False
        copy[best[-1]] = False  # of the last key more may come
        copies = np.flatnonzero(copy)
        if len(copies):
            begun = np.zeros(len(starts), dtype=bool)
            begun[0] = goes_on
            heads = np.flatnonzero(over)
            yield Met(table, copies, best[run[copies]], sizes[heads], starts[heads], ends[heads], begun[heads])
        held, count = table.slice(int(best[-1]), 1), int(sizes[-1])
    if held is not None:
        yield from _kept_too(held, count, most, keep)


def _kept_too(held: pa.Table, count: int, most: int, keep: str) -> Iterator[Met]:
    if keep == "none" and count > most:
        nothing = np.empty(0, dtype=np.int64)
        yield Met(held, np.zeros(1, np.int64), np.zeros(1, np.int64), nothing, nothing, nothing, nothing.astype(bool))


class Outcome(NamedTuple):
    """What was found in one document."""

    place: int
    share: float  # of its characters that are copies
    words_left: int
    edits: list[dict[str, Any]]
    kept: int  # place of the document that keeps most of what was removed; -1: none does
    detail: str | None
    left: tuple[tuple[str, int, int], ...] = ()  # further limits: rule, what is left, the least there may be


def judged(
    outcomes: Iterable[Outcome], config: PassageConfig, column: str, drop_rule: str, last: int
) -> Iterator[Addressed]:
    """Verdicts; those on dropped documents go by way of the document that kept the passages, in round `last`, for its id."""
    kept_rows, dropped = [], []
    for found in outcomes:
        rule, value, threshold = _rule(found, config, drop_rule)
        row = {"place": found.place, "rule": rule, "value": value, "threshold": threshold, "share": found.share}
        if rule is None or found.kept < 0:
            edits = found.edits if rule is None and config.mode == "trim" else None
            kept_rows.append({**row, "edits": edits, "detail": found.detail if rule else None})
        else:
            dropped.append({**row, "kept": found.kept, "detail": found.detail})
    if kept_rows:
        yield Addressed(None, _verdicts(kept_rows, column))
    if dropped:
        keys = address_keys(np.array([row["kept"] for row in dropped], dtype=np.int64))
        payload = {name: pa.array([row.get(name) for row in dropped], kind) for name, kind in NAMED.items()}
        senders = np.array([row["place"] for row in dropped], dtype=np.int64)
        yield Addressed(last, message_table(keys, senders, payload))


def _rule(found: Outcome, config: PassageConfig, drop_rule: str) -> tuple[str | None, float | None, float | None]:
    if config.mode == "drop" and found.share > config.max_share:
        return drop_rule, found.share, config.max_share
    if config.mode == "trim" and found.edits:
        limits = (("little_left", found.words_left, config.min_left), *found.left)
        for rule, left, least in limits:
            if left < least:
                return rule, float(left), float(least)
    return None, None, None


def _verdicts(rows: list[dict[str, Any]], column: str) -> pa.Table:
    shard, row = unpack(np.array([one["place"] for one in rows], dtype=np.int64))
    columns: dict[str, Any] = {name: pa.nulls(len(rows), kind) for name, kind in VERDICT.items()}
    columns |= {"shard": pa.array(shard), "row": pa.array(row)}
    for name in ("rule", "value", "threshold", "detail"):
        columns[name] = pa.array([one[name] for one in rows], VERDICT[name])
    columns["edits"] = pa.array([one["edits"] for one in rows], EDITS)
    return pa.table({**columns, column: pa.array([one["share"] for one in rows], pa.float64())})


def own_ids(place: np.ndarray, ids: pa.Array | pa.ChunkedArray) -> pa.Table:
    """The ids of documents, sent to themselves in the last round."""
    return to_itself(place, {name: ids if name == "id" else pa.nulls(len(place), kind) for name, kind in NAMED.items()})


def to_itself(place: np.ndarray, payload: dict[str, Any]) -> pa.Table:
    """Messages of documents to themselves that come before all others under that key: their `shard` is -1."""
    table = message_table(address_keys(place), place, payload)
    shard = table.column_names.index("shard")
    return table.set_column(shard, "shard", pa.array(np.full(len(place), _OWN, np.int32)))


def is_own(table: pa.Table) -> np.ndarray:
    """Which messages a document sent to itself with `to_itself`."""
    found: np.ndarray = table.column("shard").to_numpy() == _OWN
    return found


def named(messages: Iterable[pa.Table], column: str) -> Iterator[Addressed]:
    """The last round: verdicts on dropped documents, with the id of the document that kept the passages."""
    held_key, held_id = None, None
    for table in messages:
        if not table.num_rows:
            continue
        table = table.combine_chunks()
        keys, own, ids = key_values(table), is_own(table), table.column("id")
        source = np.maximum.accumulate(np.where(own, np.arange(len(own)), -1))
        rows = np.flatnonzero(~own)
        if len(rows):
            kept = ids.take(indices(source[rows])).combine_chunks().to_pylist()
            before = source[rows] < 0  # the id came with an earlier table
            assert not before.any() or (held_key is not None and (keys[rows[before]] == held_key).all())
            kept = [held_id if early else one for early, one in zip(before.tolist(), kept, strict=True)]
            picked = table.take(indices(rows))
            found: dict[str, Any] = {name: pa.nulls(len(rows), kind) for name, kind in VERDICT.items()}
            for name in ("shard", "row", "rule", "value", "threshold", "detail"):
                found[name] = picked.column(name)
            found["kept_id"] = pa.array(kept, pa.string())
            yield Addressed(None, pa.table({**found, column: picked.column("share")}))
        if source[-1] >= 0:
            held_key, held_id = keys[-1].copy(), ids[int(source[-1])].as_py()


def most_kept(kept: np.ndarray, weight: np.ndarray) -> int:
    """The place that keeps the most by weight, the first of equals; -1 if none does."""
    kept, weight = kept[kept >= 0], weight[kept >= 0]
    if not len(kept):
        return -1
    distinct, inverse = np.unique(kept, return_inverse=True)
    return int(distinct[np.argmax(np.bincount(inverse, weights=weight))])


def filled(batch: Batch, verdicts: pa.Table, provided: dict[str, pa.DataType]) -> dict[str, pa.Array]:
    """The provided columns: what this stage found, else what an earlier use of it left."""
    found = {}
    for name, kind in provided.items():
        values = verdicts.column(name).combine_chunks().cast(kind)
        if batch.has(name):
            old = batch.column(name).cast(kind)
            index = np.arange(len(batch)) + np.where(values.is_valid().to_numpy(zero_copy_only=False), len(batch), 0)
            values = pa.chunked_array([*old.chunks, values]).take(pa.array(index)).combine_chunks()
        found[name] = values
    return found


def sampled(keys: np.ndarray, documents: np.ndarray, one_in: int) -> np.ndarray:
    """A choice (bool) of one in so many (key, document) pairs, by their hashes alone; `keys` (n, 2), `documents` (n,), uint64."""
    chosen: np.ndarray = mix(mix(keys[:, 0]) ^ documents) % np.uint64(one_in) == 0
    return chosen
