"""The optimizer step: loss in chunks, accumulation, groups, Muon, schedules, and the optimizer's state."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    get_constant_schedule_with_warmup,
    get_cosine_with_min_lr_schedule_with_warmup,
    get_linear_schedule_with_warmup,
    get_wsd_schedule,
)

from training.config import PretrainConfig, resolve
from training.data import Batch
from training.device import Place
from training.knobs import TrainingError
from training.loss import IGNORED, token_losses
from training.model import Decoder, ModelConfig
from training.optimizer import Muon, build_optimizer, clip_gradient, gradient_norm, muon_direction, parameter_groups
from training.schedule import learning_rate
from training.step import BadRows, train_step

HERE = Place(0, 1, torch.device("cpu"), torch.float32, 1)


def draw(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def some_targets(rows: int, length: int, vocabulary: int) -> torch.Tensor:
    """Targets with holes, of unlike size in each row."""
    generator = torch.Generator().manual_seed(7)
    targets = torch.randint(0, vocabulary, (rows, length), generator=generator)
    for row in range(rows):
        targets[row, length - 1 - row * (length // rows) :] = IGNORED
    return targets


def decoder(dtype: torch.dtype = torch.float32, **changes) -> Decoder:
    values = dict(vocab_size=97, context_length=32, layers=2, width=32, heads=4, kv_heads=2, mlp_width=56, head_width=8)
    return Decoder(ModelConfig(**{**values, **changes}), dtype).initialise(3)


def small(**changes) -> PretrainConfig:
    return resolve({"batch_rows": 8, "micro_batch_rows": 8, "steps": 10, **changes})


def batch(rows: int = 8, length: int = 32) -> Batch:
    tokens = torch.randint(0, 97, (rows, length), generator=torch.Generator().manual_seed(1))
    documents = torch.arange(length).expand(rows, length) // 11
    return Batch(tokens, some_targets(rows, length, 97), documents, list(range(rows)))


# Loss


def plain(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, z_loss: float) -> torch.Tensor:
    logits = F.linear(hidden, weight.to(hidden.dtype)).to(torch.promote_types(hidden.dtype, torch.float32))
    objective = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum")
    return objective + z_loss * logits.logsumexp(-1)[targets != IGNORED].square().sum()


def gradients(function, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    value = function(*leaves)
    (value * 0.37).backward()
    return value.detach(), *(leaf.grad for leaf in leaves)


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
@pytest.mark.parametrize("chunk", [7, 64, 1024])
def test_chunked_loss_and_gradients_are_those_of_whole_logits(chunk, z_loss):
    hidden, weight, targets = draw(4, 50, 24), draw(211, 24, seed=1), some_targets(4, 50, 211)
    ours = gradients(lambda h, w: token_losses(h, w, targets, z_loss, chunk).objective, hidden, weight)
    theirs = gradients(lambda h, w: plain(h, w, targets, z_loss), hidden, weight)
    for a, b in zip(ours, theirs, strict=True):
        assert float((a - b).norm()) <= 1e-6 * float(b.norm())
    assert (ours[1][targets == IGNORED] == 0).all()


def test_gradcheck_in_float64():
    targets = some_targets(2, 6, 11)
    inputs = [draw(2, 6, 5, dtype=torch.float64), draw(11, 5, seed=1, dtype=torch.float64)]
    loss = lambda h, w: token_losses(h, w, targets, 0.1, 4).objective  # noqa: E731
    assert torch.autograd.gradcheck(loss, [tensor.requires_grad_() for tensor in inputs])


def test_bfloat16_loss_is_as_near_the_truth_as_the_plain_one():
    """Weights stay float32 and get a float32 gradient; errors are hardly larger (one rounding more)."""
    hidden, weight, targets = draw(4, 50, 64), draw(211, 64, seed=1) * 0.1, some_targets(4, 50, 211)
    truth = gradients(lambda h, w: plain(h, w, targets, 0.0), hidden, weight)
    ours = gradients(lambda h, w: token_losses(h, w, targets, 0.0, 64).objective, hidden.bfloat16(), weight)
    theirs = gradients(lambda h, w: plain(h, w, targets, 0.0), hidden.bfloat16(), weight)
    assert ours[2].dtype == torch.float32 and ours[1].dtype == torch.bfloat16
    for a, b, c in zip(ours, theirs, truth, strict=True):
        assert float((a - c).norm()) <= 1.25 * float((b - c).norm()) + 1e-5 * float(c.norm())


def test_nll_is_exact_for_targets_of_no_probability_and_detached():
    """Such a target's probability is 0 in float32; its nll is not infinite."""
    hidden, weight = torch.tensor([[[1.0]]]).requires_grad_(), torch.tensor([[300.0], [0.0], [299.0]]).requires_grad_()
    for grad in (True, False):
        with torch.set_grad_enabled(grad):
            losses = token_losses(hidden, weight, torch.tensor([[1]]))
        assert float(losses.nll) == pytest.approx(300 + math.log1p(math.exp(-1)), rel=1e-6)
        assert not losses.nll.requires_grad and losses.nll.shape == (1, 1) and losses.nll.dtype == torch.float32
        assert losses.objective.requires_grad is grad


def test_without_any_target_there_is_no_nan():
    hidden, weight = draw(2, 3, 4).requires_grad_(), draw(5, 4).requires_grad_()
    losses = token_losses(hidden, weight, torch.full((2, 3), IGNORED), 0.1)
    losses.objective.backward()
    assert losses.objective.item() == 0 and (losses.nll == 0).all()
    assert (hidden.grad == 0).all() and (weight.grad == 0).all()


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        result = function(*arguments, **(options or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@pytest.mark.parametrize("grad", [True, False])
def test_logits_are_never_whole_in_memory(grad):
    hidden, weight = draw(1, 4096, 8).requires_grad_(), draw(3000, 8).requires_grad_()
    targets = torch.zeros(1, 4096, dtype=torch.int64)
    with Largest() as largest, torch.set_grad_enabled(grad):
        losses = token_losses(hidden, weight, targets)
        if grad:
            losses.objective.backward()
    assert largest.elements == 1024 * 3000


def test_z_loss_pulls_the_softmax_denominator_to_one():
    """It trains, and validation does not see it."""
    model, rows = decoder(), batch()
    with torch.no_grad():
        before = model(rows.tokens, rows.targets)
        model.z_loss = 0.5
        after = model(rows.tokens, rows.targets)
        log_z = model(rows.tokens).logsumexp(-1)[rows.targets != IGNORED]
    assert torch.equal(before.nll, after.nll)
    assert float(after.objective - before.objective) == pytest.approx(0.5 * float(log_z.square().sum()), rel=1e-5)


# Accumulation, clipping, bad numbers


def one_step(config: PretrainConfig, rows: Batch, **changes):
    model = decoder(**changes)
    result = train_step(model, build_optimizer(model, config), rows, config, HERE, 1e-3)
    return result, {name: parameter.grad for name, parameter in model.named_parameters()}, model


@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_one_row_eight_times_is_eight_rows_at_once(z_loss):
    rows = batch()
    counts = (rows.targets != IGNORED).sum(1).tolist()
    assert len(set(counts)) == 8  # a mean of means would differ
    whole, of_whole, _ = one_step(small(micro_batch_rows=8, grad_clip=0), rows)
    parts, of_parts, _ = one_step(small(micro_batch_rows=1, grad_clip=0), rows)
    assert parts.loss == pytest.approx(whole.loss, rel=1e-6)
    assert parts.grad_norm == pytest.approx(whole.grad_norm, rel=1e-6)
    for name, gradient in of_whole.items():
        assert float((of_parts[name] - gradient).norm()) <= 1e-6 * float(gradient.norm()), name


def test_clipping_is_over_all_parameters_together():
    result, clipped, _ = one_step(small(grad_clip=0.05), batch())
    free, unclipped, _ = one_step(small(grad_clip=0.0), batch())
    assert free.grad_norm == result.grad_norm > 0.05
    assert free.grad_norm == pytest.approx(math.sqrt(sum(float(g.square().sum()) for g in unclipped.values())), 1e-5)
    for name, gradient in unclipped.items():
        assert torch.allclose(clipped[name], gradient * 0.05 / (result.grad_norm + 1e-6), rtol=1e-5), name
    short = [nn.Parameter(torch.ones(2))]
    short[0].grad = torch.full((2,), 0.1)
    clip_gradient(short, 1.0, gradient_norm(short))
    assert torch.equal(short[0].grad, torch.full((2,), 0.1))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_numbers_raise_before_the_update(bad):
    config, model = small(micro_batch_rows=3), decoder()
    optimizer = build_optimizer(model, config)
    with torch.no_grad():
        model.model.embed_tokens.weight[5] = bad
    before = copy.deepcopy(model.state_dict())
    rows = batch()
    rows.tokens[rows.tokens == 5] = 6
    rows.tokens[4, 2] = 5
    with pytest.raises(BadRows) as error:
        train_step(model, optimizer, rows, config, HERE, 1e-3)
    assert 4 in error.value.rows and not optimizer.state()
    assert all(torch.equal(value, before[name]) or name.endswith(("embed_tokens.weight", "lm_head.weight"))
               for name, value in model.state_dict().items())  # fmt: skip
    rows.targets[:] = IGNORED
    with pytest.raises(BadRows, match="nothing to predict"):
        train_step(model, optimizer, rows, config, HERE, 1e-3)


# Optimizers


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_decaying_parameters_are_those_of_transformers(family):
    if family == "llama":
        model = LlamaForCausalLM(
            LlamaConfig(vocab_size=50, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2,
                        attention_bias=True)
        )  # fmt: skip
    else:
        model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2, n_positions=8))
    expected = set(Trainer.get_decay_parameter_names(None, model))
    assert decaying(model, small()) == expected & {name for name, _ in model.named_parameters()}
    spared = decaying(model, small(decay_embeddings=False))
    embeddings = (
        {"model.embed_tokens.weight"} if family == "llama" else {"transformer.wte.weight", "transformer.wpe.weight"}
    )
    assert decaying(model, small()) - spared == embeddings


def decaying(model: nn.Module, config: PretrainConfig) -> set[str]:
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        names[id(parameter)]
        for group in parameter_groups(model, config)
        for parameter in group["params"]
        if group["weight_decay"] == config.weight_decay
    }


def test_every_parameter_is_in_one_group_and_frozen_ones_in_none():
    model = decoder(tie_embeddings=False)
    model.model.norm.weight.requires_grad_(False)
    for optimizer in ("adamw", "muon"):
        groups = build_optimizer(model, small(optimizer=optimizer, tie_embeddings=False)).param_groups
        found = [id(parameter) for group in groups for parameter in group["params"]]
        assert sorted(found) == sorted(id(p) for p in model.parameters() if p.requires_grad)


def test_each_group_has_its_own_rate():
    config = small(
        optimizer="muon", learning_rate=1e-3, embedding_learning_rate=2e-3, head_learning_rate=3e-3,
        muon_learning_rate=4e-3, tie_embeddings=False,
    )  # fmt: skip
    model = decoder(tie_embeddings=False)
    optimizer = build_optimizer(model, config)
    optimizer.step(5e-4)  # half of the peak
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, rate in rates.items():
        if name == "lm_head.weight":
            assert rate == pytest.approx(1.5e-3)
        elif "embed" in name:
            assert rate == pytest.approx(1e-3)
        else:
            assert rate == pytest.approx(5e-4 if "norm" in name else 2e-3), name


@pytest.mark.parametrize(("dtype", "near"), [(torch.bfloat16, 1e-6), (torch.float32, 0.02 * 0.01)])
def test_muon_is_torchs_muon(monkeypatch, dtype, near):
    """Where bfloat16 is native; elsewhere up to the rounding of torch's, which has it emulated. `near`: of steps of about 0.01."""
    monkeypatch.setattr("training.optimizer.choose_dtype", lambda wanted, device: dtype)
    ours, theirs = [nn.Parameter(draw(20, 12)) for _ in range(2)]
    mine = Muon([{"params": [ours]}], lr=0.01, momentum=0.9, weight_decay=0.1)
    peer = torch.optim.Muon([theirs], lr=0.01, momentum=0.9, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for step in range(4):
        ours.grad = draw(20, 12, seed=step + 1)
        theirs.grad = ours.grad.clone()
        mine.step()
        peer.step()
        assert torch.allclose(ours, theirs, rtol=1e-5, atol=near)
    assert torch.equal(mine.state[ours]["momentum_buffer"], peer.state[theirs]["momentum_buffer"])


def test_muon_treats_fused_projections_and_experts_as_separate_matrices():
    parts = [draw(rows, 8, seed=rows) for rows in (8, 4, 4)]
    fused = nn.Parameter(torch.zeros(16, 8))
    fused.row_blocks = (8, 4, 4)
    fused.grad = torch.cat(parts)
    experts = nn.Parameter(torch.zeros(3, 6, 8))
    experts.grad = draw(3, 6, 8, seed=9)
    Muon([{"params": [fused, experts]}], lr=1.0, momentum=0.0).step()
    alone = torch.cat([muon_direction(part) for part in parts])
    assert torch.allclose(-fused, alone, atol=1e-6)
    assert not torch.allclose(alone, muon_direction(torch.cat(parts)), atol=0.02)
    for expert in range(3):
        assert torch.allclose(-experts[expert], muon_direction(experts.grad[expert]), atol=0.02)


def test_muons_direction_has_like_singular_values_and_the_size_of_adamws_updates():
    direction = muon_direction(draw(64, 48))
    values = torch.linalg.svdvals(direction) / (0.2 * math.sqrt(64))
    assert float(values.min()) > 0.5 and float(values.max()) < 1.5
    assert 0.1 < float(direction.square().mean().sqrt()) < 0.3


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_state_by_name_goes_on_to_equal_bits(optimizer):
    config = small(optimizer=optimizer)

    def steps(model, its_optimizer, numbers):
        for number in numbers:
            train_step(model, its_optimizer, batch(), config, HERE, 1e-3 * (number + 1))

    model = decoder()
    first = build_optimizer(model, config)
    steps(model, first, range(2))
    kept = {name: value.clone() for name, value in first.state().items()}
    again = decoder()
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    steps(model, first, range(2, 4))

    second = build_optimizer(again, config)
    second.load_state({**kept, "rng.cpu": torch.zeros(1)})
    steps(again, second, range(2, 4))
    for (name, a), b in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name
    assert all(torch.equal(value, second.state()[name]) for name, value in first.state().items())

    name = "model.layers.0.self_attn.q_proj.weight"
    assert ("momentum_buffer." if optimizer == "muon" else "exp_avg_sq.") + name in kept
    assert "exp_avg.model.norm.weight" in kept
    with pytest.raises(KeyError, match=r"exp_avg_sq\.model\.norm\.weight"):
        second.load_state({key: value for key, value in kept.items() if key != "exp_avg_sq.model.norm.weight"})
    with pytest.raises(KeyError):
        second.load_state({})


def test_muon_learns():
    config, model = small(optimizer="muon"), decoder()
    optimizer, rows = build_optimizer(model, config), batch()
    losses = [train_step(model, optimizer, rows, config, HERE, 3e-3).loss for _ in range(30)]
    assert losses[-1] < 0.7 * losses[0]


# Schedules


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.35])
@pytest.mark.parametrize(
    "changes",
    [
        {"schedule": "cosine", "min_lr_ratio": 0.2}, {"schedule": "linear", "min_lr_ratio": 0.0},
        {"schedule": "constant"}, {"schedule": "wsd", "decay_ratio": 0.25, "min_lr_ratio": 0.0},
        {"schedule": "wsd", "decay_ratio": 0.6, "decay_shape": "linear", "min_lr_ratio": 0.1},
    ],
    ids=str,
)  # fmt: skip
def test_schedules_are_those_of_transformers_one_step_on(changes, warmup):
    config, steps = small(learning_rate=0.7, warmup_ratio=warmup, **changes), 40
    dummy = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.7)
    rise = round(steps * warmup)
    if config.schedule == "cosine":
        theirs = get_cosine_with_min_lr_schedule_with_warmup(dummy, rise, steps, min_lr_rate=0.2)
    elif config.schedule == "linear":
        theirs = get_linear_schedule_with_warmup(dummy, rise, steps)
    elif config.schedule == "constant":
        theirs = get_constant_schedule_with_warmup(dummy, rise)
    else:
        fall = round(steps * config.decay_ratio)
        theirs = get_wsd_schedule(
            dummy, rise, fall, steps, decay_type=config.decay_shape, min_lr_ratio=config.min_lr_ratio
        )
    rates = []
    for _ in range(steps):
        dummy.step()
        theirs.step()
        rates.append(theirs.get_last_lr()[0])
    ours = [learning_rate(step, steps, config) for step in range(steps)]
    # its warm-up of wsd starts from the floor, ours from 0 as all others do: they meet at the peak
    since = rise - 1 if config.schedule == "wsd" and config.min_lr_ratio and rise else 0
    assert ours[since:] == pytest.approx(rates[since:], rel=1e-9, abs=1e-12)
    assert ours[: rise + 1] == pytest.approx([0.7 * (step + 1) / rise for step in range(rise)] + ours[rise : rise + 1])
    assert ours[-1] == pytest.approx(0.7 * (1.0 if config.schedule == "constant" else config.min_lr_ratio))
    assert max(ours) <= 0.7


def test_a_schedule_of_one_step_and_of_nothing_but_decay():
    for schedule in ("cosine", "linear", "wsd", "constant"):
        assert learning_rate(0, 1, small(schedule=schedule, learning_rate=1.0)) in (0.1, 1.0)
    config = small(schedule="wsd", decay_ratio=1.0, warmup_ratio=0.0, decay_shape="linear", min_lr_ratio=0.0)
    assert [learning_rate(s, 4, config) / 4e-3 for s in range(4)] == pytest.approx([0.75, 0.5, 0.25, 0.0])


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"decay_ratio": 0.5}, "schedule: wsd"), ({"decay_shape": "linear"}, "schedule: wsd"),
        ({"muon_momentum": 0.5}, "optimizer: muon"), ({"muon_learning_rate": 0.5}, "optimizer: muon"),
        ({"recompute_every": 2}, "recompute: full or selective"), ({"head_learning_rate": 0.5}, "tie_embeddings: false"),
        ({"schedule": "wsd", "decay_ratio": 0.9, "warmup_ratio": 0.2}, "at most 1"),
    ],
    ids=str,
)  # fmt: skip
def test_a_knob_that_would_be_ignored_is_refused(changes, told):
    with pytest.raises(TrainingError, match=told):
        small(**changes)
