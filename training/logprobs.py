"""Log-probabilities of tokens, for losses that weigh each of them: preferences, policies, distillation.

As in loss.py, the logits exist for a stretch of positions at a time. What weighs a token is known only in the backward pass,
so that computes the logits of each stretch again instead of keeping them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.loss import CHUNK_ROWS, IGNORED


class TokenScores(NamedTuple):
    """Of each target, float32 `[B, L]`, differentiable, 0 where ignored."""

    logprobs: Tensor  # log of its probability, in nats
    entropies: Tensor  # of the distribution that it was drawn from, in nats


def token_scores(
    hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float = 1.0, chunk_rows: int = CHUNK_ROWS
) -> TokenScores:
    """Log-probability of each target int64 `[B, L]` under softmax(hidden `[B, L, W]` @ weight `[V, W]`.T / temperature), and entropy.

    Products are in the dtype of `hidden`, everything after them in float32 (float64 stays). Only first derivatives.
    """
    rows, flat = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    logprobs, entropies = _TokenScores.apply(rows, weight, flat, temperature, chunk_rows)
    return TokenScores(logprobs.view(targets.shape), entropies.view(targets.shape))


class _TokenScores(torch.autograd.Function):
    """Logits by chunks, forward and again backward."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float, chunk_rows: int
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(hidden, weight, targets)
        ctx.temperature, ctx.chunk_rows = temperature, chunk_rows
        cast = weight.to(hidden.dtype)
        found: list[tuple[Tensor, Tensor]] = []
        for start in range(0, hidden.shape[0], chunk_rows):
            logp = _log_softmax(hidden[start : start + chunk_rows], cast, temperature)
            wanted = targets[start : start + chunk_rows]
            seen = wanted != IGNORED
            chosen = logp.gather(1, wanted.where(seen, 0)[:, None])[:, 0].where(seen, 0)
            found.append((chosen, _entropy(logp).where(seen, 0)))
        if not found:
            empty = torch.zeros_like(targets, dtype=torch.float32)
            return empty, empty.clone()
        return torch.cat([a for a, _ in found]), torch.cat([b for _, b in found])

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_logprobs: Tensor, of_entropies: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        hidden, weight, targets = ctx.saved_tensors
        temperature, chunk_rows = ctx.temperature, ctx.chunk_rows
        cast = weight.to(hidden.dtype)
        of_hidden = torch.zeros_like(hidden)
        of_weight = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None  # a frozen one has none
        for start in range(0, hidden.shape[0], chunk_rows):
            part = slice(start, start + chunk_rows)
            logp = _log_softmax(hidden[part], cast, temperature)
            p, seen = logp.exp(), targets[part] != IGNORED
            up = torch.where(seen, of_logprobs[part], 0)[:, None]
            entropy_up = torch.where(seen, of_entropies[part], 0)[:, None]
            # d logp_t / d logit_j = [j = t] - p_j; d H / d logit_j = -p_j (logp_j + H)
            gradient = -p * (up + entropy_up * (logp.clamp(min=torch.finfo(logp.dtype).min) + _entropy(logp)[:, None]))
            gradient.scatter_add_(1, targets[part].where(seen, 0)[:, None], up)
            gradient = (gradient / temperature).to(hidden.dtype)
            of_hidden[part] = gradient @ cast
            if of_weight is not None:
                of_weight += (gradient.T @ hidden[part]).to(weight.dtype)
        return of_hidden, of_weight, None, None, None


def _log_softmax(hidden: Tensor, weight: Tensor, temperature: float) -> Tensor:
    exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    return (hidden @ weight.T).to(exact).div_(temperature).log_softmax(dim=-1)


def _entropy(logp: Tensor) -> Tensor:
    """Entropy of rows of log-probabilities `[N, V]`: `[N]`. A probability of 0 adds 0."""
    return -(logp.exp() * logp.clamp(min=torch.finfo(logp.dtype).min)).sum(dim=-1)
