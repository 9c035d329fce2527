"""How many parameters a decoder has and where they are, from its config alone."""

from __future__ import annotations

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
