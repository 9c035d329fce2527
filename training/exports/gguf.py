"""A whole model as one GGUF file for llama.cpp: metadata, vocabulary and weights, one tensor in memory at a time."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from training.checkpoint import is_adapter, write_whole
from training.exports.gguf_names import FAMILIES, Piece, head_width, pieces, rope_factors, rope_settings
from training.knobs import TrainingError

BLOCK = 32  # values that share a scale in q8_0; rows of another length stay float16
DTYPES = ("f32", "f16", "bf16", "q8_0")


def export_gguf(folder: Path, output: Path, vocabulary: Path, dtype: str = "f16") -> dict[str, Any]:
    """Write a model folder as the GGUF file `output`; returns how many tensors and bytes it has, and notes for the user.

    vocabulary: a GGUF file with `tokenizer.*`, as `python -m tokenizer_training export --format gguf` writes of the same
    tokenizer. dtype: of the matrices; norms, biases, learned positions and routers stay float32. Raises `TrainingError`
    for a folder, family or vocabulary that cannot be exported.
    """
    gguf = _library()
    config = _config(folder)
    if output.is_dir():
        raise TrainingError(f"--output {output}: it is a folder; give a file, such as model-{dtype}.gguf")
    with ExitStack() as opened:
        where = _open_weights(folder, opened)
        plan = pieces(config, set(where), str(folder))
        return _write(folder, output, vocabulary, dtype, config, where, plan, gguf)


def _write(
    folder: Path,
    output: Path,
    vocabulary: Path,
    dtype: str,
    config: Mapping[str, Any],
    where: Mapping[str, Any],
    plan: list[Piece],
    gguf: Any,
) -> dict[str, Any]:
    output.parent.mkdir(parents=True, exist_ok=True)
    notes: list[str] = []
    size = {"tensors": 0}

    def write(path: Path) -> None:
        writer = gguf.GGUFWriter(path, FAMILIES[config["architectures"][0]])
        _metadata(writer, config, folder, dtype, gguf, notes)
        _copy_vocabulary(writer, gguf, vocabulary, _rows(where, plan))
        factors = rope_factors(config)
        if factors is not None:
            writer.add_tensor_info("rope_freqs.weight", factors.shape, factors.dtype, factors.nbytes)
        kinds = []
        for piece in plan:
            shape = _shape(where, piece)
            kind = _kind(piece, shape, dtype, gguf)
            kinds.append(kind)
            stored, bytes_ = _stored(shape, kind, gguf)
            writer.add_tensor_info(piece.name, stored, _numpy(kind, gguf), bytes_, raw_dtype=kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        if factors is not None:
            writer.write_tensor_data(factors)
        for piece, kind in zip(plan, kinds, strict=True):
            writer.write_tensor_data(_encoded(_read(where, piece), kind, gguf))
        writer.close()
        size["tensors"] = len(plan) + (factors is not None)

    try:
        write_whole(output, write)
    except SafetensorError as error:
        raise TrainingError(f"{folder}: cannot read its weights: {error}") from None
    finally:
        output.with_name(output.name + ".tmp").unlink(missing_ok=True)
    return {**size, "bytes": output.stat().st_size, "notes": notes}


def _config(folder: Path) -> dict[str, Any]:
    path = folder / "config.json"
    if is_adapter(folder):
        raise TrainingError(
            f"{folder} is an adapter: python -m training merge {folder} --output FOLDER, and export that"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        family = config["architectures"][0]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise TrainingError(f"{folder} is no model folder: cannot read architectures in {path}: {error}") from None
    if family not in FAMILIES:
        raise TrainingError(f"{path}: GGUF is written of {', '.join(FAMILIES)}, not of {family}")
    odd = [key for key in ("attention_bias", "mlp_bias") if config.get(key)]
    if family == "GPT2LMHeadModel":
        if config.get("activation_function", "gelu_new") not in ("gelu_new", "gelu_pytorch_tanh"):
            odd.append(f"activation_function {config['activation_function']}")
    elif config.get("hidden_act", "silu") != "silu":
        odd.append(f"hidden_act {config['hidden_act']}")
    if family != "GPT2LMHeadModel" and rope_settings(config)["rope_type"] not in (
        "default",
        "linear",
        "yarn",
        "llama3",
    ):
        odd.append(f"rope type {rope_settings(config)['rope_type']}")
    if odd:
        raise TrainingError(f"{path}: llama.cpp has no {family} with {', '.join(odd)}; it cannot be exported")
    return config


def _metadata(writer: Any, config: Mapping[str, Any], folder: Path, dtype: str, gguf: Any, notes: list[str]) -> None:
    """The numbers that llama.cpp builds the graph from."""
    kinds = gguf.LlamaFileType
    writer.add_type(gguf.GGUFType.MODEL)
    name = folder.resolve().name
    if name != "mistral":  # by this name transformers' reader looks for an architecture that gguf lacks
        writer.add_name(name)
    writer.add_file_type(
        {"f32": kinds.ALL_F32, "f16": kinds.MOSTLY_F16, "bf16": kinds.MOSTLY_BF16, "q8_0": kinds.MOSTLY_Q8_0}[dtype]
    )
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(config["vocab_size"])
    if config["architectures"][0] == "GPT2LMHeadModel":
        writer.add_context_length(config["n_positions"])
        writer.add_embedding_length(config["n_embd"])
        writer.add_block_count(config["n_layer"])
        writer.add_head_count(config["n_head"])
        writer.add_feed_forward_length(config.get("n_inner") or 4 * config["n_embd"])
        writer.add_layer_norm_eps(config.get("layer_norm_epsilon", 1e-5))
        return
    context, window = config["max_position_embeddings"], config.get("sliding_window")
    windowed = window and config.get("use_sliding_window", True) and config["architectures"][0] != "LlamaForCausalLM"
    if windowed and window < context:
        notes.append(
            f"llama.cpp has no sliding window for this family: the context is written as the window, {window} of {context}"
        )
        context = window
    heads = config["num_attention_heads"]
    writer.add_context_length(context)
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads") or heads)
    writer.add_key_length(head_width(config))
    writer.add_value_length(head_width(config))
    writer.add_layer_norm_rms_eps(config.get("rms_norm_eps", 1e-6))
    writer.add_rope_dimension_count(head_width(config))
    rope = rope_settings(config)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    elif rope["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(float(rope["factor"]))
        writer.add_rope_scaling_orig_ctx_len(
            int(rope.get("original_max_position_embeddings") or config["max_position_embeddings"])
        )
        if told := [name for name in ("attention_factor", "mscale", "mscale_all_dim") if rope.get(name) is not None]:
            raise TrainingError(
                f"rope_scaling.{told[0]}: GGUF's readers take YaRN's own value; this model cannot be exported"
            )
        if rope.get("truncate") is False:
            raise TrainingError("rope_scaling.truncate: false: GGUF has no word for it; this model cannot be exported")
        if rope.get("beta_fast") is not None:
            writer.add_rope_scaling_yarn_beta_fast(float(rope["beta_fast"]))
        if rope.get("beta_slow") is not None:
            writer.add_rope_scaling_yarn_beta_slow(float(rope["beta_slow"]))
    if config["architectures"][0] == "MixtralForCausalLM":
        writer.add_expert_count(config["num_local_experts"])
        writer.add_expert_used_count(config["num_experts_per_tok"])


def _copy_vocabulary(writer: Any, gguf: Any, path: Path, rows: int) -> None:
    """The `tokenizer.*` of another file; tokens that only the model has room for are added as unused."""
    try:
        fields = gguf.GGUFReader(path).fields
    except (OSError, ValueError, KeyError, IndexError) as error:
        raise TrainingError(f"cannot read the vocabulary {path}: {error}") from None
    if "tokenizer.ggml.tokens" not in fields:
        raise TrainingError(f"{path} holds no vocabulary (tokenizer.ggml.tokens)")
    for name, field in fields.items():
        if not name.startswith("tokenizer."):
            continue
        value = field.contents()
        if name == "tokenizer.ggml.tokens":
            if len(value) > rows:
                raise TrainingError(
                    f"{path}: {len(value)} tokens, but the model has {rows} rows: is it of this tokenizer?"
                )
            value = value + [f"[PAD{number}]" for number in range(len(value), rows)]
        elif name == "tokenizer.ggml.token_type":
            value = value + [int(gguf.TokenType.UNUSED)] * (rows - len(value))
        kinds = field.types
        writer.add_key_value(name, value, kinds[0], sub_type=kinds[-1] if len(kinds) > 1 else None)


def _kind(piece: Piece, shape: tuple[int, ...], dtype: str, gguf: Any) -> Any:
    types = gguf.GGMLQuantizationType
    if len(shape) < 2 or piece.float32():
        return types.F32
    if dtype == "q8_0" and shape[-1] % BLOCK:
        return types.F16
    return {"f32": types.F32, "f16": types.F16, "bf16": types.BF16, "q8_0": types.Q8_0}[dtype]


def _numpy(kind: Any, gguf: Any) -> np.dtype[Any]:
    types = gguf.GGMLQuantizationType
    return np.dtype({types.F32: np.float32, types.F16: np.float16}.get(kind, np.uint8))


def _stored(shape: tuple[int, ...], kind: Any, gguf: Any) -> tuple[tuple[int, ...], int]:
    """Shape as the writer wants it (in bytes along the last axis for what numpy does not have), and size in bytes."""
    if _numpy(kind, gguf) != np.uint8:
        return shape, int(np.prod(shape)) * _numpy(kind, gguf).itemsize
    in_bytes = gguf.quant_shape_to_byte_shape(shape, kind)
    return in_bytes, int(np.prod(in_bytes))


def _encoded(tensor: Tensor, kind: Any, gguf: Any) -> np.ndarray:
    values = np.ascontiguousarray(tensor.float().numpy())
    if kind == gguf.GGMLQuantizationType.F16:
        return values.astype(np.float16)
    return values if kind == gguf.GGMLQuantizationType.F32 else gguf.quants.quantize(values, kind)


def _open_weights(folder: Path, opened: ExitStack) -> dict[str, Any]:
    """The open safetensors file of each weight, memory-mapped, until `opened` is closed."""
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise TrainingError(f"{folder}: has no model.safetensors")
    where: dict[str, Any] = {}
    for path in files:
        try:
            file = opened.enter_context(safe_open(path, "pt"))
            where.update(dict.fromkeys(file.keys(), file))
        except (OSError, SafetensorError) as error:
            raise TrainingError(f"cannot read the weights in {path}: {error}") from None
    return where


def _read(where: Mapping[str, Any], piece: Piece) -> Tensor:
    return piece.make([where[source].get_tensor(source).float() for source in piece.sources])


def _shape(where: Mapping[str, Any], piece: Piece) -> tuple[int, ...]:
    """Without reading the weights."""
    shapes = [where[source].get_slice(source).get_shape() for source in piece.sources]
    return tuple(piece.make([torch.empty(shape, device="meta") for shape in shapes]).shape)


def _rows(where: Mapping[str, Any], plan: list[Piece]) -> int:
    return next(_shape(where, piece)[0] for piece in plan if piece.name == "token_embd.weight")


def _library() -> Any:
    try:
        import gguf
    except ImportError:
        raise TrainingError("gguf is not installed: pip install 'gristmill[gguf]'") from None
    logging.getLogger("gguf").setLevel(logging.WARNING)
    return gguf
