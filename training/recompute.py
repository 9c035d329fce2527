"""Activation checkpointing: keep less from the forward pass, compute it again in the backward pass.

Chen et al. 2016 (arXiv 1604.06174). `full` keeps a layer's input only; `selective` also keeps what is dear to compute, the
outputs of matrix products and of attention, and computes the cheap rest again (Korthikanti et al. 2022, arXiv 2205.05198,
section 5, the other way round: they recompute attention, which fused kernels have since made the smaller part).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from training.knobs import TrainerConfig

aten = torch.ops.aten
DEAR = frozenset(
    {
        aten.mm.default,
        aten.addmm.default,
        aten.bmm.default,
        aten.baddbmm.default,
        aten._scaled_mm.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
        torch.ops.higher_order.flex_attention,
    }
)


def recompute_layers(model: nn.Module, config: TrainerConfig) -> None:
    """Make every `recompute_every`-th layer of a decoder (the first included) keep no more than `recompute` says.

    From outside, and before sharding and compiling: names of parameters and results stay what they are, and without
    gradients nothing is different.
    """
    if config.recompute == "none":
        return
    layers: Any = model.model.layers  # type: ignore[union-attr]
    for layer in list(layers)[:: config.recompute_every]:
        layer.forward = partial(_again, layer, layer.forward, config.recompute == "selective")


def _again(layer: nn.Module, forward: Callable[..., Any], selective: bool, *inputs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*inputs)
    draws = any(isinstance(part, nn.Dropout) for part in layer.modules())  # then both times the same numbers
    if not selective:
        return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=draws)
    contexts = partial(create_selective_checkpoint_contexts, keep_what_is_dear)
    return checkpoint(forward, *inputs, use_reentrant=False, preserve_rng_state=draws, context_fn=contexts)


def keep_what_is_dear(_: Any, operation: Any, *inputs: Any, **options: Any) -> CheckpointPolicy:
    """Keep the output of `operation`, or compute it again."""
    return CheckpointPolicy.MUST_SAVE if operation in DEAR else CheckpointPolicy.PREFER_RECOMPUTE
