"""A decoder rearranged for generation: fewer, larger products, and weights in their dtype once and for all.

A token's step is short, so that what counts on a CPU is how many operations there are and how the weights lie in memory. The
model stays the same modules with the same cache; only attention and MLP are replaced by ones whose matrices are joined.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.attention import Sight, attend
from training.model import Attention, Decoder, GatedMLP, Layer, LayerNorm, Linear, PlainMLP, RMSNorm, Trunk
from training.rotary import rotate

if TYPE_CHECKING:
    from training.inference.cache import KeyValueCache

PACKED_ROWS = 32  # that the blocks are chosen for; others work too

# modules that are known to be no more than they seem
PLAIN = (Decoder, Trunk, nn.ModuleList, Layer, Attention, GatedMLP, PlainMLP, Linear, RMSNorm, LayerNorm, nn.Embedding)


def fused(model: Decoder) -> Decoder:
    """A copy for generation, which sees no later change of the weights; the model itself where it cannot be rearranged.

    That is if it has experts, adapters, hooks or shares of weights: whatever is more than the plain decoder of model.py.
    """
    if not all(_is_plain(module) for module in model.modules()) or not all(
        type(parameter) in (nn.Parameter, Tensor) for parameter in model.parameters()
    ):
        return model
    with torch.no_grad():
        new = _shell(model)
        new.model = _shell(model.model)
        new.lm_head = Head(model.lm_head, model.dtype)
        layers = [_fused_layer(layer, model.dtype) for layer in model.model.layers]
        new.model.layers = nn.ModuleList(layers)
    return new.eval()


def _is_plain(module: nn.Module) -> bool:
    changed = module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module)
    return type(module) in (*PLAIN, nn.Identity) and not changed


def _shell(module: Any) -> Any:
    """A shallow copy whose parameters and submodules can be replaced one by one."""
    new = copy.copy(module)
    for table in ("_parameters", "_modules", "_buffers"):
        setattr(new, table, dict(getattr(module, table)))
    return new


def _fused_layer(layer: Any, dtype: torch.dtype) -> Layer:
    new = _shell(layer)
    new.self_attn = FusedAttention(layer.self_attn, dtype)
    if isinstance(layer.mlp, GatedMLP):
        new.mlp = FusedGatedMLP(layer.mlp, dtype)
    else:
        new.mlp = FusedPlainMLP(layer.mlp, dtype)
    return new


class Product:
    """Several linear maps of one input, as one, with the weights as the device's fastest product wants them.

    On a CPU (measured, docs/generation.md): in float32 the inputs lie one behind the other, in bfloat16 the weights are in
    oneDNN's own blocks, which it would otherwise make at each call.
    """

    def __init__(self, linears: list[Any], dtype: torch.dtype) -> None:
        weight = torch.cat([linear.weight.detach() for linear in linears]).to(dtype)
        biases = [linear.bias for linear in linears]
        self.bias = None if biases[0] is None else torch.cat([bias.detach() for bias in biases]).to(dtype)
        self.packed = weight.device.type == "cpu" and dtype == torch.bfloat16 and _can_pack()
        if self.packed:
            self.weight = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_ROWS)
        else:
            exact = weight.device.type == "cpu" and dtype == torch.float32
            self.weight = weight.t().contiguous() if exact else weight.t()

    def __call__(self, x: Tensor) -> Tensor:
        """`[N, inputs] -> [N, outputs]`."""
        if self.packed:
            y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, "none", [], "")
            return y
        return torch.mm(x, self.weight) if self.bias is None else torch.addmm(self.bias, x, self.weight)


class Head(nn.Module):
    """The output projection as a `Product`; `weight` stays as it was, for whoever reads it."""

    def __init__(self, source: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.weight = source.weight
        self.product = Product([source], dtype)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., W] -> [..., V]`."""
        return self.product(x.reshape(-1, x.shape[-1])).view(*x.shape[:-1], -1)


def _can_pack() -> bool:
    """Whether torch was built with oneDNN and multiplies bfloat16 with it here."""
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()


class FusedAttention(nn.Module):
    """`model.Attention` with one product for queries, keys and values."""

    def __init__(self, source: Attention, dtype: torch.dtype) -> None:
        super().__init__()
        self.head_width = source.head_width
        self.qkv = Product([source.q_proj, source.k_proj, source.v_proj], dtype)
        self.out = Product([source.o_proj], dtype)
        self.heads = source.q_proj.out_features // source.head_width
        self.kv_heads = source.k_proj.out_features // source.head_width
        self.normed = not isinstance(source.q_norm, nn.Identity)
        self.q_norm, self.k_norm = source.q_norm, source.k_norm

    def forward(
        self, x: Tensor, turn: tuple[Tensor, Tensor] | None, sight: Sight, cache: KeyValueCache | None, layer: int
    ) -> Tensor:
        """`[B, L, W] -> [B, L, W]`, as `model.Attention`."""
        rows, length, width = x.shape
        both = self.heads + self.kv_heads
        found = self.qkv(x.reshape(-1, width)).view(rows, length, -1, self.head_width)
        value = found[:, :, both:].transpose(1, 2)
        if self.normed:
            query = self.q_norm(found[:, :, : self.heads]).transpose(1, 2)
            key = self.k_norm(found[:, :, self.heads : both]).transpose(1, 2)
            if turn is not None:
                query, key = rotate(query, *turn), rotate(key, *turn)
        else:
            turned = found[:, :, :both].transpose(1, 2)
            if turn is not None:
                turned = rotate(turned, *turn)
            query, key = turned[:, : self.heads], turned[:, self.heads :]
        if cache is not None:
            key, value = cache.extend(layer, key, value)
        y = attend(query, key, value, sight).transpose(1, 2).reshape(rows * length, -1)
        return self.out(y).view(rows, length, -1)


class FusedGatedMLP(nn.Module):
    """`model.GatedMLP` with one product for gate and up."""

    def __init__(self, source: GatedMLP, dtype: torch.dtype) -> None:
        super().__init__()
        self.up = Product([source.gate_proj, source.up_proj], dtype)
        self.down = Product([source.down_proj], dtype)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, W] -> [B, L, W]`."""
        gate, up = self.up(x.reshape(-1, x.shape[-1])).chunk(2, dim=-1)
        return self.down(F.silu(gate).mul_(up)).view(x.shape)


class FusedPlainMLP(nn.Module):
    """`model.PlainMLP`."""

    def __init__(self, source: Any, dtype: torch.dtype) -> None:
        super().__init__()
        self.up = Product([source.up_proj], dtype)
        self.down = Product([source.down_proj], dtype)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, W] -> [B, L, W]`."""
        y = F.gelu(self.up(x.reshape(-1, x.shape[-1])), approximate="tanh")
        return self.down(y).view(x.shape)
