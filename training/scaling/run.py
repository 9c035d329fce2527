"""Train a ladder, predict its largest run before it is trained, fit the law, and write scaling.json and scaling.html."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from training.config import PretrainConfig
from training.knobs import TrainingError
from training.planning.laws import FLOPS_PER_PARAMETER_AND_TOKEN, ParametricLaw
from training.scaling import fit as fitting
from training.scaling.fit import Fit, Points
from training.scaling.isoflop import Parabola, allocation, parabola
from training.scaling.ladder import Rung, check_corpus, design, held_out

FORMAT = 1
BOOTSTRAPS = 400
SMALLEST_TERM = 0.01  # share of the loss that parameters and tokens must each account for, at their least
SEED = 0  # of the bootstrap; equal runs give equal files


def run_ladder(
    base: PretrainConfig,
    tokens_dir: Path,
    tokenizer_dir: Path,
    out_dir: Path,
    depths: list[int],
    budgets: list[float],
    *,
    max_epochs: float = 1.0,
    next_flops: float | None = None,
    log: Callable[[str], Any] = print,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Train what is missing of a ladder and write what it says. Returns what scaling.json holds.

    Each run is a folder of `pretrain` below OUT/rungs, so that a stopped ladder goes on where it was, and a finished
    run is not trained again. Raises what `pretrain` raises, and `TrainingError` for a ladder that no law can be had from.
    """
    from training.data import open_dataset
    from training.pretrain import pretrain

    data = open_dataset(tokens_dir, base.sequence_length)
    if not len(data.validation):
        raise TrainingError(f"{tokens_dir}: no validation rows, and the law is fitted to validation losses")
    rungs = design(base, depths, budgets, data.tokens.vocab_size, data.sequence_length)
    last = held_out(rungs)
    others = [rung for rung in rungs if rung is not last]
    _check_design(others)
    check_corpus(rungs, len(data.train) * data.sequence_length, max_epochs)
    log(
        f"{len(rungs)} runs, {sum(rung.flops for rung in rungs):.3g} FLOPs: "
        f"{rungs[0].parameters:,} to {last.parameters:,} parameters"
    )

    def measure(number: int, rung: Rung) -> dict[str, Any]:
        log(f"run {number} of {len(rungs)}: {rung.name}, {rung.parameters:,} parameters, {rung.tokens:,} tokens")
        done = pretrain(rung.config, tokens_dir, tokenizer_dir, out_dir / "rungs" / rung.name, log=_quiet, stop=stop)
        if done["parameters"] != rung.parameters:
            raise RuntimeError(f"{rung.name} has {done['parameters']:,} parameters, {rung.parameters:,} were planned")
        loss = done["validation_loss"]
        log(f"  validation loss {loss:.4f}, {done['seconds']:.0f} s")
        return {
            **rung.facts(),
            "loss": loss,
            "bits_per_byte": done["bits_per_byte"],
            "seconds": done["seconds"],
        }

    measured = [measure(number, rung) for number, rung in enumerate(others, 1)]
    before = _fit(points_of(measured))
    prediction = _predict(before, points_of(measured), last.parameters, last.tokens)
    low, high = prediction["interval"]
    log(f"{last.name} is expected to end at {prediction['loss']:.4f} ({low:.4f} to {high:.4f}, 95%)")
    shown = measure(len(rungs), last)
    error = shown["loss"] / prediction["loss"] - 1
    log(
        f"  {error:+.2%} from the prediction, {'inside' if low <= shown['loss'] <= high else 'OUTSIDE'} of the interval"
    )

    measured.append(shown)
    report = summarise(measured, next_flops or 10 * max(budgets))
    report = {
        "format": FORMAT,
        "tokens": str(tokens_dir),
        "sequence_length": data.sequence_length,
        "vocab_size": data.tokens.vocab_size,
        "batch_tokens": base.batch_rows * data.sequence_length,
        "held_out": {"name": last.name, **prediction, "measured": shown["loss"], "relative_error": error},
        **report,
    }
    write(out_dir, report)
    return report


def summarise(measured: list[dict[str, Any]], next_flops: float) -> dict[str, Any]:
    """Fit, intervals, parabolas and the next size, from runs with `parameters`, `tokens`, `flops`, `budget` and `loss`."""
    points = points_of(measured)
    best = _fit(points)
    laws = fitting.bootstrap(points, best, BOOTSTRAPS, SEED)
    names = ("E", "A", "B", "alpha", "beta")
    parabolas = [found for found in _parabolas(measured) if found is not None]
    scale = allocation(parabolas)
    # tokens and parameters that a budget really buys: attention and all, not 6 N D
    per_product = float(np.median([run["flops"] / (run["parameters"] * run["tokens"]) for run in measured]))
    why = undetermined(best.law, points)
    following = None
    if why is None:
        place = best.law.allocate(next_flops * FLOPS_PER_PARAMETER_AND_TOKEN / per_product)
        loss, spread = fitting.predict(best, laws, place.parameters, place.tokens, SEED)
        following = {
            "flops": next_flops,
            "parameters": place.parameters,
            "tokens": place.tokens,
            "loss": loss,
            "interval": spread,
        }
    exponents = [law.beta / (law.alpha + law.beta) for law in laws]
    return {
        "runs": [{**run, "residual": float(residual)} for run, residual in zip(measured, best.residuals, strict=True)],
        "law": {name: getattr(best.law, name) for name in names},
        "intervals": {name: fitting.interval([getattr(law, name) for law in laws]) for name in names},
        "objective": best.objective,
        "largest_residual": float(np.abs(best.residuals).max()),
        "parameter_exponent": best.law.beta / (best.law.alpha + best.law.beta),
        "parameter_exponent_interval": fitting.interval(exponents),
        "flops_per_parameter_and_token": per_product,
        "isoflop": {
            "parabolas": [found.__dict__ for found in parabolas],
            "allocation": None if scale is None else {"k": scale[0], "exponent": scale[1]},
        },
        "next": following,
        "undetermined": why,
    }


def undetermined(law: ParametricLaw, points: Points) -> str | None:
    """Why no next size can be had from a fit; None if it can.

    Where runs get no better with size (or with tokens), that term of the law is a shape without meaning, and its
    optimum lies anywhere.
    """
    loss = law.loss(float(points.parameters.min()), float(points.tokens.min()))
    for what, scale, power, sizes, more in (
        ("parameters", law.A, law.alpha, points.parameters, "larger budgets, or smaller models"),
        ("tokens", law.B, law.beta, points.tokens, "smaller budgets beside these"),
    ):
        # a power of about 0 is a constant, however large: what counts is how far the term falls within the runs
        if scale * (sizes.min() ** -power - sizes.max() ** -power) < SMALLEST_TERM * loss:
            return f"within these runs the loss does not fall with {what}: the ladder needs {more}"
    return None


def points_of(measured: list[dict[str, Any]]) -> Points:
    """Runs as arrays."""
    columns = ([float(run[key]) for run in measured] for key in ("parameters", "tokens", "loss"))
    return Points(*(np.array(column) for column in columns))


def write(out_dir: Path, report: dict[str, Any]) -> None:
    """scaling.json and scaling.html, each whole or not at all."""
    from training.checkpoint import write_json, write_whole
    from training.scaling.page import page

    html = page(report)
    write_whole(out_dir / "scaling.html", lambda file: file.write_text(html, encoding="utf-8"))
    write_json(out_dir / "scaling.json", report)


def _check_design(others: list[Rung]) -> None:
    """Raise `TrainingError`, before anything is trained, if the runs cannot determine the law."""
    try:
        fitting.check_determined(
            Points(
                np.array([float(rung.parameters) for rung in others]),
                np.array([float(rung.tokens) for rung in others]),
                np.ones(len(others)),
            )
        )
    except ValueError as error:
        raise TrainingError(f"{error} (the largest run is kept aside): more --depths or --budgets") from None


def _fit(points: Points) -> Fit:
    try:
        return fitting.fit(points)
    except ValueError as error:
        raise TrainingError(f"no law can be fitted: {error}") from None


def _predict(best: Fit, points: Points, parameters: float, tokens: float) -> dict[str, Any]:
    laws = fitting.bootstrap(points, best, BOOTSTRAPS, SEED)
    loss, spread = fitting.predict(best, laws, parameters, tokens, SEED)
    return {"parameters": parameters, "tokens": tokens, "loss": loss, "interval": spread}


def _parabolas(measured: list[dict[str, Any]]) -> list[Parabola | None]:
    found = []
    for budget in sorted({run["budget"] for run in measured}):
        group = [run for run in measured if run["budget"] == budget]
        sizes, losses = (np.array([float(run[key]) for run in group]) for key in ("parameters", "loss"))
        found.append(parabola(budget, sizes, losses))
    return found


def _quiet(_: str) -> None:
    """The runs of a ladder say nothing of their own."""
