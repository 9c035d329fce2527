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
LOSS_CHUNK, LOSS_CHUNK_CPU = 1024, 128  # loss.CHUNK_ROWS and CACHED_ROWS (a test holds them together)
PREFETCHED_LAYERS = 2  # FSDP2 holds the layer at work and the next one gathered


@dataclass(frozen=True)
class Memory:
    """Bytes by part. Each is what is alive at the worst moment, the start of the backward pass."""

    weights: int
    gradients: int
    optimizer: int
    cast_weights: int
    activations: int
    loss: int
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
    micro_batches: of a process and step. world: processes. The rest as the knobs of the same names.
    """

    rows: int
    bytes_per_element: int = 2
    document_mask: bool = True
    optimizer: str = "adamw"
    recompute: Recompute = "none"
    recompute_every: int = 1
    parallel: Parallel = "none"
    reshard: bool = True
    world: int = 1
    micro_batches: int = 1
    device: Literal["cpu", "cuda"] = "cuda"

    def recomputed(self, shape: Shape) -> int:
        """Layers that are computed again in the backward pass."""
        return 0 if self.recompute == "none" else -(-shape.layers // self.recompute_every)


def estimate(shape: Shape, way: Way) -> Memory:
    """Memory of one process of a run, in bytes."""
    total = count(shape).total
    shards = way.world if way.parallel == "fsdp2" else 1
    known = {
        "weights": FLOAT32 * total // shards,
        "gradients": FLOAT32 * total // shards,
        "optimizer": optimizer_states(shape, way.optimizer) // shards,
        "cast_weights": cast_weights(shape, way),
        "activations": activations(shape, way),
        "loss": loss_gradients(shape, way),
        "working": working(shape, way),
        "communication": communication(shape, way),
    }
    runtime = CUDA_CONTEXT if way.device == "cuda" else CPU_RUNTIME
    return Memory(**known, overhead=runtime + int(FRAGMENTATION * sum(known.values())))


def optimizer_states(shape: Shape, optimizer: str) -> int:
    """Two float32 moments a parameter; with muon one momentum for each element of the layers' matrices."""
    moments = 2 * count(shape).total - (matrices(shape) if optimizer == "muon" else 0)
    return FLOAT32 * moments


def cast_weights(shape: Shape, way: Way) -> int:
    """Copies of float32 matrices in the dtype of the products, which autograd keeps until the backward pass.

    A layer that is recomputed keeps none; FSDP2 gathers weights in that dtype (`communication`).
    """
    if way.bytes_per_element == FLOAT32 or way.parallel == "fsdp2":
        return 0
    layer = matrices(shape) // shape.layers
    return way.bytes_per_element * ((shape.layers - way.recomputed(shape)) * layer + shape.vocab_size * shape.width)


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
    """Bytes that the forward pass of a micro-batch keeps for the backward pass; what the loss keeps and cast weights left out."""
    tokens = way.rows * shape.context_length
    size = way.bytes_per_element
    layer = tokens * layer_activations(shape, way) + attention_mask(shape, way)
    outside = tokens * (_norm(shape, way, shape.width) * (shape.norm == "pre") + 4 * 8)  # and ids, targets, documents
    if shape.positions == "rotary":
        outside += tokens * 2 * shape.head_width * size
    again = way.recomputed(shape)
    if not again:
        return shape.layers * layer + outside
    kept = tokens * shape.width * size  # the input of a layer
    if way.recompute == "selective":
        kept += tokens * product_outputs(shape, size)
    return (shape.layers - again) * layer + again * kept + outside


def layer_activations(shape: Shape, way: Way) -> int:
    """Bytes a token that one layer keeps, its attention mask left out."""
    size, queries, keys = way.bytes_per_element, shape.query_width, shape.key_width
    norms = 2 * _norm(shape, way, shape.width)
    if shape.architecture == "qwen3":
        norms += _norm(shape, way, queries, shape.heads) + _norm(shape, way, keys, shape.kv_heads)
    inputs = 2 * shape.width * size  # of the projections to query, key and value, and of the MLP
    attention = (2 * queries + 2 * keys) * size + shape.heads * FLOAT32  # query, key, value, output; logs of sums
    return norms + inputs + attention + _mlp(shape, size)


def _norm(shape: Shape, way: Way, width: int, groups: int = 1) -> int:
    """Of one norm: its input, in float32 but for our own kernel on the CPU, and one number (LayerNorm: two) a group."""
    if shape.gpt2:
        return FLOAT32 * (width + 2 * groups)
    return (way.bytes_per_element if way.device == "cpu" else FLOAT32) * width + FLOAT32 * groups


def _mlp(shape: Shape, size: int) -> int:
    """Inside an MLP: gate, silu(gate), up and their product, or before and behind GELU; of experts also what is routed."""
    inner = (2 if shape.gpt2 else 4) * shape.mlp_width * size
    if not shape.experts:
        return inner
    routed = 2 * shape.width * size + 2 * 8 + size  # input, output and its share, places
    router = shape.experts * FLOAT32 + shape.experts_per_token * (2 * FLOAT32 + 8)
    return shape.experts_per_token * (inner + routed) + router


def attention_mask(shape: Shape, way: Way) -> int:
    """The mask that a layer's attention keeps on a CPU. CUDA's kernels take blocks of it, a 16,000th of its size."""
    if way.device == "cuda" or not (way.document_mask or (shape.window or shape.context_length) < shape.context_length):
        return 0
    return way.rows * shape.context_length**2 * way.bytes_per_element


def product_outputs(shape: Shape, size: int) -> int:
    """Bytes a token of the outputs of a layer's matrix products and of attention: what `selective` keeps."""
    attention = 2 * shape.query_width + 2 * shape.key_width + shape.width
    mlp = (1 if shape.gpt2 else 2) * shape.mlp_width + shape.width
    if shape.experts:
        mlp = shape.experts_per_token * mlp + shape.experts
    return (attention + mlp) * size + shape.heads * FLOAT32


def loss_gradients(shape: Shape, way: Way) -> int:
    """What the loss leaves to the backward pass: the gradients of hidden states and of the projection (training/loss.py)."""
    tokens = way.rows * shape.context_length
    return tokens * shape.width * way.bytes_per_element + FLOAT32 * shape.vocab_size * shape.width


def working(shape: Shape, way: Way) -> int:
    """The largest temporaries: in the loss, or in the backward pass of a layer, whichever is more."""
    return max(_loss_temporaries(shape, way), _layer_temporaries(shape, way))


def _loss_temporaries(shape: Shape, way: Way) -> int:
    """Of a chunk of positions: logits in the dtype of the products, in float32, and their softmax; its part of a gradient."""
    size = way.bytes_per_element
    chunk = min(way.rows * shape.context_length, LOSS_CHUNK)
    at_once = chunk if way.device == "cuda" else min(chunk, LOSS_CHUNK_CPU)
    passing = shape.vocab_size * (chunk * size + at_once * (2 * FLOAT32 + size))
    return passing + FLOAT32 * shape.vocab_size * shape.width


def _layer_temporaries(shape: Shape, way: Way) -> int:
    """Gradients of a layer's widest tensors, and where it is computed again, what it then keeps and its cast matrices."""
    tokens, size = way.rows * shape.context_length, way.bytes_per_element
    inner = max(1, shape.experts_per_token) * shape.mlp_width
    found = tokens * (3 * inner + 4 * shape.width) * size
    if way.recomputed(shape):
        found += tokens * layer_activations(shape, way) + attention_mask(shape, way)
        if way.recompute == "selective":
            found -= tokens * product_outputs(shape, size)
        if size != FLOAT32 and way.parallel != "fsdp2":
            found += size * matrices(shape) // shape.layers
    return found


def key_value_cache(shape: Shape, positions: int, size: int) -> int:
    """Bytes of keys and values of one sequence in generation."""
    return 2 * shape.layers * shape.key_width * positions * size
