"""Rotary positions (Su et al. 2021, arXiv 2104.09864), and how their angles are stretched for longer contexts.

Everything here agrees with `modeling_rope_utils` of transformers (tested), since a checkpoint only works with the angles
that it was trained with.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from training.presets import RopeScaling


def frequencies(
    head_width: int, theta: float, scaling: RopeScaling | None, context_length: int, device: torch.device
) -> tuple[Tensor, float]:
    """Angle per position of each pair of coordinates, float32 `[D/2]`, and the factor on cosines and sines.

    Pair i turns by theta^(-2i/D). `context_length` stands in where the scaling names no original context.
    """
    powers = torch.arange(0, head_width, 2, device=device, dtype=torch.int64).float() / head_width
    plain = 1.0 / theta**powers
    if scaling is None:
        return plain, 1.0
    original = scaling.original_max_position_embeddings or context_length
    if scaling.rope_type == "linear":
        return plain / scaling.factor, 1.0
    if scaling.rope_type == "llama3":
        return _llama3(plain, scaling, original), 1.0
    return _yarn(plain, head_width, theta, scaling, original)


def _llama3(plain: Tensor, scaling: RopeScaling, original: int) -> Tensor:
    """Slow pairs turn `factor` times slower, fast ones as before, those between are interpolated (Llama 3.1's model code)."""
    turns = original * plain / (2 * math.pi)  # of a pair over the original context
    fast = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    fast = fast.clamp(0, 1)
    return (1 - fast) * plain / scaling.factor + fast * plain


def _yarn(plain: Tensor, head_width: int, theta: float, scaling: RopeScaling, original: int) -> tuple[Tensor, float]:
    """YaRN (Peng et al. 2023, arXiv 2309.00071): like llama3 by the index of the pair, and sharper attention."""

    def pair_that_turns(times: float) -> float:
        return head_width * math.log(original / (times * 2 * math.pi)) / (2 * math.log(theta))

    first, last = pair_that_turns(scaling.beta_fast), pair_that_turns(scaling.beta_slow)
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, head_width - 1)
    ramp = torch.arange(head_width // 2, device=plain.device, dtype=torch.float32) - first
    slow = (ramp / ((last - first) or 0.001)).clamp(0, 1)
    return plain / scaling.factor * slow + plain * (1 - slow), _yarn_sharpness(scaling)


def _yarn_sharpness(scaling: RopeScaling) -> float:
    def grown(by: float) -> float:
        return 1.0 if scaling.factor <= 1 else 0.1 * by * math.log(scaling.factor) + 1.0

    if scaling.attention_factor is not None:
        return scaling.attention_factor
    if scaling.mscale and scaling.mscale_all_dim:
        return grown(scaling.mscale) / grown(scaling.mscale_all_dim)
    return grown(1.0)


def rotary(positions: Tensor, frequency: Tensor, factor: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles at positions int64 `[B, L]`: two `[B, 1, L, D]`, computed in float32."""
    angles = positions[..., None].float() * frequency  # [B, L, D/2]
    angles = torch.cat((angles, angles), dim=-1)[:, None]
    return (angles.cos() * factor).to(dtype), (angles.sin() * factor).to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of coordinates (i and i + D/2) of `[B, heads, L, D]` by its angle."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def sinusoids(positions: Tensor, width: int) -> Tensor:
    """The fixed position vectors of Vaswani et al. 2017 (arXiv 1706.03762, section 3.5): float32 `[..., W]`.

    Sines at even coordinates, cosines at odd ones, times 0.02: there the embeddings have a deviation of 1 and these an
    amplitude of 1, here the embeddings begin with 0.02.
    """
    powers = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
    angles = positions[..., None].float() / 10_000.0**powers
    return 0.02 * torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)
