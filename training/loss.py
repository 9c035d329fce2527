"""What training minimises, as pure functions of hidden states and targets.

The logits of a batch are its largest tensor by far (two rows of 151,665 words took 310 MB for some), and only their
gradient is of use once the loss is known. So they exist for `CHUNK_ROWS` positions at a time, and the gradients of hidden
states and weight are computed in the forward pass, chunk by chunk, as in Hsu et al. 2024 (Liger Kernel, arXiv 2410.10989).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

IGNORED = -100  # a target that is not predicted

# Positions whose logits exist at a time. Each chunk adds to the whole gradient of the weight, which is memory traffic of
# vocabulary x width whatever the chunk: so not too few.
CHUNK_ROWS = 1024
# Positions that go through the softmax at a time on a CPU, so that their logits stay in its cache from pass to pass.
CACHED_ROWS = 128


class Losses(NamedTuple):
    """The losses of some rows, all sums, so that how rows are cut into batches changes nothing."""

    objective: Tensor  # float32 scalar, differentiable: the sum over targets of what is minimised
    nll: Tensor  # float32 [B, L], detached: negative log-likelihood of each target in nats, 0 where ignored


def token_losses(
    hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float = 0.0, chunk_rows: int = CHUNK_ROWS
) -> Losses:
    """Cross-entropy of the targets int64 `[B, L]` under the logits `hidden [B, L, W] @ weight [V, W].T`.

    The products are in the dtype of `hidden`, everything after them in float32 (float64 stays). z_loss times the square
    of log Z, the logarithm of the softmax's denominator, is added to each target's loss: it keeps the logits from
    drifting (Chowdhery et al. 2022, PaLM, section 5: 1e-4). Only first derivatives; no gradient flows through `nll`.
    """
    wanted = torch.is_grad_enabled() and (hidden.requires_grad or weight.requires_grad)
    rows, flat = hidden.reshape(-1, hidden.shape[-1]), targets.reshape(-1)
    if wanted:
        learns = weight.requires_grad  # the gradient of a frozen one would cost a third of the products
        objective, nll = _LinearCrossEntropy.apply(rows, weight, flat, z_loss, chunk_rows, learns)
    else:
        objective, nll, _, _ = _chunked(rows, weight, flat, z_loss, chunk_rows, False, False)
    return Losses(objective, nll.detach().view(targets.shape))


class _LinearCrossEntropy(torch.autograd.Function):
    """Linear map and cross-entropy in one; what the backward pass has left to do is a multiplication."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float, chunk_rows: int, learns: bool
    ) -> tuple[Tensor, Tensor]:
        objective, nll, of_hidden, of_weight = _chunked(hidden, weight, targets, z_loss, chunk_rows, True, learns)
        ctx.save_for_backward(of_hidden, of_weight)
        ctx.mark_non_differentiable(nll)
        return objective, nll

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_objective: Tensor, _: Tensor) -> tuple[Tensor, Tensor | None, None, None, None, None]:
        of_hidden, of_weight = ctx.saved_tensors
        scaled = of_weight * of_objective if ctx.needs_input_grad[1] else None
        return (of_hidden * of_objective).to(of_hidden.dtype), scaled, None, None, None, None


def _chunked(
    hidden: Tensor, weight: Tensor, targets: Tensor, z_loss: float, chunk_rows: int, gradients: bool, learns: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Objective, nll `[N]`, and (if `gradients`) those of hidden `[N, W]` and (if it `learns`) weight `[V, W]` in their dtypes."""
    cast = weight.to(hidden.dtype)
    exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    whole = hidden.is_cuda or torch.compiler.is_compiling()  # a compiler fuses the passes, a GPU has no such cache
    nlls, squares, of_hidden = [], [], []
    of_weight = torch.zeros_like(weight, dtype=exact) if learns else weight.new_empty(0)
    for start in range(0, hidden.shape[0], chunk_rows):
        part = hidden[start : start + chunk_rows]
        wanted = targets[start : start + chunk_rows]
        logits = part @ cast.T
        step = chunk_rows if whole else CACHED_ROWS
        blocks = []
        for at in range(0, part.shape[0], step):
            block = logits[at : at + step]
            nll, log_z, gradient = _softmax_losses(block.to(exact), wanted[at : at + step], z_loss, gradients)
            nlls.append(nll)
            squares.append(log_z)
            if gradients and whole:
                blocks.append(gradient.to(hidden.dtype))
            elif gradients:
                block.copy_(gradient)
        if gradients:
            of_logits = blocks[0] if whole else logits
            of_hidden.append(of_logits @ cast)
            if learns:
                of_weight = of_weight + of_logits.T @ part if whole else of_weight.add_(of_logits.T @ part)
    nll = torch.cat(nlls)
    objective = nll.sum()
    if z_loss:
        objective = objective + z_loss * torch.cat(squares).square().sum()
    return objective, nll, torch.cat(of_hidden) if gradients else hidden, of_weight.to(weight.dtype)


def _softmax_losses(logits: Tensor, targets: Tensor, z_loss: float, gradients: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Of logits `[N, V]`: nll `[N]`, log Z `[N]` (both 0 where ignored), and the gradient of the objective `[N, V]`."""
    seen = targets != IGNORED
    index = targets.where(seen, 0)[:, None]
    largest, of_target = logits.amax(1, keepdim=True), logits.gather(1, index)
    if not gradients:
        log_z = logits.logsumexp(1, keepdim=True)
        gradient = logits
    else:
        gradient = logits.softmax(1)
        # the largest probability is at least 1/V, so its logarithm is exact where that of the target's may not be
        log_z = largest - gradient.amax(1, keepdim=True).log()
        one = seen[:, None].to(logits.dtype)
        gradient = gradient.mul_(one * (1 + 2 * z_loss * log_z)).scatter_add_(1, index, -one)
    return (log_z - of_target)[:, 0].where(seen, 0), log_z[:, 0].where(seen, 0), gradient
