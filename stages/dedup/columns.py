"""What every deduplication of whole documents adds to them, and how its verdicts look."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute

from stages.batch import Batch
from stages.dedup.messages import indices, nulls, unpack
from stages.stage import VERDICT, Addressed

PROVIDES: dict[str, pa.DataType] = {
    "duplicate_of": pa.string(),  # id of the kept document; null if kept
    "dup_similarity": pa.float64(),  # to the kept document; null if kept
    "dup_cluster": pa.string(),  # id of the survivor; its own if alone
    "dup_cluster_size": pa.int32(),  # documents that the survivor stands for, itself included, over all dedup stages so far
}
pc: Any = pyarrow.compute  # its stubs know too little of what these functions take
_LARGEST = np.iinfo(np.int32).max
PIECE = 1 << 16  # verdicts in one table


def weights(batch: Batch) -> np.ndarray:
    """How many documents each row stands for, int32: what an earlier dedup stage counted; 0 for its tagged duplicates.

    A duplicate that an earlier stage tagged but left in the corpus is already in its survivor's count.
    """
    if not batch.has("dup_cluster_size"):
        return np.ones(len(batch), dtype=np.int32)
    sizes = pc.fill_null(batch.column("dup_cluster_size"), 1).to_numpy().astype(np.int32)
    if not batch.has("duplicate_of"):
        return sizes
    return np.where(pc.is_valid(batch.column("duplicate_of")).to_numpy(), np.int32(0), sizes)


class Verdicts:
    """Collects verdicts on groups of duplicates into tables of about `PIECE` rows.

    With `rule` None duplicates are only tagged, and stay. `threshold` None: the rule measures nothing.
    """

    def __init__(self, rule: str | None, threshold: float | None = None) -> None:
        self.rule, self.threshold = rule, threshold
        self._clear()

    def _clear(self) -> None:
        self.survivors: list[int] = []
        self.survivor_ids: list[str] = []
        self.survivor_sizes: list[int] = []
        self.members: list[np.ndarray] = []
        self.similarities: list[np.ndarray] = []
        self.groups: list[tuple[str, int, int]] = []  # kept id, cluster size, members, for each array of members
        self.rows = 0

    def keep(self, survivor: int, kept_id: str, size: int) -> Iterator[Addressed]:
        """The document at the place `survivor` is kept and stands for `size` documents."""
        self.survivors.append(survivor)
        self.survivor_ids.append(kept_id)
        self.survivor_sizes.append(size)
        yield from self._grow(1)

    def remove(self, members: np.ndarray, similarity: np.ndarray, kept_id: str, size: int) -> Iterator[Addressed]:
        """The documents at these places are duplicates of `kept_id`; `similarity` holds one value each."""
        for start in range(0, len(members), PIECE):
            piece = members[start : start + PIECE]
            self.members.append(piece)
            self.similarities.append(similarity[start : start + PIECE])
            self.groups.append((kept_id, size, len(piece)))
            yield from self._grow(len(piece))

    def _grow(self, rows: int) -> Iterator[Addressed]:
        self.rows += rows
        if self.rows >= PIECE:
            yield from self.flush()

    def flush(self) -> Iterator[Addressed]:
        """What was collected and not yet sent."""
        if self.survivors:
            yield Addressed(None, self._survived())
        if self.members:
            yield Addressed(None, self._removed())
        self._clear()

    def _survived(self) -> pa.Table:
        survivors = np.array(self.survivors, dtype=np.int64)
        untouched = {
            name: nulls(len(survivors), kind) for name, kind in VERDICT.items() if name not in ("shard", "row")
        }
        return pa.table(
            {
                **_address(survivors),
                **untouched,
                "duplicate_of": pa.nulls(len(survivors), pa.string()),
                "dup_similarity": pa.nulls(len(survivors), pa.float64()),
                "dup_cluster": pa.array(self.survivor_ids, pa.string()),
                "dup_cluster_size": pa.array(np.minimum(self.survivor_sizes, _LARGEST).astype(np.int32)),
            }
        )

    def _removed(self) -> pa.Table:
        members, similarity = np.concatenate(self.members), pa.array(np.concatenate(self.similarities), pa.float64())
        kept, sizes, counts = zip(*self.groups, strict=True)
        repeated = np.repeat(np.arange(len(counts)), counts)
        kept_ids = pa.array(kept, pa.string()).take(indices(repeated))
        rows, nothing = len(members), pa.nulls(len(members), pa.float64())
        drop = self.rule is not None
        measured = drop and self.threshold is not None
        return pa.table(
            {
                **_address(members),
                "rule": pa.array([self.rule] * rows, pa.string()),
                "value": similarity if measured else nothing,
                "threshold": pa.array(np.full(rows, self.threshold)) if measured else nothing,
                "kept_id": kept_ids if drop else pa.nulls(rows, pa.string()),
                "similarity": similarity if drop else nothing,
                "detail": pa.nulls(rows, pa.string()),
                "edits": nulls(rows, VERDICT["edits"]),
                "duplicate_of": kept_ids,
                "dup_similarity": similarity,
                "dup_cluster": kept_ids,
                "dup_cluster_size": pa.array(np.minimum(sizes, _LARGEST).astype(np.int32)[repeated]),
            }
        )


def _address(places: np.ndarray) -> dict[str, pa.Array]:
    shard, row = unpack(places)
    return {"shard": pa.array(shard), "row": pa.array(row)}


def fill(batch: Batch, verdicts: pa.Table) -> dict[str, pa.Array]:
    """The document columns: from this stage's verdict, else as an earlier dedup stage left them, else those of a lone document."""
    alone = {
        "duplicate_of": pa.nulls(len(batch), pa.string()),
        "dup_similarity": pa.nulls(len(batch), pa.float64()),
        "dup_cluster": _flat(batch.column("id")).cast(pa.string()),
        "dup_cluster_size": pa.array(np.ones(len(batch), dtype=np.int32)),
    }
    judged = pc.is_valid(_flat(verdicts.column("dup_cluster")))
    filled = {}
    for name, kind in PROVIDES.items():
        before = alone[name]
        if batch.has("dup_cluster") and batch.has(name):
            before = pc.coalesce(pc.cast(_flat(batch.column(name)), kind), before)
        filled[name] = pc.if_else(judged, _flat(verdicts.column(name)), before)
    return filled


def _flat(column: pa.ChunkedArray) -> pa.Array:
    flat = column.combine_chunks()
    return pa.concat_arrays(flat.chunks) if isinstance(flat, pa.ChunkedArray) else flat
