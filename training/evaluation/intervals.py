"""Confidence intervals by the bootstrap."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DRAWS = 10_000


def bootstrap(values: Sequence[float], seed: int, level: float = 0.95, draws: int = DRAWS) -> tuple[float, float]:
    """The percentile interval of the mean of `values`, resampled `draws` times (Efron 1979). One value spans no interval."""
    if not values:
        raise ValueError("no values")
    array, random = np.asarray(values, dtype=np.float64), np.random.default_rng(seed)
    means = np.empty(draws)
    step = max(1, 4_000_000 // len(array))  # draws at once: bounded memory
    for at in range(0, draws, step):
        count = min(step, draws - at)
        means[at : at + count] = array[random.integers(0, len(array), (count, len(array)))].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
