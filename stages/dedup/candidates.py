"""Pairs worth comparing among the documents of one LSH bucket, in time linear in the bucket's size."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

SMALL = 16  # buckets of up to this many documents: all pairs
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
