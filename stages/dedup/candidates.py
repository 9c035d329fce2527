"""Pairs worth comparing among the documents of each LSH bucket, in time linear in the bucket's size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from stages.dedup.messages import key_values, places, same_as_previous, whole_keys

SMALL = 64  # buckets of up to this many documents: all pairs
HUBS = 4  # in a larger one: each document with this many of the best in survivor order,
NEIGHBOURS = 4  # and with this many of the next by number of shingles, the likeliest to be similar
SEGMENT = 1 << 16  # documents of one bucket held in memory; of each segment, its best is compared with the best so far


class Bucket:
    """Documents of buckets as arrays: place (int64), number of shingles (int32), ranks (int64 arrays, most important first)."""

    def __init__(self, places: np.ndarray, sizes: np.ndarray, ranks: list[np.ndarray]) -> None:
        self.places, self.sizes, self.ranks = places, sizes, ranks

    def take(self, rows: np.ndarray) -> Bucket:
        """The given documents, in the given order."""
        return Bucket(self.places[rows], self.sizes[rows], [rank[rows] for rank in self.ranks])

    def order(self) -> np.ndarray:
        """Rows in survivor order: by ranks, then place."""
        return np.lexsort((self.places, *reversed(self.ranks)))


def join(buckets: list[Bucket]) -> Bucket:
    """The documents of several, one after another."""
    return Bucket(
        np.concatenate([bucket.places for bucket in buckets]),
        np.concatenate([bucket.sizes for bucket in buckets]),
        [np.concatenate(ranks) for ranks in zip(*(bucket.ranks for bucket in buckets), strict=True)],
    )


def candidate_pairs(
    messages: Iterable[pa.Table], rank_columns: Sequence[str], threshold: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places (low, high) of pairs that share a bucket (key) and may reach the Jaccard threshold by their sizes.

    Memory: `SEGMENT` documents beside a table, however large a bucket is.
    """
    for documents, first, second in _pairs(messages, rank_columns):
        a, b = documents.sizes[first], documents.sizes[second]
        possible = np.minimum(a, b) / np.maximum(a, b) >= threshold  # the Jaccard similarity is at most this ratio
        a, b = documents.places[first[possible]], documents.places[second[possible]]
        if len(a):
            yield np.minimum(a, b), np.maximum(a, b)


def _pairs(
    messages: Iterable[pa.Table], rank_columns: Sequence[str]
) -> Iterator[tuple[Bucket, np.ndarray, np.ndarray]]:
    last_key, best = None, None  # of the table before, which may have been cut inside a large bucket
    for table in whole_keys(messages, limit=SEGMENT):
        keys = key_values(table)
        run = np.cumsum(~same_as_previous(keys)) - 1
        counts = np.bincount(run)
        starts = np.append(0, np.cumsum(counts))
        ranks = [table.column(name).to_numpy() for name in rank_columns]
        documents = Bucket(places(table), table.column("size").to_numpy(), ranks)
        goes_on = last_key is not None and bool((keys[0] == last_key).all())
        large = counts > SMALL
        large[0] |= goes_on
        rows = np.flatnonzero((counts > 1)[run] & ~large[run])
        for first, second in small_pairs(run[rows]):
            yield documents, rows[first], rows[second]
        for bucket in np.flatnonzero(large).tolist():
            members = documents.take(np.arange(starts[bucket], starts[bucket + 1]))
            yield from large_pairs(members, best if goes_on and bucket == 0 else None)
        tail = documents.take(np.arange(starts[-2], starts[-1]))
        last_key, best = keys[-1], best_of(best if goes_on and len(counts) == 1 else None, tail)


def small_pairs(groups: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of rows with equal group number, in arrays no longer than `groups` (sorted, at most `SMALL` rows of each)."""
    for distance in range(1, min(SMALL, len(groups))):
        rows = np.flatnonzero(groups[distance:] == groups[:-distance])
        if not len(rows):
            return
        yield rows, rows + distance


def segment_pairs(bucket: Bucket) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """At most `HUBS + NEIGHBOURS` pairs of rows for each row of a large bucket, none twice."""
    order = bucket.order()
    for place, hub in enumerate(order[:HUBS]):
        others = order[place + 1 :]
        yield np.full(len(others), hub), others
    rest = order[HUBS:]
    by_size = rest[np.lexsort((bucket.places[rest], bucket.sizes[rest]))]
    for distance in range(1, min(NEIGHBOURS, len(by_size) - 1) + 1):
        yield by_size[:-distance], by_size[distance:]


def large_pairs(bucket: Bucket, best: Bucket | None) -> Iterator[tuple[Bucket, np.ndarray, np.ndarray]]:
    """Pairs of a large bucket, segment by segment; `best` is the best document of what came of this bucket before, if any."""
    for start in range(0, len(bucket.places), SEGMENT):
        segment = bucket.take(np.arange(start, min(start + SEGMENT, len(bucket.places))))
        rows = len(segment.places)
        for first, second in small_pairs(np.zeros(rows)) if rows <= SMALL else segment_pairs(segment):
            yield segment, first, second
        hub = best_of(None, segment)
        if best is not None:
            yield join([best, hub]), np.array([0]), np.array([1])
        best = best_of(best, hub)


def best_of(best: Bucket | None, other: Bucket) -> Bucket:
    """The best document of both, in survivor order."""
    both = other if best is None else join([best, other])
    return both.take(both.order()[:1])
