"""Documents with equal contents, whatever a stage takes for contents: one of each group is kept."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from stages.batch import Batch
from stages.dedup import columns
from stages.dedup.messages import indices, key_values, message_table, pack, places, same_as_previous, whole_keys
from stages.dedup.survivor import DuplicateConfig, rank_names, ranks, scope_keys
from stages.stage import Addressed, GroupStage, Resources

PIECE = 1 << 16  # messages of one key handled at a time


class EqualContents(GroupStage):
    """Groups documents by a 128-bit hash (XXH3) of their contents; one of each group is kept, the others are `duplicate`.

    Round 0, key = hash: picks the survivor of each group. Memory: 16 bytes for each copy of the most frequent contents.
    """

    libraries: ClassVar[tuple[str, ...]] = ("xxhash",)
    resources = Resources(memory=256 << 20)
    config: DuplicateConfig

    @abstractmethod
    def contents(self, batch: Batch) -> Iterable[bytes | None]:
        """What is compared, one a row; None for a document that is in no group."""

    def provides(self) -> dict[str, pa.DataType]:
        """`duplicate_of`, `dup_similarity`, `dup_cluster`, `dup_cluster_size`."""
        return columns.PROVIDES

    def messages(self) -> tuple[dict[str, pa.DataType], ...]:
        """Round 0: the document's id, how many it stands for, its survivor ranks."""
        ranked: dict[str, pa.DataType] = {name: pa.int64() for name in rank_names(self.config.survivor)}
        return ({"id": pa.string(), "weight": pa.int32(), **ranked},)

    def emit(self, batch: Batch, shard: int, rows: np.ndarray) -> Iterable[Addressed]:
        """One message for each document that has contents."""
        keys, kept = self._keys(batch)
        if not len(kept):
            return
        payload: dict[str, Any] = {
            "id": batch.column("id").take(indices(kept)).cast(pa.string()).combine_chunks(),
            "weight": pa.array(columns.weights(batch)[kept]),
        }
        for name, rank in ranks(batch, self.config.survivor).items():
            payload[name] = pa.array(rank[kept])
        senders = pack(np.full(len(kept), shard), np.asarray(rows)[kept])
        yield Addressed(0, message_table(keys, senders, payload))

    def _keys(self, batch: Batch) -> tuple[np.ndarray, np.ndarray]:
        """Keys, (n, 2) uint64, of the rows that have contents, and which rows these are."""
        from xxhash import xxh3_128_digest

        scopes = scope_keys(batch, self.config.scope).astype("<u8").tobytes()
        digests, kept = [], []
        for row, content in enumerate(self.contents(batch)):
            if content is not None:
                digests.append(xxh3_128_digest(scopes[8 * row : 8 * row + 8] + content))
                kept.append(row)
        return np.frombuffer(b"".join(digests), dtype="<u8").reshape(-1, 2), np.array(kept, dtype=np.int64)

    def reduce(self, round: int, messages: Iterator[pa.Table]) -> Iterable[Addressed]:
        """Verdicts on every member of every group of two or more."""
        verdicts = columns.Verdicts("duplicate" if self.config.mode == "drop" else None)
        for group in self._groups(messages):
            if len(members := np.concatenate(group.places)) > 1:
                survivor = group.best[-1]
                others = members[members != survivor]
                yield from verdicts.keep(survivor, group.best_id, group.weight)
                yield from verdicts.remove(others, np.ones(len(others)), group.best_id, group.weight)
        yield from verdicts.flush()

    def _groups(self, messages: Iterator[pa.Table]) -> Iterator[_Group]:
        """Every group; some of the groups of one come too."""
        group: _Group | None = None  # that of the last key of the piece before, which the next piece may continue
        for table in whole_keys(messages, limit=PIECE):
            keys = key_values(table)
            starts = np.flatnonzero(~same_as_previous(keys))
            ends = np.append(starts[1:], len(keys))
            members = _Members(table, rank_names(self.config.survivor))
            worth = ends - starts > 1  # a document alone between two other keys needs no verdict
            worth[[0, -1]] = True
            for start, end in zip(starts[worth].tolist(), ends[worth].tolist(), strict=True):
                if group is None or not (keys[start] == group.key).all():
                    if group is not None:
                        yield group
                    group = _Group(keys[start])
                group.add(members, start, end)
        if group is not None:
            yield group

    def columns(self, batch: Batch, verdicts: pa.Table) -> dict[str, pa.Array]:
        """The duplicate columns; a document without a verdict is alone, or as an earlier dedup stage left it."""
        return columns.fill(batch, verdicts)


class _Members:
    """A table of messages as arrays."""

    def __init__(self, table: pa.Table, rank_columns: list[str]) -> None:
        self.places = places(table)
        self.weights = table.column("weight").to_numpy()
        self.ids = table.column("id")
        self.ranks = [table.column(name).to_numpy() for name in rank_columns]


class _Group:
    """The documents of one key: their places, and the best of them so far by (ranks, place)."""

    def __init__(self, key: np.ndarray) -> None:
        self.key = key
        self.places: list[np.ndarray] = []
        self.weight = 0
        self.best: tuple[int, ...] = ()
        self.best_id = ""

    def add(self, members: _Members, start: int, end: int) -> None:
        order = np.lexsort((members.places[start:end], *(rank[start:end] for rank in reversed(members.ranks))))
        first = start + int(order[0])
        rank = (*(int(ranks[first]) for ranks in members.ranks), int(members.places[first]))
        if not self.best or rank < self.best:
            self.best, self.best_id = rank, members.ids[first].as_py()
        self.places.append(members.places[start:end].copy())
        self.weight += int(members.weights[start:end].sum(dtype=np.int64))
