"""The learning rate of each update: a pure function of its number."""

from __future__ import annotations

import math

from training.config import PretrainConfig


def learning_rate(step: int, steps: int, config: PretrainConfig) -> float:
    """The learning rate of update `step` (from 0) of `steps`: a straight rise to the peak, then a cosine to the floor.

    The first update already moves, and the last one stands exactly on the floor.
    """
    warmup = round(config.warmup_ratio * steps)
    done = step + 1
    if done <= warmup:
        return config.learning_rate * done / warmup
    progress = min(1.0, (done - warmup) / max(1, steps - warmup))
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * (config.min_lr_ratio + (1 - config.min_lr_ratio) * cosine)
