"""One model in several processes: DistributedDataParallel, where each holds all of it, or FSDP2, where each holds a part.

Both average gradients over processes; `step.py` multiplies by their number, so that the sum over all targets remains. In
float32 both take the steps of one process, up to the order of sums.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from training.device import Place, memory_of
from training.knobs import TrainerConfig
from training.planning.check import STATE_BYTES


def choose_parallel(config: TrainerConfig, model: nn.Module, here: Place) -> str:
    """`none` for one process, else `ddp` or `fsdp2` (see the knob `parallel`)."""
    if here.world == 1:
        return "none"
    if config.parallel != "auto":
        return config.parallel
    if here.device.type != "cuda":
        return "ddp"
    needed = STATE_BYTES * sum(parameter.numel() for parameter in model.parameters())
    return "fsdp2" if needed > memory_of(here.device) / 2 else "ddp"


def distribute(model: nn.Module, config: TrainerConfig, here: Place) -> str:
    """Put a model where it computes, sharded if `fsdp2`: one equal in all processes and on the CPU, or one on `meta`, which
    comes back without values. Returns the kind.

    Before the optimizer is built. FSDP2 (`fully_shard`; Zhao et al. 2023, arXiv 2304.11277): a unit for each layer, one
    for the rest. Masters and the sum of gradients are float32; weights are gathered in the dtype of the products.
    """
    kind = choose_parallel(config, model, here)
    empty = any(parameter.is_meta for parameter in model.parameters())
    if kind != "fsdp2":
        (model.to_empty if empty else model.to)(device=here.device)
        return kind
    from torch.distributed.device_mesh import init_device_mesh  # seconds to import, for nothing in one process
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(here.device.type, (here.world,))
    low = here.dtype if here.dtype != torch.float32 else None
    policy = MixedPrecisionPolicy(param_dtype=low, reduce_dtype=torch.float32, cast_forward_inputs=False)
    for layer in _layers(model):  # one with values goes to the device whole, then its other parts are freed
        fully_shard(layer, mesh=mesh, reshard_after_forward=config.reshard, mp_policy=policy)
    fully_shard(model, mesh=mesh, reshard_after_forward=config.reshard, mp_policy=policy)
    if empty:
        model.to_empty(device=here.device)
    return kind


def wrap(network: nn.Module, kind: str, here: Place) -> nn.Module:
    """The module whose backward pass adds gradients up over processes."""
    if kind != "ddp":
        return network
    return DistributedDataParallel(network, [here.device] if here.device.type == "cuda" else None)


def unwrap(network: nn.Module) -> nn.Module:
    """What to call for a forward pass alone: without DistributedDataParallel, which would talk to the others."""
    return network.module if isinstance(network, DistributedDataParallel) else network


def add_up_gradients(network: nn.Module, now: bool) -> None:
    """Whether the next forward and backward pass adds gradients up over processes: only a step's last one must."""
    if isinstance(network, DistributedDataParallel):
        network.require_backward_grad_sync = now
    elif (set_sync := getattr(network, "set_requires_gradient_sync", None)) is not None:  # FSDP2's
        set_sync(now)


def settle(model: nn.Module) -> None:
    """Free gathered weights that a forward pass without a backward one has left (`reshard: false`).

    Until then the model's parameters are not those that the optimizer holds.
    """
    for module in model.modules():
        if (reshard := getattr(module, "reshard", None)) is not None:
            reshard()


def _layers(module: nn.Module) -> list[nn.Module]:
    """The elements of the outermost lists of modules: a decoder's layers, not the experts inside one."""
    if isinstance(module, nn.ModuleList):
        return list(module)
    return [layer for child in module.children() for layer in _layers(child)]
