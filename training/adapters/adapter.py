"""What the rest of the program calls: add an adapter to a model, train it, leave it out for a while, merge it.

Reading and writing it is in peft_format.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn

from training.adapters.config import AdapterConfig
from training.adapters.lora import LoRA, add_lora, merge_lora
from training.adapters.prompt import VirtualTokens, add_prompt
from training.adapters.qlora import quantise, restore
from training.knobs import TrainingError
from training.model import Decoder


def add_adapter(model: Decoder, config: AdapterConfig, seed: int = 0, tokenizer_dir: Path | None = None) -> Decoder:
    """Freeze the model and add an adapter, which begins by changing nothing (LoRA), or to be learnt (virtual tokens).

    Before recomputation, sharding and the optimizer. `tokenizer_dir` is needed for `prompt_init: text` alone. Raises
    `TrainingError` for a model that has one already, modules that cannot have one, and a device that cannot.
    """
    if has_adapter(model):
        raise TrainingError("the model has an adapter already: merge that first (python -m training merge)")
    freeze(model)
    if config.kind == "prompt":
        add_prompt(model, config, seed, tokenizer_dir)
    else:
        if config.kind == "qlora":
            quantise(model, config.double_quantisation)
        add_lora(model, config, seed)
    model.adapter_config = config
    return model


def freeze(model: nn.Module) -> None:
    """No parameter of the model learns."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def has_adapter(model: nn.Module) -> bool:
    """Whether there is one, of any kind."""
    return any(isinstance(part, LoRA | VirtualTokens) for part in model.modules())


def adapter_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The adapter's parameters by their names in the model."""
    return {
        f"{name}.{key}": parameter
        for name, part in model.named_modules()
        if isinstance(part, LoRA | VirtualTokens)
        for key, parameter in part.named_parameters()
    }


@contextmanager
def without_adapter(model: nn.Module) -> Iterator[None]:
    """The model as it was before: the reference of preference losses and of RL, without a second copy in memory.

    Raises `ValueError` if there is no adapter: the model would be compared with itself.
    """
    parts = [part for part in model.modules() if isinstance(part, LoRA | VirtualTokens)]
    if not parts:
        raise ValueError("without_adapter needs a model with an adapter")
    before = [part.enabled for part in parts]
    for part in parts:
        part.enabled = False
    try:
        yield
    finally:
        for part, enabled in zip(parts, before, strict=True):
            part.enabled = enabled


def merge(model: Decoder) -> Decoder:
    """Add the adapter to the weights, all float32 and free to learn again; the model then computes the same without it.

    Weights in 4 bits are written out, so that what was trained is what comes out. Raises `TrainingError` for virtual tokens,
    which are no weights, and for a model without an adapter. Not for a sharded model: `architectures.weights` is.
    """
    if model.prompt is not None:
        raise TrainingError(
            "virtual tokens cannot be merged: no weight of the model stands for them; use the adapter folder"
        )
    if not has_adapter(model):
        raise TrainingError("there is no adapter to merge")
    restore(model)
    merge_lora(model)
    model.adapter_config = None
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model
