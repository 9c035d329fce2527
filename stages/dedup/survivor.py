"""Which documents are compared, and which of several duplicates is kept: criteria composed in order, as integers that sort."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute
from pydantic import AfterValidator, model_validator

from stages.batch import Batch
from stages.conversation import prompts
from stages.stage import StageConfig, StageError, knob

CRITERIA = (
    "criteria in order, each deciding among those equal under the ones before: protected:SOURCE (documents of that source win"
    " over those of the others, with a wider `scope` than source), longest (code points of text), earliest or latest (`date`),"
    " best:COLUMN (highest value of a numeric column); a missing value loses; what is still equal, or `first`, goes to the first"
    " in (source, file, position) order"
)
SCOPES = (
    "which documents are compared: source (those of one input source), global (all), file:REGEX (those whose file's path below"
    " the pattern's fixed part has the same match, or first group, of the regular expression; without a match, those of the"
    " source), column:NAME (those with the same value of a column of strings or whole numbers; without one, those without one);"
    " a dump: an input source of its own, or file:'CC-MAIN-\\d{4}-\\d\\d'"
)
pc: Any = pyarrow.compute  # its stubs know too little of what these functions take
_WORST = np.iinfo(np.int64).max


def check(criteria: tuple[str, ...]) -> tuple[str, ...]:
    """The criteria, if all are known and each can decide; raises ValueError naming the one that is not."""
    for place, criterion in enumerate(criteria):
        name, _, column = criterion.partition(":")
        if criterion not in ("longest", "earliest", "latest", "first") and not (
            name in ("best", "protected") and column
        ):
            raise ValueError(
                f"{criterion!r} is no survivor criterion; use longest, earliest, latest, first, best:COLUMN or protected:SOURCE"
            )
        if criterion in criteria[:place]:
            raise ValueError(f"{criterion!r} stands twice; the second can decide nothing")
        if criterion == "first" and place + 1 < len(criteria):
            raise ValueError("`first` leaves no ties, so nothing can stand after it")
    return criteria


def check_scope(scope: str) -> str:
    """The scope, if it is one; raises ValueError saying which there are."""
    kind, _, rest = scope.partition(":")
    if scope not in ("source", "global") and not (kind in ("file", "column") and rest):
        raise ValueError(f"{scope!r} is no scope; use source, global, file:REGEX or column:NAME")
    if kind == "file":
        try:
            re.compile(rest)
        except re.error as error:
            raise ValueError(f"{rest!r} is no regular expression: {error}") from None
    return scope


Survivor = Annotated[tuple[str, ...], AfterValidator(check)]
Scope = Annotated[str, AfterValidator(check_scope)]


class DuplicateConfig(StageConfig):
    """Knobs of every stage that keeps one of several documents."""

    scope: Scope = knob(
        "source",
        SCOPES,
        "FineWeb (Penedo et al. 2024), on deduplication: deduplicating across all dumps kept worse text than within each",
    )
    survivor: Survivor = knob(("first",), "which document is kept: " + CRITERIA)
    mode: Literal["drop", "tag"] = knob("drop", "drop duplicates, or only write the columns")
    alarm_share: float | None = knob(
        0.5,
        "as for every stage; by default an alarm where the larger part of a source goes, which is a crawl that was read twice, or one"
        " page's template taken for many duplicates",
        "a published report of unverified LSH that removed 98 % of a source unnoticed",
        ge=0,
        le=1,
    )

    @model_validator(mode="after")
    def _protects(self) -> DuplicateConfig:
        if self.scope == "source" and self.sources():
            raise ValueError(
                f"survivor: `protected:{self.sources()[0]}` decides nothing among documents of one source; set scope: global"
            )
        return self

    def sources(self) -> tuple[str, ...]:
        """The protected sources."""
        return tuple(c.partition(":")[2] for c in self.survivor if c.startswith("protected:"))


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


def scope_keys(batch: Batch, scope: str) -> np.ndarray:
    """The scope of each row as a 64-bit hash (XXH3), uint64: only documents with the same one are compared.

    Raises `StageError` if the scope is that of a file or column, and there is none.
    """
    if scope == "global":
        return np.zeros(len(batch), dtype=np.uint64)
    return name_hashes(_scope_names(batch, scope))


def name_hashes(names: Sequence[str | None]) -> np.ndarray:
    """A 64-bit hash (XXH3, uint64) of each name; 0 for none."""
    from xxhash import xxh3_64_intdigest

    hashes = {name: xxh3_64_intdigest(name.encode("utf-8", "surrogatepass")) for name in set(names) if name is not None}
    return np.array([hashes.get(name, 0) for name in names], dtype=np.uint64)  # type: ignore[arg-type]


def _scope_names(batch: Batch, scope: str) -> list[str]:
    kind, _, rest = scope.partition(":")
    sources = [str(source or "") for source in batch.values("source")]
    if kind == "source":
        return sources
    if kind == "file":
        if not batch.has("_file"):
            raise StageError(f"scope {scope!r} needs the files of a run's input; with `apply`, use column:NAME")
        pattern = re.compile(rest)
        files = batch.values("_file")
        known = {file: _matched(pattern, file) for file in set(files)}
        return [
            f"source {source}" if known[file] is None else f"file {known[file]}"
            for source, file in zip(sources, files, strict=True)
        ]
    if not batch.has(rest):
        raise StageError(
            f"scope {scope!r} needs the column {rest!r}, which no stage before has written;"
            f" the documents have {', '.join(batch.table.column_names)}"
        )
    found = batch.column(rest).type
    texts = (pa.types.is_string, pa.types.is_large_string, pa.types.is_dictionary, pa.types.is_null)
    if not any(is_kind(found) for is_kind in (*texts, pa.types.is_integer, pa.types.is_boolean)):
        raise StageError(f"scope {scope!r} needs a column of strings or whole numbers, but it is {found}")
    return ["" if value is None else f"value {value}" for value in batch.values(rest)]


def _matched(pattern: re.Pattern[str], file: str | None) -> str | None:
    """What a file's scope is called: the first group of the match, or all of it; None without a match."""
    match = pattern.search(file or "")
    if match is None:
        return None
    return (match[1] if pattern.groups else match[0]) or ""


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
    if criterion.startswith("protected:"):
        source = criterion.partition(":")[2]
        return np.array([value != source for value in batch.values("source")], dtype=np.int64)
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
