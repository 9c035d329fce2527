"""Reading an adapter folder that peft or save.py wrote, into a model or as one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from training.adapters.adapter import freeze, has_adapter, merge
from training.adapters.config import LINEAR, AdapterConfig, scale
from training.adapters.lora import adaptable, adapters, attach_lora
from training.adapters.peft_format import PREFIX, WEIGHTS, Module, modules
from training.adapters.prompt import attach
from training.architectures import family, read_tensors, weights
from training.checkpoint import ADAPTER_CONFIG, TOKENIZER_FILES, load_model, save_model, write_json
from training.knobs import TrainingError
from training.model import Decoder, Linear

# what peft may have been asked for that changes what an adapter computes and that is not computed here
UNKNOWN = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
)
# ways to begin that change the model's own weights, so that an adapter is of no use beside those on disk
CHANGES_BASE = ("pissa", "olora", "corda", "loftq")


def load_with_adapter(
    folder: Path, device: torch.device, dtype: torch.dtype, base: Path | None = None
) -> tuple[Decoder, list[int]]:
    """As `checkpoint.load_model`, which calls it: LoRA is merged into the weights, virtual tokens stay in front.

    The model, `base` or the one that the folder names, may be an adapter folder itself. The ids that end a text are the adapter's,
    if it names some.
    """
    model, end = load_model(base or base_folder(folder), device, dtype)
    load_adapter(model, folder)
    if model.prompt is None:
        merge(model)
    return model.eval(), _end_ids(folder) or end


def merge_folder(adapter: Path, out: Path, base: Path | None = None, dtype: str = "float32") -> int:
    """Write the merged model as a Hugging Face folder with weights in `dtype`; the number of its parameters.

    Merged in float32, then rounded. Raises `TrainingError` for virtual tokens, which no weight stands for.
    """
    if not (adapter / ADAPTER_CONFIG).exists():
        raise TrainingError(f"{adapter} is no adapter folder: there is no {ADAPTER_CONFIG} in it")
    model, end = load_with_adapter(adapter, torch.device("cpu"), torch.float32, base)
    if model.prompt is not None:
        raise TrainingError(
            f"{adapter} holds virtual tokens, which cannot be merged: no weight of the model stands for them"
        )
    kind: torch.dtype = getattr(torch, dtype)
    tensors = {name: tensor.to(kind) for name, tensor in weights(model).items()}
    tokenizer = adapter if (adapter / TOKENIZER_FILES[0]).exists() else base or base_folder(adapter)
    save_model(out, model, tokenizer, end, tensors)
    about = json.loads((out / "config.json").read_text(encoding="utf-8"))
    write_json(out / "config.json", {**about, "torch_dtype": dtype, "dtype": dtype})
    return sum(tensor.numel() for tensor in tensors.values())


def _end_ids(folder: Path) -> list[int]:
    path = folder / "generation_config.json"
    if not path.exists():
        return []
    try:
        ids = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
        return [] if ids is None else [int(i) for i in ([ids] if isinstance(ids, int) else ids)]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise TrainingError(f"cannot read {path}: {error}") from None


def base_folder(folder: Path) -> Path:
    """The folder of the model that an adapter is for, as written, or seen from the adapter's folder.

    Raises `TrainingError` if it is not there.
    """
    name = _read_config(folder).get("base_model_name_or_path")
    for base in (Path(str(name)), folder / str(name)):
        if name and base.is_dir() and base.resolve() != folder.resolve():
            return base
    raise TrainingError(
        f"{folder / ADAPTER_CONFIG}: base_model_name_or_path is {name!r}, which is no folder here; nothing is downloaded: "
        f"write the folder of the model there that the adapter was trained on"
    )


def load_adapter(model: Decoder, folder: Path) -> Decoder:
    """Freeze the model and add a folder's adapter, free to learn on. Raises `TrainingError` if it is not for this model.

    Refused is also what peft would compute otherwise than this program: DoRA, trained biases or whole modules, and so on.
    """
    if has_adapter(model):
        raise TrainingError("the model has an adapter already: merge that first (python -m training merge)")
    about, path = _read_config(folder), folder / WEIGHTS
    tensors = read_tensors(path)
    freeze(model)
    try:
        if about.get("peft_type") == "LORA":
            model.adapter_config = _load_lora(model, about, tensors, _note(path), path)
        elif about.get("peft_type") == "PROMPT_TUNING":
            model.adapter_config = _load_prompt(model, about, tensors, path)
        else:
            raise TrainingError(f"peft_type {about.get('peft_type')!r} is not known here; LORA and PROMPT_TUNING are")
    except (KeyError, TypeError, ValueError, AttributeError, ValidationError) as error:
        if isinstance(error, TrainingError):
            raise TrainingError(f"{folder}: {error}") from None
        raise TrainingError(f"{folder / ADAPTER_CONFIG} is not as peft writes it: {error!r}"[:300]) from None
    return model


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / ADAPTER_CONFIG
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"{folder} is no adapter folder: cannot read {path}: {error}") from None
    if not isinstance(about, dict):
        raise TrainingError(f"{path}: expected a mapping")
    return about


def _note(path: Path) -> dict[str, dict[str, int]]:
    """What `save_adapter` says of modules that join several maps; empty in files of others."""
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads((file.metadata() or {}).get("parts", "{}"))
    except (OSError, ValueError, SafetensorError) as error:
        raise TrainingError(f"cannot read the metadata of {path}: {error}") from None


def _load_lora(
    model: Decoder, about: dict[str, Any], tensors: dict[str, Tensor], note: dict[str, dict[str, int]], path: Path
) -> AdapterConfig:
    _refuse(about)
    found: dict[str, dict[str, Tensor]] = {}
    known, there = {module.theirs: module for module in modules(model.config)}, adaptable(model)
    for key, tensor in tensors.items():
        match = re.fullmatch(re.escape(PREFIX) + r"(.+)\.lora_([AB])\.weight", key)
        if match is None or match[1] not in known:
            raise TrainingError(
                f"{path.name} has {key}, which no adapter of this model ({family(model.config)}) is called"
            )
        found.setdefault(match[1], {})[match[2]] = tensor.float()
    config = AdapterConfig(
        rank=about["r"],
        alpha=about["lora_alpha"],
        dropout=about.get("lora_dropout") or 0.0,
        rslora=bool(about.get("use_rslora")),
        init="gaussian" if about.get("init_lora_weights") == "gaussian" else "kaiming",
    )
    for theirs, pair in found.items():
        module = known[theirs]
        rows = [there[name].out_features for name in module.ours]
        a, b = pair.get("A"), pair.get("B")
        inputs = there[module.ours[0]].in_features
        if a is None or b is None or a.shape != (len(a), inputs) or b.shape != (sum(rows), len(a)):
            raise TrainingError(f"the adapter of {theirs} is not a pair of [rank, {inputs}] and [{sum(rows)}, rank]")
        rank = _by_pattern(about.get("rank_pattern"), theirs, config.rank)
        if rank != len(a):
            raise TrainingError(f"the adapter of {theirs} has rank {len(a)}, {ADAPTER_CONFIG} says {rank}")
        factor = scale(_by_pattern(about.get("alpha_pattern"), theirs, config.alpha), rank, config.rslora)
        for name, (low, high) in _parted(module, a, b, note.get(theirs)).items():
            attach_lora(there[name], low, high, factor, config.dropout)
    return config.model_copy(update={"target_modules": _target_names(set(adapters(model)), there)})


def _refuse(about: dict[str, Any]) -> None:
    for key in UNKNOWN:
        if about.get(key):
            raise TrainingError(f"{key}={about[key]!r} is not computed here")
    if about.get("bias", "none") != "none":
        raise TrainingError(f"bias={about['bias']!r} is not computed here: biases stay as they are")
    init = about.get("init_lora_weights", True)
    if isinstance(init, str) and init.startswith(CHANGES_BASE):
        raise TrainingError(
            f"init_lora_weights={init!r} changes the model itself; convert it to plain LoRA with peft first"
        )


def _target_names(names: set[str], there: dict[str, Linear]) -> tuple[str, ...]:
    last = {name.rpartition(".")[2] for name in names}
    return ("all-linear",) if names == set(there) else tuple(name for name in LINEAR if name in last)


def _by_pattern(pattern: dict[str, Any] | None, name: str, usual: Any) -> Any:
    """The value of the first key that a module's name ends with; keys are regular expressions, as in peft."""
    return next((value for key, value in (pattern or {}).items() if re.match(rf"(.*\.)?({key})$", name)), usual)


def _parted(module: Module, a: Tensor, b: Tensor, note: dict[str, int] | None) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of each map that a module joins: as the note says, if the rest of B is zero as it then must be."""
    blocks = dict(zip(module.ours, module.part(b), strict=True))
    alike = {name: (a, block) for name, block in blocks.items()}
    if note is None or sum(note.values()) != len(a) or not set(note) <= set(blocks):
        return alike
    parts, at, rest = {}, 0, {name: block.clone() for name, block in blocks.items()}
    for name, rank in note.items():
        parts[name] = (a[at : at + rank], blocks[name][:, at : at + rank])
        rest[name][:, at : at + rank] = 0
        at += rank
    return alike if any(block.any() for block in rest.values()) else parts


def _load_prompt(model: Decoder, about: dict[str, Any], tensors: dict[str, Tensor], path: Path) -> AdapterConfig:
    embeddings = tensors.get("prompt_embeddings")
    expected = (about["num_virtual_tokens"] * (about.get("num_transformer_submodules") or 1), model.config.width)
    if embeddings is None or tuple(embeddings.shape) != expected:
        raise TrainingError(f"{path.name}: expected prompt_embeddings of {list(expected)} alone")
    attach(model, embeddings.float())
    return AdapterConfig(kind="prompt", virtual_tokens=len(embeddings), prompt_init="random")
