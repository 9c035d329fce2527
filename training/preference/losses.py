"""What is minimised over preference pairs, as pure functions of log-probabilities or scores: a loss for each pair.

The losses of a step are summed and divided by its number of pairs over all micro-batches and processes, so that how pairs are
cut into batches changes nothing.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

DpoLoss = Literal["sigmoid", "ipo"]


def dpo_losses(
    chosen: Tensor,
    rejected: Tensor,
    beta: float,
    kind: DpoLoss = "sigmoid",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The loss of each pair `[N]`, from `log_ratios` of its answers, each `[N]`.

    sigmoid: -log sigmoid(beta * (chosen - rejected)) (Rafailov et al. 2023, arXiv 2305.18290, equation 7); label_smoothing:
    the share of pairs that are thought to be the wrong way round (cDPO, Mitchell 2023; 0 to below 0.5). ipo: the squared
    distance of the difference from 1 / (2 * beta) (Azar et al. 2023, arXiv 2310.12036, equation 17); its authors mean log-ratios
    by token, see `log_ratios`.
    """
    difference = chosen - rejected
    if kind == "ipo":
        return (difference - 1 / (2 * beta)).square()
    logits = beta * difference
    return -(1 - label_smoothing) * F.logsigmoid(logits) - label_smoothing * F.logsigmoid(-logits)


def log_ratios(logprobs: Tensor, reference: Tensor | None, lengths: Tensor | None = None) -> Tensor:
    """What an answer's log-probability has gained over the reference's: all `[N]`, in nats.

    reference: None for none (a uniform one: its log-probability cancels between answers). lengths: tokens of each answer, to
    give means by token (as SimPO and the authors of IPO do, since sums make long answers count more).
    """
    ratios = logprobs if reference is None else logprobs - reference
    return ratios if lengths is None else ratios / lengths.clamp(min=1)


def bradley_terry_losses(
    chosen: Tensor, rejected: Tensor, margins: Tensor | None = None, centring: float = 0.0
) -> Tensor:
    """The loss of each pair `[N]` from the scores of its answers: -log sigmoid(chosen - rejected - margin).

    Bradley and Terry 1952; margins `[N]`: by how much the better answer is better (Touvron et al. 2023, Llama 2, arXiv 2307.09288,
    section 3.2.2). centring times the squared sum of both scores keeps them near zero, since the first term sees only their
    difference (Eisenstein et al. 2023, arXiv 2312.09244).
    """
    difference = chosen - rejected
    losses = -F.logsigmoid(difference if margins is None else difference - margins)
    return losses + centring * (chosen + rejected).square() if centring else losses


def preferred(differences: Tensor) -> Tensor:
    """How right each pair is, `[N]`: 1 where the chosen answer scores higher, 0 where lower, 1/2 for a tie.

    A tie is a guess: a model that scores all answers alike is right half the time, not never.
    """
    return (torch.sign(differences) + 1) / 2
