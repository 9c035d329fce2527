"""Plots as inline SVG: points and curves over logarithmic axes. Colours come from the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 720, 380
LEFT, RIGHT, TOP, BOTTOM = 62, 16, 14, 46
COLOURS = 6  # classes c0 ... c5 of the style sheet


@dataclass(frozen=True)
class Axis:
    """One axis: its range in data, whether it is logarithmic, its title."""

    low: float
    high: float
    log: bool
    title: str

    def place(self, value: float) -> float:
        """Share of the axis, 0 to 1."""
        if self.log:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values inside the range: about five."""
        every: list[float] = []
        if self.log:
            low, high = math.floor(math.log10(self.low)), math.ceil(math.log10(self.high))
            steps = (1, 2, 5) if high - low <= 3 else (1,)
            every = [digit * 10.0**power for power in range(low, high + 1) for digit in steps]
        if sum(self.low <= value <= self.high for value in every) < 3:  # a short range, logarithmic or not
            rough = (self.high - self.low) / 5
            power = 10.0 ** math.floor(math.log10(rough))
            step = next(power * digit for digit in (1, 2, 5, 10) if power * digit >= rough)
            first = math.ceil(self.low / step)
            every = [(first + i) * step for i in range(12)]
        return [value for value in every if self.low <= value <= self.high * (1 + 1e-12)]


def axis(values: Sequence[float], title: str, *, log: bool, zero: bool = False) -> Axis:
    """An axis around some values, with a little room. `zero`: as far below 0 as above."""
    low, high = min(values), max(values)
    if zero:
        reach = max(abs(low), abs(high)) * 1.15 or 1.0
        return Axis(-reach, reach, False, title)
    if log:
        room = (high / low) ** 0.06 if high > low else 1.5
        return Axis(low / room, high * room, True, title)
    room = (high - low) * 0.07 or abs(high) * 0.1 or 1.0
    return Axis(low - room, high + room, False, title)


@dataclass
class Plot:
    """A plot that marks are added to; `svg` gives it as text."""

    x: Axis
    y: Axis
    label: str
    body: list[str] = field(default_factory=list)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point stands in the picture."""
        across, up = self.x.place(x), self.y.place(y)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM)

    def curve(self, points: Sequence[tuple[float, float]], style: str) -> None:
        """A line through points; what lies outside of the axes is cut off."""
        places = " ".join("{:.1f},{:.1f}".format(*self.at(x, y)) for x, y in points)
        self.body.append(f'<polyline class="{style}" points="{places}" clip-path="url(#inside)"/>')

    def dot(self, x: float, y: float, style: str, title: str) -> None:
        """A measured value; `title` is shown on hovering and read aloud."""
        across, down = self.at(x, y)
        self.body.append(
            f'<circle class="{style}" cx="{across:.1f}" cy="{down:.1f}" r="4.5"><title>{escape(title)}</title></circle>'
        )

    def cross(self, x: float, y: float, style: str, title: str) -> None:
        """A value that was computed, not measured."""
        across, down = self.at(x, y)
        arms = f"M{across - 5:.1f},{down - 5:.1f}l10,10m-10,0l10,-10"
        self.body.append(f'<path class="mark {style}" d="{arms}"><title>{escape(title)}</title></path>')

    def bar(self, x: float, low: float, high: float, style: str) -> None:
        """An interval at one place."""
        across, bottom = self.at(x, low)
        _, top = self.at(x, high)
        self.body.append(
            f'<path class="mark {style}" d="M{across:.1f},{bottom:.1f}V{top:.1f}m-5,0h10M{across - 5:.1f},{bottom:.1f}h10"/>'
        )

    def svg(self) -> str:
        """The plot with its axes."""
        bottom, right = HEIGHT - BOTTOM, WIDTH - RIGHT
        grid = []
        for value in self.x.ticks():
            across = self.at(value, self.y.low)[0]
            grid.append(f'<line class="grid" x1="{across:.1f}" x2="{across:.1f}" y1="{TOP}" y2="{bottom}"/>')
            grid.append(
                f'<text x="{across:.1f}" y="{bottom + 17}" text-anchor="middle">{number(value, self.x.log)}</text>'
            )
        for value in self.y.ticks():
            down = self.at(self.x.low, value)[1]
            grid.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{down:.1f}" y2="{down:.1f}"/>')
            grid.append(f'<text x="{LEFT - 7}" y="{down + 4:.1f}" text-anchor="end">{number(value, self.y.log)}</text>')
        titles = (
            f'<text class="title" x="{(LEFT + right) / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(self.x.title)}</text>'
            f'<text class="title" transform="translate(14 {(TOP + bottom) / 2}) rotate(-90)" text-anchor="middle">'
            f"{escape(self.y.title)}</text>"
        )
        clip = f'<clipPath id="inside"><rect x="{LEFT}" y="{TOP}" width="{right - LEFT}" height="{bottom - TOP}"/></clipPath>'
        head = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(self.label)}" class="plot">'
        return "".join((head, clip, *grid, titles, *self.body, "</svg>"))


def number(value: float, log: bool) -> str:
    """A tick's value: powers of ten with a unit, others short."""
    if not log:
        return f"{value:.4g}"
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size and value < size * 1e3:
            return f"{value / size:.3g}{unit}"
    return f"{value:.2g}".replace("e+", "e")
