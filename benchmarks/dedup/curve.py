"""Recall of the LSH bands against 1 - (1 - s^rows)^bands, on real documents with planted edits at every level of similarity.

    python -m benchmarks.dedup.curve [--documents FILE ...] [--count 5000] [--seeds N] [--cache FOLDER] [--json FILE]
                                     [--bands-rows 14x8 20x6 ...]

Half of the documents are passages, the other half an edited copy of each, at rates that spread similarities over (0, 1). Brute force finds all
pairs of documents above 0.1; of these each document stands in one pair at most, so that pairs are independent. A pair is found if one
of the band keys that the stage computes is equal. For a bin of similarities the number found is compared with the sum of the
formula over its pairs: z = (found - expected) / sqrt(sum of p (1 - p)), and the error bar is 1.96 of that. Each seed of the permutations
is a trial of its own. If the stage follows the formula, z is standard normal: about one in twenty outside of 1.96.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.dedup import corpora, oracle
from stages.dedup.minhash import band_keys, signatures
from stages.dedup.shingles import shingles

SETTINGS = [
    (14, 8),
    (20, 6),
    (10, 5),
    (25, 5),
    (9, 13),
    (450, 20),
]  # FineWeb's first, datasketch's for 0.8 and RefinedWeb's last
LOWEST = 0.1
BIN = 0.05
HIGHEST_RATE = 0.35  # of words edited: a 5-gram is then whole with probability 0.12


class Bin(NamedTuple):
    """Pairs of similar similarity, over all seeds."""

    low: float
    trials: int
    found: int
    expected: float
    deviation: float  # of the number found, were the formula right

    @property
    def z(self) -> float:
        """Deviations from the expected number; 0 where the formula leaves nothing to chance and was right."""
        if self.deviation < 1e-3:
            return 0.0 if abs(self.found - self.expected) < 0.5 else math.copysign(math.inf, self.found - self.expected)
        return (self.found - self.expected) / self.deviation


def main(arguments: Sequence[str] = ()) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, nargs="+", default=corpora.SAMPLE)
    parser.add_argument("--count", type=int, default=5_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--bands-rows", nargs="+", default=[f"{bands}x{rows}" for bands, rows in SETTINGS])
    parser.add_argument("--cache", type=Path)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    texts = spread(corpora.documents(given.documents), given.count)
    pairs = independent(oracle.cached(texts, LOWEST, given.cache))
    sets = [found if len(found) else np.zeros(1, dtype=np.uint64) for found in shingles(texts, oracle.GRAM)]
    print(
        f"{len(texts):,} documents; {len(pairs.low):,} independent pairs at {LOWEST} and above, {given.seeds} seeds each"
    )
    measured: dict[str, Any] = {}
    for bands, rows in (map(int, setting.split("x")) for setting in given.bands_rows):
        bins = measure(sets, pairs, bands, rows, given.seeds)
        measured[f"{bands}x{rows}"] = [one._asdict() | {"z": one.z} for one in bins]
        show(bands, rows, bins)
    if given.json is not None:
        given.json.write_text(json.dumps(measured, indent=1))


def spread(texts: Sequence[str], count: int, seed: int = 1) -> list[str]:
    """`count` texts: passages, then an edited copy of each; rates are the more frequent the lower, since similarity falls fast with them."""
    pool = corpora.passages(texts)
    rng = np.random.default_rng(seed)
    half = min(count // 2, len(pool))
    chosen = [pool[place] for place in rng.choice(len(pool), half, replace=False).tolist()]
    words = corpora.vocabulary(pool)
    rates = HIGHEST_RATE * rng.random(half) ** 2
    return chosen + [corpora.edited(text, rate, words, rng) for text, rate in zip(chosen, rates.tolist(), strict=True)]


def independent(pairs: oracle.Pairs, seed: int = 1) -> oracle.Pairs:
    """Pairs of which no two share a document, taken in random order; copies of the same text (similarity 1) say nothing and are left out."""
    taken: set[int] = set()
    rows = []
    for row in np.random.default_rng(seed).permutation(len(pairs.low)).tolist():
        low, high = int(pairs.low[row]), int(pairs.high[row])
        if pairs.similarity[row] < 1 and low not in taken and high not in taken:
            taken.update((low, high))
            rows.append(row)
    chosen = np.array(rows, dtype=np.int64)
    return oracle.Pairs(pairs.low[chosen], pairs.high[chosen], pairs.similarity[chosen])


def measure(sets: list[np.ndarray], pairs: oracle.Pairs, bands: int, rows: int, seeds: int) -> list[Bin]:
    """How many pairs of each bin share a band, over seeds 1 to `seeds`."""
    found = np.zeros(len(pairs.low), dtype=np.int64)
    for seed in range(1, seeds + 1):
        keys = band_keys(signatures(sets, bands * rows, seed), bands, np.zeros(len(sets), dtype=np.uint64))
        found += (keys[pairs.low] == keys[pairs.high]).all(axis=2).any(axis=1)
    chance = 1 - (1 - pairs.similarity**rows) ** bands
    bins = []
    for low in np.arange(LOWEST, 1 - 1e-9, BIN).tolist():
        inside = (pairs.similarity >= low - 1e-12) & (pairs.similarity < low + BIN - 1e-12)
        if inside.any():
            p = chance[inside]
            deviation = math.sqrt(seeds * float((p * (1 - p)).sum()))
            bins.append(
                Bin(low, seeds * int(inside.sum()), int(found[inside].sum()), seeds * float(p.sum()), deviation)
            )
    return bins


def show(bands: int, rows: int, bins: list[Bin]) -> None:
    """One setting's table, and the test of all bins together."""
    print(f"{bands}x{rows}   similarity  trials    found  formula  +- 95%      z")
    for one in bins:
        print(
            f"        {one.low:.2f}-{one.low + BIN:.2f} {one.trials:8,} {one.found / one.trials:9.4f}"
            f" {one.expected / one.trials:8.4f} {1.96 * one.deviation / one.trials:7.4f} {one.z:7.2f}"
        )
    # bins where chance leaves fewer than five either way are too small for a normal approximation
    fit = [one for one in bins if min(one.expected, one.trials - one.expected) >= 5]
    square = sum(one.z**2 for one in fit)
    outside = sum(abs(one.z) > 1.96 for one in fit)
    print(
        f"        chi-square {square:.1f} of {len(fit)} bins, p = {chi_square_tail(square, len(fit)):.3f};"
        f" {outside} of them outside of 95%"
    )


def chi_square_tail(value: float, freedom: int) -> float:
    """The probability that a chi-square variable exceeds the value: the regularised upper incomplete gamma function."""
    from scipy.special import gammaincc

    return float(gammaincc(freedom / 2, value / 2)) if freedom else 1.0


if __name__ == "__main__":
    main(sys.argv[1:])
