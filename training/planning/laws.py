"""Scaling laws as their papers give them: how a compute budget is divided into parameters and tokens, and the loss.

Every law is a power law fitted on one family of models and one corpus. An absolute loss therefore only holds for that
corpus and tokenizer; a ratio of tokens to parameters carries over better, within the range of compute that was fitted.
Loss is in nats a token, compute in training FLOPs (6 a parameter and token), tokens are those that training reads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

FLOPS_PER_PARAMETER_AND_TOKEN = (
    6  # two for the forward pass, four for the backward pass (Kaplan et al. 2020, section 2.1)
)
PETAFLOP_DAY = 8.64e19


class Allocation(NamedTuple):
    """Parameters and tokens that spend a budget best, by one law; `loss` where the law predicts one."""

    parameters: float
    tokens: float
    loss: float | None


@dataclass(frozen=True)
class ParametricLaw:
    """L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, equation 2)."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, parameters: float, tokens: float) -> float:
        """Loss of a model of `parameters` after `tokens`, in nats a token."""
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta

    def allocate(self, flops: float) -> Allocation:
        """The minimum of the loss on 6 N D = flops (equation 4 of the paper)."""
        product = flops / FLOPS_PER_PARAMETER_AND_TOKEN
        scale = (self.alpha * self.A / (self.beta * self.B)) ** (1 / (self.alpha + self.beta))
        parameters = scale * product ** (self.beta / (self.alpha + self.beta))
        tokens = product / parameters
        return Allocation(parameters, tokens, self.loss(parameters, tokens))


@dataclass(frozen=True)
class Law:
    """An allocation with its origin. `counts` says what its parameters are, `range` in which FLOPs it was fitted."""

    name: str
    source: str
    constants: str
    counts: str
    range: tuple[float, float]
    allocate: Callable[[float], Allocation]


# Hoffmann et al. 2022, approach 3, with the digits of the paper's TeX source: those in its text are rounded, and the
# rounding moves the optimum (Besiroglu et al. 2024, section 5).
HOFFMANN = ParametricLaw(E=1.6934, A=406.4, B=410.7, alpha=0.3392, beta=0.2849)
# Besiroglu et al. 2024 (arXiv 2404.10102), table 1: approach 3 fitted again to 240 of its points, read off a figure.
BESIROGLU = ParametricLaw(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)
# Muennighoff et al. 2023 (arXiv 2305.16264), appendix A: C4, one epoch, alpha and beta held equal.
MUENNIGHOFF = ParametricLaw(
    E=math.exp(0.6254804), A=math.exp(6.255414), B=math.exp(7.3049974), alpha=0.3526596, beta=0.3526596
)


def kaplan(flops: float) -> Allocation:
    """Kaplan et al. 2020, section 6: the least compute C_min gives N = 1.3e9 C^0.73 and L = (3.1e8 / C)^0.050.

    C_min, in PF-days, is what a run with a very small batch would take; at the critical batch size, where the paper
    trains, twice as much is spent (equation 5.4).
    """
    least = flops / 2 / PETAFLOP_DAY
    parameters = 1.3e9 * least**0.73
    return Allocation(parameters, flops / (FLOPS_PER_PARAMETER_AND_TOKEN * parameters), (3.1e8 / least) ** 0.050)


def chinchilla_1(flops: float) -> Allocation:
    """Hoffmann et al. 2022, approach 1 (envelope of training curves): the power law through the points of its table 3."""
    return _by_parameters(flops, 0.09916 * flops**0.4981)


def chinchilla_2(flops: float) -> Allocation:
    """Hoffmann et al. 2022, approach 2 (isoFLOP parabolas): the power law through the points of its table A3."""
    return _by_parameters(flops, 0.1449 * flops**0.4899)


def deepseek(flops: float) -> Allocation:
    """DeepSeek-AI 2024 (arXiv 2401.02954), equation 4: D = 5.8316 C^0.4757, M = 0.1715 C^0.5243 FLOPs a token.

    M counts matrix products of the layers, attention's included, and no embedding. Parameters are given here as M / 6,
    an upper bound: what attention's products take is not in them.
    """
    return Allocation(0.1715 * flops**0.5243 / FLOPS_PER_PARAMETER_AND_TOKEN, 5.8316 * flops**0.4757, None)


def llama_3(flops: float) -> Allocation:
    """Llama Team 2024 (arXiv 2407.21783), section 3.2.1: D = 0.29 C^0.538.

    The paper prints the exponent as 0.53 and concludes 16.55e12 tokens from 3.8e25 FLOPs; 0.53 would give 10.5e12, so
    the exponent is taken from that conclusion.
    """
    tokens = 0.29 * flops**0.53778
    return Allocation(flops / (FLOPS_PER_PARAMETER_AND_TOKEN * tokens), tokens, None)


def _by_parameters(flops: float, parameters: float) -> Allocation:
    return Allocation(parameters, flops / (FLOPS_PER_PARAMETER_AND_TOKEN * parameters), None)


LAWS = (
    Law(
        "kaplan",
        "Kaplan et al. 2020, arXiv 2001.08361, section 6",
        "N = 1.3e9 C^0.73 with C in PF-days at half of the budget; L = (3.1e8 / C)^0.050",
        "without embeddings",
        (1e15, 1e21),
        kaplan,
    ),
    Law(
        "chinchilla-1",
        "Hoffmann et al. 2022, arXiv 2203.15556, approach 1, table 3",
        "N = 0.0992 C^0.498",
        "all",
        (6e18, 3e21),
        chinchilla_1,
    ),
    Law(
        "chinchilla-2",
        "Hoffmann et al. 2022, arXiv 2203.15556, approach 2, table A3",
        "N = 0.145 C^0.490",
        "all",
        (6e18, 3e21),
        chinchilla_2,
    ),
    Law(
        "chinchilla-3",
        "Hoffmann et al. 2022, arXiv 2203.15556, approach 3, TeX source",
        "E=1.6934 A=406.4 B=410.7 alpha=0.3392 beta=0.2849",
        "all",
        (6e18, 3e21),
        HOFFMANN.allocate,
    ),
    Law(
        "besiroglu",
        "Besiroglu et al. 2024, arXiv 2404.10102, table 1",
        "E=1.8172 A=482.01 B=2085.43 alpha=0.3478 beta=0.3658",
        "all",
        (6e18, 3e21),
        BESIROGLU.allocate,
    ),
    Law(
        "deepseek",
        "DeepSeek-AI 2024, arXiv 2401.02954, equation 4",
        "D = 5.8316 C^0.4757, C / D FLOPs a token",
        "without embeddings, with attention's FLOPs",
        (1e17, 3e20),
        deepseek,
    ),
    Law(
        "llama-3",
        "Llama Team 2024, arXiv 2407.21783, section 3.2.1",
        "D = 0.29 C^0.538",
        "all",
        (6e18, 1e22),
        llama_3,
    ),
)
DEFAULT_LAW = "besiroglu"


def find(name: str) -> Law:
    """The law of that name. Raises KeyError."""
    return {law.name: law for law in LAWS}[name]


def flops_for(law: Law, *, parameters: float | None = None, tokens: float | None = None) -> float:
    """The budget at which a law recommends just these parameters, or just these tokens. Give one of the two.

    Both grow with the budget in every law here, so bisection finds it.
    """
    low, high = 1.0, 1e40
    for _ in range(200):
        middle = math.sqrt(low * high)
        found = law.allocate(middle)
        below = found.parameters < parameters if parameters is not None else found.tokens < (tokens or 0)
        low, high = (middle, high) if below else (low, middle)
    return math.sqrt(low * high)


def batch_and_rate(flops: float) -> tuple[float, float]:
    """Batch in tokens and peak learning rate for a budget: 0.2920 C^0.3271 and 0.3118 C^-0.1250.

    DeepSeek-AI 2024, equation 1: AdamW, fitted on 1e17 to 2e19 FLOPs and then used at 1e24 with success; C as in
    `deepseek`. A wide valley: the paper calls everything within 0.25% of the least loss near-optimal.
    """
    return 0.2920 * flops**0.3271, 0.3118 * flops**-0.1250


def critical_batch(loss: float) -> float:
    """Tokens in a batch beyond which larger batches waste compute: 2e8 / L^(1 / 0.21) (Kaplan et al. 2020, 5.3)."""
    # 1 / 0.21 = 4.76; the paper writes B* L^(-1 / alpha_B)
    return 2e8 / loss ** (1 / 0.21)
