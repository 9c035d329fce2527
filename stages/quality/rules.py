"""What the heuristic filters share: a threshold rule, its verdict, and the characters that end a sentence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.stage import Decision, Limit, StageConfig

# Characters that end a sentence, and closing quotation marks after them. C4 names `.`, `!`, `?` and `"`; the others are
# their counterparts: full-width and half-width forms, Chinese and Japanese, Arabic and Urdu, Devanagari, Armenian, Ethiopic, Khmer,
# Burmese, Tibetan, Georgian and Mongolian stops. An ellipsis is no end.
SENTENCE_STOPS = ".!?。．！？｡؟۔।॥։።፧፨။។៕།༎჻᠃᠉‼⁇⁈⁉"
CLOSING_QUOTES = "\"'”’»›」』"
TERMINAL = tuple(SENTENCE_STOPS + CLOSING_QUOTES)


class Rule(NamedTuple):
    """Drop a row whose `column` is beyond `threshold`; None switches the rule off, a null value skips it.

    `side` says which values stay: "min" those >= the threshold, "max" those <= it, "above" those > it, "below" those < it.
    The rule's name is the knob's.
    """

    name: str
    column: str
    side: Literal["min", "max", "above", "below"]
    threshold: float | None

    def breaks(self, values: npt.NDArray[np.float64], threshold: float) -> npt.NDArray[np.bool_]:
        """Which values break the rule (NaN, a skipped row, never does)."""
        if self.threshold is None:
            return np.zeros(len(values), dtype=bool)
        match self.side:
            case "min":
                return values < threshold
            case "max":
                return values > threshold
            case "above":
                return values <= threshold
            case "below":
                return values >= threshold


def column(values: pa.Table, name: str) -> npt.NDArray[np.float64]:
    """A numeric column as float64, null as NaN."""
    return values.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False)


def judge(values: pa.Table, rules: Iterable[Rule]) -> Decision:
    """The verdicts of the rules, in their order: the first one that a row breaks is on record."""
    decision = Decision.keep(values.num_rows)
    for rule in rules:
        if rule.threshold is None:
            continue
        measured = column(values, rule.column)
        skipped = int(np.isnan(measured).sum())
        if skipped:
            decision.skipped[rule.name] = skipped
        decision.drop_where(rule.breaks(measured, rule.threshold), rule.name, measured, float(rule.threshold))
    return decision


def thresholds(knobs: type[StageConfig]) -> tuple[str, ...]:
    """The knobs that are rules' thresholds, which only `decide` reads: those called `min_...` or `max_...`."""
    return tuple(name for name in knobs.model_fields if name.startswith(("min_", "max_")))


def limits(rules: Iterable[Rule]) -> list[Limit]:
    """The rules that are on, as thresholds for the report."""
    return [Limit(rule.column, rule.name, float(rule.threshold)) for rule in rules if rule.threshold is not None]


def ratio(part: npt.ArrayLike, whole: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """part / whole, 0 where the whole is 0."""
    top, bottom = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom != 0)


def table(columns: dict[str, pa.DataType], values: dict[str, Any], nulls: dict[str, Any] | None = None) -> pa.Table:
    """A measured table with exactly these columns and types; `nulls[name]` (bool, one a row) marks a column's nulls."""
    arrays = [
        pa.array(values[name], type=kind, mask=None if nulls is None else nulls.get(name))
        if isinstance(values[name], np.ndarray)
        else pa.array(values[name], type=kind)
        for name, kind in columns.items()
    ]
    return pa.Table.from_arrays(arrays, schema=pa.schema(list(columns.items())))
