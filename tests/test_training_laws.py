"""Scaling laws against numbers that their own papers print."""

import math

import pytest

from training.planning import adjusted, laws
from training.planning.laws import BESIROGLU, HOFFMANN, MUENNIGHOFF, ParametricLaw, find

# parameters, FLOPs, tokens: Hoffmann et al. 2022, table 3 (approach 1) and table A3 (approaches 2 and 3)
TABLE_3 = [
    (400e6, 1.92e19, 8.0e9),
    (1e9, 1.21e20, 20.2e9),
    (10e9, 1.23e22, 205.1e9),
    (67e9, 5.76e23, 1.5e12),
    (175e9, 3.85e24, 3.7e12),
    (280e9, 9.90e24, 5.9e12),
    (520e9, 3.43e25, 11.0e12),
    (1e12, 1.27e26, 21.2e12),
    (10e12, 1.30e28, 216.2e12),
]
TABLE_A3_2 = [
    (400e6, 1.84e19, 7.7e9),
    (1e9, 1.20e20, 20.0e9),
    (10e9, 1.32e22, 219.5e9),
    (67e9, 6.88e23, 1.7e12),
    (280e9, 1.18e25, 7.1e12),
    (520e9, 4.19e25, 13.4e12),
]
TABLE_A3_3 = [
    (400e6, 2.21e19, 9.2e9),
    (1e9, 1.62e20, 27.1e9),
    (10e9, 2.46e22, 410.1e9),
    (67e9, 1.71e24, 4.1e12),
    (280e9, 3.52e25, 20.1e12),
    (520e9, 1.36e26, 43.5e12),
]


@pytest.mark.parametrize(
    ("name", "table", "tolerance"),
    [("chinchilla-1", TABLE_3, 0.03), ("chinchilla-2", TABLE_A3_2, 0.04), ("chinchilla-3", TABLE_A3_3, 0.11)],
)
def test_chinchilla_gives_the_tables_of_the_paper(name, table, tolerance):
    """Approach 3 has only four digits in the paper's source, which shift its largest sizes by several percent."""
    for parameters, flops, tokens in table:
        found = find(name).allocate(flops)
        assert found.parameters == pytest.approx(parameters, rel=tolerance)
        assert found.tokens == pytest.approx(tokens, rel=max(tolerance, 0.06))  # printed with as few as two digits
        assert 6 * found.parameters * found.tokens == pytest.approx(flops)


def test_rounded_constants_move_the_optimum():
    """Why the digits of the TeX source are used (Besiroglu et al. 2024): 2 digits are a quarter off at 1e24 FLOPs."""
    rounded = ParametricLaw(E=1.69, A=406.4, B=410.7, alpha=0.34, beta=0.28)
    assert abs(rounded.allocate(1.71e24).tokens / 4.1e12 - 1) > 0.2
    assert abs(HOFFMANN.allocate(1.71e24).tokens / 4.1e12 - 1) < 0.06


def test_besiroglu_agrees_with_twenty_tokens_a_parameter():
    """The paper's point: its exponents are a = 0.5126, b = 0.4874, and Chinchilla's own 70B on 1.4T is near its optimum."""
    assert BESIROGLU.beta / (BESIROGLU.alpha + BESIROGLU.beta) == pytest.approx(0.5126, abs=1e-4)
    at_chinchilla = BESIROGLU.allocate(5.76e23)
    assert at_chinchilla.parameters == pytest.approx(70e9, rel=0.05)
    assert at_chinchilla.tokens == pytest.approx(1.4e12, rel=0.06)
    with_approach_3 = HOFFMANN.allocate(5.76e23)
    assert with_approach_3.parameters == pytest.approx(40e9, rel=0.02)  # "40 billion" in section 3.4 of Hoffmann et al.


def test_parametric_optimum_is_the_minimum_at_fixed_compute():
    for law in (HOFFMANN, BESIROGLU, MUENNIGHOFF):
        best = law.allocate(1e21)
        for factor in (0.9, 1.1):
            assert law.loss(best.parameters * factor, best.tokens / factor) > best.loss


def test_kaplan_at_one_petaflop_day():
    """Table 6 and figure 14: 1.3e9 parameters, 2e10 tokens, at the critical batch size 2e6; twice C_min is spent."""
    found = laws.kaplan(2 * laws.PETAFLOP_DAY)
    assert found.parameters == pytest.approx(1.3e9)
    assert found.tokens == pytest.approx(2e10, rel=0.15)
    assert found.loss == pytest.approx(3.1e8**0.050)
    # figure 14: parameters grow by 5.4 with ten times the compute (10^0.73), where Chinchilla says 3.1
    assert laws.kaplan(20 * laws.PETAFLOP_DAY).parameters / found.parameters == pytest.approx(5.37, rel=1e-3)


@pytest.mark.parametrize(
    ("layers", "width", "batch", "rate"),
    [(30, 4096, 2304 * 4096, 4.2e-4), (95, 8192, 4608 * 4096, 3.2e-4)],  # 7B and 67B, table 2
)
def test_deepseek_gives_the_hyperparameters_that_its_models_had(layers, width, batch, rate):
    """Both were trained on 2e12 tokens of 4,096; M = 72 layers x width^2 + 12 layers x width x length."""
    per_token = 72 * layers * width**2 + 12 * layers * width * 4096
    found = laws.batch_and_rate(per_token * 2e12)
    assert found[0] == pytest.approx(batch, rel=0.10)
    assert found[1] == pytest.approx(rate, rel=0.04)


def test_deepseek_allocation_spends_the_budget():
    found = laws.deepseek(1e20)
    assert 6 * found.parameters * found.tokens == pytest.approx(1e20, rel=2e-4)


def test_llama_3_concludes_what_the_paper_concludes():
    found = laws.llama_3(3.8e25)
    assert found.tokens == pytest.approx(16.55e12, rel=1e-3)
    assert found.parameters == pytest.approx(402e9, rel=0.06)  # 6 N D of the printed pair is 4.0e25


def test_budget_for_a_size_or_a_token_count():
    for law in laws.LAWS:
        flops = laws.flops_for(law, parameters=1e9)
        assert law.allocate(flops).parameters == pytest.approx(1e9)
        flops = laws.flops_for(law, tokens=1e11)
        assert law.allocate(flops).tokens == pytest.approx(1e11)


def test_repeats_lose_worth_as_measured():
    """Muennighoff et al. 2023: one epoch loses nothing, R* repetitions keep 1 - 1/e of their worth, U_N = 0.051 U_D."""
    assert adjusted.effective_tokens(1e9, 1e10) == 1e9
    repeats = adjusted.REPEATS_DECAY
    worth = adjusted.effective_tokens((1 + repeats) * 1e9, 1e9) - 1e9
    assert worth / (repeats * 1e9) == pytest.approx(1 - 1 / math.e)
    assert adjusted.optimal_parameters(MUENNIGHOFF, 25e9) == pytest.approx(0.051 * 25e9, rel=0.01)
    # four epochs are nearly as good as new tokens, forty are not (figure 1 and section 6.1)
    assert adjusted.effective_tokens(4e9, 1e9) / 4e9 > 0.92
    assert adjusted.effective_tokens(40e9, 1e9) / 40e9 < 0.4


def test_a_small_corpus_wants_smaller_models_and_more_epochs():
    """Figure 1 (right) of the paper: with 25B unique tokens 6.34B parameters for 9.7 epochs beat 8.67B for 7.1."""
    assert adjusted.repeated_loss(6.34e9, 242e9, 25e9) < adjusted.repeated_loss(8.67e9, 178e9, 25e9)
    best = adjusted.repeated(6 * 8.67e9 * 178e9, 25e9)
    assert best.parameters == pytest.approx(6.34e9, rel=0.1)
    assert best.epochs == pytest.approx(9.7, rel=0.1)


def test_a_large_corpus_changes_nothing():
    plain = MUENNIGHOFF.allocate(1e20)
    best = adjusted.repeated(1e20, 1e15)
    assert best.parameters == pytest.approx(plain.parameters, rel=1e-3)
    assert best.loss == pytest.approx(plain.loss)


def test_serving_pays_for_a_smaller_model():
    """Sardana and Frankle 2024, figure 1: as good as 13B, 2e12 tokens served: 7B saves 1.7e22 FLOPs, 17%."""
    tokens = (HOFFMANN.beta * HOFFMANN.B * 13e9**HOFFMANN.alpha / (HOFFMANN.alpha * HOFFMANN.A)) ** (1 / HOFFMANN.beta)
    loss = HOFFMANN.loss(13e9, tokens)
    optimal = 6 * 13e9 * tokens + 2 * 13e9 * 2e12
    seven = 6 * 7e9 * adjusted.tokens_for(HOFFMANN, loss, 7e9) + 2 * 7e9 * 2e12
    assert optimal - seven == pytest.approx(1.7e22, rel=0.05)
    assert 1 - seven / optimal == pytest.approx(0.17, abs=0.01)
    best = adjusted.lifetime(HOFFMANN, loss, 2e12)
    assert best.parameters == pytest.approx(7e9, rel=0.05)
    assert HOFFMANN.loss(best.parameters, best.tokens) == pytest.approx(loss)
    assert best.training_flops + best.inference_flops <= seven


def test_a_loss_below_the_floor_is_refused():
    with pytest.raises(ValueError, match="floor"):
        adjusted.lifetime(HOFFMANN, 1.5, 1e12)
