"""What the matrix products are computed in: float32, TF32, bfloat16, 8 bits.

Weights and their updates are float32 always. In bfloat16 a weight is cast where it is used and its gradient cast back
(`model.Linear`), in 8 bits each matrix is scaled by its largest element first, forward and backward (Micikevicius et al. 2022,
FP8 Formats for Deep Learning, arXiv 2209.05433: e4m3 for weights and activations, e5m2 for gradients).
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.knobs import TrainerConfig, TrainingError
from training.model import Linear

FORWARD, BACKWARD = torch.float8_e4m3fn, torch.float8_e5m2
STEP = 16  # rows and columns of 8-bit products come in multiples of this


def set_precision(model: nn.Module, config: TrainerConfig, device: torch.device, dtype: torch.dtype) -> None:
    """Let the products of a decoder be computed as the config says; `dtype` is what the run resolved it to.

    Raises `TrainingError` if the device or the model's shape cannot.
    """
    if config.tf32 and (device.type != "cuda" or dtype != torch.float32):
        raise TrainingError(
            "tf32 is how CUDA computes float32 products; leave it out, or set device=cuda dtype=float32"
        )
    if device.type == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = config.tf32
    if config.float8:
        if device.type != "cuda" or torch.cuda.get_device_capability(device) < (9, 0):
            raise TrainingError("float8 needs a GPU of compute capability 9.0 (H100) or newer; leave it out")
        if dtype != torch.bfloat16:
            raise TrainingError("float8 is for products of bfloat16 activations; set dtype=bfloat16")
        use_float8(model)


def use_float8(model: nn.Module) -> None:
    """Compute the linear maps of all layers in 8 bits, from outside: the parameters and their names stay.

    Embedding, output projection, norms and attention stay in bfloat16. Raises `TrainingError` for maps that do not fit.
    """
    layers: Any = model.model.layers  # type: ignore[union-attr]
    for name, module in layers.named_modules():
        if isinstance(module, Linear):
            if ".experts." in name:
                raise TrainingError("float8 and experts do not go together: the tokens of an expert are of any number")
            if module.in_features % STEP or module.out_features % STEP:
                raise TrainingError(f"float8 needs widths that are multiples of {STEP}; layers.{name} is {module}")
            module.product = partial(_product, module)  # type: ignore[assignment]


def _product(linear: nn.Linear, x: Tensor) -> Tensor:
    rows = x.reshape(-1, x.shape[-1])
    padded = F.pad(rows, (0, 0, 0, -len(rows) % STEP))  # zeros count neither for the scale nor for a gradient
    y = float8_linear(padded, linear.weight)[: len(rows)]
    if linear.bias is not None:
        y = y + linear.bias.to(y.dtype)
    return y.view(*x.shape[:-1], -1)


def float8_linear(x: Tensor, weight: Tensor) -> Tensor:
    """`x [N, inputs] @ weight [outputs, inputs].T` in 8 bits, in the dtype of `x`, differentiable; N a multiple of 16."""
    return _Float8Linear.apply(x, weight)


class _Float8Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return product(*quantise(x, FORWARD), *quantise(weight, FORWARD), x.dtype, fast=True)

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_y: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        given, scale = quantise(of_y, BACKWARD)
        of_x = product(given, scale, *quantise(weight.t(), FORWARD), x.dtype, fast=False)
        of_weight = product(given.t().contiguous(), scale, *quantise(x.t(), FORWARD), x.dtype, fast=False)
        return of_x, of_weight.to(weight.dtype)


def quantise(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A matrix in 8 bits, row by row in memory, and the float32 scalar that it must be multiplied with.

    The largest element becomes the largest number of the format, so nothing overflows; all zeros stay zeros.
    """
    scale = x.abs().amax().float().clamp(min=1e-12) / torch.finfo(dtype).max
    return (x.float() / scale).to(dtype).contiguous(), scale


def product(a: Tensor, of_a: Tensor, b: Tensor, of_b: Tensor, dtype: torch.dtype, fast: bool) -> Tensor:
    """`(of_a * a [M, K]) @ (of_b * b [N, K]).T`; `fast`: sums need not be kept in full float32 (forward passes)."""
    return torch._scaled_mm(a, b.t(), scale_a=of_a, scale_b=of_b, out_dtype=dtype, use_fast_accum=fast)
