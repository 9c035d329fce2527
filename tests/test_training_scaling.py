"""The fit of the scaling law on known laws, and a tiny ladder from end to end."""

import json
import re

import numpy as np
import pytest

from tests.training_common import SMALL, make
from training.cli import main
from training.config import resolve
from training.knobs import TrainingError
from training.planning.laws import BESIROGLU, HOFFMANN, MUENNIGHOFF
from training.scaling import fit as fitting
from training.scaling import ladder
from training.scaling.fit import Points
from training.scaling.isoflop import allocation, parabola
from training.scaling.run import run_ladder, undetermined


def points(law, noise=0.0, seed=0, sizes=5, budgets=5):
    n, d = np.meshgrid(np.geomspace(5e6, 1e9, sizes), np.geomspace(1e8, 2e10, budgets))
    n, d = n.ravel(), d.ravel()
    losses = np.array([law.loss(a, b) for a, b in zip(n, d, strict=True)])
    return Points(n, d, losses * np.exp(np.random.default_rng(seed).normal(0, noise, len(n))))


@pytest.mark.parametrize("law", [HOFFMANN, BESIROGLU, MUENNIGHOFF])
def test_constants_of_a_known_law_are_found(law):
    found = fitting.fit(points(law))
    for name in ("E", "A", "B", "alpha", "beta"):
        assert getattr(found.law, name) == pytest.approx(getattr(law, name), rel=1e-6), name
    assert np.abs(found.residuals).max() < 1e-9


def test_the_minimum_is_scipys():
    """The same objective by L-BFGS from the answer: it cannot be made smaller, nor by moving away and coming back."""
    from scipy import optimize

    data = points(BESIROGLU, noise=5e-3)
    found = fitting.fit(data)
    logs = np.log(data.losses)

    def objective(theta):
        return 1e6 * fitting.huber(fitting.predict_log(theta[None], data)[0] - logs).sum()

    start = fitting.theta_of(found.law)
    for shift in (0.0, 0.05, -0.05):
        other = optimize.minimize(
            objective,
            start * (1 + shift),
            method="Nelder-Mead",
            options={"xatol": 1e-9, "fatol": 1e-9, "maxiter": 20_000},
        )
        assert found.objective * 1e6 <= other.fun * (1 + 1e-6)


def test_one_run_gone_wrong_does_not_bend_the_law():
    """What Huber's loss is for: squares would follow the outlier."""
    data = points(BESIROGLU)
    data.losses[7] *= 1.3
    found = fitting.fit(data).law
    assert found.alpha == pytest.approx(BESIROGLU.alpha, rel=0.02)
    assert found.loss(1e10, 2e11) == pytest.approx(BESIROGLU.loss(1e10, 2e11), rel=2e-3)


def test_derivatives_are_those_of_differences():
    data = points(HOFFMANN)
    theta = fitting.theta_of(HOFFMANN)[None]
    exact = fitting.gradient_of_log(theta, data)[0]
    for i in range(5):
        step = np.zeros_like(theta)
        step[0, i] = 1e-6
        slope = (fitting.predict_log(theta + step, data) - fitting.predict_log(theta - step, data))[0] / 2e-6
        np.testing.assert_allclose(exact[:, i], slope, rtol=1e-5, atol=1e-9)


def test_intervals_hold_the_truth_about_as_often_as_they_say():
    """20 ladders of 16 runs with 0.5% of noise: the loss of a run of 10 times the size, noise and all."""
    inside = 0
    truth = BESIROGLU.loss(5e9, 1e11)
    for seed in range(20):
        data = points(BESIROGLU, noise=5e-3, seed=seed, sizes=4, budgets=4)
        best = fitting.fit(data)
        laws = fitting.bootstrap(data, best, 60, seed)
        _, (low, high) = fitting.predict(best, laws, 5e9, 1e11, seed)
        shown = truth * float(np.exp(np.random.default_rng(1000 + seed).normal(0, 5e-3)))
        inside += low <= shown <= high
    assert inside >= 16


@pytest.mark.parametrize(
    ("n", "d", "why"),
    [
        ([1e6, 2e6, 4e6], [1e8, 2e8, 4e8], "at least 6 runs"),
        ([1e6] * 4 + [2e6] * 4, [1e8, 2e8, 4e8, 8e8] * 2, "three model sizes"),
        ([1e6, 2e6, 4e6, 8e6] * 2, [1e8] * 4 + [2e8] * 4, "three token budgets"),
    ],
)
def test_too_few_runs_are_refused(n, d, why):
    with pytest.raises(ValueError, match=why):
        fitting.fit(Points(np.array(n), np.array(d), np.full(len(n), 3.0)))


def test_parabolas_find_the_compute_optimal_exponent():
    """With alpha = beta the parabola is symmetric, and approach 2 gives a = 0.5 as approach 3 does."""
    found = []
    for flops in (1e18, 4e18, 1.6e19):
        best = MUENNIGHOFF.allocate(flops).parameters
        n = best * np.geomspace(0.4, 2.5, 7)
        losses = np.array([MUENNIGHOFF.loss(one, flops / 6 / one) for one in n])
        found.append(parabola(flops, n, losses))
        assert found[-1].inside and found[-1].best == pytest.approx(best, rel=0.01)
    k, a = allocation(found)
    assert a == pytest.approx(0.5, abs=1e-3)
    assert k * 1e18**a == pytest.approx(MUENNIGHOFF.allocate(1e18).parameters, rel=0.01)


def test_a_minimum_outside_the_measured_sizes_is_not_used():
    n = MUENNIGHOFF.allocate(1e18).parameters * np.geomspace(2, 8, 5)
    losses = np.array([MUENNIGHOFF.loss(one, 1e18 / 6 / one) for one in n])
    found = parabola(1e18, n, losses)
    assert found is None or not found.inside
    assert allocation([found] if found else []) is None
    assert parabola(1e18, n[:2], losses[:2]) is None


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data"), length=32, documents=160)


BASE = {**SMALL, "threads": 1, "batch_rows": 1, "micro_batch_rows": 1, "save_every": 1000, "eval_rows": 8}
BUDGETS = [6e9, 9e9, 1.35e10]


def test_rungs_spend_their_budgets():
    base = resolve(BASE)
    rungs = ladder.design(base, [1, 2, 3], BUDGETS, 400, 32)
    assert len(rungs) == 9 and len({rung.name for rung in rungs}) == 9
    for rung in rungs:
        step = rung.flops / rung.config.steps
        assert abs(rung.flops - rung.budget) <= step / 2 * 1.001
        assert rung.tokens == rung.config.steps * 32
        # all but size, steps and rate as in the base
        for key, value in rung.config.model_dump(exclude=ladder.SIZED).items():
            assert value == base.model_dump()[key], key
    assert ladder.held_out(rungs).name == rungs[-1].name
    with pytest.raises(TrainingError, match="epochs"):
        ladder.check_corpus(rungs, 1_000, 1.0)
    with pytest.raises(TrainingError, match="steps"):
        ladder.design(base, [6], [1e8], 400, 32)


@pytest.fixture(scope="module")
def done(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("ladder")
    said = []
    report = run_ladder(resolve(BASE), *folders, out, [1, 2, 3], BUDGETS, max_epochs=1000, log=said.append)
    return out, report, said


def test_a_ladder_predicts_its_largest_run_before_training_it(done, folders):
    out, report, said = done
    predicted = next(i for i, line in enumerate(said) if "is expected to end at" in line)
    trained = next(i for i, line in enumerate(said) if line.startswith("run 9 of 9"))
    assert predicted < trained
    held = report["held_out"]
    assert held["name"] == report["runs"][-1]["name"]
    assert held["measured"] == report["runs"][-1]["loss"]
    assert held["interval"][0] <= held["loss"] <= held["interval"][1]
    # the prediction knows nothing of the run: a fit of the other eight alone
    others = [run for run in report["runs"] if run["name"] != held["name"]]
    columns = [np.array([float(run[key]) for run in others]) for key in ("parameters", "tokens", "loss")]
    law = fitting.fit(Points(*columns)).law
    assert law.loss(held["parameters"], held["tokens"]) == pytest.approx(held["loss"])
    assert json.loads((out / "scaling.json").read_text())["law"] == report["law"]


def test_finished_runs_are_not_trained_again(done, folders, monkeypatch):
    out, report, _ = done
    monkeypatch.setattr("training.pretrain.train_step", lambda *a, **k: pytest.fail("a finished run was trained again"))
    again = run_ladder(resolve(BASE), *folders, out, [1, 2, 3], BUDGETS, max_epochs=1000, log=lambda _: None)
    assert json.dumps(again) == json.dumps(report)


def test_the_page_loads_nothing_and_shows_every_run(done):
    out, report, _ = done
    html = (out / "scaling.html").read_text()
    assert html.count("<svg") == 3 and "nan" not in html.lower().replace("finance", "")
    assert not re.search(r"https?://|src=|<script|@import", html)
    for run in report["runs"]:
        assert html.count(run["name"] + ": ") == 3, "a dot in each plot"
    assert "prefers-color-scheme: dark" in html


def test_mistakes_are_said_before_anything_is_trained(folders, tmp_path, capsys):
    common = ["scaling", "--tokens", str(folders[0]), "--tokenizer", str(folders[1]), "--output", str(tmp_path / "out")]
    sets = [f"--set={key}={value}" for key, value in BASE.items() if key not in ladder.SIZED]
    for arguments, why in (
        (
            ["--depths", "1,2,3", "--budgets", "6e9,9e9", "--set=layers=3", "--set=steps=9"],
            "layers, steps: the ladder sets",
        ),
        (["--depths", "1,2,3", "--budgets", "6e9,9e9", "--depth", "3"], "depth: the ladder sets"),
        (["--depths", "1,2", "--budgets", "6e9,7e9,9e9,1.35e10"], "three model sizes"),
        (["--depths", "1,2,3", "--budgets", "6e9,1.35e10"], "at least 6 runs"),
        (["--depths", "1,2,3", "--budgets", "6e9,9e9,1.35e10"], "epochs"),
    ):
        assert main([*common, *sets, *arguments]) == 2
        assert why in capsys.readouterr().err
    assert not (tmp_path / "out" / "rungs").exists()


def test_a_corpus_without_validation_rows_is_refused(tmp_path):
    tokens, tokenizer = make(tmp_path, length=32, documents=40, validation=0)
    with pytest.raises(TrainingError, match="no validation rows"):
        run_ladder(resolve(BASE), tokens, tokenizer, tmp_path / "out", [1, 2, 3], BUDGETS, log=lambda _: None)


def test_no_next_size_from_runs_that_show_no_use_of_size():
    """Loss by tokens alone: the optimum would be a model of a few parameters."""
    flat = points(MUENNIGHOFF)
    losses = 2.0 + 500 * flat.tokens**-0.35
    assert "parameters" in undetermined(fitting.fit(Points(flat.parameters, flat.tokens, losses)).law, flat)
    losses = 2.0 + 500 * flat.parameters**-0.35
    assert "tokens" in undetermined(fitting.fit(Points(flat.parameters, flat.tokens, losses)).law, flat)
    assert undetermined(fitting.fit(flat).law, flat) is None
