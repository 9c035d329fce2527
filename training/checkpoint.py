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
from safetensors.torch import save_file
from torch import Tensor

from training.architectures import config_json, fill_weights, read_model_config, read_tensors, weights
from training.config import TrainingError
from training.model import Decoder
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
    """Write config, float32 weights and tokenizer as transformers loads them."""
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "model.safetensors", lambda file: _write_tensors(file, weights(model)))
    for name in TOKENIZER_FILES:
        if (tokenizer_dir / name).exists():
            write_whole(folder / name, partial(shutil.copyfile, tokenizer_dir / name))
    write_json(folder / "generation_config.json", {"eos_token_id": eos_id, "pad_token_id": eos_id})
    write_json(folder / "config.json", config_json(model.config, eos_id))


def load_model(folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[Decoder, list[int]]:
    """A model folder's decoder with float32 weights, computing in `dtype`, and its end-of-text ids."""
    config, end = read_model_config(folder)
    with torch.device("meta"):  # no time for random weights that are replaced at once
        model = Decoder(config, dtype)
    model = model.to_empty(device=device)
    model.tie()
    fill_weights(model, folder)
    return model.eval(), end


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
    found = read_tensors(path)
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
