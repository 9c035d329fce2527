"""Losses of preference pairs against TRL's trainers, values and gradients; calibration against counting by hand."""

import math
from collections import defaultdict
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from training.preference.calibration import calibration_error, judge, reliability
from training.preference.losses import bradley_terry_losses, dpo_losses, log_ratios, preferred

PAIRS, LENGTH, PROMPT = 5, 9, 3


class Alone:
    """What TRL's trainers ask of accelerate, in one process."""

    device = torch.device("cpu")
    num_processes = 1

    @staticmethod
    def gather(values):
        return values

    gather_for_metrics = gather

    @staticmethod
    def reduce(values, reduction="sum"):
        return values


def batch(seed=0):
    """(log-probs by token [2N, L] differentiable, reference sums of chosen and of rejected [N], completion mask [2N, L + 1])."""
    draw = torch.Generator().manual_seed(seed)
    mask = torch.zeros(2 * PAIRS, LENGTH + 1, dtype=torch.long)
    for row in range(2 * PAIRS):
        mask[row, PROMPT : PROMPT + 2 + int(torch.randint(LENGTH - PROMPT - 1, (), generator=draw))] = 1
    logprobs = (-2 * torch.rand(2 * PAIRS, LENGTH, generator=draw) * mask[:, 1:]).requires_grad_()
    reference = -4 * torch.rand(2 * PAIRS, generator=draw)
    return logprobs, reference[:PAIRS], reference[PAIRS:], mask


def trl_dpo(kind, beta, smoothing, logprobs, chosen, rejected, mask):
    from trl.trainer import dpo_trainer as trainer_module

    trainer = trainer_module.DPOTrainer.__new__(trainer_module.DPOTrainer)
    outputs = SimpleNamespace(
        log_probs=logprobs, **{name: torch.zeros(2 * PAIRS, LENGTH) for name in ("entropy", "mean_logits")}
    )
    outputs.is_top1 = outputs.entropy.bool()
    values = {
        "model": SimpleNamespace(training=True),
        "accelerator": Alone(),
        "aux_loss_enabled": False,
        "ld_alpha": None,
        "precompute_ref_logps": True,
        "f_divergence_type": "reverse_kl",
        "loss_types": [kind],
        "loss_weights": [1.0],
        "beta": beta,
        "label_smoothing": smoothing,
        "use_weighting": False,
        "_metrics": {"train": defaultdict(list)},
        "_total_train_tokens": 0,
        "_tp_size": 1,
    }
    trainer.__dict__.update(values)
    inputs = {
        "input_ids": torch.zeros(2 * PAIRS, LENGTH + 1, dtype=torch.long),
        "attention_mask": torch.ones(2 * PAIRS, LENGTH + 1),
        "completion_mask": mask,
        "ref_chosen_logps": chosen,
        "ref_rejected_logps": rejected,
    }
    return trainer._compute_loss(lambda **_: outputs, inputs, False)


def ours(kind, beta, smoothing, by_token, logprobs, chosen, rejected, mask):
    sums = logprobs.sum(dim=1)
    lengths = mask.sum(dim=1) if by_token else None
    ratios = [
        log_ratios(sums[part], reference, lengths[part] if by_token else None)
        for part, reference in ((slice(0, PAIRS), chosen), (slice(PAIRS, None), rejected))
    ]
    return dpo_losses(*ratios, beta, kind, smoothing).mean()


@pytest.mark.parametrize(
    ("theirs", "kind", "by_token", "smoothing"),
    [
        ("sigmoid", "sigmoid", False, 0.0),
        ("sigmoid_norm", "sigmoid", True, 0.0),
        ("ipo", "ipo", True, 0.0),
    ],
)
@pytest.mark.parametrize("beta", [0.1, 2.0])
@pytest.mark.parametrize("with_reference", [True, False])
def test_dpo_is_trls(theirs, kind, by_token, smoothing, beta, with_reference):
    logprobs, chosen, rejected, mask = batch()
    if not with_reference:
        chosen, rejected = torch.zeros(PAIRS), torch.zeros(PAIRS)
    expected = trl_dpo(theirs, beta, smoothing, logprobs, chosen, rejected, mask)
    (gradient,) = torch.autograd.grad(expected, logprobs)
    references = (chosen, rejected) if with_reference else (None, None)
    found = ours(kind, beta, smoothing, by_token, logprobs, *references, mask)
    (found_gradient,) = torch.autograd.grad(found, logprobs)
    assert abs(float((found - expected).detach())) < 1e-6
    assert torch.allclose(found_gradient, gradient, atol=1e-6, rtol=0)
    assert gradient.abs().max() > 1e-3


def test_label_smoothing_is_trls_where_it_has_it():
    """TRL smooths cDPO's way in `aot_unpaired`, which sorts pairs: what differs is gone once pairs are sorted on their own."""
    logprobs, chosen, rejected, mask = batch(1)
    sums = logprobs.detach().sum(dim=1)
    order = torch.cat([(sums[:PAIRS] - chosen).argsort(), PAIRS + (sums[PAIRS:] - rejected).argsort()])
    logprobs, mask = logprobs.detach()[order].requires_grad_(), mask[order]
    chosen, rejected = chosen[order[:PAIRS]], rejected[order[PAIRS:] - PAIRS]
    expected = trl_dpo("aot_unpaired", 0.5, 0.2, logprobs, chosen, rejected, mask)
    (gradient,) = torch.autograd.grad(expected, logprobs)
    found = ours("sigmoid", 0.5, 0.2, False, logprobs, chosen, rejected, mask)
    (found_gradient,) = torch.autograd.grad(found, logprobs)
    assert abs(float((found - expected).detach())) < 1e-6
    assert torch.allclose(found_gradient, gradient, atol=1e-6, rtol=0)
    assert abs(float((found - ours("sigmoid", 0.5, 0.0, False, logprobs, chosen, rejected, mask)).detach())) > 1e-3


def test_smoothed_loss_is_least_where_the_pair_is_as_sure_as_the_labels_are():
    grid = torch.linspace(-20, 40, 60_001)
    losses = dpo_losses(grid, torch.zeros_like(grid), 0.25, label_smoothing=0.1)
    assert float(grid[losses.argmin()]) == pytest.approx(math.log(0.9 / 0.1) / 0.25, abs=2e-3)


@pytest.mark.parametrize("centring", [None, 0.01])
@pytest.mark.parametrize("with_margin", [False, True])
def test_bradley_terry_is_trls(centring, with_margin):
    from trl.trainer import reward_trainer as trainer_module

    trainer = trainer_module.RewardTrainer.__new__(trainer_module.RewardTrainer)
    draw = torch.Generator().manual_seed(3)
    scores = torch.randn(2 * PAIRS, 1, generator=draw, requires_grad=True)
    margins = torch.rand(PAIRS, generator=draw)
    trainer.__dict__.update(
        {
            "model": SimpleNamespace(training=True),
            "args": SimpleNamespace(center_rewards_coefficient=centring),
            "accelerator": Alone(),
            "_metrics": {"train": defaultdict(list)},
            "_total_train_tokens": 0,
            "_tp_size": 1,
        }
    )
    inputs = {"attention_mask": torch.ones(2 * PAIRS, 4)} | ({"margin": margins} if with_margin else {})

    def network(attention_mask, use_cache, margin=None):
        return SimpleNamespace(logits=scores)

    expected = trainer.compute_loss(network, inputs)
    (gradient,) = torch.autograd.grad(expected, scores)
    chosen, rejected = scores[:PAIRS, 0], scores[PAIRS:, 0]
    found = bradley_terry_losses(chosen, rejected, margins if with_margin else None, centring or 0.0).mean()
    (found_gradient,) = torch.autograd.grad(found, scores)
    assert abs(float((found - expected).detach())) < 1e-6
    assert torch.allclose(found_gradient, gradient, atol=1e-6, rtol=0)


def test_a_tie_is_half_right():
    assert preferred(torch.tensor([1.5, -0.1, 0.0])).tolist() == [1.0, 0.0, 0.5]


def test_a_judge_whose_probabilities_are_true_has_no_calibration_error():
    draw = np.random.default_rng(0)
    differences = draw.normal(0, 2, 40_000)
    swapped = draw.random(40_000) > 1 / (1 + np.exp(-differences))
    true = np.where(swapped, -differences, differences)  # chosen with the probability that the scores say
    assert calibration_error(reliability(true)) < 0.02
    assert calibration_error(reliability(4 * true)) > 0.1  # as right as before, but far too sure


def test_calibration_by_hand():
    odds = [math.log(p / (1 - p)) for p in (0.52, 0.53, 0.97)]
    found = reliability([odds[0], -odds[1], odds[2]])
    assert [(one.pairs, round(one.accuracy, 6)) for one in found] == [(2, 0.5), (1, 1.0)]
    assert found[0].confidence == pytest.approx(0.525)
    assert calibration_error(found) == pytest.approx((2 * 0.025 + 0.03) / 3)
    about = judge([odds[0], -odds[1], odds[2]])
    assert about["accuracy"] == pytest.approx(2 / 3)
    assert about["loss"] == pytest.approx(-np.mean(np.log([0.52, 0.47, 0.97])))
    assert judge([0.0, 0.0])["accuracy"] == 0.5
