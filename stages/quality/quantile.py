"""`quality.classifier_quantile`: keeps the best share of the corpus by a score that an earlier stage has written."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.batch import Batch
from stages.stage import AggregateStage, Decision, StageConfig, knob, register

_BITS = 10  # mantissa bits that tell values apart

SUMMARY = pa.schema([("group", pa.string()), ("value", pa.float64()), ("count", pa.int64())])


class QuantileConfig(StageConfig):
    """Knobs of `quality.classifier_quantile`."""

    share: float = knob(
        0.1,
        "share of the documents that stays, the best ones; ties at the cut stay too, so it may be a little more",
        "DCLM (Li et al. 2024): the best tenth",
        gt=0,
        lt=1,
    )
    column: str = knob(
        "quality_classifier_score", "the column of numbers to go by; an earlier stage writes it", pattern=r"^[a-z]\w*$"
    )
    best: Literal["high", "low"] = knob("high", "high: large values are good; low: small ones are (perplexity)")
    per: Literal["language", "source"] | None = knob(
        None, "take the share of each language or source for itself; null takes it of the whole corpus"
    )


@register
class ClassifierQuantile(AggregateStage):
    """Drops all but the best share of the corpus by an earlier stage's score (`below_quantile`, with the cut as threshold).

    Values are told apart by 10 bits of mantissa, counted from 0 or, above a half, from 1: a thousandth of their distance from the nearer end
    of a score's range. So the summary is small whatever the corpus, and merging is exact. Documents without a value stay.
    """

    name = "quality.classifier_quantile"
    config_model = QuantileConfig
    config: QuantileConfig

    def __init__(self, config: QuantileConfig) -> None:
        super().__init__(config)
        # what it reads depends on its knobs
        self.needs = (config.column, *([config.per] if config.per else []))  # type: ignore[misc]

    def provides(self) -> dict[str, pa.DataType]:
        return {}

    def summarise(self, batch: Batch) -> pa.Table:
        """How often each value occurs in each group."""
        values, groups = self._values(batch), self._groups(batch)
        there = ~np.isnan(values)
        return _counted(groups.filter(pa.array(there)), values[there], np.ones(int(there.sum()), dtype=np.int64))

    def merge(self, summaries: Iterator[pa.Table]) -> pa.Table:
        whole = SUMMARY.empty_table()
        for summary in summaries:
            both = pa.concat_tables([whole, summary.cast(SUMMARY)])
            whole = _counted(
                both.column("group").combine_chunks(), both.column("value").to_numpy(), both.column("count").to_numpy()
            )
        return whole

    def decide(self, batch: Batch, summary: pa.Table) -> tuple[Decision, dict[str, pa.Array]]:
        cuts = self.cuts(summary)
        sign = 1.0 if self.config.best == "high" else -1.0
        decision = Decision.keep(len(batch))
        values = self._values(batch)
        for row, group in enumerate(self._groups(batch).to_pylist()):
            if np.isnan(values[row]):
                decision.skipped["below_quantile"] = decision.skipped.get("below_quantile", 0) + 1
            elif sign * values[row] < sign * cuts[group]:
                decision.drop(row, "below_quantile", values[row], cuts[group])
        return decision, {}

    def cuts(self, summary: pa.Table) -> dict[str, float]:
        """The least good value that stays, in each group."""
        found: dict[str, float] = {}
        for group in summary.column("group").unique().to_pylist():
            mine = summary.filter(pa.array([one == group for one in summary.column("group").to_pylist()]))
            values, counts = mine.column("value").to_numpy(), mine.column("count").to_numpy()
            order = np.argsort(-values if self.config.best == "high" else values, kind="stable")
            wanted = max(1, int(np.ceil(self.config.share * counts.sum())))
            found[group] = float(values[order][np.searchsorted(np.cumsum(counts[order]), wanted)])
        return found

    def _values(self, batch: Batch) -> npt.NDArray[np.float64]:
        raw = batch.column(self.config.column).cast(pa.float64()).fill_null(float("nan")).to_numpy()
        return rounded(np.asarray(raw, dtype=np.float64))

    def _groups(self, batch: Batch) -> pa.Array:
        names = batch.values(self.config.per) if self.config.per else [""] * len(batch)
        return pa.array([name or "" for name in names], pa.string())


def rounded(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Values with few bits: of themselves, or of their distance from 1 where that is smaller. Keeps their order."""
    near_one = (values > 0.5) & (values <= 1.0)
    bits = np.where(near_one, 1.0 - values, values)
    mantissa, exponent = np.frexp(bits)
    bits = np.ldexp(np.round(mantissa * (1 << _BITS)), exponent - _BITS)
    return np.where(near_one, 1.0 - bits, bits)


def _counted(groups: pa.Array, values: npt.NDArray[np.float64], counts: npt.NDArray[np.int64]) -> pa.Table:
    table = pa.table({"group": groups, "value": values, "count": counts}, schema=SUMMARY)
    summed = table.group_by(["group", "value"], use_threads=False).aggregate([("count", "sum")])
    named = summed.rename_columns(["group", "value", "count"]).select(SUMMARY.names)
    return named.sort_by([("group", "ascending"), ("value", "ascending")]).cast(SUMMARY)
