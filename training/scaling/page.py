"""scaling.html: what a ladder says, in one file that loads nothing."""

from __future__ import annotations

import math
from importlib.resources import files
from typing import Any

import numpy as np

from training.planning.laws import FLOPS_PER_PARAMETER_AND_TOKEN, ParametricLaw
from training.planning.text import short
from training.scaling.charts import COLOURS, Plot, axis


def page(report: dict[str, Any]) -> str:
    """The page of a report as `run.run_ladder` returns it."""
    from jinja2 import Environment, select_autoescape
    from markupsafe import Markup

    here = files("training.scaling")
    environment = Environment(autoescape=select_autoescape(default=True), trim_blocks=True, lstrip_blocks=True)
    environment.filters["short"] = short
    template = environment.from_string(here.joinpath("page.html").read_text(encoding="utf-8"))
    law = _law(report)
    return template.render(
        style=Markup(here.joinpath("page.css").read_text(encoding="utf-8")),
        report=report,
        loss_plot=Markup(loss_by_compute(report, law)),
        isoflop_plot=Markup(loss_by_size(report)),
        residual_plot=Markup(residuals(report)),
        sizes=[(f"c{i % COLOURS}", short(size)) for i, size in enumerate(_sizes(report))],
        budgets=[(f"c{i % COLOURS}", f"{budget:.3g}") for i, budget in enumerate(_budgets(report))],
        runs=report["runs"],
    )


def loss_by_compute(report: dict[str, Any], law: ParametricLaw) -> str:
    """Loss against FLOPs: runs by size, the law for each size, its envelope, the next size and the held-out run."""
    following, runs = report["next"], report["runs"]
    held = report["held_out"]
    compute = [run["flops"] for run in runs]
    losses = [run["loss"] for run in runs] + [held["loss"], *held["interval"]]
    if following:
        compute.append(following["flops"])
        losses += [following["loss"], *following["interval"]]
    plot = Plot(
        axis(compute, "training FLOPs", log=True),
        axis(losses, "validation loss (nats a token)", log=True),
        "loss by compute",
    )
    grid = np.geomspace(plot.x.low, plot.x.high, 80)
    per_product = report["flops_per_parameter_and_token"]
    envelope = (
        []
        if not following
        else [(flops, law.allocate(flops * FLOPS_PER_PARAMETER_AND_TOKEN / per_product).loss) for flops in grid]
    )
    plot.curve([(flops, loss) for flops, loss in envelope if loss is not None], "line best")
    for i, size in enumerate(_sizes(report)):
        own = [run for run in runs if run["parameters"] == size]
        per_token = own[0]["flops"] / own[0]["tokens"]
        low, high = min(run["flops"] for run in own) / 1.5, max(run["flops"] for run in own) * 1.5
        plot.curve([(f, law.loss(size, f / per_token)) for f in grid if low <= f <= high], f"line c{i % COLOURS}")
        for run in own:
            plot.dot(run["flops"], run["loss"], f"dot c{i % COLOURS}", _tell(run))
    if following:
        low, high = following["interval"]
        plot.bar(following["flops"], low, high, "ink")
        plot.cross(following["flops"], following["loss"], "ink", f"next: {following['loss']:.3f}")
    flops = next(run["flops"] for run in runs if run["name"] == held["name"])
    low, high = held["interval"]
    plot.bar(flops, low, high, "ink")
    plot.cross(flops, held["loss"], "ink", f"{held['name']} predicted: {held['loss']:.4f}")
    return plot.svg()


def loss_by_size(report: dict[str, Any]) -> str:
    """Loss against parameters, a curve a budget: points, parabola, its minimum."""
    runs = report["runs"]
    parabolas = {one["flops"]: one for one in report["isoflop"]["parabolas"]}
    plot = Plot(
        axis([run["parameters"] for run in runs], "parameters", log=True),
        axis([run["loss"] for run in runs], "validation loss (nats a token)", log=False),
        "loss by parameters at equal compute",
    )
    for i, budget in enumerate(_budgets(report)):
        style = f"c{i % COLOURS}"
        own = sorted((run for run in runs if run["budget"] == budget), key=lambda run: run["parameters"])
        found = parabolas.get(budget)
        if found:
            grid = np.geomspace(own[0]["parameters"], own[-1]["parameters"], 60)
            curve = [(n, found["least"] + found["curvature"] * math.log(n / found["best"]) ** 2) for n in grid]
            plot.curve(curve, f"line {style}")
            if found["inside"]:
                plot.cross(found["best"], found["least"], style, f"{budget:.3g} FLOPs: best at {short(found['best'])}")
        for run in own:
            plot.dot(run["parameters"], run["loss"], f"dot {style}", _tell(run))
    return plot.svg()


def residuals(report: dict[str, Any]) -> str:
    """What the law leaves: predicted by measured loss, in percent."""
    runs = report["runs"]
    percent = [100 * math.expm1(run["residual"]) for run in runs]
    plot = Plot(
        axis([run["flops"] for run in runs], "training FLOPs", log=True),
        axis(percent, "predicted over measured loss, %", log=False, zero=True),
        "residuals of the fit",
    )
    plot.curve([(plot.x.low, 0.0), (plot.x.high, 0.0)], "line best")
    colours = {size: f"c{i % COLOURS}" for i, size in enumerate(_sizes(report))}
    for run, value in zip(runs, percent, strict=True):
        plot.dot(run["flops"], value, f"dot {colours[run['parameters']]}", _tell(run))
    return plot.svg()


def _law(report: dict[str, Any]) -> ParametricLaw:
    return ParametricLaw(**report["law"])


def _sizes(report: dict[str, Any]) -> list[int]:
    return sorted({run["parameters"] for run in report["runs"]})


def _budgets(report: dict[str, Any]) -> list[float]:
    return sorted({run["budget"] for run in report["runs"]})


def _tell(run: dict[str, Any]) -> str:
    return f"{run['name']}: {run['parameters']:,} parameters, {run['tokens']:,} tokens, loss {run['loss']:.4f}"
