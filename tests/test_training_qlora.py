"""QLoRA: weights in 4 bits by bitsandbytes, gradients beside them, merging, and a run."""

import json
import sys
from dataclasses import replace

import bitsandbytes
import pytest
import torch
from safetensors.torch import load_file

from tests.adapter_common import CPU, LORA, adapted, loss_of, run
from tests.model_common import random_model, shape, tokens
from tests.test_tuning_loop import Rows, config_of, folder  # noqa: F401  (a fixture)
from training.adapters.adapter import adapter_parameters, add_adapter, merge
from training.adapters.config import AdapterConfig
from training.architectures import weights
from training.checkpoint import load_model, save_model
from training.knobs import TrainingError
from training.model import Linear


def test_without_bitsandbytes_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(TrainingError, match=r"gristmill\[qlora\]"):
        add_adapter(random_model(shape()), AdapterConfig(kind="qlora"))


WIDE = {"width": 64, "mlp_width": 128}
QLORA = {**LORA, "kind": "qlora"}


def test_four_bits_are_those_of_bitsandbytes_and_merge_to_what_was_trained():
    functional = bitsandbytes.functional
    plain, rows = random_model(shape(**WIDE)), tokens(2, 20)
    for double in (True, False):
        model = add_adapter(random_model(shape(**WIDE)), AdapterConfig(**QLORA, double_quantisation=double))
        for name, linear in model.named_modules():
            if isinstance(linear, Linear) and name != "lm_head":
                weight = plain.get_parameter(f"{name}.weight").detach()
                packed = functional.quantize_4bit(weight, blocksize=64, quant_type="nf4", compress_statistics=double)
                assert torch.equal(linear.full_weight(), functional.dequantize_4bit(*packed))
                error = float((linear.full_weight() - weight).norm() / weight.norm())
                assert 0.05 < error < 0.15, error
        assert {p.dtype for p in adapter_parameters(model).values()} == {torch.float32}
    loss_of(model, rows).backward()
    with torch.no_grad():
        for parameter in adapter_parameters(model).values():
            assert parameter.grad is not None
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)) * 0.05)
    expected, tensors = model(rows), weights(model)
    merge(model)
    assert torch.allclose(model(rows), expected, atol=1e-4) and not torch.allclose(model(rows), plain(rows), atol=1e-2)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in weights(model).items())


def test_gradients_beside_four_bits_are_those_beside_the_same_weights():
    rows, found = tokens(2, 20), []
    model = adapted(QLORA, **WIDE)
    for _ in range(2):
        loss_of(model, rows).backward()
        found.append({name: p.grad.clone() for name, p in adapter_parameters(model).items()})
        model.zero_grad()
        for linear in [part for part in model.modules() if isinstance(part, Linear) and part.adapter is not None]:
            full = linear.full_weight() if linear.weight is None else linear.weight
            linear.product = lambda x, full=full: x @ full.T
    for name, gradient in found[0].items():
        assert torch.allclose(gradient, found[1][name], rtol=1e-4, atol=1e-5), name


def test_a_width_that_blocks_do_not_divide_is_refused():
    with pytest.raises(TrainingError, match="whole blocks of 64"):
        add_adapter(random_model(shape()), AdapterConfig(**QLORA))


def test_a_run_in_four_bits_leaves_an_adapter(folder, tmp_path):  # noqa: F811
    base = random_model(replace(shape(), width=64, head_width=16, mlp_width=64))
    save_model(tmp_path / "base", base, folder, 0)
    given = {"adapter": QLORA, "steps": 12, "learning_rate": 1e-2, "recompute": "full"}
    run(tmp_path / "base", tmp_path / "apart", **given)
    lines = [json.loads(line) for line in (tmp_path / "apart" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert losses[-1] < losses[0]
    run(tmp_path / "base", tmp_path / "merged", merge=True, **given)
    assert (tmp_path / "apart" / "adapter_model.safetensors").exists()
    found = load_file(tmp_path / "merged" / "model.safetensors")
    close = weights(load_model(tmp_path / "apart", CPU)[0])
    name = "model.layers.0.self_attn.q_proj.weight"
    assert 0.02 < float((found[name] - close[name]).norm() / close[name].norm()) < 0.2  # what 4 bits lost
