"""Histograms of columns that are too long to hold: two passes over batches, a fixed number of bins."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

BINS = 48
SAMPLE = 100_000  # values kept in the first pass, to choose the range by


@dataclass
class Histogram:
    """Counts between edges. `log`: edges are in log(1 + x). Values outside the edges are in the outermost bins."""

    edges: np.ndarray
    counts: np.ndarray
    log: bool
    whole: bool  # one bar for each whole number
    total: int
    missing: int
    low: float  # true minimum and maximum
    high: float
    below: int  # values folded into the first and the last bin
    above: int


class _Range:
    """First pass over one column: count, extremes, and an even sample of bounded size."""

    def __init__(self) -> None:
        self.total = self.missing = 0
        self.low, self.high = np.inf, -np.inf
        self.integer = True
        self.kept: list[np.ndarray] = []
        self.step = 1

    def add(self, values: np.ndarray) -> None:
        finite = values[np.isfinite(values)]
        self.total += len(finite)
        self.missing += len(values) - len(finite)
        if not len(finite):
            return
        self.low, self.high = min(self.low, float(finite.min())), max(self.high, float(finite.max()))
        self.integer = self.integer and bool((finite == np.floor(finite)).all())
        self.kept.append(finite[:: self.step])
        if sum(map(len, self.kept)) > SAMPLE:
            self.kept = [np.concatenate(self.kept)[::2]]
            self.step *= 2

    def bins(self, limits: Sequence[float]) -> tuple[np.ndarray, bool]:
        """Edges that show nearly all values and every limit, and whether they are on the log(1 + x) scale."""
        sample = np.concatenate(self.kept)
        low, middle, high = (float(q) for q in np.percentile(sample, [0.2, 50, 99.8]))
        near = [limit for limit in limits if np.isfinite(limit)]
        if self.low >= 0 and max([high, *near]) > 12 * max(middle, 1.0):
            low, high = min([low, *near]), max([high, *near])
            return np.linspace(np.log1p(max(low, 0.0)), np.log1p(high) + 1e-9, BINS + 1), True
        low, high = min([low, *near]), max([high, *near])
        if self.integer and high - low < BINS:
            return np.arange(np.floor(low) - 0.5, np.ceil(high) + 1.0), False
        if high <= low:
            margin = max(abs(low) * 0.05, 0.5)
            return np.linspace(low - margin, high + margin, BINS + 1), False
        margin = 0.02 * (high - low)  # so that a limit at the edge is seen
        return np.linspace(low - (margin if low != 0 else 0), high + margin, BINS + 1), False


Columns = Mapping[str, np.ndarray]


def histograms(scan: Callable[[], Iterator[Columns]], limits: Mapping[str, Sequence[float]]) -> dict[str, Histogram]:
    """A histogram of each column that has a finite value; `scan` is called twice and yields float arrays by column."""
    ranges: dict[str, _Range] = {}
    for columns in scan():
        for name, values in columns.items():
            ranges.setdefault(name, _Range()).add(values)
    found: dict[str, Histogram] = {}
    for name, seen in ranges.items():
        if seen.total:
            edges, log = seen.bins(limits.get(name, ()))
            zeros = np.zeros(len(edges) - 1, np.int64)
            whole = not log and seen.integer and edges[1] - edges[0] == 1.0
            found[name] = Histogram(edges, zeros, log, whole, seen.total, seen.missing, seen.low, seen.high, 0, 0)
    for columns in scan():
        for name, values in columns.items():
            if name in found:
                _count(found[name], values)
    return found


def _count(into: Histogram, values: np.ndarray) -> None:
    values = values[np.isfinite(values)]
    if into.log:
        values = np.log1p(values)
    into.below += int((values < into.edges[0]).sum())
    into.above += int((values > into.edges[-1]).sum())
    into.counts += np.histogram(np.clip(values, into.edges[0], into.edges[-1]), into.edges)[0]
