"""Bytes that one process of a training run needs, by part.

Weights, gradients and optimizer states are counted exactly. Activations are the tensors that autograd keeps for the
backward pass, listed operation by operation as training/model.py keeps them. What no formula knows (CUDA's context,
the libraries' workspaces, fragmentation) is a stated allowance.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from training.planning.shapes import Shape, count

FLOAT32 = 4
GIB = 2**30
CUDA_CONTEXT = 1 * GIB  # context, cuBLAS and NCCL workspaces
CPU_RUNTIME = GIB // 2  # the interpreter with torch loaded
FRAGMENTATION = 0.05  # of everything else: what the caching allocator of torch holds and cannot use


@dataclass(frozen=True)
class Memory:
    """Bytes by part. Each is what is alive at the worst moment, the start of the backward pass."""

    weights: int
    gradients: int
    optimizer: int
    cast_weights: int
    activations: int
    logits: int
    working: int
    communication: int
    overhead: int

    @property
    def total(self) -> int:
        """All parts together."""
        return sum(getattr(self, field.name) for field in fields(self))

    def parts(self) -> dict[str, int]:
        """Part -> bytes."""
        return {field.name: int(getattr(self, field.name)) for field in fields(self)}


def estimate(
    shape: Shape,
    rows: int,
    *,
    bytes_per_element: int = 2,
    document_mask: bool = True,
    device: Literal["cpu", "cuda"] = "cuda",
    world: int = 1,
) -> Memory:
    """Memory of one of `world` processes for micro-batches of `rows` rows.

    bytes_per_element: of activations and matrix products, 2 for bfloat16, 4 for float32.
    """
    parameters = count(shape)
    tokens = rows * shape.context_length
    size = bytes_per_element
    cast = 0 if size == FLOAT32 else size * (parameters.matrices + shape.vocab_size * shape.width)
    known = {
        "weights": FLOAT32 * parameters.total,
        "gradients": FLOAT32 * parameters.total,
        "optimizer": 2 * FLOAT32 * parameters.total,
        "cast_weights": cast,
        "activations": activations(shape, rows, size, document_mask),
        "logits": tokens * shape.vocab_size * FLOAT32,
        "working": working(shape, tokens, size),
        "communication": FLOAT32 * parameters.total if world > 1 else 0,
    }
    runtime = CUDA_CONTEXT if device == "cuda" else CPU_RUNTIME
    return Memory(**known, overhead=runtime + int(FRAGMENTATION * sum(known.values())))


def activations(shape: Shape, rows: int, size: int, document_mask: bool) -> int:
    """Bytes that the forward pass of a micro-batch keeps for the backward pass, the logits left out."""
    tokens = rows * shape.context_length
    per_token = shape.layers * layer_activations(shape, size) + _outside_layers(shape, size)
    mask = shape.layers * rows * shape.context_length**2 * size if document_mask else 0
    return tokens * per_token + mask


def layer_activations(shape: Shape, size: int) -> int:
    """Bytes a token that one layer keeps."""
    norms = 2 * (2 * shape.width * FLOAT32 + FLOAT32)  # input and normalised input in float32, 1 / rms
    inputs = 2 * shape.width * size  # of the projections to query, key and value, and of gate and up
    attention = (
        4 * shape.query_width * size + shape.heads * FLOAT32
    )  # query, key, value for all heads, output; log sums
    mlp = 4 * shape.mlp_width * size  # gate, silu(gate), up, their product
    return norms + inputs + attention + mlp


def _outside_layers(shape: Shape, size: int) -> int:
    final_norm = 2 * shape.width * FLOAT32 + FLOAT32
    return final_norm + shape.width * size + 2 * shape.head_width * size + 2 * 8  # hidden, rotary tables, int64 ids


def working(shape: Shape, tokens: int, size: int) -> int:
    """The largest temporaries of the backward pass: gradients of the logits, or of a layer's widest tensors."""
    logits = tokens * shape.vocab_size * (FLOAT32 + size)
    layer = tokens * (3 * shape.mlp_width + 4 * shape.width) * size
    return max(logits, layer)
