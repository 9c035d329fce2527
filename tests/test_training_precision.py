"""What a step is computed in and what it keeps: norms, 8 bits, activation checkpointing, compiled graphs."""

import copy
import shutil
from collections import Counter
from dataclasses import replace
from functools import partial

import pytest
import torch
import torch._dynamo
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tests.test_training_step import batch, decoder, draw, gradients, small
from training.compiling import compile_regions
from training.device import Place, choose_dtype
from training.knobs import TrainingError
from training.model import Decoder
from training.norm import rms_norm
from training.precision import BACKWARD, FORWARD, float8_linear, quantise, set_precision, use_float8
from training.recompute import recompute_layers

CPU = torch.device("cpu")


def plain_norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return F.rms_norm(x.float(), (x.shape[-1],), weight, 1e-5).to(x.dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norm_is_torchs(dtype):
    """Over several blocks of rows, the last one short, also of a tensor that is not contiguous."""
    x, weight, of_y = draw(5, 24, 67).transpose(1, 2).to(dtype), draw(24, seed=1), draw(5, 67, 24, seed=2).to(dtype)
    ours = gradients(lambda x, w: (rms_norm(x, w, 1e-5) * of_y).float().sum(), x, weight)
    theirs = gradients(lambda x, w: (plain_norm(x, w) * of_y).float().sum(), x, weight)
    assert torch.equal(x, draw(5, 24, 67).transpose(1, 2).to(dtype))  # nothing is written in place
    for a, b in zip(ours[1:], theirs[1:], strict=True):
        assert a.dtype == b.dtype
        assert float((a - b).float().norm()) <= (2e-7 if dtype == torch.float32 else 1e-3) * float(b.float().norm())
    y, expected = rms_norm(x, weight, 1e-5), plain_norm(x, weight)
    assert torch.allclose(y, expected, rtol=1e-6 if dtype == torch.float32 else 8e-3, atol=1e-6)


# 8 bits


@pytest.mark.parametrize("dtype", [FORWARD, BACKWARD])
def test_quantised_numbers_are_within_half_a_step_and_never_overflow(dtype):
    steps = {FORWARD: 2**-4, BACKWARD: 2**-3}[dtype]  # half the distance of neighbours, as a share: 3 and 2 bits
    for x in (draw(16, 32) * 1e4, draw(16, 32) * 1e-6):
        small_ones, scale = quantise(x, dtype)
        back = small_ones.float() * scale
        assert torch.isfinite(back).all() and float(small_ones.float().abs().max()) == torch.finfo(dtype).max
        normal = (x.abs() / scale) >= torch.finfo(dtype).smallest_normal
        assert ((back - x).abs() <= steps * x.abs() * 1.0001)[normal].all()
    zeros, scale = quantise(torch.zeros(16, 16), dtype)
    assert (zeros.float() == 0).all() and float(scale) > 0


def test_8_bit_product_and_gradients_are_those_of_the_quantised_matrices():
    x, weight, of_y = draw(32, 48).bfloat16(), draw(64, 48, seed=1), draw(32, 64, seed=2).bfloat16()
    back = lambda matrix, dtype: (lambda q, scale: q.float() * scale)(*quantise(matrix, dtype))  # noqa: E731
    leaves = [x.clone().requires_grad_(), weight.clone().requires_grad_()]
    y = float8_linear(*leaves)
    y.backward(of_y)
    given = back(of_y, BACKWARD)
    expected = (
        back(x, FORWARD) @ back(weight, FORWARD).T,
        given @ back(weight, FORWARD),
        given.T @ back(x, FORWARD),
    )
    for ours, theirs in zip((y, leaves[0].grad, leaves[1].grad), expected, strict=True):
        assert float((ours.float() - theirs).norm()) < 4e-3 * float(theirs.norm())  # bfloat16 output
    assert leaves[1].grad.dtype == torch.float32
    true = x.float() @ weight.T
    assert 0.01 < float((y.float() - true).norm() / true.norm()) < 0.06  # it is 8 bits


def test_a_model_in_8_bits_is_the_model_within_their_error():
    shape = dict(width=64, heads=4, kv_heads=2, head_width=16, mlp_width=96)
    half, eight, rows = decoder(torch.bfloat16, **shape), decoder(torch.bfloat16, **shape), batch()
    use_float8(eight)
    assert [name for name, _ in half.named_parameters()] == [name for name, _ in eight.named_parameters()]
    losses = [model(rows.tokens, rows.targets) for model in (half, eight)]
    for loss in losses:
        loss.objective.backward()
    assert 0 < float((losses[0].objective - losses[1].objective).abs()) < 0.01 * float(losses[0].objective)
    for (name, a), b in zip(half.named_parameters(), eight.parameters(), strict=True):
        assert F.cosine_similarity(a.grad.flatten(), b.grad.flatten(), dim=0) > 0.95, name


def test_8_bits_and_tf32_are_refused_where_they_are_not():
    model = decoder()
    with pytest.raises(TrainingError, match="H100"):
        set_precision(model, small(float8=True), CPU, torch.bfloat16)
    with pytest.raises(TrainingError, match="device=cuda"):
        set_precision(model, small(tf32=True), CPU, torch.float32)
    with pytest.raises(TrainingError, match="multiples of 16"):
        use_float8(model)
    set_precision(model, small(), CPU, torch.float32)


# Activation checkpointing


def kept_bytes(model: Decoder) -> tuple[int, dict[str, torch.Tensor], float]:
    """Bytes that one forward pass keeps for the backward pass (weights left out), gradients, and the objective."""
    rows, storages = batch(), {}
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        losses = model(rows.tokens, rows.targets, rows.documents)
    losses.objective.backward()
    kept = sum(size for address, size in storages.items() if address not in weights)
    return kept, {name: parameter.grad for name, parameter in model.named_parameters()}, losses.objective.item()


@pytest.mark.parametrize("changes", [{"recompute": "full"}, {"recompute": "selective"},
                                     {"recompute": "full", "recompute_every": 2}], ids=str)  # fmt: skip
def test_recomputing_changes_no_gradient(changes):
    plain, again = decoder(layers=3), decoder(layers=3)
    recompute_layers(again, small(**changes))
    assert list(again.state_dict()) == list(plain.state_dict())
    _, expected, objective = kept_bytes(plain)
    _, found, same = kept_bytes(again)
    assert objective == same
    for name, gradient in expected.items():
        assert torch.equal(found[name], gradient), name
    with torch.no_grad():
        assert torch.equal(again(batch().tokens), plain(batch().tokens))


def test_the_more_is_recomputed_the_less_is_kept():
    def kept(**changes) -> int:
        model = decoder(layers=4)
        recompute_layers(model, small(**changes))
        return kept_bytes(model)[0]

    none, full = kept(), kept(recompute="full")
    half = kept(recompute="full", recompute_every=2)
    assert full < 0.35 * none and full < half < none


class Executed(TorchDispatchMode):
    """How often each operation was really run, not answered from what was kept."""

    def __init__(self) -> None:
        super().__init__()
        self.times: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.times[str(function)] += 1
        return function(*arguments, **(options or {}))


def test_selective_keeps_products_and_computes_the_rest_again():
    """Counted by operation: no product and no attention runs in the backward pass beyond what gradients need."""

    def counts(**changes) -> dict[str, int]:
        model, rows = decoder(), batch()
        recompute_layers(model, small(**changes))
        with Executed() as executed:
            model(rows.tokens, rows.targets).objective.backward()
        return executed.times

    plain, selective, full = counts(), counts(recompute="selective"), counts(recompute="full")
    attention = "aten._scaled_dot_product_flash_attention_for_cpu.default"
    assert plain["aten.mm.default"] == selective["aten.mm.default"] < full["aten.mm.default"]
    assert plain[attention] == selective[attention] == full[attention] / 2
    assert plain["aten.silu.default"] < selective["aten.silu.default"] == full["aten.silu.default"]


# Compiled


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on the CPU needs a C++ compiler")
@pytest.mark.parametrize(
    ("family", "backend", "recompute"),
    [
        ("llama", "inductor", "none"),
        ("llama", "aot_eager_decomp_partition", "selective"),  # cut and partitioned as by inductor, not turned into C++
        ("mixtral", "aot_eager_decomp_partition", "full"),
    ],
)
def test_a_compiled_step_has_the_same_numbers(family, backend, recompute, monkeypatch):
    """With one layer that keeps all and one that may not; all layers and all steps together take a few graphs."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    plain = decoder(architecture=family, experts=4 * (family == "mixtral"))
    plain.z_loss = 1e-3
    model = copy.deepcopy(plain)
    if recompute != "none":
        recompute_layers(model, small(recompute=recompute, recompute_every=2))
    compile_regions(model)
    for length in (11, 7, 32):
        rows, results = batch()._replace(documents=batch().documents // length), []
        for network in (plain, model):
            network.zero_grad()
            losses = network(rows.tokens, rows.targets, rows.documents)
            losses.objective.backward()
            results.append((losses, {name: parameter.grad for name, parameter in network.named_parameters()}))
        (ours, gradients_ours), (theirs, gradients_theirs) = results
        assert theirs.objective.item() == pytest.approx(ours.objective.item(), rel=1e-5)
        assert torch.allclose(ours.nll, theirs.nll, atol=1e-4)
        for name, gradient in gradients_ours.items():
            assert float((gradients_theirs[name] - gradient).norm()) <= 1e-4 * float(gradient.norm()), name
    counters = torch._dynamo.utils.counters
    graphs = counters["stats"]["unique_graphs"]
    if family == "mixtral":  # the sizes of the experts' stretches are known only when they are there
        assert sum(counters["graph_break"].values()) > 0 and graphs < 20
    else:  # two kinds of layers, or one, and the loss
        assert not counters["graph_break"] and graphs == (2 if recompute == "none" else 3), counters


@pytest.mark.parametrize("native", [True, False])
def test_a_run_says_that_bfloat16_is_emulated(monkeypatch, native):
    monkeypatch.setattr("training.device.native_bfloat16", lambda device: native)
    here = Place(0, 1, torch.device("cpu"), torch.bfloat16, 1)
    assert (here.warning() is None) is native
    assert native or "dtype=bfloat16 is emulated" in here.warning()
    assert replace(here, dtype=choose_dtype("auto", here.device)).warning() is None
