"""What metrics.jsonl and samples.jsonl hold, read in one pass and thinned while they are read: a page needs few points."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

POINTS = 600  # of a curve, at least, where there are so many
SPAN = 50  # steps that the smoothed loss weighs most
SAMPLES = 12  # moments of which samples are shown
EVENTS = 50  # refused batches shown

OF_STEPS = ("loss", "learning_rate", "grad_norm", "tokens_per_second", "mfu")
OF_VALIDATIONS = ("validation_loss", "bits_per_byte")


class Curve:
    """(step, value) pairs; every other one is dropped whenever there are more than twice `POINTS`."""

    def __init__(self) -> None:
        self.points: list[tuple[float, float]] = []
        self.every, self.seen = 1, 0

    def add(self, step: float, value: Any) -> None:
        """Take a pair, if the value is a number."""
        if not finite(value):
            return
        if self.seen % self.every == 0:
            self.points.append((float(step), float(value)))
        self.seen += 1
        if len(self.points) > 2 * POINTS:
            del self.points[1::2]
            self.every *= 2


@dataclass
class Metrics:
    """The curves of a run by name, with `smooth` for the smoothed loss; its last validation and its refused batches."""

    curves: dict[str, Curve] = field(default_factory=dict)
    validation: dict[str, Any] = field(default_factory=dict)
    rollbacks: list[dict[str, Any]] = field(default_factory=list)
    last: dict[str, Any] = field(default_factory=dict)  # step

    def points(self, name: str) -> list[tuple[float, float]]:
        """A curve; empty if nothing was measured."""
        return self.curves[name].points


def read_metrics(path: Path) -> Metrics:
    """The metrics of a run that may still be writing them. The smoothed loss is an exponential mean, corrected for its start."""
    found = Metrics({name: Curve() for name in (*OF_STEPS, *OF_VALIDATIONS, "smooth")})
    total = weight = 0.0
    for row in json_lines(path):
        step: Any = row.get("step")
        if not finite(step):
            continue
        if row.get("event") == "rollback":
            found.rollbacks = [*found.rollbacks, row][-EVENTS:]
        elif "validation_loss" in row:
            found.validation = row
            for name in OF_VALIDATIONS:
                found.curves[name].add(step, row.get(name))
        else:
            found.last = row
            for name in OF_STEPS:
                found.curves[name].add(step, row.get(name))
            if finite(row.get("loss")):
                total = (1 - 2 / (SPAN + 1)) * total + 2 / (SPAN + 1) * row["loss"]
                weight = (1 - 2 / (SPAN + 1)) * weight + 2 / (SPAN + 1)
                found.curves["smooth"].add(step, total / weight)
    return found


def read_samples(path: Path) -> list[dict[str, Any]]:
    """Of each prompt: its continuations as [(step, text)], newest first, at `SAMPLES` moments evenly spread with the last."""
    moments = [row for row in json_lines(path) if finite(row.get("step")) and isinstance(row.get("samples"), list)]
    if len(moments) > SAMPLES:
        step = (len(moments) - 1) / (SAMPLES - 1)
        moments = [moments[round(at * step)] for at in range(SAMPLES)]
    by_prompt: dict[str, list[tuple[int, str]]] = {}
    for row in reversed(moments):
        for one in row["samples"]:
            if isinstance(one, dict):
                by_prompt.setdefault(str(one.get("prompt")), []).append((int(row["step"]), str(one.get("text"))))
    return [{"prompt": prompt, "texts": texts} for prompt, texts in by_prompt.items()]


def json_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSONL file; lines that are none, such as a half-written last one, are left out."""
    if not path.is_file():
        return
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                row = json.loads(line)
            except ValueError:
                continue
            if isinstance(row, dict):
                yield row


def finite(value: Any) -> bool:
    """Whether it is a number, and not infinite or not-a-number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
