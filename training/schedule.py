"""The learning rate of each update: a pure function of its number."""

from __future__ import annotations

import math

from training.knobs import TrainerConfig


def learning_rate(step: int, steps: int, config: TrainerConfig) -> float:
    """The learning rate of update `step` (from 0) of `steps`: a straight rise to the peak, then the schedule's shape.

    The first update already moves, and the last one stands exactly on the floor: update `step` has the rate that
    transformers' schedules give at `step + 1`, whose first update has rate 0.
    """
    warmup = round(config.warmup_ratio * steps)
    done = step + 1
    if done <= warmup:
        return config.learning_rate * done / warmup
    share = min(1.0, (done - warmup) / max(1, steps - warmup))
    if config.schedule == "cosine":
        height = 0.5 * (1 + math.cos(math.pi * share))
    elif config.schedule == "linear":
        height = 1 - share
    elif config.schedule == "wsd":
        height = _decay_at_the_end(done, steps, warmup, config)
    else:
        return config.learning_rate
    return config.learning_rate * (config.min_lr_ratio + (1 - config.min_lr_ratio) * height)


def _decay_at_the_end(done: int, steps: int, warmup: int, config: TrainerConfig) -> float:
    """Warm-up, stable, decay (Hu et al. 2024, MiniCPM, arXiv 2404.06395): 1 until the last `decay_ratio` of all steps."""
    start = max(warmup, steps - round(config.decay_ratio * steps))
    if done <= start:
        return 1.0
    share = min(1.0, (done - start) / (steps - start))
    return 1 - share if config.decay_shape == "linear" else 1 - math.sqrt(share)
