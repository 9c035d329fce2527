"""torch.compile in two regions: a layer, whose graph serves all layers of a model, and the loss over the vocabulary.

One graph of the whole model takes as long to compile as the model is deep, and hands over all gradients at once at the end of the
backward pass; with a graph a layer DistributedDataParallel adds up those of the last layers while the first are still computed.
What is outside (embedding, rotary angles, last norm) is a thousandth of the work.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from training.attention import Sight
from training.model import Decoder


def compile_regions(model: Decoder) -> None:
    """Compile what a training step computes, when it first does; from outside, behind `recompute_layers` and before sharding.

    Names of parameters stay what they are. Without gradients (validation, samples) nothing is compiled: rows have any length there.
    """
    import torch._dynamo  # seconds to import

    # it would cut a layer's graph into pieces, for what a graph a layer gives already: gradients that come layer by layer
    torch._dynamo.config.optimize_ddp = False
    for layer in model.model.layers:
        layer.forward = partial(_layer, layer.forward, torch.compile(layer.forward))  # type: ignore[method-assign]
    model.loss = partial(_loss, model.loss, torch.compile(model.loss))


def _layer(
    plain: Callable[..., Any], compiled: Callable[..., Any], x: Tensor, turn: Any, sight: Sight, *rest: Any
) -> Any:
    """Documents that are attended one by one have new lengths each time: no graph fits them."""
    trains = torch.is_grad_enabled() and sight.lengths is None
    return (compiled if trains else plain)(x, turn, sight, *rest)


def _loss(plain: Callable[..., Any], compiled: Callable[..., Any], *inputs: Any) -> Any:
    return (compiled if torch.is_grad_enabled() else plain)(*inputs)
