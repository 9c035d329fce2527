"""Unit vectors as whole numbers: cosines, k-means and greedy stars that come out the same however the rows are cut.

A vector is scaled to length `SCALE` and rounded to int16. By Cauchy and Schwarz no partial sum of a dot product of two such vectors goes
beyond 2**24, so a float32 matrix product of them is exact, whatever its shape, its order of summation, its threads and its
processor. The rounding moves a cosine by less than 5e-4.
"""

from __future__ import annotations

import tempfile
from typing import Any

import numpy as np

SCALE = 4000.0  # (SCALE + sqrt(LARGEST) / 2)**2 < 2**24
LARGEST = 32_768  # numbers in a vector
BLOCK = 1024  # vectors compared at once with ...
PIECE = 4096  # ... as many
PRODUCTS = 1 << 22  # numbers in one matrix product with centroids
IN_MEMORY = 64 << 20  # bytes of a cluster's vectors that are not yet written to a file


def quantised(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vectors (n, d) of any length as int16 of length `SCALE`, and which of them are vectors at all: finite and not zero."""
    wide = np.asarray(vectors, dtype=np.float64)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        largest = np.abs(wide).max(axis=1, initial=0.0)
        usable = np.isfinite(largest) & (largest > 0)
        scaled = np.where(usable[:, None], wide, 1.0) / np.where(usable, largest, 1.0)[:, None]  # squares stay in range
        scaled *= (SCALE / np.sqrt((scaled * scaled).sum(axis=1)))[:, None]
    return np.rint(scaled).astype(np.int16), usable


def nearest(vectors: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For each vector (n, d) the number of its centroid (k, d) - the largest dot product, the first of equals - and the cosine with it."""
    labels, cosine = np.empty(len(vectors), dtype=np.int64), np.empty(len(vectors))
    against = centroids.astype(np.float32).T
    lengths = _squares(against.T)
    step = max(16, PRODUCTS // len(centroids))
    for start in range(0, len(vectors), step):
        rows = vectors[start : start + step].astype(np.float32)
        products = rows @ against
        best = products.argmax(axis=1)
        labels[start : start + step] = best
        dots = products[np.arange(len(rows)), best].astype(np.float64)
        cosine[start : start + step] = dots / np.sqrt(_squares(rows) * lengths[best])
    return labels, cosine


def _squares(vectors: np.ndarray) -> np.ndarray:
    """Squared lengths of float32 vectors of whole numbers; their product is still exact in float64."""
    return np.einsum("ij,ij->i", vectors, vectors).astype(np.float64)


def fit_centroids(sample: np.ndarray, clusters: int, iterations: int) -> np.ndarray:
    """Spherical k-means over a sample (n, d) in random order, from its first `clusters` distinct vectors; fewer if it has fewer.

    A cluster that loses all of its vectors keeps its centroid. Ends when no vector changes its cluster.
    """
    first: dict[bytes, int] = {}
    for row, vector in enumerate(sample):
        first.setdefault(vector.tobytes(), row)
        if len(first) == clusters:
            break
    centroids = sample[list(first.values())]
    labels = np.full(len(sample), -1)
    for _ in range(iterations):
        found, _ = nearest(sample, centroids)
        if np.array_equal(found, labels):
            break
        labels = found
        sums, usable = quantised(_sums(sample, labels, len(centroids)))
        centroids = np.where(usable[:, None], sums, centroids)
    return centroids


def _sums(vectors: np.ndarray, labels: np.ndarray, clusters: int) -> np.ndarray:
    """The sum of each cluster's vectors, int64: exact in any order."""
    sums = np.zeros((clusters, vectors.shape[1]), dtype=np.int64)
    for start in range(0, len(vectors), PIECE):
        order = np.argsort(labels[start : start + PIECE], kind="stable")
        present, begins = np.unique(labels[start : start + PIECE][order], return_index=True)
        sums[present] += np.add.reduceat(vectors[start : start + PIECE][order].astype(np.int64), begins, axis=0)
    return sums


def stars(vectors: np.ndarray, order: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray]:
    """Greedy stars over all pairs of vectors (n, d) whose cosine is at least `threshold`; `order` has the rows from the best survivor on.

    In that order a vector that no kept one has removed is kept, and removes those behind it that are similar to it.
    Returns for each row the row that is kept for it (itself if kept) and the cosine with that (1 for itself). Memory
    beside `vectors`, which may be a file: 16 bytes a row and one product of `BLOCK` by `PIECE`.
    """
    keeper, cosine = np.arange(len(vectors)), np.ones(len(vectors))
    kept = np.empty(len(vectors), dtype=np.int64)
    count = 0
    for start in range(0, len(order), BLOCK):
        rows = order[start : start + BLOCK]
        block = vectors[rows].astype(np.float32)
        for begin in range(0, count, PIECE):
            if not len(rows):
                break
            ahead = kept[begin : min(begin + PIECE, count)]
            here, there, value = _similar(block, vectors[ahead].astype(np.float32), threshold)
            hit, first = np.unique(here, return_index=True)  # pairs come by row, so the first has the best survivor
            keeper[rows[hit]], cosine[rows[hit]] = ahead[there[first]], value[first]
            left = np.ones(len(rows), dtype=bool)
            left[hit] = False
            rows, block = rows[left], block[left]
        here, there, value = _similar(block, block, threshold)
        edge = _greedy(here, there, len(rows))
        removed = edge >= 0
        keeper[rows[removed]], cosine[rows[removed]] = rows[here[edge[removed]]], value[edge[removed]]
        fresh = rows[~removed]
        kept[count : count + len(fresh)] = fresh
        count += len(fresh)
    return keeper, cosine


def _greedy(better: np.ndarray, worse: np.ndarray, rows: int) -> np.ndarray:
    """For each of some rows, the number of the pair that removes it, -1 if it is kept. Pairs are sorted, both ways and with oneself."""
    edge = [-1] * rows
    for number, (a, b) in enumerate(zip(better.tolist(), worse.tolist(), strict=True)):
        if a < b and edge[a] < 0 and edge[b] < 0:  # every pair that could have removed `a` is behind us
            edge[b] = number
    return np.array(edge, dtype=np.int64)


def _similar(a: np.ndarray, b: np.ndarray, threshold: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pairs (row of a, row of b) with a cosine of at least `threshold`, sorted, and the cosine."""
    if not len(a) or not len(b):
        return np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0)
    products, squares_a, squares_b = a @ b.T, _squares(a), _squares(b)
    surely_less = threshold * np.sqrt(squares_a.min() * squares_b.min()) - 1.0  # so that few need a root
    here, there = np.nonzero(products >= surely_less)
    value = products[here, there].astype(np.float64) / np.sqrt(squares_a[here] * squares_b[there])
    enough = value >= threshold
    return here[enough], there[enough], value[enough]


class Spool:
    """Vectors that come piece by piece, in memory until they are many, then in a temporary file."""

    def __init__(self, numbers: int) -> None:
        self._numbers = numbers
        self._pieces: list[np.ndarray] = []
        self._rows = self._held = 0
        self._file: Any = None

    def add(self, vectors: np.ndarray) -> None:
        """More vectors, (n, d) int16."""
        self._pieces.append(vectors.copy())
        self._rows += len(vectors)
        self._held += vectors.nbytes
        if self._held > IN_MEMORY:
            self._write()

    def _write(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="gristmill-vectors-")  # noqa: SIM115 - removed by the system when let go
        for piece in self._pieces:
            self._file.write(piece.tobytes())
        self._pieces, self._held = [], 0

    def vectors(self) -> np.ndarray:
        """All of them, (n, d)."""
        if self._file is None:
            return np.concatenate(self._pieces) if self._pieces else np.empty((0, self._numbers), dtype=np.int16)
        self._write()
        self._file.flush()
        return np.memmap(self._file, dtype=np.int16, mode="r", shape=(self._rows, self._numbers))
