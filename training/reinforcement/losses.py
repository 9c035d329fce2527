"""What is minimised in reinforcement learning, as pure functions of log-probabilities: a loss for each action, and its weight.

A step's loss is the sum over actions of loss times weight. The weights depend on the counts of the whole step, over all its
micro-batches and processes: how rows are cut into batches changes nothing. Shapes: B rows, T positions; a mask is true at actions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Aggregation = Literal["grpo", "bnpo", "dr_grpo", "dapo"]
Estimator = Literal["k1", "k2", "k3"]


def policy_losses(
    logprobs: Tensor,
    old: Tensor,
    advantages: Tensor,
    clip_low: float,
    clip_high: float,
    clip_ratio: float | None = None,
) -> Tensor:
    """PPO's clipped loss of each action, `[B, T]` (Schulman et al. 2017, arXiv 1707.06347, equation 7).

    logprobs: differentiable; old: of the policy that sampled, without gradient; advantages: `[B, T]`, or `[B, 1]` for whole
    rows. The ratio of probabilities is clipped to 1 - clip_low and 1 + clip_high; DAPO takes more room above (0.28; Yu et al. 2025,
    arXiv 2503.14476). clip_ratio: a bound that holds also where the advantage is negative, where the ratio is free otherwise
    (dual clip; Ye et al. 2019, arXiv 1912.09729, by the ratio).
    """
    ratio = (logprobs - old).exp()
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    if clip_ratio is not None:
        ratio = ratio.clamp(max=clip_ratio)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def sequence_losses(
    logprobs: Tensor, old: Tensor, mask: Tensor, advantages: Tensor, clip_low: float, clip_high: float
) -> Tensor:
    """The same with one action a row, its whole completion: `[B]`, as RLOO takes it. advantages `[B]`."""
    change = ((logprobs - old) * mask).sum(dim=1)
    return policy_losses(change, torch.zeros_like(change), advantages, clip_low, clip_high)


def clipped(logprobs: Tensor, old: Tensor, advantages: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """Where the clip keeps an action from learning: bool, the shape of `logprobs`."""
    ratio = (logprobs - old).exp()
    return ((ratio < 1 - clip_low) & (advantages < 0)) | ((ratio > 1 + clip_high) & (advantages > 0))


def value_losses(values: Tensor, old: Tensor, returns: Tensor, clip: float | None) -> Tensor:
    """Half the squared error of each value, `[B, T]`; with `clip` of the worse of it and its old value moved by at most that.

    As in OpenAI's baselines (Dhariwal et al. 2017, ppo2) and InstructGPT's successors; no clip is the plain squared error.
    """
    error = (values - returns).square()
    if clip is not None:
        near = old + (values - old).clamp(-clip, clip)
        error = torch.maximum(error, (near - returns).square())
    return error / 2


def kl_estimates(logprobs: Tensor, reference: Tensor, estimator: Estimator) -> Tensor:
    """An estimate of KL(policy, reference) at each sampled action, in nats (Schulman 2020, Approximating KL Divergence).

    k1: the log-ratio, unbiased, of either sign. k2: half its square, biased, low variance. k3: unbiased and never negative.
    """
    ratio = logprobs - reference
    if estimator == "k1":
        return ratio
    if estimator == "k2":
        return ratio.square() / 2
    return torch.exp(-ratio) + ratio - 1


@dataclass(frozen=True)
class Counts:
    """Of a step's rows, over all micro-batches and processes: sequences, actions, and the actions of a mean minibatch of
    the rollout that it is part of."""

    sequences: float
    actions: float
    rollout_actions: float


def action_weights(mask: Tensor, kind: Aggregation, counts: Counts, max_new_tokens: int) -> Tensor:
    """What each action's loss counts, float32 `[B, T]`, 0 outside the mask; over a step they make a mean.

    grpo: a mean over each completion, then over completions, so that the tokens of long ones count less (DeepSeekMath).
    bnpo: over the step's actions. dapo: over the actions of the whole rollout, which several steps may share (token-level; Yu et al.
    2025). dr_grpo: over completions times `max_new_tokens`, so that no length counts more by its own (Liu et al. 2025).
    """
    weights = mask.float()
    if kind == "grpo":
        return weights / (weights.sum(dim=1, keepdim=True).clamp(min=1) * max(counts.sequences, 1))
    if kind == "dr_grpo":
        return weights / max(counts.sequences * max_new_tokens, 1)
    return weights / max(counts.actions if kind == "bnpo" else counts.rollout_actions, 1)


def next_kl_coefficient(coefficient: float, kl: float, target: float | None, horizon: float, samples: int) -> float:
    """The weight of the KL for the next step; without a target it stays (a fixed controller).

    kl: nats a completion, seen in this step's `samples` completions. It moves by the relative error, at most 0.2, times
    samples / horizon (Ziegler et al. 2019, arXiv 1909.08593, section 2.2).
    """
    if target is None:
        return coefficient
    error = min(max(kl / target - 1, -0.2), 0.2)
    return coefficient * (1 + error * samples / horizon)


def overlong_penalty(length: int, limit: int, soft: int) -> float:
    """0 to -1: DAPO's soft punishment of completions that come within `soft` tokens of the `limit` (equation 13)."""
    if soft <= 0:
        return 0.0
    return -min(max((length - (limit - soft)) / soft, 0.0), 1.0)
