"""The law L(N, D) = E + A / N^alpha + B / D^beta through measured losses (Hoffmann et al. 2022, approach 3).

What is minimised is the Huber loss (delta 1e-3) of the error of log L, as in the paper, from many starts. Besiroglu et
al. 2024 (arXiv 2404.10102) found that the paper's optimiser stopped early, so here the iteration goes on until the
parameters stand still, and the Huber losses are summed, not averaged. Given alpha and beta the law is linear in E, A
and B: each start of the grid takes these from least squares, so a start is already near a minimum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from training.planning.laws import ParametricLaw

Floats = NDArray[np.float64]

DELTA = 1e-3
EXPONENTS = np.geomspace(0.05, 1.5, 14)  # of the starts, for alpha and for beta
REFINED = 24  # of the starts: the best ones
ITERATIONS = 300
STANDS_STILL = 1e-9  # a step that lowers the objective by a smaller share ends a search
LEAST_POINTS = 6  # one more than the law has constants


@dataclass(frozen=True)
class Points:
    """Measured runs: parameters, tokens and loss in nats a token, each float64 `[n]`."""

    parameters: Floats
    tokens: Floats
    losses: Floats

    def __len__(self) -> int:
        return len(self.losses)

    def take(self, chosen: NDArray[np.bool_]) -> Points:
        """Those that a mask `[n]` is true for."""
        return Points(self.parameters[chosen], self.tokens[chosen], self.losses[chosen])


@dataclass(frozen=True)
class Fit:
    """A law, the sum of Huber losses it leaves, and the error of log L at each point."""

    law: ParametricLaw
    objective: float
    residuals: Floats  # log of predicted by measured loss, [n]


def fit(points: Points) -> Fit:
    """The law with the least Huber loss. Raises ValueError if the points cannot determine it."""
    check_determined(points)
    logs = np.log(points.losses)[None]
    starts = starting_points(points)
    thetas, objectives = refine(points, np.repeat(logs, len(starts), axis=0), starts)
    best = int(np.argmin(objectives))
    return Fit(law_of(thetas[best]), float(objectives[best]), predict_log(thetas[best : best + 1], points)[0] - logs[0])


def check_determined(points: Points) -> None:
    """Raise ValueError with the reason if five constants cannot be had from these points."""
    if len(points) < LEAST_POINTS:
        raise ValueError(f"five constants need at least {LEAST_POINTS} runs, got {len(points)}")
    for name, values in (("model sizes", points.parameters), ("token budgets", points.tokens)):
        if len(np.unique(values)) < 3:
            raise ValueError(f"an offset and a power law need at least three {name}, got {len(np.unique(values))}")
    if not (np.isfinite(points.losses).all() and (points.losses > 0).all()):
        raise ValueError("losses must be positive numbers")


def starting_points(points: Points) -> Floats:
    """The best `REFINED` of the grid of exponents, each with its least-squares E, A, B: `[starts, 5]`.

    Least squares of relative errors; a coefficient that comes out negative is held at a small share of the loss.
    """
    alphas, betas = (grid.ravel() for grid in np.meshgrid(EXPONENTS, EXPONENTS))
    log_n, log_d = np.log(points.parameters), np.log(points.tokens)
    # centred, so that columns are of one size
    by_n = np.exp(-alphas[:, None] * (log_n - log_n.mean()))
    by_d = np.exp(-betas[:, None] * (log_d - log_d.mean()))
    columns = np.stack([np.ones_like(by_n), by_n, by_d], axis=2) / points.losses[None, :, None]  # [S, n, 3]
    normal = columns.transpose(0, 2, 1) @ columns + 1e-9 * np.eye(3)
    solved = np.linalg.solve(normal, columns.sum(axis=1)[..., None])[..., 0]  # [S, 3]
    floor = 1e-3 * points.losses.min()
    e, a, b = np.log(np.maximum(solved, floor)).T
    starts = np.stack([e, a + alphas * log_n.mean(), b + betas * log_d.mean(), alphas, betas], axis=1)
    objectives = huber(predict_log(starts, points) - np.log(points.losses)).sum(axis=1)
    return starts[np.argsort(objectives, kind="stable")[:REFINED]]


def refine(points: Points, logs: Floats, thetas: Floats) -> tuple[Floats, Floats]:
    """Levenberg-Marquardt with Huber's weights on many problems at once.

    logs: log losses `[S, n]`; thetas: where to start, `[S, 5]` as (log E, log A, log B, alpha, beta). Returns the
    places reached and their objectives. A step that does not improve is not taken, and the next one is shorter.
    """
    thetas = thetas.copy()
    objectives = huber(predict_log(thetas, points) - logs).sum(axis=1)
    damping = np.full(len(thetas), 1e-3)
    active = np.arange(len(thetas))  # problems that still move
    for _ in range(ITERATIONS):
        here, target, damp, before = thetas[active], logs[active], damping[active], objectives[active]
        jacobian = gradient_of_log(here, points)  # [S, n, 5]
        error = predict_log(here, points) - target
        weighted = (jacobian / np.maximum(np.abs(error) / DELTA, 1.0)[..., None]).transpose(0, 2, 1)  # [S, 5, n]
        normal, slope = weighted @ jacobian, weighted @ error[..., None]
        diagonal = np.einsum("sii->si", normal)
        diagonal += damp[:, None] * (diagonal + 1e-12)
        tried = here - np.clip(np.linalg.solve(normal, slope)[..., 0], -2.0, 2.0)
        found = huber(predict_log(tried, points) - target).sum(axis=1)
        better = found < before
        thetas[active[better]], objectives[active[better]] = tried[better], found[better]
        damping[active] = np.where(better, np.maximum(damp / 5, 1e-12), damp * 4)
        still = np.where(better, before - found > STANDS_STILL * before, damp < 1e8)
        active = active[still]
        if not len(active):
            break
    return thetas, objectives


def huber(error: Floats) -> Floats:
    """Huber's loss: half the square up to `DELTA`, linear beyond."""
    size = np.abs(error)
    return np.where(size <= DELTA, 0.5 * size**2, DELTA * (size - 0.5 * DELTA))


def predict_log(thetas: Floats, points: Points) -> Floats:
    """log L of each law at each point: `[S, n]`."""
    return np.logaddexp.reduce(_terms(thetas, points), axis=2)


def gradient_of_log(thetas: Floats, points: Points) -> Floats:
    """Derivatives of log L by (log E, log A, log B, alpha, beta): `[S, n, 5]`. The first three are shares of the loss."""
    terms = _terms(thetas, points)
    shares = np.exp(terms - np.logaddexp.reduce(terms, axis=2, keepdims=True))
    by_alpha = -shares[..., 1] * np.log(points.parameters)
    by_beta = -shares[..., 2] * np.log(points.tokens)
    return np.concatenate([shares, by_alpha[..., None], by_beta[..., None]], axis=2)


def _terms(thetas: Floats, points: Points) -> Floats:
    """Logs of the three summands of the law: `[S, n, 3]`."""
    e, a, b, alpha, beta = (thetas[:, i, None] for i in range(5))
    constant = np.broadcast_to(e, (len(thetas), len(points)))
    return np.stack(
        [constant, a - alpha * np.log(points.parameters), b - beta * np.log(points.tokens)],
        axis=2,
    )


def law_of(theta: Floats) -> ParametricLaw:
    """The law with the constants (log E, log A, log B, alpha, beta)."""
    e, a, b, alpha, beta = (float(value) for value in theta)
    return ParametricLaw(E=float(np.exp(e)), A=float(np.exp(a)), B=float(np.exp(b)), alpha=alpha, beta=beta)


def theta_of(law: ParametricLaw) -> Floats:
    """The inverse of `law_of`."""
    return np.array([np.log(law.E), np.log(law.A), np.log(law.B), law.alpha, law.beta])


def bootstrap(points: Points, best: Fit, samples: int, seed: int) -> list[ParametricLaw]:
    """Laws fitted again to losses redrawn around the best fit: what else these runs could have said.

    Residuals are resampled, not runs: a ladder is a design, and few of its runs can be left out. They are widened by
    sqrt(n / (n - 5)), since five constants were fitted to them.
    """
    draw = np.random.default_rng(seed)
    count = len(points)
    residuals = (best.residuals - best.residuals.mean()) * np.sqrt(count / max(count - 5, 1))
    fitted = np.log(points.losses) + best.residuals
    logs = fitted - draw.choice(residuals, size=(samples, count))
    thetas, _ = refine(points, logs, np.repeat(theta_of(best.law)[None], samples, axis=0))
    return [law_of(theta) for theta in thetas]


def interval(values: list[float], level: float = 0.95) -> tuple[float, float]:
    """The middle `level` of some values."""
    tail = 100 * (1 - level) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def predict(
    best: Fit, others: list[ParametricLaw], parameters: float, tokens: float, seed: int
) -> tuple[float, tuple[float, float]]:
    """Loss of a run that was not measured, and an interval that a single run should fall into 95 times of 100.

    The interval holds both what the constants leave open (the bootstrap) and the scatter of single runs (residuals).
    """
    draw = np.random.default_rng(seed)
    count = len(best.residuals)
    scatter = (best.residuals - best.residuals.mean()) * np.sqrt(count / max(count - 5, 1))
    spread = [law.loss(parameters, tokens) * float(np.exp(-draw.choice(scatter))) for law in others]
    return best.law.loss(parameters, tokens), interval(spread)
