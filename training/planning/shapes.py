"""How many parameters a decoder has and where they are, from its config alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

from training.config import PretrainConfig


@dataclass(frozen=True)
class Shape:
    """What decides memory and arithmetic of a decoder. Widths are in elements."""

    vocab_size: int
    context_length: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    tie_embeddings: bool

    @property
    def query_width(self) -> int:
        """Elements of all query heads at one position."""
        return self.heads * self.head_width

    @property
    def key_width(self) -> int:
        """Elements of all key heads at one position."""
        return self.kv_heads * self.head_width


def shape_of(config: PretrainConfig, vocab_size: int, context_length: int) -> Shape:
    """The shape that a config gives over a vocabulary and rows of `context_length` tokens."""
    return Shape(
        vocab_size=vocab_size,
        context_length=context_length,
        layers=config.layers,
        width=config.width,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_width=config.width // config.heads,
        mlp_width=config.mlp_width,
        tie_embeddings=config.tie_embeddings,
    )


@dataclass(frozen=True)
class Parameters:
    """Trained numbers by place. `matrices` of the layers take part in products at every token; embeddings are looked up."""

    embedding: int
    head: int  # 0 if it is the embedding
    attention: int
    mlp: int
    norms: int

    @property
    def total(self) -> int:
        """All of them, tied matrices once."""
        return self.embedding + self.head + self.attention + self.mlp + self.norms

    @property
    def without_embeddings(self) -> int:
        """What Kaplan et al. 2020 and DeepSeek-AI 2024 count: no embedding, no output projection."""
        return self.attention + self.mlp + self.norms

    @property
    def matrices(self) -> int:
        """Elements of the matrices of all layers."""
        return self.attention + self.mlp


def count(shape: Shape) -> Parameters:
    """The parameters of a decoder of that shape."""
    table = shape.vocab_size * shape.width
    attention = shape.width * (shape.query_width + 2 * shape.key_width) + shape.query_width * shape.width
    return Parameters(
        embedding=table,
        head=0 if shape.tie_embeddings else table,
        attention=shape.layers * attention,
        mlp=shape.layers * 3 * shape.width * shape.mlp_width,
        norms=(2 * shape.layers + 1) * shape.width,
    )


def flops_per_token(shape: Shape) -> float:
    """FLOPs of training on one token: 6 a matrix element, and 12 x query width x row length a layer for attention.

    The row's length is counted whole, masked or not (the convention of PaLM, Chowdhery et al. 2022, appendix B).
    """
    products = count(shape).matrices + shape.vocab_size * shape.width
    return 6 * products + 12 * shape.layers * shape.query_width * shape.context_length


def knobs_at_depth(depth: int) -> dict[str, int]:
    """The knobs of a decoder of `depth` layers: 64 times as wide, heads of 64 or 128, gated MLP of 8/3 the width."""
    width = 64 * depth
    head_width = 128 if width >= 2048 and width % 128 == 0 else 64
    heads = width // head_width
    return {
        "layers": depth,
        "width": width,
        "heads": heads,
        "kv_heads": heads,
        "mlp_width": 64 * round(8 * width / 3 / 64),
    }


def nearest_depth(parameters: float, vocab_size: int, context_length: int, embeddings: bool = True) -> int:
    """The depth whose model comes nearest to that many parameters, with embeddings or without, by ratio."""

    def error(depth: int) -> float:
        found = count(at_depth(depth, vocab_size, context_length))
        return abs(math.log((found.total if embeddings else found.without_embeddings) / parameters))

    return min(range(1, 257), key=error)


def at_depth(depth: int, vocab_size: int, context_length: int) -> Shape:
    """The shape of `knobs_at_depth`, with the projection tied to the embedding."""
    knobs = knobs_at_depth(depth)
    return Shape(vocab_size, context_length, head_width=knobs["width"] // knobs["heads"], tie_embeddings=True, **knobs)
