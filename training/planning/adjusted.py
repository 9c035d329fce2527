"""Allocations under what the plain laws leave out: a corpus that must be repeated, and tokens served after training."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from training.planning.laws import FLOPS_PER_PARAMETER_AND_TOKEN, MUENNIGHOFF, ParametricLaw

REPEATS_DECAY = 15.387756  # R*_D: repetitions after which repeated tokens have lost 1 - 1/e of their worth
EXCESS_DECAY = 5.309743  # R*_N: the same of parameters beyond what the unique tokens call for
INFERENCE_FLOPS = 2  # a parameter and token: a forward pass alone


class Repeated(NamedTuple):
    """A run over a corpus several times: effective tokens and parameters are what the law would count."""

    parameters: float
    tokens: float
    epochs: float
    effective_tokens: float
    loss: float


class Lifetime(NamedTuple):
    """A model that reaches a loss with the least FLOPs of training and serving together."""

    parameters: float
    tokens: float
    training_flops: float
    inference_flops: float
    loss: float


def effective_tokens(tokens: float, unique: float) -> float:
    """D' = U + U R* (1 - exp(-R / R*)) with R = D / U - 1 repetitions (Muennighoff et al. 2023, equation 5)."""
    unique = min(unique, tokens)
    return unique + unique * REPEATS_DECAY * (1 - math.exp(-(tokens / unique - 1) / REPEATS_DECAY))


def repeated_loss(parameters: float, tokens: float, unique: float) -> float:
    """Loss of `parameters` after `tokens` out of `unique` ones (Muennighoff et al. 2023, equations 5, 6 and 17).

    Parameters lose worth as well where they exceed what is compute-optimal for the unique tokens. Fitted on C4 with
    models of 7M to 9B parameters.
    """
    unique = min(unique, tokens)
    fitting = min(parameters, optimal_parameters(MUENNIGHOFF, unique))
    excess = parameters / fitting - 1
    worth = fitting + fitting * EXCESS_DECAY * (1 - math.exp(-excess / EXCESS_DECAY))
    return MUENNIGHOFF.loss(worth, effective_tokens(tokens, unique))


def optimal_parameters(law: ParametricLaw, tokens: float) -> float:
    """The size for which `tokens` are compute-optimal: where both terms of the law fall equally fast."""
    return (law.alpha * law.A * tokens**law.beta / (law.beta * law.B)) ** (1 / law.alpha)


def repeated(flops: float, unique: float) -> Repeated:
    """The allocation of `flops` that a corpus of `unique` tokens allows, its tokens repeated where that pays."""

    def loss(log_parameters: float) -> float:
        parameters = math.exp(log_parameters)
        return repeated_loss(parameters, flops / (FLOPS_PER_PARAMETER_AND_TOKEN * parameters), unique)

    best = math.exp(_minimum(loss, *_around(MUENNIGHOFF.allocate(flops).parameters)))
    tokens = flops / (FLOPS_PER_PARAMETER_AND_TOKEN * best)
    return Repeated(
        best, tokens, tokens / unique, effective_tokens(tokens, unique), repeated_loss(best, tokens, unique)
    )


def lifetime(law: ParametricLaw, loss: float, inference_tokens: float) -> Lifetime:
    """The model that reaches `loss` for the least 6 N D + 2 N D_inference (Sardana and Frankle 2024, equation 3).

    arXiv 2401.00448. Raises ValueError if no model of the law reaches that loss.
    """
    if loss <= law.E:
        raise ValueError(f"no model reaches a loss of {loss:.3f}: the law's floor is {law.E:.3f}")
    # below this size not even endless training reaches the loss
    smallest = math.log((law.A / (loss - law.E)) ** (1 / law.alpha))

    def total(log_parameters: float) -> float:
        parameters = math.exp(log_parameters)
        tokens = tokens_for(law, loss, parameters)
        return parameters * (FLOPS_PER_PARAMETER_AND_TOKEN * tokens + INFERENCE_FLOPS * inference_tokens)

    parameters = math.exp(_minimum(total, smallest + 1e-9, smallest + 12))
    tokens = tokens_for(law, loss, parameters)
    return Lifetime(
        parameters,
        tokens,
        FLOPS_PER_PARAMETER_AND_TOKEN * parameters * tokens,
        INFERENCE_FLOPS * parameters * inference_tokens,
        loss,
    )


def tokens_for(law: ParametricLaw, loss: float, parameters: float) -> float:
    """Tokens after which a model of `parameters` reaches `loss`; infinite if it never does."""
    left = loss - law.E - law.A / parameters**law.alpha
    return math.inf if left <= 0 else (law.B / left) ** (1 / law.beta)


def _around(parameters: float) -> tuple[float, float]:
    return math.log(parameters) - 12, math.log(parameters) + 6


def _minimum(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with a single minimum has it, by golden section."""
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = function(a), function(b)
    for _ in range(200):
        if at_a < at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = function(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = function(b)
    return (low + high) / 2
