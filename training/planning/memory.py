"""Bytes that one process of a training run needs, by part.

Weights, gradients and optimizer states are counted exactly. Activations are the tensors that autograd keeps for the
backward pass, listed operation by operation as training/model.py keeps them. What no formula knows (CUDA's context,
the libraries' workspaces, fragmentation) is a stated allowance.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from training.planning.shapes import Shape, count, matrices

Recompute = Literal["none", "selective", "full"]
Parallel = Literal["none", "ddp", "fsdp2"]

FLOAT32 = 4
GIB = 2**30
CUDA_CONTEXT = 1 * GIB  # context, cuBLAS and NCCL workspaces
CPU_RUNTIME = GIB // 2  # the interpreter with torch loaded
FRAGMENTATION = 0.05  # of everything else: what the caching allocator of torch holds and cannot use
PREFETCHED_LAYERS = 2  # FSDP2 holds the layer at work and the next one gathered


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
        return sum(self.parts().values())

    def parts(self) -> dict[str, int]:
        """Part -> bytes."""
        return {field.name: int(getattr(self, field.name)) for field in fields(self)}


@dataclass(frozen=True)
class Way:
    """How a run computes, as far as memory depends on it.

    rows: of a micro-batch. bytes_per_element: of activations and matrix products, 2 for bfloat16, 4 for float32.
    micro_batches: of a process and step. world: processes.
    """

    rows: int
    bytes_per_element: int = 2
    document_mask: bool = True
    recompute: Recompute = "none"
    parallel: Parallel = "none"
    reshard: bool = True
    world: int = 1
    micro_batches: int = 1
    device: Literal["cpu", "cuda"] = "cuda"


def estimate(shape: Shape, way: Way) -> Memory:
    """Memory of one process of a run, in bytes."""
    parameters = count(shape)
    size = way.bytes_per_element
    tokens = way.rows * shape.context_length
    shards = way.world if way.parallel == "fsdp2" else 1
    known = {
        "weights": FLOAT32 * parameters.total // shards,
        "gradients": FLOAT32 * parameters.total // shards,
        "optimizer": 2 * FLOAT32 * parameters.total // shards,
        "cast_weights": cast_weights(shape, size) if way.parallel != "fsdp2" else 0,
        "activations": activations(shape, way),
        "logits": tokens * shape.vocab_size * FLOAT32,
        "working": working(shape, way),
        "communication": communication(shape, way),
    }
    runtime = CUDA_CONTEXT if way.device == "cuda" else CPU_RUNTIME
    return Memory(**known, overhead=runtime + int(FRAGMENTATION * sum(known.values())))


def cast_weights(shape: Shape, size: int) -> int:
    """Copies of float32 matrices in the dtype of the products, which autograd keeps until the backward pass."""
    if size == FLOAT32:
        return 0
    return size * (matrices(shape) + shape.vocab_size * shape.width)


def communication(shape: Shape, way: Way) -> int:
    """What processes hold only because there are several.

    DistributedDataParallel: buckets of the size of all gradients. FSDP2: gathered weights of the layers at work, of
    embedding and projection, and, while micro-batches add up, of whole gradients.
    """
    parameters = count(shape)
    if way.world == 1 or way.parallel == "none":
        return 0
    if way.parallel == "ddp":
        return FLOAT32 * parameters.total
    root = parameters.embedding + parameters.head
    layer = (parameters.total - root) // shape.layers
    gathered = root + (PREFETCHED_LAYERS * layer if way.reshard else shape.layers * layer)
    whole_gradients = parameters.total if way.micro_batches > 1 else root + PREFETCHED_LAYERS * layer
    return gathered * way.bytes_per_element + whole_gradients * FLOAT32


def activations(shape: Shape, way: Way) -> int:
    """Bytes that the forward pass of a micro-batch keeps for the backward pass, logits and cast weights left out."""
    tokens = way.rows * shape.context_length
    size = way.bytes_per_element
    mask = way.rows * shape.context_length**2 * size if way.document_mask else 0
    layer = tokens * layer_activations(shape, size) + mask
    outside = tokens * _outside_layers(shape, size)
    if way.recompute == "none":
        return shape.layers * layer + outside
    kept = tokens * shape.width * size  # the input of a layer
    if way.recompute == "selective":
        kept += tokens * product_outputs(shape, size)
    # one layer at a time is computed again, and then holds all that it would have kept
    return shape.layers * kept + layer + outside


def layer_activations(shape: Shape, size: int) -> int:
    """Bytes a token that one layer keeps."""
    norms = 2 * (2 * shape.width * FLOAT32 + FLOAT32)  # input and normalised input in float32, 1 / rms
    inputs = 2 * shape.width * size  # of the projections to query, key and value, and of gate and up
    attention = (
        4 * shape.query_width * size + shape.heads * FLOAT32
    )  # query, key, value for all heads, output; log sums
    mlp = 4 * shape.mlp_width * size  # gate, silu(gate), up, their product
    return norms + inputs + attention + mlp


def product_outputs(shape: Shape, size: int) -> int:
    """Bytes a token of the outputs of a layer's matrix products and of attention: what `selective` does not recompute."""
    attention = 2 * shape.query_width + 2 * shape.key_width + shape.width
    return (attention + 2 * shape.mlp_width + shape.width) * size + shape.heads * FLOAT32


def _outside_layers(shape: Shape, size: int) -> int:
    final_norm = 2 * shape.width * FLOAT32 + FLOAT32
    return final_norm + shape.width * size + 2 * shape.head_width * size + 2 * 8  # hidden, rotary tables, int64 ids


def working(shape: Shape, way: Way) -> int:
    """The largest temporaries of the backward pass: gradients of the logits, or of a layer's widest tensors."""
    tokens, size = way.rows * shape.context_length, way.bytes_per_element
    logits = tokens * shape.vocab_size * (FLOAT32 + size)
    layer = tokens * (3 * shape.mlp_width + 4 * shape.width) * size
    return max(logits, layer)


def key_value_cache(shape: Shape, positions: int, size: int) -> int:
    """Bytes of keys and values of one sequence in generation."""
    return 2 * shape.layers * shape.key_width * positions * size
