"""From what is asked and what there is to how often the documents of each group stand. Plain arithmetic over groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import numpy as np

from stages.mix.config import Demand, MixConfig
from stages.stage import StageError

_NONE = Demand()
_ROUNDING = 1e-9


@dataclass
class PhaseAmounts:
    """One phase: bytes asked and given for each group (float64), in the order of the groups."""

    name: str
    budget: float
    asked: np.ndarray
    given: np.ndarray


def demand_of(group: str, groups: Mapping[str, Demand]) -> tuple[str, Demand]:
    """The pattern that holds for a group, "" if none does, and what it asks."""
    for pattern, demand in groups.items():
        if group == pattern or fnmatchcase(group, pattern):
            return pattern, demand
    return "", _NONE


def amounts(names: Sequence[str], sizes: np.ndarray, config: MixConfig) -> list[PhaseAmounts]:
    """Bytes of each group in each phase. `sizes`: bytes there are, as weighted by `rehydrate`.

    Raises `StageError` where the demands contradict each other, and, with `shortfall: refuse`, where a group is too small.
    """
    if not config.phases:
        left = np.full(len(names), np.inf)
        return [_phase("", names, sizes, left, config.budget, config.groups, config.temperature, config)]
    total = float(config.budget) if config.budget is not None else float(sizes.sum())
    left = np.array([_most(config, demand_of(name, config.groups)[1]) for name in names]) * sizes
    found = []
    for phase in config.phases:
        groups = config.groups if phase.groups is None else phase.groups
        temperature = config.temperature if phase.temperature is None else phase.temperature
        found.append(_phase(phase.name, names, sizes, left, total * phase.share, groups, temperature, config))
        left = np.maximum(left - found[-1].given, 0)
    return found


def _most(config: MixConfig, demand: Demand) -> float:
    if demand.epochs is not None:
        return max(demand.epochs, config.max_epochs)
    return config.max_epochs if demand.max_epochs is None else demand.max_epochs


def _phase(
    name: str,
    names: Sequence[str],
    sizes: np.ndarray,
    left: np.ndarray,
    budget: float | None,
    groups: Mapping[str, Demand],
    temperature: float,
    config: MixConfig,
) -> PhaseAmounts:
    """One phase; `left`: bytes that each group may still give after the phases before."""
    label = f"mix.phases.{name}" if name else "mix"
    patterns, demands = zip(*(demand_of(group, groups) for group in names), strict=True) if names else ((), ())
    for pattern, demand in groups.items():
        if pattern not in patterns and (demand.share or demand.bytes or demand.epochs):
            near = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
            raise StageError(f"{label}.groups: no group fits {pattern!r}; the groups are {near or 'none'}")
    most = np.minimum(left, np.array([_most(config, demand) for demand in demands]) * sizes)
    fixed = np.array([_is_fixed(demand) for demand in demands], dtype=bool)
    weights = np.array([1.0 if demand.weight is None else demand.weight for demand in demands])
    pull = np.where(sizes > 0, weights * np.power(np.maximum(sizes, 1), 1 / temperature), 0.0)

    asked = np.zeros(len(names))
    for place, demand in enumerate(demands):
        if demand.epochs is not None:
            asked[place] = demand.epochs * sizes[place]
    shares = sum(demand.share for pattern, demand in groups.items() if demand.share and pattern in patterns)
    parts = [(pattern, demand) for pattern, demand in groups.items() if pattern in patterns and _is_pool(demand)]
    for pattern, demand in parts:
        if demand.bytes is not None:
            mine = np.array([p == pattern for p in patterns])
            asked += _pour(float(demand.bytes), np.where(mine, pull, 0), np.where(mine, most, 0), overflow=True)
    free = ~fixed
    if budget is None:  # what there is: the others as they are, shares measured by that
        rest = float((sizes * (weights > 0))[free].sum()) + float(asked.sum())
        pooled = np.array([demand.share is not None for demand in demands], dtype=bool)
        budget = rest / (1 - shares) if shares < 1 - _ROUNDING and rest > 0 else float(sizes[pooled].sum())
    for pattern, demand in parts:
        if demand.share is not None:
            mine = np.array([p == pattern for p in patterns])
            asked += _pour(demand.share * budget, np.where(mine, pull, 0), np.where(mine, most, 0), overflow=True)
    rest = budget - float(asked.sum())
    if rest < -_ROUNDING * max(budget, 1.0):
        raise StageError(
            f"{label}: the groups with a demand ask for {asked.sum():,.0f} bytes, the budget is {budget:,.0f}; ask for less, "
            "or raise mix.budget"
        )
    free_pull = np.where(free, pull, 0)
    asked += _pour(max(rest, 0.0), free_pull, np.where(free, most, 0), overflow=True)
    short = np.flatnonzero(asked > most * (1 + _ROUNDING) + 1)
    if len(short) and config.shortfall == "refuse":
        lines = [
            f"{names[g]!r}: {asked[g]:,.0f} asked, {most[g]:,.0f} there at most ({sizes[g]:,.0f} in one epoch)"
            for g in short[:10].tolist()
        ]
        raise StageError(
            f"{label}: {len(short)} of {len(names)} groups have too few bytes for what is asked of them: {'; '.join(lines)}. "
            "Ask for less, raise max_epochs, or say `shortfall: spread`"
        )
    given = np.minimum(asked, most)
    given += _pour(budget - float(given.sum()), free_pull, np.where(free, most - given, 0), overflow=False)
    return PhaseAmounts(name, float(budget), asked, np.minimum(given, most))


def _is_fixed(demand: Demand) -> bool:
    return demand.epochs is not None or _is_pool(demand)


def _is_pool(demand: Demand) -> bool:
    return demand.share is not None or demand.bytes is not None


def _pour(amount: float, pull: np.ndarray, most: np.ndarray, overflow: bool) -> np.ndarray:
    """An amount over groups in proportion to their pull, none above its `most` while another has room.

    With `overflow` what no group has room for is asked all the same, in proportion to pull; else it is left over.
    """
    given = np.zeros(len(pull))
    room = (pull > 0) & (most > 0)
    left = max(amount, 0.0)
    while left > _ROUNDING * amount and room.any():
        parts = np.where(room, pull, 0)
        part = left * parts / parts.sum()
        over = room & (given + part >= most)
        if not over.any():
            return given + part
        left -= float((most - given)[over].sum())  # those are full; the others are tried again
        given[over] = most[over]
        room &= ~over
    if overflow and left > _ROUNDING * max(amount, 1.0) and pull.sum() > 0:
        given += left * pull / pull.sum()
    return given
