"""Other people's names: config.json and weights as transformers has them, from our model and into it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from training.config import TrainingError
from training.model import Decoder, ModelConfig
from training.parallel import whole


def weights(model: Decoder) -> dict[str, Tensor]:
    """The float32 weights by name, on the CPU; a tied output projection is left out, as transformers does.

    Of a sharded model all processes must call this.
    """
    return {name: whole(parameter.detach()).float().cpu().contiguous() for name, parameter in model.named_parameters()}


def config_json(config: ModelConfig, eos_id: int) -> dict[str, Any]:
    """config.json of a `LlamaForCausalLM`.

    `rope_theta` is where transformers 4 looks, `rope_parameters` where 5 does. No `pad_token_id`: transformers would
    freeze that embedding, and ours is the end-of-document token.
    """
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        "max_position_embeddings": config.context_length,
        "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rope_scaling": None,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "mlp_bias": False,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": eos_id,
        "torch_dtype": "float32",
        "use_cache": True,
    }


def read_model_config(folder: Path) -> tuple[ModelConfig, list[int]]:
    """The shape and the end-of-text ids in a folder's config.json. Raises `TrainingError` for what we cannot run."""
    path = folder / "config.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        family = about["architectures"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{folder} is no model folder: cannot read architectures in {path}: {error}") from None
    if family != ["LlamaForCausalLM"]:
        raise TrainingError(f"{path}: the architecture is {family}; this program runs ['LlamaForCausalLM']")
    rope = {**(about.get("rope_scaling") or {}), **(about.get("rope_parameters") or {})}
    kind = rope.get("rope_type", rope.get("type", "default"))
    unsupported = [key for key in ("attention_bias", "mlp_bias") if about.get(key)]
    if kind != "default" or unsupported or about.get("hidden_act", "silu") != "silu":
        what = ", ".join([*unsupported, f"rope type {kind}", f"hidden_act {about.get('hidden_act')}"])
        raise TrainingError(f"{path}: this program has no Llama with {what}; it runs the plain one")
    try:
        config = ModelConfig(
            vocab_size=about["vocab_size"],
            context_length=about["max_position_embeddings"],
            layers=about["num_hidden_layers"],
            width=about["hidden_size"],
            heads=about["num_attention_heads"],
            kv_heads=about.get("num_key_value_heads") or about["num_attention_heads"],
            mlp_width=about["intermediate_size"],
            head_width=about.get("head_dim") or about["hidden_size"] // about["num_attention_heads"],
            rope_theta=float(rope.get("rope_theta") or about.get("rope_theta") or 10_000.0),
            norm_eps=about.get("rms_norm_eps", 1e-6),
            tie_embeddings=about.get("tie_word_embeddings", False),
        )
    except KeyError as error:
        raise TrainingError(f"{path} lacks the key {error}") from None
    end = about.get("eos_token_id")
    return config, end if isinstance(end, list) else [] if end is None else [end]


def fill_weights(model: Decoder, path: Path) -> None:
    """Copy the weights in a file into the model. Raises `TrainingError` if names or shapes are not the model's."""
    found = read_tensors(path)
    wanted = {name: parameter for name, parameter in model.named_parameters()}
    if model.config.tie_embeddings:
        found.pop("lm_head.weight", None)
    if odd := sorted(wanted.keys() ^ found.keys()):
        raise TrainingError(f"{path}: missing or unexpected weights: {', '.join(odd[:5])} ({len(odd)} in all)")
    with torch.no_grad():
        for name, parameter in wanted.items():
            if parameter.shape != found[name].shape:
                raise TrainingError(f"{path}: {name} is {list(found[name].shape)}, expected {list(parameter.shape)}")
            parameter.copy_(found[name])


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name. Raises `TrainingError` if it cannot be read."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"cannot read the weights in {path}: {error}") from None
