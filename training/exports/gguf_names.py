"""What llama.cpp calls the weights and numbers of each family, from config.json and names of transformers.

Sources: the tables of the gguf package (constants.py, tensor_mapping.py) and llama.cpp's convert_hf_to_gguf.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.knobs import TrainingError

FAMILIES = {  # config.json's architectures[0] -> llama.cpp's architecture
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "MixtralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "GPT2LMHeadModel": "gpt2",
}

_OUTSIDE = {  # Llama, Mistral, Mixtral, Qwen2, Qwen3
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER = {  # below model.layers.N. and blk.N.
    "input_layernorm.weight": "attn_norm.weight",
    "self_attn.q_proj.weight": "attn_q.weight",
    "self_attn.k_proj.weight": "attn_k.weight",
    "self_attn.v_proj.weight": "attn_v.weight",
    "self_attn.o_proj.weight": "attn_output.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
}
_MLP = {
    "mlp.gate_proj.weight": "ffn_gate.weight",
    "mlp.up_proj.weight": "ffn_up.weight",
    "mlp.down_proj.weight": "ffn_down.weight",
}
_MORE = {  # what a layer of a family has beside, or instead
    "LlamaForCausalLM": _MLP,
    "MistralForCausalLM": _MLP,
    "MixtralForCausalLM": {"block_sparse_moe.gate.weight": "ffn_gate_inp.weight"},
    "Qwen2ForCausalLM": _MLP | {f"self_attn.{x}_proj.bias": f"attn_{x}.bias" for x in "qkv"},
    "Qwen3ForCausalLM": _MLP | {f"self_attn.{x}_norm.weight": f"attn_{x}_norm.weight" for x in "qk"},
}
_EXPERTS = {"w1": "ffn_gate_exps", "w3": "ffn_up_exps", "w2": "ffn_down_exps"}  # one tensor of all experts each
_GPT2 = {
    "transformer.wte.weight": "token_embd.weight",
    "transformer.wpe.weight": "position_embd.weight",
    "transformer.ln_f": "output_norm",
    "transformer.h.{n}.ln_1": "blk.{n}.attn_norm",
    "transformer.h.{n}.ln_2": "blk.{n}.ffn_norm",
    "transformer.h.{n}.attn.c_attn": "blk.{n}.attn_qkv",
    "transformer.h.{n}.attn.c_proj": "blk.{n}.attn_output",
    "transformer.h.{n}.mlp.c_fc": "blk.{n}.ffn_up",
    "transformer.h.{n}.mlp.c_proj": "blk.{n}.ffn_down",
}
ALWAYS_FLOAT32 = ("position_embd.weight", "ffn_gate_inp.weight", "rope_freqs.weight")  # beside all of one dimension


@dataclass(frozen=True)
class Piece:
    """One tensor of a GGUF file: the weights that it is made of, and how."""

    name: str
    sources: tuple[str, ...]
    make: Callable[[list[Tensor]], Tensor]

    def float32(self) -> bool:
        """Whether llama.cpp wants it unquantized whatever the rest is."""
        return self.name.endswith((*ALWAYS_FLOAT32, "norm.weight", ".bias"))


def pieces(config: Mapping[str, Any], names: set[str], where: str) -> list[Piece]:
    """The tensors of the file, in its order. Raises `TrainingError` if weights are missing or unknown."""
    family = config["architectures"][0]
    layers = config["n_layer"] if family == "GPT2LMHeadModel" else config["num_hidden_layers"]
    found = _gpt2(layers, names) if family == "GPT2LMHeadModel" else _decoder(config, layers)
    used = {source for piece in found for source in piece.sources}
    tied = {"lm_head.weight"} if config.get("tie_word_embeddings", family == "GPT2LMHeadModel") else set()
    if odd := sorted((names - used - tied) | (used - names)):
        raise TrainingError(
            f"{where}: missing or unexpected weights for {family}: {', '.join(odd[:5])} ({len(odd)} in all)"
        )
    return found


def _decoder(config: Mapping[str, Any], layers: int) -> list[Piece]:
    family = config["architectures"][0]
    heads = {"q": config["num_attention_heads"]}
    heads["k"] = config.get("num_key_value_heads") or heads["q"]
    halves = FAMILIES[family] != "llama"  # llama.cpp rotates Qwen's halves of a head, but Llama's neighbours
    tied = config.get("tie_word_embeddings", False)
    out = [Piece(ours, (theirs,), _same) for theirs, ours in _OUTSIDE.items() if not (tied and "lm_head" in theirs)]
    for n in range(layers):
        for theirs, ours in {**_LAYER, **_MORE[family]}.items():
            turned = not halves and ours in ("attn_q.weight", "attn_k.weight")
            make = _turn(heads[ours[5]]) if turned else _same
            out.append(Piece(f"blk.{n}.{ours}", (f"model.layers.{n}.{theirs}",), make))
        if family == "MixtralForCausalLM":
            place = f"model.layers.{n}.block_sparse_moe.experts"
            for matrix, name in _EXPERTS.items():
                each = tuple(f"{place}.{e}.{matrix}.weight" for e in range(config["num_local_experts"]))
                out.append(Piece(f"blk.{n}.{name}.weight", each, torch.stack))
    return out


def _gpt2(layers: int, names: set[str]) -> list[Piece]:
    out = []
    for theirs, ours in _GPT2.items():
        for n in range(layers if "{n}" in theirs else 1):
            source, name = theirs.format(n=n), ours.format(n=n)
            if source.endswith(".weight"):
                out.append(Piece(name, (source,), _same))
                continue
            # transformers keeps these matrices transposed
            out.append(Piece(f"{name}.weight", (f"{source}.weight",), _transpose if ".c_" in source else _same))
            out.append(Piece(f"{name}.bias", (f"{source}.bias",), _same))
    if "lm_head.weight" in names:
        out.append(Piece("output.weight", ("lm_head.weight",), _same))
    return out


def _same(tensors: list[Tensor]) -> Tensor:
    return tensors[0]


def _transpose(tensors: list[Tensor]) -> Tensor:
    return tensors[0].T


def _turn(heads: int) -> Callable[[list[Tensor]], Tensor]:
    """Rows of each head from (first halves, second halves) to neighbours, for llama.cpp's rotation of pairs."""

    def turn(tensors: list[Tensor]) -> Tensor:
        weight = tensors[0]
        return weight.view(heads, 2, weight.shape[0] // heads // 2, -1).transpose(1, 2).reshape(weight.shape)

    return turn


def rope_factors(config: Mapping[str, Any]) -> np.ndarray | None:
    """What llama.cpp divides each pair's frequency by, float32 `[D / 2]`, for the scaling of Llama 3; None for others.

    Source: Llama 3.1's published rule, as `rope_type: llama3` in transformers (modeling_rope_utils.py).
    """
    rope = rope_settings(config)
    if rope["rope_type"] != "llama3":
        return None
    width = head_width(config)
    frequencies = rope["rope_theta"] ** -(np.arange(0, width, 2, dtype=np.float64) / width)
    lengths = 2 * math.pi / frequencies
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    trained = rope["original_max_position_embeddings"]
    smooth = np.clip((trained / lengths - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def rope_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """The rotary settings of a config.json of transformers 4 or 5, with `rope_type` and `rope_theta`."""
    rope = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    rope["rope_type"] = rope.get("rope_type") or rope.get("type") or "default"
    rope["rope_theta"] = float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0)
    return rope


def head_width(config: Mapping[str, Any]) -> int:
    """Width of a head."""
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
