"""Pairs worth comparing among the documents of each LSH bucket, in time linear in the bucket's size."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pyarrow as pa

from stages.dedup.messages import key_values, places, same_as_previous, whole_keys

SMALL = 64  # buckets of up to this many different documents: all pairs
HUBS = 4  # in a larger one: each document with this many of the best in survivor order,
NEIGHBOURS = 4  # and with this many of the next by number of shingles, the likeliest to be similar
SEGMENT = 1 << 16  # documents of one bucket held in memory
CARRIED = 1024  # of those, so many are held again with the next: the best, and those of which there were most copies


class Bucket:
    """Documents of buckets as arrays.

    Place (int64), number of shingles (int32), digest of the shingles (uint64), band (int16), ranks (int64, most important first).
    """

    def __init__(
        self, places: np.ndarray, sizes: np.ndarray, digests: np.ndarray, bands: np.ndarray, ranks: list[np.ndarray]
    ) -> None:
        self.places, self.sizes, self.digests, self.bands, self.ranks = places, sizes, digests, bands, ranks

    def __len__(self) -> int:
        return len(self.places)

    def take(self, rows: np.ndarray) -> Bucket:
        """The given documents, in the given order."""
        ranks = [rank[rows] for rank in self.ranks]
        return Bucket(self.places[rows], self.sizes[rows], self.digests[rows], self.bands[rows], ranks)

    def order(self) -> np.ndarray:
        """Rows in survivor order: by ranks, then place."""
        return np.lexsort((self.places, *reversed(self.ranks)))


def join(first: Bucket, second: Bucket) -> Bucket:
    """The documents of both, one after another."""
    return Bucket(
        np.concatenate([first.places, second.places]),
        np.concatenate([first.sizes, second.sizes]),
        np.concatenate([first.digests, second.digests]),
        np.concatenate([first.bands, second.bands]),
        [np.concatenate(ranks) for ranks in zip(first.ranks, second.ranks, strict=True)],
    )


def candidate_pairs(
    messages: Iterable[pa.Table], rank_columns: Sequence[str], threshold: float
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places (low, high) of pairs that share a bucket (key) and may reach the Jaccard threshold by their sizes.

    Of documents with equal sets only the best meets others; the rest meet it, in band 0 (they share every band), and share its fate.
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
    last_key, carried = None, None  # of the table before, which may have been cut inside a large bucket
    for table in _segments(messages):
        keys = key_values(table)
        size, digest, band, *ranks = (
            table.column(name).to_numpy() for name in ("size", "digest", "band", *rank_columns)
        )
        documents = Bucket(places(table), size, digest, band, ranks)
        if carried is not None and (keys[0] == last_key).all():
            documents = join(carried, documents)
            keys = np.concatenate([np.repeat(keys[:1], len(carried), axis=0), keys])
        run = np.cumsum(~same_as_previous(keys)) - 1
        first, copies = equal_pairs(documents, run)
        told = documents.bands[copies] == 0
        yield documents, first[told], copies[told]
        different = np.delete(np.arange(len(run)), copies)
        documents, run = documents.take(different), run[different]
        counts = np.bincount(run)
        rows = np.flatnonzero((counts[run] > 1) & (counts[run] <= SMALL))
        for one, other in small_pairs(run[rows]):
            yield documents, rows[one], rows[other]
        starts = np.append(0, np.cumsum(counts))
        for bucket in np.flatnonzero(counts > SMALL).tolist():
            members = documents.take(np.arange(starts[bucket], starts[bucket + 1]))
            for one, other in large_pairs(members):
                yield members, one, other
        copied = np.bincount(np.searchsorted(different, first), minlength=len(different))
        last_key, carried = keys[-1], _carried(documents, copied, int(starts[-2]))


def _segments(messages: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Tables of whole keys; a key of more than `SEGMENT` rows in tables of as many, however the messages were cut."""
    for table in whole_keys(messages, limit=SEGMENT):
        keys = key_values(table)
        step = SEGMENT if (keys[0] == keys[-1]).all() else table.num_rows
        for start in range(0, table.num_rows, step):
            yield table.slice(start, step)


def equal_pairs(documents: Bucket, run: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of documents that share bucket (`run`, sorted) and digest with a better one: the best such, and the row itself."""
    size = np.bincount(run)[run]
    rows = np.flatnonzero(size > 1)
    some = documents.take(rows)
    order = np.lexsort((some.places, *reversed(some.ranks), some.digests, run[rows]))
    rows = rows[order]
    new = np.ones(len(rows), dtype=bool)
    digests, runs = documents.digests[rows], run[rows]
    new[1:] = (digests[1:] != digests[:-1]) | (runs[1:] != runs[:-1])
    best = rows[np.maximum.accumulate(np.where(new, np.arange(len(rows)), 0))] if len(rows) else rows
    return best[~new], rows[~new]


def _carried(documents: Bucket, copies: np.ndarray, start: int) -> Bucket:
    """What of the last bucket, which begins at row `start`, is compared with the rest of it, should more come."""
    last = documents.take(np.arange(start, len(documents)))
    if len(last) > 2 * CARRIED:
        most = np.argsort(-copies[start:], kind="stable")[:CARRIED]
        last = last.take(np.union1d(last.order()[:CARRIED], most))
    return last


def small_pairs(groups: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """All pairs of rows with equal group number, in arrays no longer than `groups` (sorted, at most `SMALL` rows of each)."""
    for distance in range(1, min(SMALL, len(groups))):
        rows = np.flatnonzero(groups[distance:] == groups[:-distance])
        if not len(rows):
            return
        yield rows, rows + distance


def large_pairs(bucket: Bucket) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """At most `HUBS + NEIGHBOURS` pairs of rows for each row of a large bucket, none twice."""
    order = bucket.order()
    for place, hub in enumerate(order[:HUBS]):
        others = order[place + 1 :]
        yield np.full(len(others), hub), others
    rest = order[HUBS:]
    by_size = rest[np.lexsort((bucket.places[rest], bucket.sizes[rest]))]
    for distance in range(1, min(NEIGHBOURS, len(by_size) - 1) + 1):
        yield by_size[:-distance], by_size[distance:]
