"""One optimizer step of any loss: micro-batches, the global mean, the gradient's norm, the update; and means of figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from training.device import Place
from training.knobs import TrainerConfig
from training.optimizer import Optimizer, clip_gradient, gradient_norm
from training.parallel import add_up_gradients

P = TypeVar("P")
Figures = Mapping[str, tuple[Tensor | float, Tensor | float]]  # name -> (sum, weight): what is shown is their quotient


class NotFinite(Exception):
    """A step that must not be taken: its loss or gradient is no number. The message says which."""


class Update(NamedTuple):
    """What came of a step, equal in all processes: the gradient's norm before clipping, and means of figures."""

    grad_norm: float
    figures: dict[str, float]


def update(
    network: nn.Module,
    optimizer: Optimizer,
    parts: Sequence[P],
    objective: Callable[[nn.Module, P], tuple[Tensor, Figures]],
    total: float,
    config: TrainerConfig,
    here: Place,
    rate: float,
) -> Update:
    """One update from this process's micro-batches; every process must have equally many, of whatever size.

    `objective(network, part)`: the SUM of what is minimised over the part, differentiable, and its figures. What is minimised
    is the sum over all parts of all processes, divided by `total`, their global number of targets, pairs or completions:
    so how examples are cut into micro-batches and processes changes neither loss nor gradient.
    Raises `NotFinite`, in all processes, and updates nothing.
    """
    optimizer.zero_grad()
    sums = Sums()
    for number, part in enumerate(parts):
        add_up_gradients(network, number == len(parts) - 1)
        loss, figures = objective(network, part)
        # gradients are averaged over processes, by DistributedDataParallel and by sharding; the sum is wanted
        (loss * (here.world / total)).backward()
        sums.add({"loss": (loss.detach(), 0.0), **figures})
    norm = gradient_norm(network.parameters())
    found = sums.over(here, {"loss": total})
    if not (math.isfinite(found["loss"]) and math.isfinite(float(norm))):
        raise NotFinite(f"the loss is {found['loss']} and the norm of the gradient {float(norm)}")
    clip_gradient(network.parameters(), config.grad_clip, norm)
    optimizer.step(rate)
    return Update(float(norm), found)


class Sums:
    """Weighted sums of named figures, added up in float64 over micro-batches and then over processes."""

    def __init__(self) -> None:
        self._sums: dict[str, list[Any]] = {}

    def add(self, figures: Figures) -> None:
        """Add (sum, weight) of each figure."""
        for name, (value, weight) in figures.items():
            held = self._sums.setdefault(name, [0.0, 0.0])
            for at, more in enumerate((value, weight)):
                held[at] = held[at] + (more.detach().double() if isinstance(more, Tensor) else more)

    def over(self, here: Place, weights: Mapping[str, float] | None = None) -> dict[str, float]:
        """Each sum by its weight, over all processes, which must have the same names; without a weight a figure is left out.

        `weights`: global weights that replace those added.
        """
        names = sorted(self._sums)
        flat = torch.tensor(
            [float(x) for name in names for x in self._sums[name]], dtype=torch.float64, device=here.device
        )
        pairs = here.sum(flat).view(-1, 2).tolist()
        found = {}
        for name, (value, weight) in zip(names, pairs, strict=True):
            by = weights[name] if weights and name in weights else weight
            if by:
                found[name] = value / by
        return found
