from __future__ import annotations

import numpy as np
import pytest

from stages.dedup import unit_vectors
from stages.dedup.unit_vectors import LARGEST, SCALE, Spool, fit_centroids, nearest, quantised, stars


def families(seed: int, count: int = 30, copies: int = 8, numbers: int = 24, noise: float = 0.08) -> np.ndarray:
    """Vectors around `count` directions, in random order."""
    rng = np.random.default_rng(seed)
    middles = rng.normal(size=(count, numbers))
    middles /= np.linalg.norm(middles, axis=1, keepdims=True)
    vectors = np.repeat(middles, copies, axis=0)
    vectors += rng.normal(size=vectors.shape) * noise / np.sqrt(numbers) * rng.uniform(0, 6, size=(len(vectors), 1))
    return vectors[rng.permutation(len(vectors))]


def plain_stars(vectors: np.ndarray, order: list[int], threshold: float) -> tuple[list[int], list[float]]:
    """What `stars` says of itself, one pair after the other, in whole numbers."""
    whole = vectors.astype(object)
    keeper, cosine, kept = list(range(len(whole))), [1.0] * len(whole), []
    for row in order:
        for other in kept:
            value = float(whole[row] @ whole[other]) / np.sqrt(
                float((whole[row] @ whole[row]) * (whole[other] @ whole[other]))
            )
            if value >= threshold:
                keeper[row], cosine[row] = other, value
                break
        else:
            kept.append(row)
    return keeper, cosine


def test_rounding_moves_a_cosine_by_little() -> None:
    rng = np.random.default_rng(1)
    for numbers in (3, 64, 384, 1024):
        vectors = rng.normal(size=(200, numbers))
        whole, usable = quantised(vectors)
        assert usable.all() and whole.dtype == np.int16
        unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        exact = whole.astype(np.int64) @ whole.astype(np.int64).T
        lengths = np.sqrt(np.diag(exact))
        assert np.abs(exact / np.outer(lengths, lengths) - unit @ unit.T).max() < 5e-4


def test_products_in_float32_are_exact() -> None:
    assert (SCALE + np.sqrt(LARGEST) / 2) ** 2 < 2**24
    same = np.full((3, LARGEST), -1.0)
    same[1, 0] = -(2.0**7)
    whole, _ = quantised(same)
    assert np.array_equal(
        (whole.astype(np.float32) @ whole.T.astype(np.float32)).astype(np.int64),
        whole.astype(np.int64) @ whole.T.astype(np.int64),
    )


def test_what_is_no_vector() -> None:
    tiny, huge = np.nextafter(0, 1), np.finfo(np.float64).max
    rows = np.array([[0, 0], [np.nan, 1], [np.inf, 1], [tiny, 0], [huge, -huge], [-0.0, 0], [1, 1]])
    whole, usable = quantised(rows)
    assert usable.tolist() == [False, False, False, True, True, False, True]
    assert whole[3].tolist() == [4000, 0] and whole[4].tolist() == [2828, -2828]
    assert quantised(np.empty((0, 5)))[0].shape == (0, 5)


@pytest.mark.parametrize("threshold", [0.6, 0.9, 0.99, 1.0])
def test_stars_are_those_of_the_definition(monkeypatch: pytest.MonkeyPatch, threshold: float) -> None:
    vectors, _ = quantised(np.concatenate([families(2), families(2)[:20]]))
    order = np.random.default_rng(0).permutation(len(vectors))
    expected = plain_stars(vectors, order.tolist(), threshold)
    removed = sum(keeper != row for row, keeper in enumerate(expected[0]))
    assert 20 <= removed < len(vectors) - 20, "the test decides something"
    for block, piece in ((1024, 4096), (7, 5), (1, 1), (64, 16)):
        monkeypatch.setattr(unit_vectors, "BLOCK", block)
        monkeypatch.setattr(unit_vectors, "PIECE", piece)
        keeper, cosine = stars(vectors, order, threshold)
        assert (keeper.tolist(), cosine.tolist()) == expected


def test_equal_vectors_have_the_cosine_one() -> None:
    vectors, _ = quantised(np.repeat(families(3, 20, 1, 300), 2, axis=0))
    keeper, cosine = stars(vectors, np.arange(40), 1.0)
    assert keeper.tolist() == [row - row % 2 for row in range(40)] and (cosine == 1).all()


def test_centroids_find_what_lies_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, _ = quantised(families(4, count=5, copies=200, noise=0.02))
    centroids = fit_centroids(vectors, 40, 20)
    assert centroids.shape == (40, 24)
    labels, cosine = nearest(vectors, centroids)
    assert cosine.min() > 0.9, "each is near its centroid"
    for label in range(40):
        mine = vectors[labels == label].astype(np.float64)
        assert len(mine) == 0 or (mine @ mine.T).min() > 0.5 * SCALE**2, "no cluster has vectors of two families"
    for products, piece in ((1, 4096), (640, 3), (1 << 22, 1000)):
        monkeypatch.setattr(unit_vectors, "PRODUCTS", products)
        monkeypatch.setattr(unit_vectors, "PIECE", piece)
        assert np.array_equal(fit_centroids(vectors, 40, 20), centroids)
        assert np.array_equal(nearest(vectors, centroids)[0], labels)


def test_centroids_of_few_and_of_cancelling_vectors() -> None:
    same = np.array([[4000, 0], [4000, 0], [-4000, 0]], dtype=np.int16)
    assert fit_centroids(same, 10, 5).tolist() == [[4000, 0], [-4000, 0]]
    assert fit_centroids(same[1:], 1, 5).tolist() == [[4000, 0]], "a sum of zero leaves the centroid where it was"
    assert fit_centroids(same, 1, 5).tolist() == [[4000, 0]]


def test_a_file_holds_what_memory_would(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors, _ = quantised(families(5))
    monkeypatch.setattr(unit_vectors, "IN_MEMORY", 1000)
    spool = Spool(24)
    for start in range(0, len(vectors), 13):
        spool.add(vectors[start : start + 13])
    stored = spool.vectors()
    assert isinstance(stored, np.memmap) and np.array_equal(stored, vectors)
    order = np.arange(len(vectors))[::-1]
    assert all(np.array_equal(a, b) for a, b in zip(stars(stored, order, 0.9), stars(vectors, order, 0.9), strict=True))
    assert Spool(24).vectors().shape == (0, 24)
