"""GPUs, hours and money: what a model needs to fit, how long it computes, what that costs."""

from __future__ import annotations

import math
from dataclasses import replace

from training.planning.hardware import Gpu
from training.planning.memory import Memory, Parallel, Recompute, Way, estimate
from training.planning.shapes import Shape

RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")  # dearer in time, cheaper in memory
LARGEST_WORLD = 4096
LARGEST_ROWS = 512


def hours(flops: float, gpu: Gpu, mfu: float, gpus: int = 1) -> float:
    """Wall-clock hours of `flops` on some GPUs that reach the share `mfu` of their peak."""
    return flops / (gpu.flops * mfu * gpus) / 3600


def fits(memory: Memory, gpu: Gpu) -> bool:
    """Whether a process fits on the GPU."""
    return memory.total <= gpu.memory


def largest_rows(shape: Shape, way: Way, gpu: Gpu) -> int:
    """The largest power of two of rows in a micro-batch that fits; 0 if not even one row does."""
    rows = 0
    while max(1, 2 * rows) <= LARGEST_ROWS and fits(estimate(shape, replace(way, rows=max(1, 2 * rows))), gpu):
        rows = max(1, 2 * rows)
    return rows


def way_of_share(shape: Shape, way: Way, gpu: Gpu, share: float) -> Way:
    """How a process takes its `share` of a step's rows: in one micro-batch if that fits, else in the largest ones that do (of one row, if
    none does), over which gradients are added up; fsdp2 keeps whole ones meanwhile.
    """
    rows = max(1, math.ceil(share))
    at_once = replace(way, rows=rows, micro_batches=1)
    if rows <= LARGEST_ROWS and fits(estimate(shape, at_once), gpu):
        return at_once
    several = replace(way, micro_batches=2)
    rows = max(1, min(largest_rows(shape, several, gpu), rows))
    return replace(several, rows=rows, micro_batches=max(1, math.ceil(share / rows)))


def fewest_gpus(
    shape: Shape, way: Way, gpu: Gpu, parallel: Parallel, batch_rows: float, fixed: bool = False
) -> int | None:
    """The smallest power of two of GPUs on which a process fits its share of a step; None if no number up to 4,096 helps.

    fixed: the rows of a micro-batch are those of `way`. With ddp each process holds everything: the number never matters.
    """
    world = 1
    while world <= (1 if parallel == "ddp" else LARGEST_WORLD):
        mine = replace(way, world=world, parallel=parallel)
        share = batch_rows / world
        if fixed:
            rows = min(way.rows, max(1, math.ceil(share)))
            mine = replace(mine, rows=rows, micro_batches=max(1, math.ceil(share / rows)))
        else:
            mine = way_of_share(shape, mine, gpu, share)
        if fits(estimate(shape, mine), gpu):
            return world
        world *= 2
    return None


def cheapest_way(
    shape: Shape, way: Way, gpu: Gpu, parallel: Parallel, batch_rows: float, fixed: bool = False
) -> tuple[int, Recompute] | None:
    """(GPUs, recompute policy) that a run needs at least: fewer GPUs first, then less recomputation."""
    found = [
        (fewest_gpus(shape, replace(way, recompute=policy), gpu, parallel, batch_rows, fixed), policy)
        for policy in RECOMPUTE
    ]
    possible = [(world, RECOMPUTE.index(policy), policy) for world, policy in found if world is not None]
    if not possible:
        return None
    world, _, policy = min(possible)
    return world, policy
