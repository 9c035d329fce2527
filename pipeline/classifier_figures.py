"""How well a two-class score tells its classes apart, and how far its probabilities can be taken at their word."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

SHARES = (0.5, 0.25, 0.1, 0.05, 0.02, 0.01)  # of the ordinary documents, in the table of thresholds
BINS = 10


def auc(scores: Floats, good: Bools) -> float:
    """Area under the ROC curve: how often a good document's score is above an ordinary one's, ties by half.

    Raises `ValueError` if a class is empty.
    """
    if good.all() or not good.any():
        raise ValueError("the area under the curve needs documents of both classes")
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # ties share their mean rank, counted from 1
    positives, negatives = int(good.sum()), int((~good).sum())
    return float((ranks[good].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def auc_interval(area: float, positives: int, negatives: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95% interval of an area under the curve, by the variance at its ends: it has a width at an area of 1 too.

    Newcombe 2006, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic", part 2, method 5, with the
    variance of Hanley and McNeil 1982.
    """
    mean = (positives + negatives) / 2

    def distance(end: float) -> float:
        shape = 1 + (mean - 1) * ((1 - end) / (2 - end) + end / (1 + end))
        return abs(end - area) - z * math.sqrt(max(0.0, end * (1 - end) * shape / (positives * negatives)))

    def search(inside: float, outside: float) -> float:
        for _ in range(60):
            middle = (inside + outside) / 2
            inside, outside = (middle, outside) if distance(middle) <= 0 else (inside, middle)
        return inside

    low = 0.0 if area == 0 else search(area, 0.0) if area < 1 else search(1 - 1e-12, 0.0)
    high = 1.0 if area == 1 else search(area, 1.0) if area > 0 else search(1e-12, 1.0)
    return low, high


def calibration(scores: Floats, good: Bools) -> dict[str, Any]:
    """Brier score, expected calibration error, and the reliability table: of each tenth of the scale, mean score and share of good ones."""
    place = np.minimum((scores * BINS).astype(np.int64), BINS - 1)
    rows, error = [], 0.0
    for number in range(BINS):
        mine = place == number
        count = int(mine.sum())
        mean = float(scores[mine].mean()) if count else None
        share = float(good[mine].mean()) if count else None
        if mean is not None and share is not None:
            error += count / len(scores) * abs(mean - share)
        rows.append(
            {
                "from": number / BINS,
                "to": (number + 1) / BINS,
                "documents": count,
                "mean_score": None if mean is None else round(mean, 4),
                "share_good": None if share is None else round(share, 4),
            }
        )
    return {
        "brier": round(float(np.mean((scores - good) ** 2)), 6),
        "expected_calibration_error": round(error, 6),
        "reliability": rows,
    }


def thresholds(scores: Floats, good: Bools) -> list[dict[str, Any]]:
    """What stays at several thresholds: those that keep a round share of the ordinary documents, and the tenths of the scale.

    `precision` is the share of good ones among what stays, with as many good and ordinary documents as were held out; `recall` is the
    share of the good ones that stay.
    """
    ordinary = np.sort(scores[~good])[::-1]
    cuts = {round(number / 10, 6) for number in range(1, 10)}
    cuts |= {round(float(ordinary[max(0, math.ceil(share * len(ordinary)) - 1)]), 6) for share in SHARES}
    rows = []
    for cut in sorted(cuts):
        kept = scores >= cut
        rows.append(
            {
                "threshold": cut,
                "good_kept": round(float(kept[good].mean()), 4),
                "ordinary_kept": round(float(kept[~good].mean()), 4),
                "precision": round(float(good[kept].mean()), 4) if kept.any() else None,
                "recall": round(float(kept[good].mean()), 4),
            }
        )
    return rows


def figures(scores: Floats, good: Bools) -> dict[str, Any]:
    """All of the above for held-out documents. Raises `ValueError` if a class is empty."""
    area = auc(scores, good)
    positives, negatives = int(good.sum()), int((~good).sum())
    low, high = auc_interval(area, positives, negatives)
    return {
        "documents": {"good": positives, "ordinary": negatives},
        "roc_auc": round(area, 6),
        "roc_auc_95": [round(low, 6), round(high, 6)],
        "calibration": calibration(scores, good),
        "thresholds": thresholds(scores, good),
    }
