"""Best of n: what a reward buys without any training, by taking the best of several completions. The baseline of all RL."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np


def best_of_n(scores: Sequence[float], n: int, truth: Sequence[float] | None = None) -> float:
    """The mean truth of the completion that scores best among n drawn from these, over all draws of n without repetition.

    scores: what chooses, of all completions of one prompt; truth: what the choice is judged by, by default the same. The
    exact mean, not one draw, so without bias (Nakano et al. 2021, WebGPT, arXiv 2112.09332, appendix I); completions of
    equal score are chosen alike.
    """
    found = np.asarray(scores, np.float64)
    judged = found if truth is None else np.asarray(truth, np.float64)
    if not 1 <= n <= len(found):
        raise ValueError(f"n must be from 1 to the {len(found)} completions, got {n}")
    order = np.argsort(found, kind="stable")
    ranked, judged = found[order], judged[order].copy()
    for value in np.unique(ranked):
        judged[ranked == value] = judged[ranked == value].mean()
    # the completion of rank i (from 0) is the best of a draw if the other n - 1 are among the i below it
    weights = [math.comb(rank, n - 1) / math.comb(len(found), n) for rank in range(len(found))]
    return float(np.dot(weights, judged))


def best_of_n_kl(n: int) -> float:
    """At most so many nats lie between the best of n and the model it is drawn from (Stiennon et al. 2020; Beirami et al. 2024)."""
    return math.log(n) - (n - 1) / n
