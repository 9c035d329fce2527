"""How many parameters a decoder has and where they are, from its config alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

from training.config import PretrainConfig, resolve
from training.flops import flops_per_token

DEEPEST = 200  # of the sizes that `nearest_depth` tries: 12,800 wide, about 400 billion parameters


@dataclass(frozen=True)
class Shape:
    """What decides memory and arithmetic of a decoder. Widths are in elements."""

    vocab_size: int  # rows of the embedding
    context_length: int
    layers: int
    width: int
    heads: int
    kv_heads: int
    head_width: int
    mlp_width: int
    tie_embeddings: bool
    architecture: str = "llama"
    positions: str = "rotary"
    norm: str = "pre"
    experts: int = 0
    experts_per_token: int = 0
    window: int | None = None

    @property
    def query_width(self) -> int:
        """Elements of all query heads at one position."""
        return self.heads * self.head_width

    @property
    def key_width(self) -> int:
        """Elements of all key heads at one position."""
        return self.kv_heads * self.head_width

    @property
    def embedding_rows(self) -> int:
        """Rows of the embedding, as `flops.Dimensions` calls them."""
        return self.vocab_size

    @property
    def gpt2(self) -> bool:
        """Whether it has GPT-2's parts: LayerNorm, a plain MLP, biases."""
        return self.architecture == "gpt2"


def shape_of(config: PretrainConfig, vocab_size: int, context_length: int) -> Shape:
    """The shape that a config gives over a tokenizer of `vocab_size` ids and rows of `context_length` tokens."""
    ids = config.vocab_size or vocab_size
    return Shape(
        vocab_size=-(-ids // config.pad_vocabulary) * config.pad_vocabulary,
        context_length=context_length,
        layers=config.layers,
        width=config.width,
        heads=config.heads,
        kv_heads=config.kv_heads,
        head_width=config.head_width or config.width // config.heads,
        mlp_width=config.mlp_width,
        tie_embeddings=config.tie_embeddings,
        architecture=config.architecture,
        positions=config.positions,
        norm=config.norm,
        experts=config.experts,
        experts_per_token=config.experts_per_token if config.experts else 0,
        window=config.sliding_window,
    )


@dataclass(frozen=True)
class Parameters:
    """Trained numbers by place. Tied matrices count once, in `embedding`."""

    embedding: int  # of tokens and, if learned, of positions
    head: int  # 0 if it is the embedding
    attention: int
    mlp: int
    norms: int
    unused: int  # of the MLPs: experts that a token does not go through

    @property
    def total(self) -> int:
        """All of them."""
        return self.embedding + self.head + self.attention + self.mlp + self.norms

    @property
    def active(self) -> int:
        """Those that a token meets: all but the experts that it does not go through."""
        return self.total - self.unused

    @property
    def layers(self) -> int:
        """What Kaplan et al. 2020 and DeepSeek-AI 2024 count: no embedding, no output projection."""
        return self.attention + self.mlp + self.norms


def count(shape: Shape) -> Parameters:
    """The parameters of a decoder of that shape, as training/model.py makes them."""
    width, inner = shape.width, shape.mlp_width
    table = shape.vocab_size * width
    projected = shape.query_width + 2 * shape.key_width
    attention = width * projected + shape.query_width * width
    mlp = 2 * width * inner if shape.gpt2 else 3 * width * inner
    norm = width
    if shape.gpt2:
        attention, mlp, norm = attention + projected + width, mlp + inner + width, 2 * width
    unused = 0
    if shape.experts:
        unused = (shape.experts - shape.experts_per_token) * mlp
        mlp = shape.experts * mlp + shape.experts * width  # and the router
    of_heads = 2 * shape.head_width if shape.architecture == "qwen3" else 0
    return Parameters(
        embedding=table + (shape.context_length * width if shape.positions == "learned" else 0),
        head=0 if shape.tie_embeddings else table,
        attention=shape.layers * attention,
        mlp=shape.layers * mlp,
        norms=shape.layers * (2 * norm + of_heads) + (norm if shape.norm == "pre" else 0),
        unused=shape.layers * unused,
    )


def matrices(shape: Shape) -> int:
    """Elements of all matrices in the layers, experts that a token does not meet included."""
    found = count(shape)
    biases = 0
    if shape.gpt2:
        biases = shape.layers * (shape.query_width + 2 * shape.key_width + 2 * shape.width + shape.mlp_width)
    return found.attention + found.mlp - biases


def training_flops(shape: Shape) -> float:
    """FLOPs of training on one token, keys that the mask hides counted: the row's, or the window's where that is less."""
    return flops_per_token(shape, min(shape.window or shape.context_length, shape.context_length))


def nearest_depth(parameters: float, vocab_size: int, context_length: int, embeddings: bool = True) -> int:
    """The `depth` whose model comes nearest to that many parameters, with embeddings or without, by ratio."""

    def error(depth: int) -> float:
        found = count(at_depth(depth, vocab_size, context_length))
        return abs(math.log((found.total if embeddings else found.layers) / parameters))

    return min(range(1, DEEPEST + 1), key=error)


@cache
def at_depth(depth: int, vocab_size: int, context_length: int) -> Shape:
    """The shape that the knob `depth` gives."""
    return shape_of(resolve({"depth": depth, "sequence_length": max(2, context_length)}), vocab_size, context_length)
