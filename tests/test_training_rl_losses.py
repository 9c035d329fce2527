"""Losses and advantages of reinforcement learning against TRL's trainers and formulas written out, values and gradients."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from training.reinforcement.advantages import gae, group_advantages, leave_one_out, undecided, whiten
from training.reinforcement.losses import (
    Counts,
    action_weights,
    kl_estimates,
    next_kl_coefficient,
    overlong_penalty,
    policy_losses,
    sequence_losses,
    value_losses,
)

ROWS, LENGTH = 6, 7


class Alone:
    """What TRL's trainers ask of accelerate, in one process."""

    device = torch.device("cpu")
    num_processes = 1
    sync_gradients = True

    @staticmethod
    def gather(values):
        return values

    @staticmethod
    def reduce(values, reduction="sum"):
        return values


def alone(values):
    return values


def rollout(seed=0):
    """log-probs (differentiable), those of the sampler, of the reference, entropies, mask: all [B, T]; advantages [B]."""
    draw = torch.Generator().manual_seed(seed)
    old = -3 * torch.rand(ROWS, LENGTH, generator=draw)
    logprobs = (old + 0.4 * torch.randn(ROWS, LENGTH, generator=draw)).requires_grad_()
    reference = old + 0.3 * torch.randn(ROWS, LENGTH, generator=draw)
    entropies = torch.rand(ROWS, LENGTH, generator=draw).requires_grad_()
    lengths = torch.tensor([7, 1, 4, 5, 2, 6])
    mask = torch.arange(LENGTH)[None] < lengths[:, None]
    return logprobs, old, reference, entropies, mask, torch.randn(ROWS, generator=draw)


def trl_grpo(kind, beta, delta, entropy, values):
    from trl.trainer import grpo_trainer as trainer_module

    logprobs, old, reference, entropies, mask, advantages = values
    trainer = trainer_module.GRPOTrainer.__new__(trainer_module.GRPOTrainer)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logprobs, entropies, None)
    args = SimpleNamespace(delta=delta, use_bias_correction_kl=False, steps_per_generation=1)
    settings = {
        "model": SimpleNamespace(training=True),
        "args": args,
        "accelerator": Alone(),
        "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": "token",
        "beta": beta,
        "loss_type": kind,
        "epsilon_low": 0.2,
        "epsilon_high": 0.28,
        "use_vllm": False,
        "current_gradient_accumulation_steps": 1,
        "max_completion_length": 12,
        "_entropy_bonus_enabled": entropy > 0,
        "use_adaptive_entropy": False,
        "entropy_coef": entropy,
        "_metrics": {"train": defaultdict(list)},
    }
    trainer.__dict__.update(settings)
    ids = torch.zeros(ROWS, 2, dtype=torch.long)
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": torch.ones_like(ids),
        "completion_ids": torch.zeros(ROWS, LENGTH, dtype=torch.long),
        "completion_mask": mask.long(),
        "advantages": advantages,
        "old_per_token_logps": old,
        "ref_per_token_logps": reference,
        "num_items_in_batch": mask.sum(),
    }
    return trainer._compute_loss(trainer.model, inputs)


def ours(kind, beta, delta, entropy, values, counts, limit=12):
    logprobs, old, reference, entropies, mask, advantages = values
    losses = policy_losses(logprobs, old, advantages[:, None], 0.2, 0.28, delta)
    losses = losses + beta * kl_estimates(logprobs, reference, "k3")
    bonus = (entropies * mask).sum() / counts.actions
    return (losses * action_weights(mask, kind, counts, limit)).sum() - entropy * bonus


@pytest.mark.parametrize("kind", ["grpo", "bnpo", "dr_grpo", "dapo"])
@pytest.mark.parametrize(("beta", "delta", "entropy"), [(0.0, None, 0.0), (0.04, 1.5, 0.01)])
def test_grpo_is_trls(kind, beta, delta, entropy):
    values = rollout()
    leaves = (values[0], values[3]) if entropy else (values[0],)
    counts = Counts(ROWS, float(values[4].sum()), float(values[4].sum()))
    expected = trl_grpo(kind, beta, delta, entropy, values)
    gradients = torch.autograd.grad(expected, leaves)
    found = ours(kind, beta, delta, entropy, values, counts)
    assert abs(float((found - expected).detach())) < 1e-6
    for one, other in zip(torch.autograd.grad(found, leaves), gradients, strict=True):
        assert torch.allclose(one, other, atol=1e-6, rtol=0)
        assert other.abs().max() > 1e-4


@pytest.mark.parametrize("kind", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_micro_batches_add_up_to_the_whole(kind):
    """One batch of six rows and six of one give one loss: the mean is never one of means."""
    values = rollout()
    counts = Counts(ROWS, float(values[4].sum()), 40.0)
    whole = ours(kind, 0.1, None, 0.01, values, counts)
    parts = sum(ours(kind, 0.1, None, 0.01, [one[row : row + 1] for one in values], counts) for row in range(ROWS))
    assert abs(float((whole - parts).detach())) < 1e-6
    (one,), (other,) = torch.autograd.grad(whole, values[0]), torch.autograd.grad(parts, values[0])
    assert torch.allclose(one, other, atol=1e-6, rtol=0)


def test_rloo_is_trls():
    from trl.trainer import rloo_trainer as trainer_module

    logprobs, old, _, entropies, mask, advantages = rollout(1)
    trainer = trainer_module.RLOOTrainer.__new__(trainer_module.RLOOTrainer)
    trainer._get_per_token_logps_and_entropies = lambda *_, **__: (logprobs, entropies, None)
    trainer.__dict__.update(
        {
            "model": SimpleNamespace(training=True),
            "accelerator": Alone(),
            "aux_loss_enabled": False,
            "epsilon_low": 0.2,
            "epsilon_high": 0.2,
            "_metrics": {"train": defaultdict(list)},
        }
    )
    ids = torch.zeros(ROWS, LENGTH, dtype=torch.long)
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": torch.ones_like(ids),
        "completion_ids": ids,
        "completion_mask": mask.long(),
        "advantages": advantages,
        "old_logps": (old * mask).sum(dim=1),
    }
    expected = trainer._compute_loss(trainer.model, inputs)
    (gradient,) = torch.autograd.grad(expected, logprobs)
    found = sequence_losses(logprobs, old, mask, advantages, 0.2, 0.2).mean()
    (found_gradient,) = torch.autograd.grad(found, logprobs)
    assert abs(float((found - expected).detach())) < 1e-6
    assert torch.allclose(found_gradient, gradient, atol=1e-6, rtol=0)


def test_the_end_token_learns():
    """The last action of each completion has a gradient, in every aggregation and in GAE."""
    values = rollout()
    last = values[4].sum(dim=1) - 1
    for kind in ("grpo", "bnpo", "dr_grpo", "dapo"):
        weights = action_weights(values[4], kind, Counts(ROWS, 25.0, 25.0), 12)
        assert (weights.gather(1, last[:, None]) > 0).all()
    within = values[1].detach().requires_grad_()  # ratio 1: nothing is clipped
    loss = policy_losses(within, values[1], values[5][:, None], 0.2, 0.2) * action_weights(
        values[4], "grpo", Counts(ROWS, 25.0, 25.0), 12
    )
    (gradient,) = torch.autograd.grad(loss.sum(), within)
    assert (gradient.gather(1, last[:, None]).abs() > 0).all()
    assert (gradient[~values[4]] == 0).all()


def test_clip_higher_lets_a_rare_token_rise_further():
    old = torch.zeros(1, 1)
    logprobs = torch.full((1, 1), 1.25).log().requires_grad_()
    for high, learns in ((0.2, False), (0.28, True)):
        (gradient,) = torch.autograd.grad(policy_losses(logprobs, old, torch.ones(1, 1), 0.2, high).sum(), logprobs)
        assert bool(gradient.abs() > 0) is learns


def gae_by_definition(rewards, values, bootstrap, discount, decay):
    """The sum of discounted surprises, written out, of one row without holes."""
    after = [*values[1:], bootstrap]
    surprises = [r + discount * n - v for r, n, v in zip(rewards, after, values, strict=True)]
    return [
        sum((discount * decay) ** (k - t) * surprises[k] for k in range(t, len(surprises))) for t in range(len(rewards))
    ]


@pytest.mark.parametrize("bootstrap", [0.0, 0.7])
@pytest.mark.parametrize(("discount", "decay"), [(1.0, 1.0), (0.9, 0.8), (1.0, 0.0)])
def test_gae(bootstrap, discount, decay):
    draw = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 6, generator=draw), torch.randn(2, 6, generator=draw)
    mask = torch.tensor(
        [[True] * 6, [False, True, True, False, True, False]]
    )  # padding at both ends, a tool's result inside
    advantages, returns = gae(rewards, values, mask, torch.full((2,), bootstrap), discount, decay)
    for row in range(2):
        at = mask[row]
        expected = gae_by_definition(rewards[row, at].tolist(), values[row, at].tolist(), bootstrap, discount, decay)
        assert torch.allclose(advantages[row, at], torch.tensor(expected), atol=1e-6, rtol=0)
        assert torch.allclose(returns[row, at], advantages[row, at] + values[row, at])
    assert (advantages[~mask] == 0).all() and (returns[~mask] == 0).all()


def test_gae_with_lambda_one_is_reward_to_go_less_value():
    rewards, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.2, 0.5, 0.4]])
    advantages, returns = gae(rewards, values, torch.ones(1, 3, dtype=torch.bool), torch.zeros(1), 1.0, 1.0)
    assert torch.allclose(returns, torch.ones(1, 3))
    assert torch.allclose(advantages, 1 - values)


def test_whitened_is_mean_0_and_deviation_1():
    draw = torch.Generator().manual_seed(0)
    values = 8.6 + 3 * torch.randn(5, 40, generator=draw)
    mask = torch.rand(5, 40, generator=draw) < 0.7
    found = whiten(values, mask, alone)
    inside = found[mask].double()
    assert abs(float(inside.mean())) < 1e-6
    assert abs(float(inside.std(unbiased=False)) - 1) < 1e-6
    assert (found[~mask] == 0).all()
    kept = whiten(values, mask, alone, shift=False)[mask].double()
    assert abs(float(kept.mean()) - float(values[mask].double().mean())) < 1e-5
    assert abs(float(kept.std(unbiased=False)) - 1) < 1e-6
    assert torch.isfinite(whiten(torch.ones(2, 2), torch.ones(2, 2, dtype=torch.bool), alone)).all()


def test_whitening_in_parts_is_that_of_the_whole():
    """Each process sees its rows; the sums are everyone's."""
    draw = torch.Generator().manual_seed(0)
    values, mask = torch.randn(4, 9, generator=draw), torch.rand(4, 9, generator=draw) < 0.6
    whole = whiten(values, mask, alone)
    sums = []
    whiten(values, mask, lambda one: sums.append(one.clone()) or one)
    for rows in (slice(0, 1), slice(1, 4)):
        of_all = iter(sums)
        part = whiten(values[rows], mask[rows], lambda one, of_all=of_all: one.copy_(next(of_all)))
        assert torch.allclose(part, whole[rows])


def test_group_advantages():
    from trl.trainer.utils import nanstd

    rewards = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.2, 0.9, 0.4, 0.1, 1.0, 1.0, 1.0, 1.0])
    groups = rewards.view(-1, 4)
    centred = groups - groups.mean(dim=1, keepdim=True)
    for scale, deviation in (
        ("group", nanstd(groups, dim=1)[:, None] + 1e-4),
        ("batch", nanstd(rewards) + 1e-4),
        ("none", torch.ones(())),
    ):
        found = group_advantages(rewards, 4, scale)
        assert torch.allclose(found.view(-1, 4), centred / deviation, atol=1e-6)
        assert (found[-4:] == 0).all()  # all alike: nothing to learn
    assert undecided(rewards, 4).tolist() == [True, True, False]


def test_leave_one_out():
    rewards = torch.tensor([1.0, 0.0, 0.0, 0.5, 0.2, 0.9])
    found = leave_one_out(rewards, 3)
    expected = [1.0 - 0.0, 0.0 - 0.5, 0.0 - 0.5, 0.5 - 0.55, 0.2 - 0.7, 0.9 - 0.35]
    assert torch.allclose(found, torch.tensor(expected), atol=1e-6)
    assert torch.allclose(found, group_advantages(rewards, 3, "none") * 3 / 2, atol=1e-6)


def test_kl_estimates():
    """On average k1 and k3 are the divergence itself; k2 is near it for near policies; k3 is never negative."""
    draw = torch.Generator().manual_seed(0)
    policy = torch.randn(8, generator=draw).log_softmax(0)
    reference = (policy + 0.1 * torch.randn(8, generator=draw)).log_softmax(0)
    divergence = float((policy.exp() * (policy - reference)).sum())
    means = {kind: float((policy.exp() * kl_estimates(policy, reference, kind)).sum()) for kind in ("k1", "k2", "k3")}
    assert means["k1"] == pytest.approx(divergence, abs=1e-6)
    assert means["k3"] == pytest.approx(divergence, abs=1e-6)
    assert means["k2"] == pytest.approx(divergence, rel=0.1)
    assert (kl_estimates(policy, reference, "k3") >= 0).all()
    assert (kl_estimates(policy, reference, "k1") < 0).any()


def test_value_losses_by_hand():
    """Values and gradients of max((v - R)^2, (old + clip(v - old) - R)^2) / 2, element by element."""
    draw = torch.Generator().manual_seed(0)
    values = torch.randn(3, 4, generator=draw, requires_grad=True)
    old, returns = torch.randn(3, 4, generator=draw), torch.randn(3, 4, generator=draw)
    losses = value_losses(values, old, returns, 0.2)
    (gradient,) = torch.autograd.grad(losses.sum(), values)
    for row in range(3):
        for at in range(4):
            v, o, r = values[row, at].item(), old[row, at].item(), returns[row, at].item()
            near = o + max(-0.2, min(0.2, v - o))
            plain, held = (v - r) ** 2, (near - r) ** 2
            assert losses[row, at].item() == pytest.approx(max(plain, held) / 2, abs=1e-6)
            slope = v - r if plain > held or abs(v - o) < 0.2 else 0.0
            assert float(gradient[row, at]) == pytest.approx(slope, abs=1e-6)
    assert torch.allclose(value_losses(values, old, returns, None), (values - returns) ** 2 / 2)


def test_policy_losses_by_hand():
    logprobs, old, _, _, _, advantages = rollout(2)
    losses = policy_losses(logprobs, old, advantages[:, None], 0.2, 0.2)
    (gradient,) = torch.autograd.grad(losses.sum(), logprobs)
    for row in range(ROWS):
        for at in range(LENGTH):
            ratio, a = (logprobs[row, at] - old[row, at]).exp().item(), advantages[row].item()
            held = min(max(ratio, 0.8), 1.2)
            assert losses[row, at].item() == pytest.approx(max(-a * ratio, -a * held), abs=1e-6)
            slope = -a * ratio if -a * ratio > -a * held or ratio == held else 0.0
            assert float(gradient[row, at]) == pytest.approx(slope, abs=1e-6)


def test_kl_controllers():
    assert next_kl_coefficient(0.2, 50.0, None, 1000, 64) == 0.2
    assert next_kl_coefficient(0.2, 12.0, 6.0, 1000, 64) == pytest.approx(0.2 * (1 + 0.2 * 64 / 1000))
    assert next_kl_coefficient(0.2, 3.0, 6.0, 1000, 64) == pytest.approx(0.2 * (1 - 0.2 * 64 / 1000))
    assert next_kl_coefficient(0.2, 6.6, 6.0, 1000, 64) == pytest.approx(0.2 * (1 + 0.1 * 64 / 1000))


def test_overlong_penalty():
    assert [overlong_penalty(n, 100, 20) for n in (0, 80, 90, 100, 130)] == [0.0, 0.0, -0.5, -1.0, -1.0]
    assert overlong_penalty(100, 100, 0) == 0.0
