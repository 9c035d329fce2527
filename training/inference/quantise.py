"""Weights of the layers in 8 or 4 bits, by torchao, and what that costs in bits per byte of a text.

Only the weights: activations and products stay in the model's dtype. Embeddings, output projection and norms stay as they are.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from tokenizers import Tokenizer
from torch import nn

from training.evaluation.scoring import score
from training.evaluation.windows import rolling_windows
from training.knobs import TrainingError
from training.model import Decoder
from training.vocabulary import encode_text

GROUP = 32  # weights that share a scale in 4 bits, as in llama.cpp's Q4_0


def quantise(model: Decoder, kind: Literal["int8", "int4"]) -> Decoder:
    """Turn the matrices of all layers into `kind`, in place: int8 with a scale for each output, int4 with one for 32 inputs.

    On CUDA int4 is packed two to a byte and needs bfloat16; on a CPU torchao has no such product, so that the 4-bit values
    lie in a byte each: the loss is that of 4 bits, the memory that of 8. Raises `TrainingError` without torchao and for
    widths that are no multiple of 32.
    """
    try:
        from torchao import quantization
    except ImportError:
        raise TrainingError("torchao is not installed; pip install 'gristmill[quantize]'") from None
    layers: Any = model.model.layers
    linears = [module for module in layers.modules() if isinstance(module, nn.Linear)]
    for linear in linears:
        linear.requires_grad_(False).to(model.dtype)
    if kind == "int8":
        quantization.quantize_(layers, quantization.Int8WeightOnlyConfig())
        return model
    if any(linear.in_features % GROUP for linear in linears):
        raise TrainingError(f"int4 needs widths that are multiples of {GROUP}; take int8")
    if linears[0].weight.is_cuda:
        if model.dtype != torch.bfloat16:
            raise TrainingError("int4 on CUDA multiplies in bfloat16 only: give --dtype bfloat16")
        packed: Any = quantization.Int4WeightOnlyConfig(group_size=GROUP, int4_packing_format="tile_packed_to_4d")
        quantization.quantize_(layers, packed)
    else:
        bits: Any = torch.int4  # type: ignore[attr-defined]
        spread = quantization.IntxWeightOnlyConfig(weight_dtype=bits, granularity=quantization.PerGroup(GROUP))
        quantization.quantize_(layers, spread)
    return model


def bits_per_byte(model: Decoder, tokenizer: Tokenizer, text: str, start: int) -> float:
    """Of a text, in windows of the model's context, each token predicted once; `start` is the token before the text."""
    ids = encode_text(tokenizer, text)
    if not ids:
        raise TrainingError("the text to measure the loss on is empty")
    context = model.config.context_length
    windows = list(rolling_windows(ids, start, context, max(1, context // 2)))
    nats = sum(-one.loglikelihood for one in score(model, windows, 8192))
    return nats / torch.log(torch.tensor(2.0)).item() / len(text.encode())


def weight_bytes(model: Decoder) -> int:
    """Memory of all weights, a shared one counted once."""
    return sum(_bytes(tensor) for tensor in {id(each): each for each in model.parameters()}.values())


def _bytes(tensor: Any) -> int:
    names = getattr(tensor, "tensor_data_names", None)
    if names is None:
        return int(tensor.numel() * tensor.element_size())
    optional = [name for name in getattr(tensor, "optional_tensor_data_names", []) if getattr(tensor, name) is not None]
    return sum(_bytes(getattr(tensor, name)) for name in [*names, *optional])
