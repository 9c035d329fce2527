"""The `mix` stage: how often each document stands in the training data, so that every group has its share of the bytes.

A summary of the corpus counts the bytes of each group; `amounts` makes of it how many epochs each group has in each
phase. A document of weight w in a group of e epochs stands floor(w e + u) times, where u in [0, 1) is a hash of its id:
w e times in expectation, and nothing depends on the other documents or on the order. With phases the sum runs on: a
document that a group gives only a part of to the first phase is likelier to stand in the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute

from stages.batch import Batch
from stages.mix.amounts import PhaseAmounts, amounts
from stages.mix.caps import OVER
from stages.mix.common import DomainNames, places, text_bytes
from stages.mix.config import MOST_REPEATS, MixConfig
from stages.stage import AggregateStage, Decision, StageError, register

pc: Any = pyarrow.compute  # its stubs know too little
NONE = "(none)"  # a group's value where a document has none
VALUE_BITS = 24  # of a float's 64, from the top: values that agree in these are one in the quantiles (1 in 4,096)
MOST_ROWS = 500  # groups with a row of their own in the table, those of the most bytes
OTHERS = "(others)"
NO_VALUE = np.iinfo(np.int64).min
COUNTED = ("documents", "bytes", "weighted", "over")
SUMMARY = pa.schema(
    [("group", pa.string()), ("value", pa.int64()), ("documents", pa.int64()), ("bytes", pa.int64()),
     ("weighted", pa.int64()), ("over", pa.int64())]
)  # fmt: skip
MICRO = 1 << 10  # weighted bytes are counted in integers of 1 / MICRO, so that sums do not depend on their order


@register
class Mix(AggregateStage):
    """Chooses documents and how often each stands: shares, budgets, epochs, temperatures and caps by group of documents.

    Every kept document stands once in documents/, with `repeat`; what is left out is dropped as `budget`.
    """

    name = "mix"
    config_model = MixConfig
    needs = ("id", "text", "source")
    consumes = tuple(OVER)
    decide_knobs = ("budget", "temperature", "groups", "max_epochs", "shortfall", "phases", "seed")
    libraries: ClassVar[tuple[str, ...]] = ("tldextract",)
    config: MixConfig

    def __init__(self, config: MixConfig) -> None:
        super().__init__(config)
        needs = ["id", "text", "source"]
        needs += ["language"] if "language" in config.by else []
        needs += ["url"] if "domain" in config.by else []
        needs += [config.quality.column] if config.quality else []
        needs += ["dup_cluster_size"] if config.rehydrate else []
        vars(self)["needs"] = tuple(needs)  # of this instance
        self._domains: DomainNames | None = None
        self._solved: tuple[pa.Table, Solved] | None = None

    @classmethod
    def preceded_by(cls, config: MixConfig) -> list[tuple[str, dict[str, Any]]]:
        """`mix.caps`, where domains are capped."""
        if config.domains is None:
            return []
        return [
            ("mix.caps", {**config.domains.model_dump(exclude_none=True), "seed": config.seed, "only": config.only})
        ]

    def provides(self) -> dict[str, pa.DataType]:
        """The group, how often the document stands, and, with phases, how often in each."""
        columns: dict[str, pa.DataType] = {"repeat": pa.int32(), "mix_group": pa.string()}
        if self.config.phases:
            columns["mix_phases"] = pa.struct([(phase.name, pa.int32()) for phase in self.config.phases])
        return columns

    def setup(self, assets: Mapping[str, Path]) -> None:
        """Load the public suffix list where domains are groups."""
        if "domain" in self.config.by:
            self._domains = DomainNames()

    def summarise(self, batch: Batch) -> pa.Table:
        """Documents, bytes and weighted bytes by group and value of the quality column."""
        over = _over(batch)
        weighted = np.rint(text_bytes(batch) * self._weights(batch) * MICRO).astype(np.int64)
        table = pa.table(
            {
                "group": pa.array(self._groups(batch), pa.string()),
                "value": pa.array(self._values(batch)),
                "documents": pa.array(np.where(over, 0, 1)),
                "bytes": pa.array(np.where(over, 0, text_bytes(batch))),
                "weighted": pa.array(np.where(over, 0, weighted)),
                "over": pa.array(over.astype(np.int64)),
            }
        )
        return _summed(table)

    def merge(self, summaries: Iterator[pa.Table]) -> pa.Table:
        """The sums."""
        whole, held, rows = SUMMARY.empty_table(), [], 0
        for summary in summaries:
            held.append(summary)
            rows += summary.num_rows
            if rows > max(100_000, whole.num_rows):
                whole, held, rows = _summed(pa.concat_tables([whole, *held])), [], 0
        return _summed(pa.concat_tables([whole, *held]))

    def plan(self, summary: pa.Table) -> dict[str, dict[str, Any]]:
        """What each group has, was asked for and will give, in bytes."""
        solved = self.solved(summary)
        rows: dict[str, dict[str, Any]] = {}
        for phase in solved.phases:
            for row in dict.fromkeys(solved.rows):
                of = np.array([name == row for name in solved.rows], dtype=bool) if row == OTHERS else solved.place[row]
                size, given, asked = (float(np.sum(part[of])) for part in (solved.sizes, phase.given, phase.asked))
                rows[_row_name(phase.name, row)] = {
                    "available_documents": int(np.sum(solved.documents[of])),
                    "available_bytes": int(np.sum(solved.bytes[of])),
                    "over_domain_cap": int(np.sum(solved.over[of])),
                    "asked_bytes": round(asked),
                    "asked_share": round(asked / phase.budget, 6) if phase.budget else 0.0,
                    "planned_bytes": round(given),
                    "epochs": round(given / size, 6) if size else 0.0,
                }
        return rows

    def decide(self, batch: Batch, summary: pa.Table) -> tuple[Decision, dict[str, pa.Array]]:
        """Verdicts and repeats."""
        solved = self.solved(summary)
        rows = len(batch)
        groups = [_named(*one) for one in zip(self._groups(batch), solved.buckets(self._values(batch)), strict=True)]
        place = np.array([solved.place.get(group, -1) for group in groups])
        weights = self._weights(batch)
        u = places(batch.values("id"), self.config.seed, "mix")
        repeats = np.zeros((len(solved.phases), rows), dtype=np.int64)
        before = np.zeros(rows, dtype=np.int64)
        expected = np.zeros(rows)
        for number, epochs in enumerate(solved.epochs):
            expected = expected + np.where(place >= 0, epochs[place] * weights, 0.0)
            upto = np.minimum(np.floor(_snapped(expected) + u).astype(np.int64), MOST_REPEATS)
            repeats[number], before = upto - before, upto
        decision = Decision.keep(rows)
        over, cap = batch.values("mix_over"), batch.values("mix_cap")
        for row in np.flatnonzero((before == 0) | _over(batch)).tolist():
            if over[row] is not None:
                decision.drop(row, "budget", over[row], cap[row], "domain cap")
            else:
                decision.drop(row, "budget", 1 - float(u[row]), float(expected[row]), groups[row])
        sizes = text_bytes(batch)
        for row, rule in enumerate(decision.rule):
            if rule is None:
                for number, phase in enumerate(solved.phases):
                    if copies := int(repeats[number, row]):
                        shown = solved.rows[place[row]]
                        told = decision.tally.setdefault(_row_name(phase.name, shown), Counter())
                        told.update(got_documents=1, got_copies=copies, got_bytes=copies * int(sizes[row]))
        columns: dict[str, Any] = {
            "repeat": pa.array(np.maximum(before, 1).astype(np.int32)),
            "mix_group": pa.array(groups, pa.string()),
        }
        if self.config.phases:
            parts = [pa.array(one.astype(np.int32)) for one in repeats]
            columns["mix_phases"] = pa.StructArray.from_arrays(parts, names=[phase.name for phase in solved.phases])
        return decision, columns

    def solved(self, summary: pa.Table) -> Solved:
        """The epochs of each group, computed once for a summary."""
        if self._solved is None or self._solved[0] is not summary:
            self._solved = (summary, Solved(self.config, summary))
        return self._solved[1]

    def _groups(self, batch: Batch) -> list[str]:
        """The group of each document, but for its quality bucket, which is put where the name has `\\0`."""
        columns: list[list[str | None]] = []
        for name in self.config.by:
            if name == "domain":
                assert self._domains is not None, "setup was not called"
                columns.append(self._domains(batch.values("url")))
            elif name == "quality":
                columns.append(["\0"] * len(batch))
            else:
                columns.append(batch.values(name))
        return ["/".join(value or NONE for value in values) for values in zip(*columns, strict=True)]

    def _values(self, batch: Batch) -> np.ndarray:
        """The quality column as integers in the order of its values, coarsened; `NO_VALUE` where there is none."""
        if self.config.quality is None:
            return np.full(len(batch), NO_VALUE)
        name = self.config.quality.column
        if not batch.has(name):
            return np.full(len(batch), NO_VALUE)
        column = batch.column(name)
        if not (
            pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_boolean(column.type)
        ):
            raise StageError(f"mix.quality.column: {name!r} holds {column.type}, expected numbers")
        if pa.types.is_boolean(column.type):
            column = column.cast(pa.int8())
        values = pc.fill_null(column.cast(pa.float64(), safe=False), float("nan")).to_numpy() + 0.0  # no -0.0
        bits = values.view(np.int64)
        ordered = np.where(bits >= 0, bits, bits ^ np.int64(0x7FFFFFFFFFFFFFFF))
        return np.where(np.isnan(values), NO_VALUE, ordered >> np.int64(64 - VALUE_BITS))

    def _weights(self, batch: Batch) -> np.ndarray:
        """How often each document counts (float64)."""
        table = sorted(self.config.rehydrate.items())
        if not table:
            return np.ones(len(batch))
        sizes = np.array([size or 1 for size in batch.values("dup_cluster_size")])
        steps = np.array([1.0, *(weight for _, weight in table)])
        found: np.ndarray = steps[np.searchsorted([size for size, _ in table], sizes, "right")]
        return found


class Solved:
    """The groups of a corpus and how often their documents stand."""

    def __init__(self, config: MixConfig, summary: pa.Table) -> None:
        self.config = config
        groups, values = summary.column("group").to_pylist(), summary.column("value").to_numpy()
        self._edges = self._bucket_edges(values, summary.column("documents").to_numpy())
        names = [_named(g, b) for g, b in zip(groups, self.buckets(values), strict=True)]
        self.names = sorted(set(names))
        self.place = {name: place for place, name in enumerate(self.names)}
        row = np.array([self.place[name] for name in names], dtype=np.int64)
        self.documents, self.bytes, weighted, self.over = (_by_group(row, summary, c, len(self.names)) for c in COUNTED)
        self.sizes = weighted / MICRO
        largest = set(np.argsort(-self.bytes, kind="stable")[:MOST_ROWS].tolist())
        self.rows = [name if at in largest else OTHERS for at, name in enumerate(self.names)]  # of the table
        self.phases: list[PhaseAmounts] = amounts(self.names, self.sizes, config)
        self.epochs = [np.where(self.sizes > 0, p.given / np.maximum(self.sizes, 1e-9), 0.0) for p in self.phases]

    def _bucket_edges(self, values: np.ndarray, documents: np.ndarray) -> np.ndarray:
        """The smallest value of each bucket but the first."""
        if self.config.quality is None:
            return np.zeros(0, np.int64)
        real = values != NO_VALUE
        distinct, inverse = np.unique(values[real], return_inverse=True)
        if not len(distinct):
            return np.zeros(0, np.int64)
        upto = np.cumsum(np.bincount(inverse, documents[real], len(distinct)))
        wanted = upto[-1] * np.arange(1, self.config.quality.buckets) / self.config.quality.buckets
        cut = np.minimum(np.searchsorted(upto, wanted, "right"), len(distinct) - 1)
        return distinct[cut].astype(np.int64)

    def buckets(self, values: np.ndarray) -> list[str | None]:
        """The name of the bucket of each value; None where there are no buckets."""
        if self.config.quality is None:
            return [None] * len(values)
        number = np.searchsorted(self._edges, values, "right") + 1
        return [NONE if v == NO_VALUE else f"q{n}" for v, n in zip(values.tolist(), number.tolist(), strict=True)]


def _named(group: str, bucket: str | None) -> str:
    return group if bucket is None else group.replace("\0", bucket)


def _row_name(phase: str, group: str) -> str:
    """How a row of the table is called."""
    return f"{phase}: {group}" if phase else group


def _over(batch: Batch) -> np.ndarray:
    """Which documents are over their domain's cap."""
    if not batch.has("mix_over"):
        return np.zeros(len(batch), dtype=bool)
    found: np.ndarray = pc.is_valid(batch.column("mix_over")).to_numpy()
    return found


def _snapped(epochs: np.ndarray) -> np.ndarray:
    """Numbers with those that are whole but for rounding made whole."""
    whole = np.rint(epochs)
    return np.where(np.abs(epochs - whole) < 1e-9, whole, epochs)


def _summed(table: pa.Table) -> pa.Table:
    """A summary with one row for each group and value, sorted."""
    sums = table.group_by(["group", "value"]).aggregate([(name, "sum") for name in COUNTED])
    sums = sums.rename_columns([name.removesuffix("_sum") for name in sums.column_names]).select(SUMMARY.names)
    return sums.cast(SUMMARY).sort_by([("group", "ascending"), ("value", "ascending")])


def _by_group(row: np.ndarray, summary: pa.Table, column: str, groups: int) -> np.ndarray:
    """Sums of a summary's column, int64."""
    out = np.zeros(groups, np.int64)
    np.add.at(out, row, summary.column(column).to_numpy())
    return out
