"""How much better an action was than expected, as pure functions: by a value model (GAE), or by the group of its rivals.

Shapes in comments: B rows, T positions, N completions in groups of n that stand together. A mask is true at actions: what the
model itself wrote, the end token included, and neither prompts, results of tools nor padding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

GROUP_EPS = 1e-4  # beside a group's standard deviation, as in DeepSeekMath's successors
Scale = Literal["group", "batch", "none"]


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, bootstrap: Tensor, discount: float = 1.0, decay: float = 0.95
) -> tuple[Tensor, Tensor]:
    """(advantages, returns), both `[B, T]` and 0 outside the mask (Schulman et al. 2015, arXiv 1506.02438, equation 16).

    rewards and values `[B, T]`: of each action, and of the state it was taken in. mask: bool `[B, T]`; a position outside it
    is no step in time, so that the result of a tool lies between two actions without discount. bootstrap `[B]`: the value
    of the state behind the last action where the row was cut off there, and 0 where it ended by itself. discount: gamma;
    decay: lambda. Returns are advantages + values, what the value model should have said.
    """
    advantages = torch.zeros_like(values)
    ahead, next_value = torch.zeros_like(bootstrap), bootstrap
    for at in range(values.shape[1] - 1, -1, -1):
        real = mask[:, at]
        surprise = rewards[:, at] + discount * next_value - values[:, at]
        now = surprise + discount * decay * ahead
        ahead = torch.where(real, now, ahead)
        next_value = torch.where(real, values[:, at], next_value)
        advantages[:, at] = torch.where(real, now, 0)
    return advantages, torch.where(mask, advantages + values, 0)


def whiten(values: Tensor, mask: Tensor, add_up: Callable[[Tensor], Tensor], shift: bool = True) -> Tensor:
    """Mean 0 and standard deviation 1 over all that is in the mask, of all processes; 0 outside it. `[B, T]`.

    add_up: sums a tensor over processes in place (`Place.sum`). shift: false keeps the mean as it was, which rewards need, whose
    sign means something; advantages do not. In two passes, in float64, and by the number of values, not one less.
    """
    inside = values.double().where(mask, 0)
    count = add_up(mask.sum().double()).clamp(min=1)
    mean = add_up(inside.sum()) / count
    centred = (values.double() - mean).where(mask, 0)
    variance = add_up(centred.square().sum()) / count
    result = centred / (variance.sqrt() + 1e-8)
    return (result if shift else result + mean).where(mask, 0).to(values.dtype)


def group_advantages(rewards: Tensor, size: int, scale: Scale = "group") -> Tensor:
    """Each completion's reward less the mean of its group: `[N]`, of groups of `size` that stand together.

    scale: what divides it: the standard deviation of its group (GRPO; Shao et al. 2024, DeepSeekMath, arXiv 2402.03300) or of
    all rewards (`batch`; Liu et al. 2025, arXiv 2508.08221), or nothing (Dr. GRPO; Liu et al. 2025, arXiv 2503.20783: dividing
    makes groups that are nearly all right or wrong count most).
    """
    groups = rewards.view(-1, size)
    centred = groups - groups.mean(dim=1, keepdim=True)
    if scale == "group":
        deviation = groups.std(dim=1, keepdim=True) if size > 1 else torch.zeros_like(groups)
        centred = centred / (deviation + GROUP_EPS)
    elif scale == "batch":
        deviation = rewards.std() if len(rewards) > 1 else torch.zeros(())
        centred = centred / (deviation + GROUP_EPS)
    return centred.flatten()


def leave_one_out(rewards: Tensor, size: int) -> Tensor:
    """Each completion's reward less the mean of the others of its group: `[N]` (RLOO; Ahmadian et al. 2024, arXiv 2402.14740).

    `size` is at least 2.
    """
    groups = rewards.view(-1, size)
    others = (groups.sum(dim=1, keepdim=True) - groups) / (size - 1)
    return (groups - others).flatten()


def undecided(rewards: Tensor, size: int) -> Tensor:
    """Whether each group's rewards differ, bool `[N / size]`: where they do not, no advantage is left to learn from."""
    groups = rewards.view(-1, size)
    return (groups.amax(dim=1) - groups.amin(dim=1)) > 1e-6
