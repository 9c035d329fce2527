"""Which of several duplicates is kept: criteria composed in order, as integers that sort."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute
from pydantic import AfterValidator

from stages.batch import Batch
from stages.conversation import prompts
from stages.stage import StageConfig, StageError, knob

CRITERIA = (
    "criteria in order, each deciding among those equal under the ones before: longest (code points of text), earliest or latest"
    " (`date`), best:COLUMN (highest value of a numeric column); a missing value loses; what is still equal, or `first`, goes to the"
    " first in (source, file, position) order"
)
pc: Any = pyarrow.compute  # its stubs know too little of what these functions take
_WORST = np.iinfo(np.int64).max


def check(criteria: tuple[str, ...]) -> tuple[str, ...]:
    """The criteria, if all are known and each can decide; raises ValueError naming the one that is not."""
    for place, criterion in enumerate(criteria):
        name, _, column = criterion.partition(":")
        if criterion not in ("longest", "earliest", "latest", "first") and not (name == "best" and column):
            raise ValueError(
                f"{criterion!r} is no survivor criterion; use longest, earliest, latest, first or best:COLUMN"
            )
        if criterion in criteria[:place]:
            raise ValueError(f"{criterion!r} stands twice; the second can decide nothing")
        if criterion == "first" and place + 1 < len(criteria):
            raise ValueError("`first` leaves no ties, so nothing can stand after it")
    return criteria


Survivor = Annotated[tuple[str, ...], AfterValidator(check)]


class DuplicateConfig(StageConfig):
    """Knobs of every stage that keeps one of several documents."""

    scope: Literal["source", "global"] = knob(
        "source",
        "compare within each input source, or across all",
        "FineWeb (Penedo et al. 2024), on deduplication: deduplicating across all dumps kept worse text than within each",
    )
    survivor: Survivor = knob(("first",), "which document is kept: " + CRITERIA)
    mode: Literal["drop", "tag"] = knob("drop", "drop duplicates, or only write the columns")


class TextDuplicateConfig(DuplicateConfig):
    """Knobs of the stages that compare texts."""

    compare: Literal["text", "prompt"] = knob(
        "text",
        "text: of conversations all that is said; prompt: of a chat the user's turns, of preference pairs and prompts the prompt,"
        " and of rows of text the text",
    )

    def texts(self, batch: Batch) -> list[str]:
        """What is compared of each row."""
        return batch.texts() if self.compare == "text" else prompts(batch)


def rank_names(criteria: tuple[str, ...]) -> list[str]:
    """Names of the message columns that hold the ranks: `rank_0`, `rank_1`, ..."""
    return [f"rank_{i}" for i, criterion in enumerate(criteria) if criterion != "first"]


def ranks(batch: Batch, criteria: tuple[str, ...]) -> dict[str, np.ndarray]:
    """For each criterion an int64 a row, smaller is better; compared in order, then by (shard, row)."""
    found = [_rank(batch, criterion) for criterion in criteria if criterion != "first"]
    return dict(zip(rank_names(criteria), found, strict=True))


def _rank(batch: Batch, criterion: str) -> np.ndarray:
    if criterion == "longest":
        lengths = pc.fill_null(pc.utf8_length(batch.column("text")), 0)
        return -lengths.to_numpy().astype(np.int64)
    if criterion in ("earliest", "latest"):
        return _date_rank(_column(batch, "date", criterion), latest=criterion == "latest")
    return _score_rank(_column(batch, criterion.partition(":")[2], criterion), criterion)


def _column(batch: Batch, name: str, criterion: str) -> pa.ChunkedArray:
    if not batch.has(name):
        raise StageError(
            f"survivor criterion {criterion!r} needs the column {name!r}, which no stage before has written;"
            f" the documents have {', '.join(batch.table.column_names)}"
        )
    return batch.column(name)


def _date_rank(column: pa.ChunkedArray, latest: bool) -> np.ndarray:
    if pa.types.is_null(column.type):
        return np.full(len(column), _WORST)
    if not (pa.types.is_timestamp(column.type) or pa.types.is_date(column.type)):
        raise StageError(
            f"survivor criteria earliest and latest need `date` as a timestamp or date, but it is {column.type}"
        )
    micros = column.cast(pa.timestamp("us", getattr(column.type, "tz", None))).cast(pa.int64())
    values = pc.fill_null(micros, 0).to_numpy()
    return np.where(pc.is_null(micros).to_numpy(), _WORST, -values if latest else values)


def _score_rank(column: pa.ChunkedArray, criterion: str) -> np.ndarray:
    kind = column.type
    if pa.types.is_null(kind):
        return np.full(len(column), _WORST)
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise StageError(f"survivor criterion {criterion!r} needs a numeric column, but it is {kind}")
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    values = pc.fill_null(column.cast(pa.float64(), safe=False), float("nan")).to_numpy() + 0.0  # -0.0 becomes 0.0
    bits = values.view(np.int64)
    ascending = np.where(bits < 0, bits ^ np.int64(_WORST), bits)  # IEEE 754 doubles in the order of their values
    return np.where(np.isnan(values), _WORST, ~ascending)
