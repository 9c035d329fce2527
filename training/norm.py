"""Root-mean-square normalisation, and why it is not torch's on a CPU.

There `F.rms_norm` is made of six operations on whole tensors, each kept for the backward pass: a layer's two norms took
longer than its attention. Here some rows go through all of them while they lie in the cache, and only the input and one
number a row are kept. A compiler does the like by itself and CUDA has a kernel, so both get torch's; so do few rows without
gradients, as in generation, where the number of operations counts.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

CACHED_ROWS = 128  # that go through together; medians of 64 to 512 rows were within a fifth of each other


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Each `[W]` of `x` at unit root mean square, times `weight [W]`: computed in float32, in the dtype of `x`.

    Zhang and Sennrich 2019 (arXiv 1910.07467). Only first derivatives outside a compiler and CUDA.
    """
    few = x.numel() <= CACHED_ROWS * x.shape[-1] and not torch.is_grad_enabled()
    if few or x.is_cuda or torch.compiler.is_compiling():
        return F.rms_norm(x.float(), (x.shape[-1],), weight.float(), eps).to(x.dtype)
    return _RMSNorm.apply(x, weight, eps)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        y, scale = torch.empty_like(rows), rows.new_empty((rows.shape[0], 1), dtype=torch.float32)
        for part in _parts(rows):
            exact = rows[part].to(torch.float32, copy=True)
            norm = torch.linalg.vector_norm(exact, dim=-1, keepdim=True)
            scale[part] = norm.square_().div_(rows.shape[-1]).add_(eps).rsqrt_()
            y[part] = exact.mul_(scale[part]).mul_(weight)
        ctx.save_for_backward(x, weight, scale)
        return y.view(x.shape)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_y: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        width = x.shape[-1]
        rows, given = x.reshape(-1, width), of_y.reshape(-1, width)
        of_x, of_weight = torch.empty_like(rows), torch.zeros_like(weight, dtype=torch.float32)
        for part in _parts(rows):
            unit = rows[part].float() * scale[part]
            of_scaled = given[part].to(torch.float32, copy=True)
            along = of_scaled * unit
            of_weight += along.sum(0)
            share = (along @ weight.float())[:, None].div_(-width)  # of the gradient that only changes the length
            of_x[part] = of_scaled.mul_(weight).addcmul_(unit, share).mul_(scale[part])
        return of_x.view(x.shape), of_weight.to(weight.dtype), None


def _parts(rows: Tensor) -> list[slice]:
    return [slice(start, start + CACHED_ROWS) for start in range(0, rows.shape[0], CACHED_ROWS)]
