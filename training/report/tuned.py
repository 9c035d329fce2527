"""What a report shows of a model that was trained further: its curves, whatever the kind, and how the run ended."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from training.report import human
from training.report.charts import Line, lines
from training.report.curves import Curve, json_lines

CHARTS = (  # title, then what is drawn where metrics.jsonl has it: figure, name, style
    ("Loss", (("loss", "training", "pale"), ("validation_loss", "held out", "dots"))),
    (
        "Reward",
        (
            ("reward", "training", "pale"),
            ("judge", "judge", "b"),
            ("validation_reward", "held out, likeliest", "dots"),
            ("validation_sampled_reward", "held out, drawn", "a"),
        ),
    ),
    (
        "Share of pairs in the right order",
        (("accuracy", "training", "pale"), ("validation_accuracy", "held out", "dots")),
    ),
    ("Margin between chosen and rejected", (("margin", "training", "pale"), ("validation_margin", "held out", "dots"))),
    ("Divergence from the start (nats a completion)", (("kl", "training", "a"),)),
    ("Tokens of a completion", (("length", "training", "pale"), ("validation_length", "held out", "dots"))),
    ("Entropy (nats a token)", (("entropy", "training", "a"),)),
    ("Share of repeated 4-grams", (("repetition", "training", "a"),)),
)
FACTS = (
    ("learning", "parameters that learn", human.count),
    ("steps", "steps", human.count),
    ("best_step", "step that was kept", human.count),
    ("tokens", "tokens read", human.count),
    ("seconds", "time in steps", human.duration),
    ("memory_bytes", "peak memory", human.size),
    ("ended", "ended early", str),
)


def tuned(folder: Path, summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """Charts and facts of a model folder; None if nothing was trained there. `summary`: training.json, or what there is."""
    names = {figure for _, series in CHARTS for figure, _, _ in series}
    curves = {name: Curve() for name in names}
    last = 0.0
    for row in json_lines(folder / "metrics.jsonl"):
        step = row.get("step")
        if isinstance(step, int | float):
            last = max(last, step)
            for name in names & row.keys():
                curves[name].add(step, row[name])
    if not summary and not last:
        return None
    charts = []
    for title, series in CHARTS:
        drawn = [
            Line(name, style, [x for x, _ in points], [y for _, y in points])
            for figure, name, style in series
            if (points := curves[figure].points)
        ]
        # zero throughout, as the repetition of short answers is, says nothing as a picture
        if any(value for line in drawn for value in line.y):
            charts.append({"title": title, "svg": lines(drawn, f"{title} by step", "step")})
    facts = [(name, show(summary[key])) for key, name, show in FACTS if summary.get(key) is not None]
    figures = summary.get("figures")
    if isinstance(figures, Mapping):
        facts += [(name.replace("_", " "), human.number(value)) for name, value in figures.items()]
    return {"name": human.shown(folder.name, 80), "charts": charts, "facts": facts}
