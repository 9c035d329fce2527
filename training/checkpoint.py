"""Checkpoints: the Hugging Face folder that others read, and reading trainer_state/, from which a run goes on exactly.

Everything is safetensors and JSON; nothing is unpickled. Files and folders get their names only when they are whole.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import xxhash
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.architectures import fill_weights, weights
from training.config_json import config_json, read_model_config
from training.knobs import TrainingError
from training.model import Decoder
from training.optimizer import Optimizer
from training.shards import is_part

FORMAT = 2  # of trainer_state/ and training.json
ADAPTER_CONFIG = "adapter_config.json"
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def write_whole(path: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a temporary file, sync it, then give it its name: a reader never meets half of it."""
    temporary = path.with_name(path.name + ".tmp")
    write(temporary)
    sync(temporary)
    temporary.replace(path)
    sync(path.parent)


def write_json(path: Path, values: Any) -> None:
    """One JSON document, indented, whole or not at all."""
    write_whole(path, lambda file: file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8"))


def sync(path: Path) -> None:
    """Return when a file or folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# The Hugging Face folder


def save_model(
    folder: Path,
    model: Decoder,
    tokenizer_dir: Path,
    eos_id: int | list[int],
    tensors: dict[str, Tensor] | None = None,
) -> None:
    """Write config, float32 weights and tokenizer as transformers loads them.

    `eos_id`: what ends a text; the first of several also pads. `tensors`: what `weights(model)` gave, where it was called before: in all processes, if the model is sharded.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "model.safetensors", lambda file: write_tensors(file, tensors or weights(model)))
    copy_tokenizer(tokenizer_dir, folder)
    write_end(folder, eos_id)
    write_json(folder / "config.json", config_json(model.config, eos_id))


def write_end(folder: Path, eos_id: int | list[int]) -> None:
    """generation_config.json: what ends a text, and what pads."""
    first = eos_id[0] if isinstance(eos_id, list) else eos_id
    write_json(folder / "generation_config.json", {"eos_token_id": eos_id, "pad_token_id": first})


def copy_tokenizer(source: Path, folder: Path) -> None:
    """Put the tokenizer's files, those that there are, into a model's folder."""
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            write_whole(folder / name, partial(shutil.copyfile, source / name))


def load_model(folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> tuple[Decoder, list[int]]:
    """A model folder's decoder with float32 weights, computing in `dtype`, and its end-of-text ids.

    Of an adapter's folder: the model that it was trained on, LoRA merged into the weights, virtual tokens in front.
    """
    if is_adapter(folder):
        from training.adapters.load import load_with_adapter  # it is built on this file

        return load_with_adapter(folder, device, dtype)
    config, end = read_model_config(folder)
    with torch.device("meta"):  # no time for random weights that are replaced at once
        model = Decoder(config, dtype)
    model = model.to_empty(device=device)
    model.tie()
    fill_weights(model, folder)
    return model.eval(), end


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter in peft's format, and no model."""
    return (folder / ADAPTER_CONFIG).exists() and not (folder / "config.json").exists()


def write_tensors(path: Path, tensors: dict[str, Tensor], note: tuple[str, str] = ("format", "pt")) -> None:
    """One safetensors file; `note`: its metadata, of which two would stand in any order. Raises `OSError` if it cannot be written."""
    try:
        save_file(tensors, path, dict([note]))
    except SafetensorError as error:  # a full disk, say, which the library wraps
        raise OSError(f"cannot write {path}: {error}") from None


# trainer_state/: step-NNNNNNNN/ with safetensors (see saver.py) and state.json


def checkpoints(folder: Path) -> list[Path]:
    """The whole checkpoints in trainer_state/, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.name.removeprefix("step-").isdigit())


def regular(folder: Path) -> list[Path]:
    """The whole checkpoints that the run's knobs asked for, oldest first: those that an undisturbed run has too, no stop's."""
    return [path for path in checkpoints(folder) if not _by_stop(path)]


def _by_stop(folder: Path) -> bool:
    try:
        return bool(read_state(folder).get("by_stop"))
    except TrainingError:  # whoever reads it will say so
        return False


def remove_checkpoint(folder: Path) -> None:
    """Take its name from a checkpoint, then remove it. Raises `OSError` if it keeps its name; files left are the next start's work."""
    leaving = folder.with_name(folder.name + ".tmp")
    shutil.rmtree(leaving, ignore_errors=True)
    folder.rename(leaving)
    shutil.rmtree(leaving, ignore_errors=True)


def read_state(folder: Path) -> dict[str, Any]:
    """A checkpoint's state.json. Raises `TrainingError` if it is broken or of a newer format."""
    path = folder / "state.json"
    try:
        state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version, _ = int(state["format"]), state["files"]
        written = state.pop("xxh3", None)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _broken(folder, f"state.json: {error}") from None
    if version > FORMAT:
        raise TrainingError(f"{path} is of format {version}, this program knows {FORMAT}: use a newer gristmill")
    if written not in (None, _digest(state)):  # older programs wrote none
        raise _broken(folder, "state.json is not what was written: its checksum differs")
    return state


def state_text(state: dict[str, Any]) -> str:
    """What state.json holds: the state and its own checksum."""
    return json.dumps({**state, "xxh3": _digest(json.loads(json.dumps(state)))}, indent=2) + "\n"


def _digest(state: dict[str, Any]) -> str:
    return xxhash.xxh3_128(json.dumps(state, sort_keys=True).encode()).hexdigest()


def checksum(path: Path) -> dict[str, Any]:
    """Size and XXH3-128 of a file: against rot, not against malice."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 24):
            digest.update(block)
    return {"bytes": path.stat().st_size, "xxh3": digest.hexdigest()}


def verify(folder: Path, state: dict[str, Any], share: int = 0, shares: int = 1) -> None:
    """Hold every `shares`-th file of a checkpoint against its checksum. Raises `TrainingError` that names a broken one."""
    for name, expected in sorted(state["files"].items())[share::shares]:
        try:
            found = checksum(folder / name)
        except OSError as error:
            raise _broken(folder, f"{name}: {error.strerror}") from None
        if found["bytes"] != expected["bytes"]:
            raise _broken(folder, f"{name} has {found['bytes']:,} bytes, {expected['bytes']:,} were written")
        if found["xxh3"] != expected["xxh3"]:
            raise _broken(folder, f"{name} is not what was written: its checksum differs")


def load_state(folder: Path, model: nn.Module, optimizer: Optimizer) -> None:
    """Put model and optimizer back to where they were, whole or sharded now, whatever wrote the checkpoint.

    What does not learn is not in it, and stays as it is.
    """
    names: dict[str, Tensor] = {name: p for name, p in model.named_parameters() if p.requires_grad}
    sharded = any(is_part(parameter) for parameter in names.values()) or any(folder.glob("shard-*"))
    try:
        optimizer.load_state(_load_shards(folder, names) if sharded else _load_whole(folder, names))
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise _broken(folder, " ".join(str(error).split())[:300]) from None


def _load_whole(folder: Path, names: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fill the parameters from plain files; gives the optimizer's state."""
    found = load_file(folder / "model.safetensors")
    for name, parameter in names.items():
        if found[name].shape != parameter.shape:
            raise ValueError(f"{name} is {list(found[name].shape)}, expected {list(parameter.shape)}")
        parameter.detach().copy_(found[name])
    return load_file(folder / "optimizer.safetensors")


def _load_shards(folder: Path, names: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same by `torch.distributed.checkpoint`, which reads what this process holds; nothing is exchanged."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader

    reader = HuggingFaceStorageReader(str(folder))
    weights: dict[str, Tensor] = {name: parameter.detach() for name, parameter in names.items()}
    state: dict[str, Tensor] = {}
    for key, about in reader.read_metadata().state_dict_metadata.items():
        if key not in names:  # ENTRY.NAME, where NAME is a parameter's
            state[key] = _empty_like(names[key.partition(".")[2]], about)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it says that there is one process
        try:
            dcp.load({**weights, **state}, storage_reader=reader, no_dist=True)
        except dcp.api.CheckpointException as error:
            raise ValueError(str(error)) from None
    return state


def _empty_like(parameter: Tensor, about: Any) -> Tensor:
    """Room for a stored part of the optimizer's state: laid out as its parameter, or a number of its own."""
    if tuple(about.size) == tuple(parameter.shape):
        return torch.zeros_like(parameter, dtype=about.properties.dtype, requires_grad=False)
    return torch.zeros(tuple(about.size), dtype=about.properties.dtype)


def _broken(folder: Path, why: str) -> TrainingError:
    return TrainingError(f"the checkpoint {folder} is broken ({why}); remove it to go on from the one before")
