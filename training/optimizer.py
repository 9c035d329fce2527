"""AdamW with decay groups, and gradient clipping."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from training.config import PretrainConfig


def build_optimizer(model: nn.Module, config: PretrainConfig) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019), fused. Matrices and embeddings decay, norms do not (as in nanoGPT)."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(config.beta1, config.beta2), fused=True)


def clip_gradient(model: nn.Module, limit: float) -> Tensor:
    """Scale the gradient down to norm `limit` if it is longer (0: never). Returns its norm before, a float32 scalar."""
    return nn.utils.clip_grad_norm_(model.parameters(), limit if limit > 0 else math.inf)
