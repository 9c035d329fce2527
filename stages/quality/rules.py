"""What the heuristic filters share: a threshold rule, its verdict, and the modes of a stage."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.batch import Batch
from stages.stage import Decision, Limit, MapStage, StageConfig, knob


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


class RuleConfig(StageConfig):
    """Knobs of every stage of rules."""

    mode: Literal["drop", "tag"] = knob(
        "drop", "drop documents that break a rule, or only write the first rule that each breaks into a column"
    )


class RuleStage(MapStage):
    """A stage that counts, and compares what it counted with thresholds."""

    prefix: str  # of its columns
    config: RuleConfig

    def __init__(self, config: StageConfig) -> None:
        super().__init__(config)
        if self.config.mode == "tag":  # then the column depends on the thresholds
            self.decide_knobs = ()

    @abstractmethod
    def rules(self) -> list[Rule]:
        """In the order in which they are tried."""

    @abstractmethod
    def counted(self) -> dict[str, pa.DataType]:
        """The columns of `count`."""

    @abstractmethod
    def count(self, batch: Batch) -> pa.Table:
        """What the rules look at, one row for each row of the batch."""

    def provides(self) -> dict[str, pa.DataType]:
        """With `mode: tag`, the rule that each document breaks (null: none)."""
        return {self.prefix + "rule": pa.string()} if self.config.mode == "tag" else {}

    def measures(self) -> dict[str, pa.DataType]:
        """The counted columns, and the tag."""
        return {**self.counted(), **self.provides()}

    def limits(self) -> list[Limit]:
        """The rules that are on."""
        return limits(self.rules())

    def measure(self, batch: Batch) -> pa.Table:
        """Count, and judge where the verdict is a column."""
        values = self.count(batch)
        for name, kind in self.provides().items():
            values = values.append_column(name, pa.array(judge(values, self.rules()).rule, kind))
        return values

    def decide(self, values: pa.Table) -> Decision:
        """The first rule that a row breaks."""
        return judge(values, self.rules()) if self.config.mode == "drop" else Decision.keep(values.num_rows)


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
