"""Line charts as inline SVG, coloured by the page's style sheet so that they follow light and dark.

Hand-made: static, a few kilobytes each, readable without scripts or fonts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from training.report import human


@dataclass(frozen=True)
class Line:
    """A series: its name, style class (`a`, `b`: a line; `pale`: one behind others; `dots`: a line with points), and points in order of x."""

    name: str
    style: str
    x: Sequence[float]
    y: Sequence[float]


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2, 5 times a power of ten) between two values."""
    if not high > low:
        return [low]
    raw = (high - low) / max(wanted, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(k * step, 12) for k in range(first, math.floor(high / step + 1e-9) + 1)]


def svg(width: int, height: int, label: str, body: Sequence[str]) -> Markup:
    """A chart of its parts."""
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}" class="chart">'
    return Markup(head + "".join(body) + "</svg>")


def text(x: float, y: float, text: str, anchor: str = "middle", style: str = "tick") -> str:
    """A label; `anchor` is SVG's."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}">{escape(text)}</text>'


def lines(series: Sequence[Line], label: str, x_name: str, level: tuple[str, float] | None = None) -> Markup:
    """Line chart over a common x axis; `level` is a horizontal reference line with its name."""
    width, height, left, right, top, bottom = 540, 270, 46, 12, 28, 40
    xs = np.concatenate([np.asarray(s.x, float) for s in series])
    ys = np.concatenate([np.asarray(s.y, float) for s in series] + [np.asarray([level[1]] if level else [], float)])
    x_low, x_high = float(xs.min()), float(xs.max())
    y_low, y_high = float(ys.min()), float(ys.max())
    pad = 0.06 * (y_high - y_low) or max(abs(y_high) * 0.1, 0.1)
    y_low, y_high = y_low - pad, y_high + pad

    def scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
        return lambda value: start + (end - start) * ((value - low) / (high - low) if high > low else 0.5)

    px, py = scale(x_low, x_high, left, width - right), scale(y_low, y_high, height - bottom, top)
    body = []
    for value in ticks(y_low, y_high):
        body.append(f'<path class="grid" d="M{left},{py(value):.1f}H{width - right}"/>')
        body.append(text(left - 6, py(value) + 4, human.number(value), "end"))
    for value in ticks(x_low, x_high, 5):
        body.append(text(px(value), height - bottom + 17, human.short(value)))
    body.append(text((left + width - right) / 2, height - 6, x_name))
    body.append(f'<path class="axis" d="M{left},{height - bottom}H{width - right}"/>')
    if level:
        body.append(f'<path class="limit" d="M{left},{py(level[1]):.1f}H{width - right}"/>')
        body.append(text(width - right, py(level[1]) - 5, f"{level[0]} {human.number(level[1])}", "end", "limit-name"))
    for s in series:
        points = [f"{px(x):.1f},{py(y):.1f}" for x, y in zip(s.x, s.y, strict=True)]
        body.append(f'<polyline class="line {s.style}" points="{" ".join(points)}"/>')
        if s.style == "dots" or len(points) == 1:
            body += [
                f'<circle class="line {s.style}" cx="{p.split(",")[0]}" cy="{p.split(",")[1]}" r="3"/>' for p in points
            ]
    x = float(left)
    for s in series:
        body.append(f'<path class="line {s.style}" d="M{x:.0f},12h18"/>' + text(x + 24, 16, s.name, "start", "value"))
        x += 40 + 7 * len(s.name)
    return svg(width, height, label, body)
