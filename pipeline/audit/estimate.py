"""From people's marks to how often each rule is right, with intervals, weighted to all documents of the run."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.audit.draw import Stratum
from pipeline.yamlfile import ConfigError

FORMAT = 1  # of marks.json and audit.json
MARKS = ("right", "wrong", "unsure")
Z = 1.959963984540054  # standard normal quantile of 97.5 %, for intervals of 95 %


@dataclass(frozen=True)
class Estimate:
    """How often decisions on `population` documents are right, from `right` of `marked`; the interval covers it in 95 of 100 audits."""

    population: int
    marked: int
    right: int
    unsure: int
    precision: float | None
    low: float
    high: float


def wilson(right: int, marked: int, population: int) -> tuple[float, float]:
    """Wilson's score interval (Wilson 1927), for a draw without putting back: all marked leaves nothing unknown.

    The sample counts as `marked` (population - 1) / (population - marked), which gives the variance of such a draw.
    """
    if not marked:
        return 0.0, 1.0
    share = right / marked
    if marked >= population:
        return share, share
    n = marked * (population - 1) / (population - marked)
    middle = (share + Z * Z / (2 * n)) / (1 + Z * Z / n)
    half = Z / (1 + Z * Z / n) * math.sqrt(share * (1 - share) / n + Z * Z / (4 * n * n))
    return max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half))


def estimate(population: int, marks: Mapping[str, int]) -> Estimate:
    """One stratum's estimate from its counts of marks."""
    right, marked = marks.get("right", 0), marks.get("right", 0) + marks.get("wrong", 0)
    low, high = wilson(right, marked, population)
    return Estimate(population, marked, right, marks.get("unsure", 0), right / marked if marked else None, low, high)


def together(parts: Sequence[Estimate]) -> Estimate:
    """Strata as one, each weighted by its population; those without marks are left out, also of `population`.

    The interval combines the strata's own (MOVER: Zou and Donner 2008), which holds where all marks of a stratum are alike.
    """
    known = [part for part in parts if part.precision is not None]
    population = sum(part.population for part in known)
    marked, right, unsure = (sum(getattr(part, name) for part in known) for name in ("marked", "right", "unsure"))
    if not population:
        return Estimate(0, 0, 0, sum(part.unsure for part in parts), None, 0.0, 1.0)
    share = below = above = 0.0
    for part in known:
        weight, own = part.population / population, part.precision or 0.0
        share += weight * own
        below += (weight * (own - part.low)) ** 2
        above += (weight * (part.high - own)) ** 2
    low, high = max(0.0, share - math.sqrt(below)), min(1.0, share + math.sqrt(above))
    return Estimate(population, marked, right, unsure, share, low, high)


@dataclass(frozen=True)
class Mark:
    """What a person said of one decision."""

    id: str
    stratum: Stratum
    mark: str


def read_marks(path: Path, run: str) -> list[Mark]:
    """The marks that the page gave to download. Raises `ConfigError` that says what is wrong with the file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--marks {path}: cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise ConfigError(f"--marks {path}: not JSON: {error}; give the file that the audit page downloads") from None
    if not isinstance(data, dict) or not isinstance(data.get("marks"), list):
        raise ConfigError(f"--marks {path}: expected an object with a list `marks`, as the audit page downloads it")
    if not isinstance(data.get("format"), int) or data["format"] > FORMAT:
        raise ConfigError(f"--marks {path}: has format {data.get('format')!r}; this version reads up to {FORMAT}")
    if data.get("run") != run:
        raise ConfigError(f"--marks {path}: are of the run {data.get('run')!r}, not of {run!r}")
    return [_mark(path, number, entry) for number, entry in enumerate(data["marks"])]


def _mark(path: Path, number: int, entry: Any) -> Mark:
    place = f"--marks {path}: marks[{number}]"
    if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
        raise ConfigError(f"{place}: expected an object with id, fate, stage, rule, mark")
    if entry.get("mark") not in MARKS:
        raise ConfigError(f"{place}.mark: expected one of {', '.join(MARKS)}, got {entry.get('mark')!r}")
    words = [entry.get(name) for name in ("fate", "stage", "rule")]
    if not isinstance(words[0], str) or not all(word is None or isinstance(word, str) for word in words):
        raise ConfigError(f"{place}: expected fate, stage and rule as the page gives them, got {words}")
    return Mark(entry["id"], Stratum(words[0], words[1], words[2]), entry["mark"])


def estimates(
    counts: Mapping[Stratum, int], marks: Sequence[Mark], now: Mapping[str, Stratum]
) -> tuple[dict[Stratum, Estimate], list[str]]:
    """Every stratum's estimate, and the ids of marks that no longer hold: their record is gone, or met another fate since."""
    latest = {mark.id: mark for mark in marks}  # a later mark on the same record replaces an earlier one
    stale = sorted(id_ for id_, mark in latest.items() if now.get(id_) != mark.stratum)
    tally: dict[Stratum, Counter[str]] = {}
    for id_, mark in latest.items():
        if now.get(id_) == mark.stratum:
            tally.setdefault(mark.stratum, Counter())[mark.mark] += 1
    return {stratum: estimate(counts[stratum], tally.get(stratum, {})) for stratum in counts}, stale


def result(run: str, found: Mapping[Stratum, Estimate], stale: Sequence[str]) -> dict[str, Any]:
    """The content of audit.json."""
    dropped = [one for stratum, one in found.items() if stratum.fate == "dropped"]
    records = sum(one.population for one in dropped)
    total = together(dropped)
    return {
        "format": FORMAT,
        "run": run,
        "confidence": 0.95,
        "strata": [{**stratum._asdict(), "name": stratum.name, **asdict(one)} for stratum, one in found.items()],
        "dropped": {**asdict(total), "covered": total.population / records if records else None},
        "stale": list(stale),
    }


def as_text(facts: Mapping[str, Any]) -> str:
    """The table that the command prints."""
    rows = [["", "documents", "marked", "right", "precision", "95 % interval", "wrong in all"]]
    entries = [one for one in facts["strata"] if one["marked"]]
    if facts["dropped"]["marked"]:
        entries.append({"name": "all drops, weighted", **facts["dropped"]})
    for one in entries:
        low, high, size = one["low"], one["high"], one["population"]
        wrong = f"{(1 - high) * size:,.0f} to {(1 - low) * size:,.0f}"
        share = f"{one['precision']:.3f}"
        rows.append(
            [one["name"], f"{size:,}", str(one["marked"]), str(one["right"]), share, f"{low:.3f} to {high:.3f}", wrong]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(row[i].rjust(widths[i]) for i in range(1, 7))]).rstrip() for row in rows
    ]
    lines.insert(1, "-" * len(lines[0]))
    covered = facts["dropped"]["covered"]
    if covered is not None and covered < 1 and facts["dropped"]["marked"]:
        lines.append(
            f"The rules with marks dropped {100 * covered:.1f} % of all that was dropped; the others are not in the last line."
        )
    if facts["stale"]:
        lines.append(
            f"{len(facts['stale']):,} marks do not count: the run has since decided otherwise on these records."
        )
    return "\n".join(lines)
