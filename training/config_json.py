"""config.json of each family as transformers writes it, from our model's shape and into it; what we cannot run is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from training.architectures import CLASSES, family
from training.knobs import TrainingError
from training.model import ModelConfig
from training.presets import RopeScaling


def config_json(config: ModelConfig, eos_id: int | list[int]) -> dict[str, Any]:
    """config.json of the family.

    No `pad_token_id`: transformers would freeze that embedding, and ours is the end-of-document token.
    """
    kind = family(config)
    class_name, model_type = CLASSES[kind]
    shared = {
        "architectures": [class_name],
        "model_type": model_type,
        "vocab_size": config.vocab_size,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": None,
        "eos_token_id": eos_id,
        "torch_dtype": "float32",
        "use_cache": True,
    }
    if kind in ("gpt2", "gpt2 post"):
        return shared | _gpt2_json(config)
    sizes = {
        "hidden_size": config.width,
        "intermediate_size": config.mlp_width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "max_position_embeddings": config.context_length,
        **_rope_json(config),
        "attention_dropout": 0.0,
    }
    if kind == "gpt2 rotary":
        return shared | sizes | _NEOX_FACTS | {"rotary_emb_base": config.rope_theta, "layer_norm_eps": config.norm_eps}
    more: dict[str, Any] = {}
    if kind in ("llama", "qwen3"):
        more["attention_bias"] = config.qkv_bias
    if kind == "llama":
        more["mlp_bias"] = config.mlp_bias
    if kind in ("qwen2", "qwen3"):
        more |= {"use_sliding_window": config.window is not None, "max_window_layers": 0}
    if kind not in ("llama",):
        more["sliding_window"] = config.window
    if kind == "mixtral":
        more |= {
            "num_local_experts": config.experts,
            "num_experts_per_tok": config.experts_per_token,
            "router_aux_loss_coef": config.balance_coefficient,
        }
    heads = {"num_key_value_heads": config.kv_heads, "head_dim": config.head_width}
    return shared | sizes | heads | {"hidden_act": "silu", "rms_norm_eps": config.norm_eps} | more


_NEOX_FACTS = {
    "use_parallel_residual": False,
    "attention_bias": True,
    "hidden_act": "gelu_new",
    "hidden_dropout": 0.0,
    "rotary_pct": 1.0,
}


def _gpt2_json(config: ModelConfig) -> dict[str, Any]:
    """`positions` is ours: to transformers, sinusoidal ones are learned ones that happen to be sines."""
    return {
        "n_positions": config.context_length,
        "n_embd": config.width,
        "n_layer": config.layers,
        "n_head": config.heads,
        "layer_norm_epsilon": config.norm_eps,
        "resid_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "attn_pdrop": 0.0,
        "positions": config.positions,
        **(
            {"afn": "gelu"}
            if config.norm == "post"
            else {"n_inner": config.mlp_width, "activation_function": "gelu_new"}
        ),
    }


def _rope_json(config: ModelConfig) -> dict[str, Any]:
    """`rope_theta` and `rope_scaling` are where transformers 4 looks, `rope_parameters` where 5 does."""
    scaling: dict[str, Any] | None = None
    if config.rope_scaling is not None:
        usual = RopeScaling.model_fields
        scaling = {
            key: value
            for key, value in config.rope_scaling.model_dump().items()
            if value is not None and (value != usual[key].default or key in ("low_freq_factor", "high_freq_factor"))
        }
        if scaling["rope_type"] != "llama3":
            scaling = {key: value for key, value in scaling.items() if not key.endswith("freq_factor")}
        scaling.setdefault("original_max_position_embeddings", config.context_length)
    parameters = {"rope_type": "default", "rope_theta": config.rope_theta, **(scaling or {})}
    if family(config) == "gpt2 rotary":
        parameters["partial_rotary_factor"] = 1.0
    return {"rope_theta": config.rope_theta, "rope_scaling": scaling, "rope_parameters": parameters}


def read_model_config(folder: Path, classes: Mapping[str, str] | None = None) -> tuple[ModelConfig, list[int]]:
    """The shape and the end-of-text ids in a folder's config.json. Raises `TrainingError` for what we cannot run.

    classes: what the folder's class must be, by the name of that with an output projection; by default the same.
    """
    path = folder / "config.json"
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
        names = about["architectures"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{folder} is no model folder: cannot read architectures in {path}: {error}") from None
    allowed = {kind: (classes or {}).get(class_name, class_name) for kind, (class_name, _) in CLASSES.items()}
    kinds = [kind for kind, class_name in allowed.items() if names == [class_name]]
    if not kinds:
        known = ", ".join(allowed.values())
        raise TrainingError(f"{path}: the architecture is {names}; this program runs {known}")
    kind = kinds[0]
    try:
        if unknown := _unsupported(about, kind):
            raise TrainingError(f"{path}: this program has no {names[0]} with {', '.join(unknown)}")
        config = _read_gpt2(about, kind) if kind in ("gpt2", "gpt2 post") else _read_llama_like(about, kind)
    except KeyError as error:
        raise TrainingError(f"{path} lacks the key {error}") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise TrainingError(
            f"{path}: rope_parameters {where}: {problem['msg'].removeprefix('Value error, ')}"
        ) from None
    except (TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        if isinstance(error, TrainingError):
            raise
        raise TrainingError(f"{path}: a value is not what it should be: {error}") from None
    end = about.get("eos_token_id")
    ends = end if isinstance(end, list) else [] if end is None else [end]
    if wrong := _mistyped(config, ends):
        raise TrainingError(f"{path}: {wrong}")
    return config, ends


def _mistyped(config: ModelConfig, ends: list[Any]) -> str | None:
    """What a shape cannot be, whatever a file says; None if all is well."""

    def whole(value: Any) -> bool:
        return isinstance(value, int) and not isinstance(value, bool)

    for name in ("vocab_size", "context_length", "layers", "width", "heads", "kv_heads", "mlp_width", "head_width"):
        if not (whole(value := getattr(config, name)) and value > 0):
            return f"{name.replace('_', ' ')} is {value!r}, expected a whole number from 1"
    for name in ("window", "experts", "experts_per_token"):
        if not ((whole(value := getattr(config, name)) and value >= 0) or value is None):
            return f"{name.replace('_', ' ')} is {value!r}, expected a whole number"
    if config.heads % config.kv_heads:
        return f"{config.heads} heads cannot share {config.kv_heads} keys and values evenly"
    if not isinstance(config.norm_eps, int | float) or not isinstance(config.tie_embeddings, bool):
        return f"norm eps is {config.norm_eps!r} and tie embeddings {config.tie_embeddings!r}, expected a number and true or false"
    if not all(whole(one) for one in ends):
        return f"eos_token_id is {ends!r}, expected a whole number or a list of them"
    return None


def _read_gpt2(about: dict[str, Any], kind: str) -> ModelConfig:
    width, heads = about["n_embd"], about["n_head"]
    return ModelConfig(
        vocab_size=about["vocab_size"],
        context_length=about["n_positions"],
        layers=about["n_layer"],
        width=width,
        heads=heads,
        kv_heads=heads,
        mlp_width=about.get("n_inner") or 4 * width,
        head_width=width // heads,
        norm_eps=about.get("layer_norm_epsilon", 1e-5),
        tie_embeddings=about.get("tie_word_embeddings", True),
        architecture="gpt2",
        positions=about.get("positions", "learned"),
        norm="post" if kind == "gpt2 post" else "pre",
        qkv_bias=True,
        output_bias=True,
        mlp_bias=True,
    )


def _read_llama_like(about: dict[str, Any], kind: str) -> ModelConfig:
    neox = kind == "gpt2 rotary"
    width, heads, rope = about["hidden_size"], about["num_attention_heads"], _rope(about)
    attention_bias = bool(about.get("attention_bias")) or neox
    theta = rope.pop("rope_theta", None) or about.get("rotary_emb_base" if neox else "rope_theta")
    rope.pop("partial_rotary_factor", None)
    scaling = None
    if rope.pop("rope_type") != "default":
        scaling = RopeScaling.model_validate(
            {key: value for key, value in _scaling(about).items() if value is not None}
        )
    window = about.get("sliding_window", 4_096 if kind == "mistral" else None)
    return ModelConfig(
        vocab_size=about["vocab_size"],
        context_length=about["max_position_embeddings"],
        layers=about["num_hidden_layers"],
        width=width,
        heads=heads,
        kv_heads=about.get("num_key_value_heads") or heads,
        mlp_width=about["intermediate_size"],
        head_width=about.get("head_dim") or width // heads,
        rope_theta=float(theta or (1e6 if kind == "mixtral" else 1e4)),
        norm_eps=about.get("layer_norm_eps", 1e-5)
        if neox
        else about.get("rms_norm_eps", 1e-5 if kind == "mixtral" else 1e-6),
        tie_embeddings=about.get("tie_word_embeddings", False),
        architecture="gpt2" if neox else kind,  # type: ignore[arg-type]
        rope_scaling=scaling,
        window=window if _layer_types(about, kind) == {"sliding_attention"} else None,
        qkv_bias=attention_bias or kind == "qwen2",
        output_bias=attention_bias,
        mlp_bias=bool(about.get("mlp_bias")) or neox,
        experts=about.get("num_local_experts", 8) if kind == "mixtral" else 0,
        experts_per_token=about.get("num_experts_per_tok", 2),
        balance_coefficient=about.get("router_aux_loss_coef", 0.001) if kind == "mixtral" else 0.0,
    )


def _rope(about: dict[str, Any]) -> dict[str, Any]:
    """What a config.json says of rotary angles, in either version's spelling."""
    rope = {**(about.get("rope_scaling") or {}), **(about.get("rope_parameters") or {})}
    rope["rope_type"] = rope.get("rope_type", rope.pop("type", "default"))
    return rope


def _scaling(about: dict[str, Any]) -> dict[str, Any]:
    """The scaling's own keys; the original context stands there, beside it, or is the context."""
    rope = {
        key: value for key, value in _rope(about).items() if key not in ("rope_theta", "partial_rotary_factor", "type")
    }
    rope.setdefault("original_max_position_embeddings", about.get("original_max_position_embeddings"))
    rope["original_max_position_embeddings"] = (
        rope["original_max_position_embeddings"] or about["max_position_embeddings"]
    )
    return rope


def _unsupported(about: dict[str, Any], kind: str) -> list[str]:
    """What a config.json asks for that this program does not compute, so that nothing is silently other."""
    gpt2 = kind in ("gpt2", "gpt2 post")
    activation = "afn" if kind == "gpt2 post" else "activation_function" if kind == "gpt2" else "hidden_act"
    known = {
        "gpt2": ("gelu_new", "gelu_pytorch_tanh"),
        "gpt2 post": ("gelu",),  # OpenAIGPT means the tanh formula by it
        "gpt2 rotary": ("gelu_new", "gelu_pytorch_tanh"),
    }.get(kind, ("silu", "swish"))
    found = []
    if about.get(activation, "gelu" if kind == "gpt2 rotary" else known[0]) not in known:
        found.append(f"{activation} {about.get(activation, 'gelu')}")
    usual = {
        "gpt2": {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False},
        "gpt2 rotary": {"use_parallel_residual": False, "attention_bias": True},
    }.get(kind, {})
    for key, value in usual.items():
        default = True if key == "use_parallel_residual" else value
        if about.get(key, default) != value:
            found.append(f"{key} {about.get(key, default)}")
    if not gpt2:
        rope = _rope(about)
        part = rope.get("partial_rotary_factor", about.get("rotary_pct", 0.25) if kind == "gpt2 rotary" else 1.0)
        if rope["rope_type"] not in ("default", "linear", "yarn", "llama3"):
            found.append(f"rope type {rope['rope_type']}")
        if part != 1.0:
            found.append(f"rotary positions on {part} of a head")
    if len(_layer_types(about, kind)) > 1:
        found.append("sliding windows in some layers only")
    if about.get("quantization_config"):
        found.append("quantized weights")
    return found


def _layer_types(about: dict[str, Any], kind: str) -> set[str]:
    """The kinds of attention that the layers have, in the words of transformers."""
    if kind in ("mistral", "mixtral"):
        return {"sliding_attention"}
    if kind not in ("qwen2", "qwen3") or not about.get("use_sliding_window"):
        return {"full_attention"}
    first = about.get("max_window_layers", 28)
    layers = range(about["num_hidden_layers"])
    return set(about.get("layer_types") or ["sliding_attention" if i >= first else "full_attention" for i in layers])
