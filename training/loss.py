"""What training minimises, as pure functions of hidden states and targets."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # a target that is not predicted


class Losses(NamedTuple):
    """The losses of some rows, all sums, so that how rows are cut into batches changes nothing."""

    objective: Tensor  # float32 scalar, differentiable: the sum over targets of what is minimised
    nll: Tensor  # float32 [B, L], detached: negative log-likelihood of each target in nats, 0 where ignored


def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> Losses:
    """Cross-entropy of the targets int64 `[B, L]` under the logits `hidden [B, L, W] @ weight [V, W].T`, in float32."""
    logits = F.linear(hidden, weight.to(hidden.dtype)).float()
    nll = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="none")
    return Losses(nll.sum(), nll.detach().view_as(targets))
