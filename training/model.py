"""A Llama-architecture decoder in plain PyTorch: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Weights carry the names of transformers' `LlamaForCausalLM` and mean the same there, so a state dict is a checkpoint.
Shapes in comments: B rows, L positions, W width, H query heads, K key/value heads, D head width, V vocabulary.

Sources: Touvron et al. 2023 (Llama, arXiv 2302.13971); Su et al. 2021 (rotary positions, arXiv 2104.09864);
Zhang and Sennrich 2019 (RMSNorm, arXiv 1910.07467); Shazeer 2020 (SwiGLU, arXiv 2002.05202); Ainslie et al. 2023
(grouped-query attention, arXiv 2305.13245).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.loss import token_losses


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a decoder. `head_width` is `width / heads` unless a loaded checkpoint says otherwise."""

    vocab_size: int
    context_length: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    mlp_width: int
    head_width: int
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    tie_embeddings: bool = True


class Linear(nn.Linear):
    """A linear map without bias whose float32 weight is cast to the dtype of its input.

    The optimizer always sees float32 master weights; in bfloat16 only the matrix products and the activations are.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[..., inputs] -> [..., outputs]` in the dtype of `x`."""
        return F.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    """Scale each position to unit root mean square, in float32, then by a learned weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """`[..., W] -> [..., W]` in the dtype of `x`."""
        return F.rms_norm(x.float(), (x.shape[-1],), self.weight, self.eps).to(x.dtype)


class KeyValueCache:
    """Keys and values of the positions seen so far, per layer, so that a new token costs one position."""

    def __init__(
        self, config: ModelConfig, rows: int, positions: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (config.layers, rows, config.kv_heads, positions, config.head_width)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.length = 0

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store `[B, K, L, D]` behind what is there; give back all positions. `length` moves on after the last layer."""
        end = self.length + key.shape[2]
        self.keys[layer, :, :, self.length : end] = key
        self.values[layer, :, :, self.length : end] = value
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]


class Attention(nn.Module):
    """Causal self-attention; every `heads / kv_heads` query heads share one key and value head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.heads, self.kv_heads, self.head_width = config.heads, config.kv_heads, config.head_width
        self.q_proj = Linear(config.width, config.heads * config.head_width)
        self.k_proj = Linear(config.width, config.kv_heads * config.head_width)
        self.v_proj = Linear(config.width, config.kv_heads * config.head_width)
        self.o_proj = Linear(config.heads * config.head_width, config.width)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KeyValueCache | None, layer: int
    ) -> Tensor:
        """`[B, L, W] -> [B, L, W]`; `mask` is `[B or 1, 1, L, keys]`, true where a query sees a key; None is causal."""
        rows, length, _ = x.shape
        query = self.q_proj(x).view(rows, length, self.heads, self.head_width).transpose(1, 2)  # [B, H, L, D]
        key = self.k_proj(x).view(rows, length, self.kv_heads, self.head_width).transpose(1, 2)  # [B, K, L, D]
        value = self.v_proj(x).view(rows, length, self.kv_heads, self.head_width).transpose(1, 2)
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        if cache is not None:
            key, value = cache.extend(layer, key, value)
        if self.kv_heads != self.heads:
            key = key.repeat_interleave(self.heads // self.kv_heads, dim=1)
            value = value.repeat_interleave(self.heads // self.kv_heads, dim=1)
        y = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None)
        return self.o_proj(y.transpose(1, 2).reshape(rows, length, -1))


class MLP(nn.Module):
    """The gated feed-forward block: silu(gate) * up, projected back down."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate_proj = Linear(config.width, config.mlp_width)
        self.up_proj = Linear(config.width, config.mlp_width)
        self.down_proj = Linear(config.mlp_width, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, L, W] -> [B, L, W]`."""
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    """Attention and MLP, each on normalised input and added to the residual stream."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.input_layernorm = RMSNorm(config.width, config.norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.width, config.norm_eps)
        self.mlp = MLP(config)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None, cache: KeyValueCache | None, layer: int
    ) -> Tensor:
        """`[B, L, W] -> [B, L, W]`."""
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask, cache, layer)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    """Embedding, layers and the last norm: `model.*` in the names of transformers."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.width)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_eps)


class Decoder(nn.Module):
    """The layers with the output projection. `dtype` is that of activations and matrix products, not of the weights."""

    def __init__(self, config: ModelConfig, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.config, self.dtype = config, dtype
        self.z_loss = 0.0  # see loss.token_losses; a trainer sets it
        self.model = Trunk(config)
        self.lm_head = Linear(config.width, config.vocab_size)
        self.tie()

    def tie(self) -> None:
        """Make the output projection the input embedding, if the config says so; moving off `meta` parts them."""
        if self.config.tie_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    def initialise(self, seed: int) -> Decoder:
        """Draw all weights from a private generator: normal, 0.02; projections into the residual stream smaller.

        The scale 1 / sqrt(2 * layers) of the latter keeps the residual's variance at start (Radford et al. 2019, GPT-2).
        """
        generator = torch.Generator().manual_seed(seed)
        residual = 0.02 / math.sqrt(2 * self.config.layers)
        for name, parameter in self.named_parameters():
            if parameter.dim() < 2:
                nn.init.ones_(parameter)
            else:
                std = residual if name.endswith(("o_proj.weight", "down_proj.weight")) else 0.02
                nn.init.normal_(parameter, 0.0, std, generator=generator)
        return self

    def forward(
        self,
        tokens: Tensor,
        targets: Tensor | None = None,
        documents: Tensor | None = None,
        cache: KeyValueCache | None = None,
    ) -> Any:
        """Predict the next token at every position.

        tokens: int64 `[B, L]`. targets: int64 `[B, L]`, `IGNORED` where nothing is predicted. documents: integers
        `[B, L]` as the packer gives them; if given, a position sees only its own document and positions restart at 0
        in each. cache: keys and values of earlier positions of the same rows (not together with `documents`).

        Returns float32 logits `[B, L, V]`, or with `targets` `loss.Losses`.
        """
        length = tokens.shape[1]
        past = 0 if cache is None else cache.length
        mask: Tensor | None
        if documents is not None:
            positions, mask = document_positions(documents), document_mask(documents)
        else:
            positions = torch.arange(past, past + length, device=tokens.device)[None]
            # is_causal aligns queries with the first keys, which is wrong as soon as there is a past
            mask = None if past == 0 else positions[0][:, None] >= torch.arange(past + length, device=tokens.device)
        cos, sin = rotary(positions, self.config.head_width, self.config.rope_theta, self.dtype)

        x = self.model.embed_tokens(tokens).to(self.dtype)
        for number, layer in enumerate(self.model.layers):
            x = layer(x, cos, sin, mask, cache, number)
        if cache is not None:
            cache.length += length
        x = self.model.norm(x)
        if targets is None:
            return self.lm_head(x).float()
        return token_losses(x, self.lm_head.weight, targets, self.z_loss)


def rotary(positions: Tensor, head_width: int, theta: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the angles of each position: two `[B, 1, L, D]`, computed in float32.

    Pair i of a head (its coordinates i and i + D/2) turns by position * theta^(-2i/D).
    """
    pairs = torch.arange(0, head_width, 2, device=positions.device, dtype=torch.float32)
    angles = positions[..., None].float() * theta ** (-pairs / head_width)  # [B, L, D/2]
    angles = torch.cat((angles, angles), dim=-1)[:, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair of coordinates of `[B, heads, L, D]` by its angle."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def document_starts(documents: Tensor) -> Tensor:
    """True at the first position of each document of a row: `[B, L]`.

    A boundary is a change of the packer's document number, never a token id: text may hold any token.
    """
    changed = documents[:, 1:] != documents[:, :-1]
    return F.pad(changed, (1, 0), value=True)


def document_positions(documents: Tensor) -> Tensor:
    """Positions that restart at 0 in each document: int64 `[B, L]`."""
    index = torch.arange(documents.shape[1], device=documents.device).expand(documents.shape)
    return index - torch.where(document_starts(documents), index, 0).cummax(dim=1).values


def document_mask(documents: Tensor) -> Tensor:
    """True where a query may see a key: not later, and in the same document. `[B, 1, L, L]`."""
    segment = document_starts(documents).cumsum(dim=1)
    same = segment[:, :, None] == segment[:, None, :]
    return same.tril()[:, None]
