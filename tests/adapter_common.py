"""Small models with adapters, and runs that train them."""

import torch

from tests.model_common import random_model, shape
from tests.test_tuning_loop import Rows, config_of
from training.adapters.adapter import adapter_parameters, add_adapter
from training.adapters.config import AdapterConfig
from training.tuning.run import tune

CPU = torch.device("cpu")
LORA = {"kind": "lora", "rank": 4, "alpha": 8.0}


def adapted(knobs=LORA, family="llama", seed=0, **changes):
    """A model with an adapter that has learned something."""
    model = add_adapter(random_model(shape(family, **changes)), AdapterConfig(**knobs), seed)
    draw = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            parameter.add_(torch.randn(parameter.shape, generator=draw) * 0.05)
    return model


def loss_of(model, rows, documents=None):
    targets = torch.full_like(rows, -100)
    targets[:, :-1] = rows[:, 1:]
    return model(rows, targets, documents).objective


def run(folder, out, stop=None, **knobs):
    config = config_of(**knobs)
    return tune(Rows(config), config, folder, out, log=lambda _: None, stop=stop)
