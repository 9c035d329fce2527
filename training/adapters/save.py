"""Writing an adapter folder that peft loads; names and joined modules are explained in peft_format.py."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from training.adapters.adapter import has_adapter
from training.adapters.config import AdapterConfig
from training.adapters.lora import LoRA, adaptable, adapters
from training.adapters.peft_format import PREFIX, WEIGHTS, Module, modules
from training.architectures import family
from training.checkpoint import (
    ADAPTER_CONFIG,
    copy_tokenizer,
    write_end,
    write_json,
    write_tensors,
    write_whole,
)
from training.knobs import TrainingError
from training.model import Decoder
from training.shards import whole


def adapter_tensors(model: Decoder) -> dict[str, Tensor]:
    """The adapter's float32 weights under peft's names, on the CPU. Of a sharded model all processes must call this."""
    if model.prompt is not None:
        return {"prompt_embeddings": whole(model.prompt.weight.detach()).float().cpu().contiguous()}
    parts, tensors = adapters(model), {}
    there = {key: _matrices(part) for key, part in parts.items()}
    scales = {key: part.scale for key, part in parts.items()}
    for module in modules(model.config):
        if not any(name in there for name in module.ours):
            continue
        a, b = _joined(module, there, scales, model)
        tensors[f"{PREFIX}{module.theirs}.lora_A.weight"] = a.contiguous()
        tensors[f"{PREFIX}{module.theirs}.lora_B.weight"] = b.contiguous()
    return tensors


def _matrices(part: LoRA) -> tuple[Tensor, Tensor]:
    return tuple(whole(matrix.detach()).float().cpu() for matrix in (part.lora_A, part.lora_B))  # type: ignore[return-value]


def _joined(
    module: Module, there: dict[str, tuple[Tensor, Tensor]], scales: dict[str, float], model: Decoder
) -> tuple[Tensor, Tensor]:
    """One A and one B for the maps that a module joins; a map without adapter has zeros for rows."""
    lines, names = adaptable(model), [name for name in module.ours if name in there]
    total, at, blocks = sum(len(there[name][0]) for name in names), 0, []
    for name in module.ours:
        block = torch.zeros(lines[name].out_features, total)
        if name in there:
            b = there[name][1] * (scales[name] / scales[names[0]])
            block[:, at : at + b.shape[1]] = b
            at += b.shape[1]
        blocks.append(block)
    return torch.cat([there[name][0] for name in names]), module.join(blocks)


def save_adapter(
    folder: Path,
    model: Decoder,
    base: Path,
    end: list[int] | None = None,
    tensors: dict[str, Tensor] | None = None,
) -> None:
    """Write the adapter as peft loads it beside the model in `base`, and its tokenizer.

    `end`: ids that end a text, if they are not those of `base`. `tensors`: what `adapter_tensors(model)` gave, where it was called before: in all processes, if the model is sharded.
    """
    if not has_adapter(model):
        raise TrainingError("there is no adapter to save")
    folder.mkdir(parents=True, exist_ok=True)
    tensors = tensors or adapter_tensors(model)
    parts = _parts(model)
    note = ("parts", json.dumps(parts)) if parts else ("format", "pt")
    write_whole(folder / WEIGHTS, lambda file: write_tensors(file, tensors, note))
    copy_tokenizer(base, folder)
    if end is not None:
        write_end(folder, end)
    about = _prompt_json(model, base) if model.prompt is not None else _lora_json(model, tensors)
    write_json(
        folder / ADAPTER_CONFIG, {**about, "base_model_name_or_path": str(base.resolve())}
    )  # last: it says all is there


def _parts(model: Decoder) -> dict[str, dict[str, int]]:
    """Of each module that joins several maps: whose adapters, and their ranks in their order."""
    ranks = {key: len(part.lora_A) for key, part in adapters(model).items()}
    return {
        module.theirs: {name: ranks[name] for name in module.ours if name in ranks}
        for module in modules(model.config)
        if len(module.ours) > 1 and any(name in ranks for name in module.ours)
    }


def _lora_json(model: Decoder, tensors: dict[str, Tensor]) -> dict[str, Any]:
    config: AdapterConfig = model.adapter_config
    there, ranks, alphas = adapters(model), {}, {}
    all_modules = modules(model.config)
    for module in all_modules:
        if (a := tensors.get(f"{PREFIX}{module.theirs}.lora_A.weight")) is not None:
            factor = next(there[name].scale for name in module.ours if name in there)
            ranks[module.theirs] = len(a)
            alphas[module.theirs] = factor * (len(a) ** 0.5 if config.rslora else len(a))
    short = _short_names(list(ranks), [module.theirs for module in all_modules])
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "r": config.rank,
        "lora_alpha": int(config.alpha) if config.alpha.is_integer() else config.alpha,
        "lora_dropout": config.dropout,
        "target_modules": sorted(set(short.values())),
        "rank_pattern": _pattern(ranks, short, config.rank),
        "alpha_pattern": _pattern(alphas, short, config.alpha),
        "use_rslora": config.rslora,
        "init_lora_weights": "gaussian" if config.init == "gaussian" else True,
        "fan_in_fan_out": family(model.config) in ("gpt2", "gpt2 post"),
        "bias": "none",
        "modules_to_save": None,
    }


def _pattern(values: dict[str, Any], short: dict[str, str], usual: float) -> dict[str, Any]:
    """Where a value is not the usual one: by the short name if all modules of that name have it, else by the whole name."""
    pattern = {}
    for name, value in values.items():
        alike = {values[other] for other, end in short.items() if end == short[name]}
        if abs(value - usual) > 1e-9 * usual or len(alike) > 1:
            pattern[short[name] if len(alike) == 1 else name] = value
    return pattern


def _short_names(names: list[str], all_names: list[str]) -> dict[str, str]:
    """For each module the shortest end of its name that stands for modules in `names` only; peft matches ends of names."""
    short = {}
    for name in names:
        parts = name.split(".")
        for count in range(1, len(parts) + 1):
            end = ".".join(parts[-count:])
            same = [other for other in all_names if other == end or other.endswith(f".{end}")]
            layers = {re.sub(r"\.\d+\.", ".N.", other) for other in same}
            if count == len(parts) or (set(same) <= set(names) and len(layers) == 1):
                short[name] = end
                break
    return short


def _prompt_json(model: Decoder, base: Path) -> dict[str, Any]:
    config: AdapterConfig = model.adapter_config
    shape = model.config
    about = {
        "peft_type": "PROMPT_TUNING",
        "task_type": "CAUSAL_LM",
        "inference_mode": True,
        "num_virtual_tokens": shape.virtual_tokens,
        "token_dim": shape.width,
        "num_transformer_submodules": 1,
        "num_attention_heads": shape.heads,
        "num_layers": shape.layers,
        "prompt_tuning_init": {"vocabulary": "SAMPLE_VOCAB", "random": "RANDOM", "text": "TEXT"}[config.prompt_init],
    }
    if config.prompt_init == "text":
        about |= {"prompt_tuning_init_text": config.prompt_text, "tokenizer_name_or_path": str(base.resolve())}
    return about
