"""Checkpoints: the Hugging Face folder that others read, and trainer_state/ from which a run goes on exactly.

Everything is safetensors and JSON; nothing is unpickled. Files and folders get their names only when they are whole.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from training.config import TrainingError
from training.model import Decoder, ModelConfig
from training.optimizer import Optimizer

FORMAT = 1  # of trainer_state/ and training.json
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file, sync it, then give it its name: a reader never meets half of it."""
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    _sync(temporary)
    temporary.replace(path)
    _sync(path.parent)


def write_json(path: Path, values: Any) -> None:
    """One JSON document, indented, whole or not at all."""
    write_whole(path, lambda file: file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8"))


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# The Hugging Face folder


def save_model(folder: Path, model: Decoder, tokenizer_dir: Path, eos_id: int) -> None:
    """Write config, float32 weights and tokenizer as transformers' `LlamaForCausalLM` loads them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "model.safetensors", lambda file: _write_tensors(file, weights(model)))
    for name in TOKENIZER_FILES:
        if (tokenizer_dir / name).exists():
            write_whole(folder / name, partial(shutil.copyfile, tokenizer_dir / name))
    write_json(folder / "generation_config.json", {"eos_token_id": eos_id, "pad_token_id": eos_id})
    write_json(folder / "config.json", config_json(model.config, eos_id))


def weights(model: Decoder) -> dict[str, Tensor]:
    """The float32 weights by name, on the CPU; a tied output projection is left out, as transformers does."""
    return {name: parameter.detach().float().cpu().contiguous() for name, parameter in model.named_parameters()}


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


def load_model(folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[Decoder, list[int]]:
    """A model folder's decoder with float32 weights, computing in `dtype`, and its end-of-text ids."""
    config, end = read_model_config(folder)
    with torch.device("meta"):  # no time for random weights that are replaced at once
        model = Decoder(config, dtype)
    model = model.to_empty(device=device)
    model.tie()
    fill_weights(model, folder / "model.safetensors")
    return model.eval(), end


def fill_weights(model: Decoder, path: Path) -> None:
    """Copy the weights in a file into the model. Raises `TrainingError` if names or shapes are not the model's."""
    found = _read_tensors(path)
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


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"cannot read the weights in {path}: {error}") from None


def _write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    try:
        save_file(tensors, path, {"format": "pt"})
    except SafetensorError as error:  # a full disk, say, which the library wraps
        raise OSError(f"cannot write {path}: {error}") from None


# trainer_state/: step-NNNNNNNN/ with model.safetensors, optimizer.safetensors, state.json


def save_state(folder: Path, model: Decoder, optimizer: Optimizer, state: dict[str, Any], keep: int) -> None:
    """Write the checkpoint after `state["step"]` updates, whole, and remove all but the `keep` newest."""
    folder.mkdir(parents=True, exist_ok=True)
    final = folder / f"step-{state['step']:08d}"
    temporary = folder / (final.name + ".tmp")
    for left in folder.glob("step-*.tmp"):  # by a kill in the middle of this function
        shutil.rmtree(left)
    temporary.mkdir()
    _write_tensors(temporary / "model.safetensors", weights(model))
    _write_tensors(temporary / "optimizer.safetensors", _optimizer_tensors(optimizer))
    (temporary / "state.json").write_text(json.dumps({"format": FORMAT, **state}, indent=2) + "\n", encoding="utf-8")
    for file in (*temporary.iterdir(), temporary):
        _sync(file)
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    _sync(folder)
    for old in checkpoints(folder)[:-keep]:
        shutil.rmtree(old)


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in trainer_state/, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit())


def read_state(folder: Path) -> dict[str, Any]:
    """A checkpoint's state.json. Raises `TrainingError` if it is broken or of a newer format."""
    path = folder / "state.json"
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        version = state["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(
            f"the checkpoint {folder} is broken ({error}); remove it to go on from the one before"
        ) from None
    if version > FORMAT:
        raise TrainingError(f"{path} is of format {version}, this program knows {FORMAT}: use a newer gristmill")
    return state


def load_state(folder: Path, model: Decoder, optimizer: Optimizer) -> None:
    """Put model, optimizer and torch's random state back to where they were when the checkpoint was written."""
    fill_weights(model, folder / "model.safetensors")
    path = folder / "optimizer.safetensors"
    found = _read_tensors(path)
    try:
        torch.set_rng_state(found["rng.cpu"])
        if "rng.cuda" in found:
            torch.cuda.set_rng_state(found["rng.cuda"])
        optimizer.load_state(found)
    except KeyError as error:
        raise TrainingError(f"{path} lacks {error}; remove {folder} to go on from the checkpoint before") from None


def _optimizer_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    tensors = {"rng.cpu": torch.get_rng_state()}
    if torch.cuda.is_initialized():
        tensors["rng.cuda"] = torch.cuda.get_rng_state()
    for name, value in optimizer.state().items():
        tensors[name] = value.detach().cpu().contiguous()
    return tensors
