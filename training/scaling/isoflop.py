"""IsoFLOP parabolas (Hoffmann et al. 2022, approach 2): of the runs with one budget, which size came out best.

The loss of runs of equal compute is a parabola in log N to second order around its minimum. The minima over budgets
give N_opt proportional to C^a. The parabola is an approximation: where sizes lie far apart or all on one side of the
minimum it is biased, so a minimum outside of the measured sizes is not used.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from training.scaling.fit import Floats


@dataclass(frozen=True)
class Parabola:
    """loss = least + curvature * (log N - log best)^2 for one budget. `inside`: best lies between measured sizes."""

    flops: float
    best: float  # parameters
    least: float  # loss
    curvature: float
    inside: bool


def parabola(flops: float, parameters: Floats, losses: Floats) -> Parabola | None:
    """The least-squares parabola through three or more sizes; None if it has no minimum."""
    if len(np.unique(parameters)) < 3:
        return None
    x = np.log(parameters)
    middle = x.mean()  # centred: the squares of raw logs are nearly collinear
    c2, c1, c0 = np.polyfit(x - middle, losses, 2)
    if c2 <= 0:
        return None
    best = middle - c1 / (2 * c2)
    return Parabola(
        flops,
        float(np.exp(np.clip(best, -700, 700))),
        float(c0 - c1**2 / (4 * c2)),
        float(c2),
        bool(x.min() <= best <= x.max()),
    )


def allocation(parabolas: list[Parabola]) -> tuple[float, float] | None:
    """(k, a) of N_opt = k C^a through the minima that lie inside; None with fewer than two of them."""
    usable = [one for one in parabolas if one.inside]
    if len({one.flops for one in usable}) < 2:
        return None
    a, log_k = np.polyfit(np.log([one.flops for one in usable]), np.log([one.best for one in usable]), 1)
    return float(np.exp(log_k)), float(a)
