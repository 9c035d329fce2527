"""Other people's names: the weights of each family as transformers has them, from our model and into it.

One table a family says which of our parameters make up which of theirs, and is read in both directions. What config.json says
of each is in training/config_json.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from training.knobs import TrainingError
from training.model import Decoder, Linear, ModelConfig
from training.rotary import sinusoids
from training.shards import whole

# class in transformers, model_type
CLASSES = {
    "llama": ("LlamaForCausalLM", "llama"),
    "qwen2": ("Qwen2ForCausalLM", "qwen2"),
    "qwen3": ("Qwen3ForCausalLM", "qwen3"),
    "mistral": ("MistralForCausalLM", "mistral"),
    "mixtral": ("MixtralForCausalLM", "mixtral"),
    "gpt2": ("GPT2LMHeadModel", "gpt2"),
    "gpt2 post": ("OpenAIGPTLMHeadModel", "openai-gpt"),
    "gpt2 rotary": ("GPTNeoXForCausalLM", "gpt_neox"),
}
# the class that puts scores of whole texts in place of the output projection, by the name of the class above
SCORER_CLASSES = {
    name: name.replace("ForCausalLM", "").replace("LMHeadModel", "") + "ForSequenceClassification"
    for name, _ in CLASSES.values()
}
# Buffers that older versions of transformers saved; they follow from the config
NEEDLESS = (".attn.bias", ".attn.masked_bias", ".rotary_emb.inv_freq", ".attention.bias", ".attention.masked_bias")


def family(config: ModelConfig) -> str:
    """The key in `CLASSES` of the architecture by which transformers knows this model."""
    if config.architecture != "gpt2":
        return config.architecture
    if config.positions == "rotary":
        return "gpt2 rotary"
    return "gpt2 post" if config.norm == "post" else "gpt2"


class Entry(NamedTuple):
    """One of their tensors: its name, the parameters of ours that it holds, and the way there and back."""

    theirs: str
    ours: tuple[str, ...]
    pack: Callable[[list[Tensor]], Tensor]
    unpack: Callable[[Tensor], list[Tensor]]


def to_transformers(config: ModelConfig, ours: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Their tensors, from all our parameters by name. A tied output projection is left out, as transformers does."""
    return {entry.theirs: entry.pack([ours[name] for name in entry.ours]).contiguous() for entry in table(config)}


def from_transformers(config: ModelConfig, theirs: Mapping[str, Tensor], where: Path) -> dict[str, Tensor]:
    """Our parameters by name, from their tensors. Raises `TrainingError` if names or shapes are not the model's."""
    entries = table(config)
    found = _known_names(theirs, {entry.theirs for entry in entries}, config)
    if odd := sorted({entry.theirs for entry in entries} ^ found.keys()):
        raise TrainingError(f"{where}: missing or unexpected weights: {', '.join(odd[:5])} ({len(odd)} in all)")
    expected = _shapes(config)
    ours: dict[str, Tensor] = {}
    for entry in entries:
        like = entry.pack([torch.empty(expected[name], device="meta") for name in entry.ours])
        tensor = found[entry.theirs]
        if tensor.shape != like.shape:
            raise TrainingError(f"{where}: {entry.theirs} is {list(tensor.shape)}, expected {list(like.shape)}")
        ours.update(zip(entry.ours, entry.unpack(tensor), strict=True))
    return ours


def weights(model: Decoder, keep: bool = True) -> dict[str, Tensor]:
    """The float32 weights under their names, on the CPU, LoRA merged into them. Of a sharded model all processes must call this.

    `keep`: false in a process that only takes part; it gets an empty dict, and never holds more than one of them whole.
    Raises `TrainingError` if there are virtual tokens, which no weight stands for.
    """
    if model.prompt is not None:
        raise TrainingError("virtual tokens are not part of a model's weights: save the adapter instead")
    ours: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():
        tensor = whole(parameter.detach())
        if keep:
            ours[name] = tensor.float().cpu()
    for name, module in model.named_modules():
        if isinstance(module, Linear):
            if module.weight is None and keep:  # it is kept in 4 bits
                ours[f"{name}.weight"] = module.full_weight().cpu()
            if module.adapter is not None:
                delta = module.adapter.delta()
                if keep:
                    ours[f"{name}.weight"] = ours[f"{name}.weight"] + delta.cpu()
    return to_transformers(model.config, ours) if keep else {}


def fill_weights(model: Decoder, path: Path) -> None:
    """Copy the weights in a file, or in a folder's files, into the model. Raises `TrainingError` if they do not fit."""
    tensors = from_transformers(model.config, read_weights(path) if path.is_dir() else read_tensors(path), path)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[name])


def table(config: ModelConfig) -> list[Entry]:
    """All their tensors, in the order of our parameters."""
    kind = family(config)
    if kind == "mixtral":
        return [_plain(_mixtral_name(name), name, config) for name in _shapes(config)]
    if config.architecture != "gpt2":
        return [_plain(name, name, config) for name in _shapes(config)]
    neox = kind == "gpt2 rotary"
    outside, inside = (
        (_NEOX if neox else _OPENAI if kind == "gpt2 post" else _GPT2),
        (_NEOX_LAYER if neox else _GPT2_LAYER),
    )
    names = _shapes(config)
    entries = [_plain(theirs, ours, config) for ours, theirs in outside.items() if ours in names]
    if config.positions == "sinusoidal":
        theirs = outside["model.embed_positions.weight"]
        entries.append(
            Entry(theirs, (), lambda _: sinusoids(torch.arange(config.context_length), config.width), lambda _: [])
        )
    layers = "gpt_neox.layers" if neox else "transformer.h"
    for number in range(config.layers):
        for part, theirs in inside.items():
            entries += _of_layer(f"{layers}.{number}.{theirs}", f"model.layers.{number}.", part, config, neox)
    return entries


_GPT2 = {
    "model.embed_tokens.weight": "transformer.wte.weight",
    "model.embed_positions.weight": "transformer.wpe.weight",
    "model.norm.weight": "transformer.ln_f.weight",
    "model.norm.bias": "transformer.ln_f.bias",
    "lm_head.weight": "lm_head.weight",
}
_OPENAI = {
    "model.embed_tokens.weight": "transformer.tokens_embed.weight",
    "model.embed_positions.weight": "transformer.positions_embed.weight",
    "lm_head.weight": "lm_head.weight",
}
_NEOX = {
    "model.embed_tokens.weight": "gpt_neox.embed_in.weight",
    "model.norm.weight": "gpt_neox.final_layer_norm.weight",
    "model.norm.bias": "gpt_neox.final_layer_norm.bias",
    "lm_head.weight": "embed_out.weight",
}
_GPT2_LAYER = {
    "input_layernorm": "ln_1",
    "self_attn.qkv": "attn.c_attn",
    "self_attn.o_proj": "attn.c_proj",
    "post_attention_layernorm": "ln_2",
    "mlp.up_proj": "mlp.c_fc",
    "mlp.down_proj": "mlp.c_proj",
}
_NEOX_LAYER = {
    "input_layernorm": "input_layernorm",
    "self_attn.qkv": "attention.query_key_value",
    "self_attn.o_proj": "attention.dense",
    "post_attention_layernorm": "post_attention_layernorm",
    "mlp.up_proj": "mlp.dense_h_to_4h",
    "mlp.down_proj": "mlp.dense_4h_to_h",
}


def _plain(theirs: str, ours: str, config: ModelConfig) -> Entry:
    """The same tensor, but for the rows that pad the vocabulary: those are ours alone."""
    if ours not in ("model.embed_tokens.weight", "lm_head.weight"):
        return Entry(theirs, (ours,), lambda parts: parts[0], lambda tensor: [tensor])
    padding = config.embedding_rows - config.vocab_size
    return Entry(
        theirs,
        (ours,),
        lambda parts: parts[0][: config.vocab_size],
        lambda tensor: [F.pad(tensor, (0, 0, 0, padding)) if padding else tensor],
    )


def _of_layer(theirs: str, layer: str, part: str, config: ModelConfig, neox: bool) -> list[Entry]:
    """Weight and bias of one module. GPT-2's matrices stand the other way round (Conv1D), GPT-NeoX mixes q, k and v by head."""
    if part.endswith("layernorm"):
        return [_plain(f"{theirs}.{what}", f"{layer}{part}.{what}", config) for what in ("weight", "bias")]
    parts = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"] if part.endswith("qkv") else [part]
    count, heads = len(parts), config.heads

    def pack(tensors: list[Tensor]) -> Tensor:
        if neox and count == 3:  # [H * D, ...] each -> [H, 3, D, ...]
            return torch.stack([tensor.unflatten(0, (heads, -1)) for tensor in tensors], dim=1).flatten(0, 2)
        joined = torch.cat(tensors)
        return joined if neox else joined.T if joined.dim() == 2 else joined

    def unpack(joined: Tensor) -> list[Tensor]:
        if neox and count == 3:
            return [tensor.flatten(0, 1) for tensor in joined.unflatten(0, (heads, 3, -1)).unbind(1)]
        return list((joined if neox or joined.dim() == 1 else joined.T).chunk(count))

    return [
        Entry(f"{theirs}.{what}", tuple(f"{layer}{one}.{what}" for one in parts), pack, unpack)
        for what in ("weight", "bias")
    ]


def _mixtral_name(name: str) -> str:
    for ours, theirs in (("mlp.", "block_sparse_moe."), ("gate_proj", "w1"), ("down_proj", "w2"), ("up_proj", "w3")):
        name = name.replace(ours, theirs)
    return name


def _shapes(config: ModelConfig) -> dict[str, torch.Size]:
    with torch.device("meta"):
        return {name: parameter.shape for name, parameter in Decoder(config).named_parameters()}


def _known_names(theirs: Mapping[str, Tensor], wanted: set[str], config: ModelConfig) -> dict[str, Tensor]:
    """The tensors without needless ones, under the names that transformers gives them today."""
    found = {name: tensor for name, tensor in theirs.items() if not name.endswith(NEEDLESS) or name in wanted}
    if config.architecture == "gpt2" and not any(name.startswith(("transformer.", "gpt_neox.")) for name in found):
        found = {name if name == "lm_head.weight" else f"transformer.{name}": tensor for name, tensor in found.items()}
    if config.tie_embeddings:
        for name in {"lm_head.weight", "embed_out.weight"} - wanted:
            found.pop(name, None)
    elif "embed_out.weight" in wanted and "lm_head.weight" in found:
        found["embed_out.weight"] = found.pop("lm_head.weight")
    return found


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder: model.safetensors, or the files that model.safetensors.index.json names."""
    index = folder / "model.safetensors.index.json"
    if not index.exists():
        return read_tensors(folder / "model.safetensors")
    try:
        files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrainingError(f"cannot read weight_map in {index}: {error}") from None
    return {name: tensor for file in files for name, tensor in read_tensors(folder / file).items()}


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name. Raises `TrainingError` if it cannot be read."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"cannot read the weights in {path}: {error}") from None
