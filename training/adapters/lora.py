"""LoRA: a frozen matrix W with a trained product beside it, W + scale * B A (Hu et al. 2021, arXiv 2106.09685).

B begins with 0, so a new adapter changes nothing. A and B are float32 masters, cast to the dtype of the activations where they
are used, as `model.Linear` does with W. The adapter is a child of the Linear that it belongs to: names, sharding, recomputation
and 8-bit products of the model stay what they are.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.adapters.config import LINEAR, AdapterConfig
from training.knobs import TrainingError
from training.model import Decoder, Linear
from training.shards import whole


class LoRA(nn.Module):
    """What one Linear's adapter adds. lora_A: float32 `[rank, inputs]`; lora_B: float32 `[outputs, rank]`."""

    def __init__(self, a: Tensor, b: Tensor, scale: float, dropout: float) -> None:
        super().__init__()
        self.lora_A, self.lora_B = nn.Parameter(a.float().clone()), nn.Parameter(b.float().clone())
        self.dropout = nn.Dropout(dropout) if dropout else None
        self.scale = scale
        self.enabled = True

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """`y [..., outputs]` plus the product of `x [..., inputs]` with the adapter, in the dtype of both."""
        if not self.enabled:
            return y
        if self.dropout is not None:
            x = self.dropout(x)
        low = F.linear(x, self.lora_A.to(x.dtype)).flatten(0, -2)
        return torch.addmm(y.flatten(0, -2), low, self.lora_B.to(x.dtype).T, alpha=self.scale).view_as(y)

    def delta(self) -> Tensor:
        """What it adds to the matrix: float32 `[outputs, inputs]`. Of a sharded model all processes must call this."""
        return self.scale * (whole(self.lora_B.detach()).float() @ whole(self.lora_A.detach()).float())


def add_lora(model: Decoder, config: AdapterConfig, seed: int) -> None:
    """Give every linear map that the config names an adapter; A is drawn from a private generator."""
    generator = torch.Generator().manual_seed(seed)
    for linear in targets(model, config).values():
        drawn = torch.empty(config.rank, linear.in_features)
        if config.init == "gaussian":
            drawn.normal_(0.0, 1 / config.rank, generator=generator)
        else:  # as nn.Linear draws its weight, which the authors' code and peft do
            nn.init.kaiming_uniform_(drawn, a=math.sqrt(5), generator=generator)
        attach_lora(linear, drawn, torch.zeros(linear.out_features, config.rank), config.scale, config.dropout)


def attach_lora(linear: Linear, a: Tensor, b: Tensor, scale: float, dropout: float) -> None:
    """Give a linear map the adapter of these two matrices, where it is."""
    device = next(iter([*linear.parameters(), *linear.buffers()])).device
    linear.adapter = LoRA(a.to(device), b.to(device), scale, dropout).train(linear.training)


def targets(model: Decoder, config: AdapterConfig) -> dict[str, Linear]:
    """The linear maps that the config names, by their names in the model. Raises `TrainingError` if one is not there."""
    found = adaptable(model)
    there = [name for name in LINEAR if any(key.endswith(f".{name}") for key in found)]
    names = there if config.target_modules == ("all-linear",) else config.target_modules
    if odd := [name for name in names if name not in there]:
        why = ""
        if model.config.experts:
            why = ": transformers keeps the experts of a layer in one tensor, so their adapters could not be saved"
        raise TrainingError(
            f"target_modules: {odd[0]!r} of {model.config.architecture} cannot have an adapter{why}; it has {', '.join(there)}"
        )
    return {key: linear for key, linear in found.items() if key.rpartition(".")[2] in names}


def adaptable(model: Decoder) -> dict[str, Linear]:
    """The linear maps of the layers that may have an adapter: all but routers and experts."""
    return {
        key: module
        for key, module in model.named_modules()
        if isinstance(module, Linear) and key.startswith("model.layers.") and ".experts." not in key
        and key.rpartition(".")[2] in LINEAR
    }  # fmt: skip


def adapters(model: nn.Module) -> dict[str, LoRA]:
    """The adapters by the names of their linear maps."""
    return {
        key: module.adapter
        for key, module in model.named_modules()
        if isinstance(module, Linear) and isinstance(module.adapter, LoRA)
    }


def merge_lora(model: Decoder) -> None:
    """Add every adapter to its matrix, in float32, and take it away."""
    for key in adapters(model):
        linear = model.get_submodule(key)
        assert isinstance(linear, Linear) and isinstance(linear.adapter, LoRA)
        with torch.no_grad():
            linear.weight += linear.adapter.delta()
        linear.adapter = None
