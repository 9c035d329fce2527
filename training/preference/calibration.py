"""Whether the probabilities of a reward model mean what they say: reliability by bins, and the expected calibration error."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

BINS = 10


class Bin(NamedTuple):
    """Pairs whose confidence lies in (low, high], with their mean confidence and the share that is right."""

    low: float
    high: float
    pairs: int
    confidence: float
    accuracy: float


def reliability(differences: Sequence[float], bins: int = BINS) -> list[Bin]:
    """The bins that hold a pair, of scores chosen minus rejected.

    The confidence in a pair is the probability that the model gives to the answer it scores higher, the sigmoid of the
    difference's size: 0.5 to 1, cut into `bins` of equal width.
    """
    given = np.asarray(differences, np.float64)
    confidence = 1 / (1 + np.exp(-np.abs(given)))
    right = (np.sign(given) + 1) / 2
    edges = np.linspace(0.5, 1.0, bins + 1)
    of = np.clip(np.ceil((confidence - 0.5) / 0.5 * bins).astype(np.int64) - 1, 0, bins - 1)
    return [
        Bin(
            float(edges[number]),
            float(edges[number + 1]),
            int(inside.sum()),
            float(confidence[inside].mean()),
            float(right[inside].mean()),
        )
        for number in range(bins)
        if (inside := of == number).any()
    ]


def calibration_error(found: Sequence[Bin]) -> float:
    """The mean gap between confidence and accuracy, bins weighted by their pairs (Guo et al. 2017, arXiv 1706.04599)."""
    pairs = sum(one.pairs for one in found)
    return sum(one.pairs * abs(one.accuracy - one.confidence) for one in found) / pairs if pairs else 0.0


def judge(differences: Sequence[float]) -> dict[str, Any]:
    """Accuracy, margins and calibration on held-out pairs, as metrics.jsonl and training.json have them."""
    given = np.asarray(differences, np.float64)
    found = reliability(differences)
    return {
        "pairs": len(given),
        "accuracy": float(((np.sign(given) + 1) / 2).mean()),
        "margin": float(given.mean()),
        "loss": float(np.logaddexp(0.0, -given).mean()),
        "calibration_error": calibration_error(found),
        "reliability": [one._asdict() for one in found],
    }
