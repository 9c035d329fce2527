"""Charts as inline SVG, coloured by the page's style sheet so that they follow light and dark.

Hand-made: static, a few kilobytes each, readable without scripts or fonts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from markupsafe import Markup

from pipeline.report.histogram import Histogram
from training.report import human
from training.report.charts import svg, text, ticks


def log_ticks(low: float, high: float) -> list[float]:
    """0, 1, 10, 100, ... between two values (thinned to at most seven)."""
    found = [0.0] if low <= 0 else []
    powers = [10.0**k for k in range(13) if low <= 10.0**k <= high]
    return found + powers[:: max(1, math.ceil(len(powers) / 6))]


def histogram(h: Histogram, label: str, limits: Sequence[tuple[str, float]] = ()) -> Markup:
    """Bars, and a dashed line with its rule's name for each (rule, threshold)."""
    width, left, right, top = 360, 8, 8, 18 + 13 * min(len(limits), 4)
    plot, base = 96, top + 96
    low, high = float(h.edges[0]), float(h.edges[-1])
    most = max(int(h.counts.max()), 1)

    def at(value: float) -> float:
        scaled = math.log1p(max(value, 0.0)) if h.log else value
        return left + (width - left - right) * (min(max(scaled, low), high) - low) / (high - low)

    path = []
    spots = left + (width - left - right) * (h.edges - low) / (high - low)
    for x0, x1, n in zip(spots[:-1], spots[1:], h.counts.tolist(), strict=True):
        if n:
            tall = max(plot * n / most, 1.0)  # a single document is seen too
            path.append(f"M{x0 + 0.4:.1f},{base}v{-tall:.1f}H{max(x1 - 0.4, x0 + 0.8):.1f}V{base}z")
    body = [f'<path class="bars" d="{"".join(path)}"/>', f'<path class="axis" d="M{left},{base}H{width - right}"/>']
    shown_low, shown_high = (math.expm1(low), math.expm1(high)) if h.log else (low, high)
    at_x = log_ticks(shown_low - 1e-9, shown_high) if h.log else ticks(shown_low, shown_high)
    if h.whole:
        at_x = [value for value in at_x if value == int(value)]
    for value in at_x:
        x = at(value)
        anchor = "start" if x < left + 8 else "end" if x > width - right - 8 else "middle"
        body.append(f'<path class="axis" d="M{x:.1f},{base}v3"/>' + text(x, base + 14, human.short(value), anchor))
    for row, (rule, threshold) in enumerate(sorted(limits, key=lambda item: item[1])[:4]):
        x, y = at(threshold), 13 + 13 * row
        anchor, dx = ("end", -4) if x > width * 0.55 else ("start", 4)
        body.append(f'<path class="limit" d="M{x:.1f},{y - 9}V{base}"/>')
        body.append(text(x + dx, y, f"{rule} {human.number(threshold)}", anchor, "limit-name"))
    body.append(text(width - right, base + 28, f"tallest bar {human.count(most)}", "end"))
    return svg(width, base + 32, label, body)


def bars(labels: Sequence[str], counts: Sequence[int], label: str) -> Markup:
    """A few labelled columns with their counts on top."""
    width, base, plot = 720, 150, 110
    step = (width - 16) / max(len(labels), 1)
    most = max([*counts, 1])
    body = []
    for i, (name, n) in enumerate(zip(labels, counts, strict=True)):
        tall = max(plot * n / most, 1.0 if n else 0.0)
        x, wide = 8 + step * (i + 0.14), step * 0.72
        body.append(
            f'<rect class="bars" x="{x:.1f}" y="{base - tall:.1f}" width="{wide:.1f}" height="{tall:.1f}" rx="2"/>'
        )
        body.append(text(x + wide / 2, base - tall - 5, human.count(n), "middle", "value"))
        body.append(text(x + wide / 2, base + 15, name))
    body.append(f'<path class="axis" d="M8,{base}H{width - 8}"/>')
    return svg(width, base + 22, label, body)


def curve(share: Callable[[float], float], counts: np.ndarray, threshold: float | None, label: str) -> Markup:
    """A curve over [0, 1] with values in [0, 1], before bars of `counts`, whose bins cut [0, 1] evenly; dashed: a threshold."""
    width, height, left, right, top, bottom = 540, 230, 46, 12, 28, 40
    base, tall = height - bottom, height - bottom - top
    most = max(int(counts.max()), 1)

    def at(value: float) -> float:
        return left + (width - left - right) * value

    body = []
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = base - tall * value
        body.append(f'<path class="grid" d="M{left},{y:.1f}H{width - right}"/>')
        body.append(text(left - 6, y + 4, human.number(value), "end"))
    step = 1 / len(counts)
    path = [
        f"M{at(i * step) + 0.4:.1f},{base}v{-max(tall * n / most, 1.0):.1f}H{at((i + 1) * step) - 0.4:.1f}V{base}z"
        for i, n in enumerate(counts.tolist())
        if n
    ]
    body.append(f'<path class="bars pale" d="{"".join(path)}"/>')
    body.append(f'<path class="axis" d="M{left},{base}H{width - right}"/>')
    points = [f"{at(x):.1f},{base - tall * share(x):.1f}" for x in (k / 200 for k in range(201))]
    body.append(f'<polyline class="line b" points="{" ".join(points)}"/>')
    if threshold is not None:
        body.append(f'<path class="limit" d="M{at(threshold):.1f},{top - 8}V{base}"/>')
        body.append(text(at(threshold) - 4, top - 12, f"threshold {human.number(threshold)}", "end", "limit-name"))
    for value in (0, 0.2, 0.4, 0.6, 0.8, 1):
        body.append(text(at(value), base + 17, human.number(value)))
    body.append(text((left + width - right) / 2, height - 6, f"Jaccard similarity; tallest bar {human.count(most)}"))
    return svg(width, height, label, body)


def heat_map(names: Sequence[str], counts: np.ndarray, label: str, rows: str, columns: str) -> Markup:
    """A square of counts, (row, column), shaded by their share of the column, each with its number."""
    cell, high, left, top = 84, 30, 190, 48
    width, height = left + cell * len(names) + 8, top + high * len(names) + 8
    shown = [name if len(name) <= 22 else f"{name[:21]}…" for name in names]
    wholes = np.maximum(counts.sum(axis=0), 1)
    body = [text(left, 16, f"{columns} →", "start", "value"), text(left - 8, top - 8, f"{rows} ↓", "end", "value")]
    for j, name in enumerate(shown):
        short = name if len(name) <= 12 else f"{name[:11]}…"
        body.append(text(left + cell * (j + 0.5), top - 8, short))
    for i, name in enumerate(shown):
        y = top + high * i
        body.append(text(left - 8, y + 20, name, "end"))
        for j in range(len(names)):
            n = int(counts[i, j])
            x, depth = left + cell * j, n / wholes[j]
            body.append(
                f'<rect class="heat" x="{x}" y="{y}" width="{cell - 2}" height="{high - 2}" rx="3" fill-opacity="{0.06 + 0.5 * depth:.2f}"/>'
            )
            if n:
                body.append(text(x + cell / 2 - 1, y + 19, human.short(n), "middle", "value"))
    return Markup('<div style="width:{}px">{}</div>').format(width, svg(width, height, label, body))
