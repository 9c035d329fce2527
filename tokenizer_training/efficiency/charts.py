"""Charts of the efficiency report as inline SVG, coloured by the page's style sheet.

All are 360 units wide, so that their letters stay readable on a telephone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from markupsafe import Markup, escape

WIDTH = 360
COLOURS = 8  # classes c0 to c7 of the style sheet


class Series(NamedTuple):
    """Points in order of x; `line` joins them, `dots` marks them. `colour` is a number of a class."""

    name: str
    points: list[tuple[float, float]]
    colour: int
    line: bool = True
    dots: bool = False


@dataclass(frozen=True)
class Scale:
    """Values to places on an axis."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The place of a value; those outside stand at the edge."""
        low, high, v = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            low, high, v = math.log(low), math.log(high), math.log(v)
        return self.start + (self.end - self.start) * ((v - low) / (high - low) if high > low else 0.5)

    def ticks(self, wanted: int = 5) -> list[float]:
        """Round values on the axis."""
        if not self.log:
            raw = (self.high - self.low) / max(wanted, 1)
            if raw <= 0:
                return [self.low]
            power = 10.0 ** math.floor(math.log10(raw))
            step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= raw * 0.999)
            first = math.ceil(self.low / step - 1e-9)
            return [round(k * step, 12) for k in range(first, math.floor(self.high / step + 1e-9) + 1)]
        exponents = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        for factors in ((1, 2, 5), (1, 3), (1,)):
            found = [
                f * 10.0**k for k in exponents for f in factors if self.low * 0.999 <= f * 10.0**k <= self.high * 1.001
            ]
            if len(found) <= wanted + 1:
                return found
        return found[:: math.ceil(len(found) / wanted)]


def short(value: float) -> str:
    """A number for an axis: 32k, 1.5M, 0.25."""
    if abs(value) >= 999_500:
        for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
            if abs(value) >= limit * 0.9995:
                return f"{value / limit:.3g}{unit}"
    return f"{value / 1000:.3g}k" if abs(value) >= 1000 else f"{value:.3g}"


def text(x: float, y: float, content: str, anchor: str = "middle", style: str = "tick") -> str:
    """A text element."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" class="{style}">{escape(content)}</text>'


def svg(height: float, label: str, body: Sequence[str]) -> Markup:
    """The element around a chart."""
    head = f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-label="{escape(label)}" class="chart">'
    return Markup(head + "".join(body) + "</svg>")


def legend(names: Sequence[tuple[str, int]]) -> Markup:
    """Names with their colours, as HTML, so that long ones wrap."""
    items = "".join(f'<li><i class="key c{colour % COLOURS}"></i>{escape(name)}</li>' for name, colour in names)
    return Markup(f'<ul class="legend">{items}</ul>')


def _frame(x: Scale, y: Scale, x_name: str, y_name: str, bottom: float) -> list[str]:
    body = [text(4, 12, y_name, "start", "axis-name")]
    for value in y.ticks(4):
        body.append(f'<path class="grid" d="M{x.start:.0f},{y.at(value):.1f}H{x.end:.0f}"/>')
        body.append(text(x.start - 5, y.at(value) + 4, short(value), "end"))
    taken = -99.0
    for value in x.ticks(5):
        place = x.at(value)
        if place - taken > 30:
            body.append(f'<path class="axis" d="M{place:.1f},{bottom}v4"/>' + text(place, bottom + 16, short(value)))
            taken = place
    body.append(f'<path class="axis" d="M{x.start:.0f},{bottom}H{x.end:.0f}"/>')
    body.append(text((x.start + x.end) / 2, bottom + 32, x_name, style="axis-name"))
    return body


def curves(
    series: Sequence[Series],
    label: str,
    x_name: str,
    y_name: str,
    *,
    log_x: bool = False,
    log_y: bool = False,
    zero: bool = False,
) -> Markup:
    """Lines and dots over two axes."""
    top, bottom, left, right = 24.0, 204.0, 44.0, WIDTH - 14.0
    xs = [x for one in series for x, _ in one.points]
    ys = [y for one in series for _, y in one.points]
    if not xs:
        return Markup("")
    low_y, high_y = (0.0 if zero else min(ys)), max(ys)
    pad = 1.08 if log_y else 0.08 * (high_y - low_y) or abs(high_y) * 0.1 or 1.0
    y_range = (low_y / pad, high_y * pad) if log_y else (low_y if zero else low_y - pad, high_y + pad)
    grow = 1.06 if log_x else 0.02 * (max(xs) - min(xs)) or 1.0
    x_range = (min(xs) / grow, max(xs) * grow) if log_x else (min(xs) - grow, max(xs) + grow)
    x = Scale(*x_range, left, right, log_x)
    y = Scale(*y_range, bottom, top, log_y)
    body = _frame(x, y, x_name, y_name, bottom)
    for one in series:
        places = [(x.at(a), y.at(b)) for a, b in one.points]
        style = f"c{one.colour % COLOURS}"
        if one.line and len(places) > 1:
            joined = " ".join(f"{a:.1f},{b:.1f}" for a, b in places)
            body.append(f'<polyline class="line {style}" points="{joined}"/>')
        if one.dots or len(places) == 1:
            body += [
                f'<circle class="dot {style}" cx="{a:.1f}" cy="{b:.1f}" r="4.5"><title>{escape(one.name)}</title></circle>'
                for a, b in places
            ]
    return svg(bottom + 40, label, body)


def rank_frequency(points: Sequence[tuple[float, float]], vocabulary: int, dead_below: int, label: str) -> Markup:
    """Counts by rank, both logarithmic; tokens seen fewer than `dead_below` times are shaded."""
    if not points:
        return Markup("")
    top, bottom, left, right = 24.0, 204.0, 44.0, WIDTH - 14.0
    x = Scale(1, max(vocabulary, 2), left, right, True)
    y = Scale(0.8, max(points[0][1], 2) * 1.3, bottom, top, True)
    alive = max((rank for rank, count in points if count >= dead_below), default=1)
    body = [
        f'<rect class="shade" x="{x.at(alive):.1f}" y="{top}" width="{right - x.at(alive):.1f}" height="{bottom - top}"/>'
    ]
    body += _frame(x, y, "rank of the token", "times seen", bottom)
    joined = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in points)
    body.append(f'<polyline class="line c0" points="{joined}"/>')
    body.append(f'<path class="limit" d="M{left},{y.at(dead_below):.1f}H{right}"/>')
    body.append(text(left + 4, y.at(dead_below) - 4, f"seen {dead_below} times", "start", "tick"))
    return svg(bottom + 40, label, body)


def lengths(counts: dict[int, int], label: str, most: int = 20) -> Markup:
    """Columns: how many tokens have 1, 2, ... bytes; the last holds all longer ones."""
    top, bottom, left, right = 24.0, 204.0, 44.0, WIDTH - 14.0
    folded = [
        sum(n for size, n in counts.items() if (size == at or (at == most and size > most)))
        for at in range(1, most + 1)
    ]
    y = Scale(0, max([*folded, 1]) * 1.08, bottom, top)
    step = (right - left) / most
    body = [text(4, 12, "tokens of the vocabulary", "start", "axis-name")]
    for value in y.ticks(4):
        body.append(f'<path class="grid" d="M{left:.0f},{y.at(value):.1f}H{right:.0f}"/>')
        body.append(text(left - 5, y.at(value) + 4, short(value), "end"))
    for at, n in enumerate(folded):
        tall = bottom - y.at(n)
        body.append(
            f'<rect class="bar c0" x="{left + step * at + 1:.1f}" y="{bottom - tall:.1f}" width="{step - 2:.1f}" height="{tall:.1f}"><title>{n}</title></rect>'
        )
        if (at + 1) % 5 == 0 or at == 0:
            body.append(text(left + step * (at + 0.5), bottom + 16, f"{at + 1}" + ("+" if at + 1 == most else "")))
    body.append(f'<path class="axis" d="M{left:.0f},{bottom}H{right:.0f}"/>')
    body.append(text((left + right) / 2, bottom + 32, "bytes of the token", style="axis-name"))
    return svg(bottom + 40, label, body)


def dot_rows(
    rows: Sequence[tuple[str, list[float | None]]],
    label: str,
    x_name: str,
    limits: tuple[float, float],
    mark: float | None,
) -> Markup:
    """One row a name, one dot a tokenizer, over a logarithmic axis between two limits; a dashed line at `mark`."""
    high, left, right, top = 16.0, 118.0, WIDTH - 14.0, 30.0
    x = Scale(limits[0] / 1.08, limits[1] * 1.08, left, right, True)
    bottom = top + high * len(rows)
    body = [] if mark is None else [f'<path class="limit" d="M{x.at(mark):.1f},{top - 4}V{bottom}"/>']
    taken = -99.0
    for value in x.ticks(6):
        place = x.at(value)
        if place - taken > 24:
            body.append(f'<path class="grid" d="M{place:.1f},{top}V{bottom}"/>')
            body.append(text(place, top - 8, short(value)) + text(place, bottom + 14, short(value)))
            taken = place
    for number, (name, found) in enumerate(rows):
        y = top + high * (number + 0.5)
        shown = name if len(name) <= 17 else f"{name[:16]}…"
        body.append(text(left - 8, y + 4, shown, "end"))
        body.append(f'<path class="grid" d="M{left},{y:.1f}H{right}"/>')
        for colour, cost in enumerate(found):
            if cost:
                body.append(f'<circle class="dot c{colour % COLOURS}" cx="{x.at(cost):.1f}" cy="{y:.1f}" r="3.6"/>')
    body.append(text((left + right) / 2, bottom + 32, x_name, style="axis-name"))
    return svg(bottom + 40, label, body)
