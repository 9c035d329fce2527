"""QLoRA: the frozen linear maps of the layers in 4 bits (Dettmers et al. 2023, arXiv 2305.14314), by bitsandbytes.

NF4: each block of 64 neighbours in a row is divided by its largest magnitude, and each number becomes the nearest of 16 quantiles
of the normal distribution. Products are computed in the dtype of the activations from weights that are written out for the
moment. Embeddings, norms, output projection and routers stay as they are.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from training.knobs import TrainingError
from training.model import Decoder, Linear

BLOCK = 64  # numbers with one scale


def bitsandbytes() -> Any:
    """The library. Raises `TrainingError` where it is missing or cannot be loaded."""
    try:
        import bitsandbytes
    except ImportError as error:
        raise TrainingError(
            f"kind: qlora needs bitsandbytes ({error}); pip install 'gristmill[qlora]', or use kind: lora"
        ) from None
    return bitsandbytes


class FourBitLinear(Linear):
    """A frozen linear map whose weight is kept in 4 bits, two numbers a byte; `adapter` as in `Linear`."""

    def __init__(self, linear: Linear, double: bool) -> None:
        with torch.device("meta"):
            super().__init__(linear.in_features, linear.out_features)
        if linear.in_features % BLOCK:
            raise TrainingError(f"kind: qlora needs rows of whole blocks of {BLOCK}, got {linear}; use kind: lora")
        self.functional = bitsandbytes().functional
        packed, state = self.functional.quantize_4bit(
            linear.weight.detach().float().contiguous(), blocksize=BLOCK, quant_type="nf4", compress_statistics=double
        )
        self.weight = None  # type: ignore[assignment]
        self.bias = linear.bias
        self.register_buffer("packed", packed, persistent=False)
        self.state = state

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """The scales, which bitsandbytes keeps in an object of its own, move with the module."""
        super()._apply(fn, recurse)
        if self.packed.device.type != "meta":
            self.state.to(self.packed.device)
        return self

    def product(self, x: Tensor) -> Tensor:
        """`[..., inputs] -> [..., outputs]` in the dtype of `x`."""
        return _Product.apply(x, self) if self.bias is None else _Product.apply(x, self) + self.bias.to(x.dtype)

    def full_weight(self) -> Tensor:
        """The weight as it multiplies: float32 `[outputs, inputs]`."""
        return self.functional.dequantize_4bit(self.packed, self.state).view(self.out_features, self.in_features)


class _Product(torch.autograd.Function):
    """The weight is written out in the forward and again in the backward pass, never kept in between."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, linear: FourBitLinear) -> Tensor:
        ctx.linear = linear
        return x @ linear.full_weight().to(x.dtype).T

    @staticmethod
    @torch.autograd.function.once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, of_y: Tensor) -> tuple[Tensor, None]:
        return of_y @ ctx.linear.full_weight().to(of_y.dtype), None


def quantise(model: Decoder, double: bool) -> None:
    """Put every linear map of the layers, except routers, into 4 bits. Raises `TrainingError` if it cannot be."""
    bitsandbytes()
    for key, module in list(model.named_modules()):
        if isinstance(module, Linear) and key.startswith("model.layers.") and not key.endswith(".gate"):
            _replace(model, key, FourBitLinear(module, double))


def restore(model: Decoder) -> None:
    """Write 4-bit weights out as float32; what they lost stays lost."""
    for key, module in list(model.named_modules()):
        if isinstance(module, FourBitLinear):
            with torch.device("meta"):
                linear = Linear(module.in_features, module.out_features)
            linear.weight, linear.bias = nn.Parameter(module.full_weight()), module.bias
            linear.adapter = module.adapter
            _replace(model, key, linear)


def _replace(model: nn.Module, key: str, module: nn.Module) -> None:
    parent, _, name = key.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
