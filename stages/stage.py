"""The contracts of the three kinds of stage, and the registry that `python -m pipeline stages` prints.

- A *map* stage looks at one document at a time: `measure` computes values, `decide` turns values into verdicts.
- A *group* stage compares documents: it sends messages to keys, reads each key's messages in order, and answers with
  verdicts addressed to (shard, row).
- An *aggregate* stage needs one summary of the whole corpus before it can decide about a document.

The engine calls these methods and does everything else: reading, exchange, spilling, retries, the ledger.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from stages.batch import Batch

ASSETS = Path(__file__).parent / "assets"  # lists and models that ship with the project


def knob(default: Any, doc: str, source: str = "", **constraints: Any) -> Any:
    """A config field: its default, what it means, and the paper or system its value comes from, in one place.

    `constraints` are pydantic's (`ge=0`, `le=1`, ...). `default` may be `...` for a required knob.
    """
    return Field(default, description=doc, json_schema_extra={"source": source}, **constraints)


_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def parse_bytes(value: Any) -> Any:
    """'64MB', '2GiB', 1000 -> bytes. Raises pydantic's error of the kind `size` for anything else."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?\s*", value, re.I) if isinstance(value, str) else None
    if match is None or (match.group(3) and not match.group(2)):
        raise PydanticCustomError("size", "not a size")
    return int(float(match.group(1)) * _UNITS[(match.group(2) + match.group(3)).lower()])


Bytes = Annotated[int, BeforeValidator(parse_bytes)]


class Only(BaseModel):
    """Which rows a stage looks at; a row must match every list that is given. The others pass untouched."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    language: tuple[str, ...] | None = knob(None, "language labels, as in the `language` column")
    source: tuple[str, ...] | None = knob(None, "input sources")


class StageConfig(BaseModel):
    """Knobs that every stage takes. Subclasses add their own; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    only: Only | None = knob(None, "look only at these rows; the rest pass untouched and are counted as skipped")
    by_language: dict[str, dict[str, Any]] = knob({}, "other values of this stage's knobs for rows of a language")
    as_: str | None = Field(
        None,
        alias="as",
        pattern=r"^[a-z][a-z0-9_.]*$",
        description="this stage's name in ledger and scores; needed when a stage is used twice",
        json_schema_extra={"source": ""},
    )
    checkpoint: bool = knob(False, "end the phase after this stage, so that a later change never repeats it")
    alarm_share: float | None = knob(
        None,
        "say so at the end of the run, in run.json and in report.html, where this stage dropped more than this share of an input"
        " source's documents that reached it; sources of which fewer than 100 did raise no alarm; null: never",
        ge=0,
        le=1,
    )
    alarm: Literal["warn", "fail"] = knob(
        "warn",
        "what an alarm does. warn: it is said, and the run goes on; fail: the run ends with exit code 1 behind the stages, before"
        " tokenizer, pack and pretrain",
    )

    def sources(self) -> tuple[str, ...]:
        """Input sources that the stage's own knobs name; a config in which no input has one of them is refused."""
        return ()


OF_RUNS = (
    "checkpoint",
    "alarm_share",
    "alarm",
)  # knobs that say how a run goes on: no result of a stage depends on them


class Edit(NamedTuple):
    """Replace the code points [start, end) of a row's input text; an empty replacement removes them."""

    start: int
    end: int
    replacement: str


class Limit(NamedTuple):
    """A threshold that a rule compares a measured column with, for the report's histograms."""

    column: str
    rule: str
    threshold: float


@dataclass
class Decision:
    """A map stage's verdicts on a batch: one entry a row; `rule` None means kept.

    `value` and `threshold` are what the ledger shows beside the rule. `failed` marks rows that could not be judged
    (the others with a rule are dropped). `edits` lists a kept row's changes to its input text, in order and disjoint.
    `skipped` counts rows for which a rule did not apply (no list for the language, say). `tally` (aggregate stages)
    has numbers that run.json shows summed over the corpus, in the rows of the table that `AggregateStage.plan` begins.
    """

    rule: list[str | None]
    value: list[float | None]
    threshold: list[float | None]
    detail: list[str | None]
    failed: set[int] = field(default_factory=set)
    edits: dict[int, list[Edit]] = field(default_factory=dict)
    skipped: dict[str, int] = field(default_factory=dict)
    tally: dict[str, Counter[str]] = field(default_factory=dict)

    @classmethod
    def keep(cls, rows: int) -> Decision:
        """All rows kept, nothing changed."""
        return cls([None] * rows, [None] * rows, [None] * rows, [None] * rows)

    def drop(
        self,
        row: int,
        rule: str,
        value: float | None = None,
        threshold: float | None = None,
        detail: str | None = None,
        failed: bool = False,
    ) -> None:
        """Drop one row; the first rule that drops a row is the one on record."""
        if self.rule[row] is not None:
            return
        self.rule[row], self.detail[row] = rule, detail
        self.value[row] = None if value is None else float(value)
        self.threshold[row] = None if threshold is None else float(threshold)
        if failed:
            self.failed.add(row)

    def drop_where(self, mask: np.ndarray, rule: str, values: np.ndarray | None, threshold: float | None) -> None:
        """Drop every row where `mask` (bool, one a row) holds and no earlier rule dropped it."""
        for row in np.flatnonzero(mask).tolist():
            self.drop(row, rule, None if values is None else float(values[row]), threshold)


@dataclass(frozen=True)
class Resources:
    """What one worker of the stage needs: cores, GPUs, and bytes of memory beside the batch itself."""

    cpu: float = 1.0
    gpu: float = 0.0
    memory: int = 256 << 20


class StageError(ValueError):
    """The user's mistake, found by a stage (a broken model file, say); the message says what to do."""


class Stage(ABC):
    """What the engine knows of every stage. Heavy imports belong in `setup`, never at module level."""

    name: ClassVar[str]  # as in the config: "quality.gopher"
    kind: ClassVar[Literal["map", "group", "aggregate"]]
    version: ClassVar[int] = 1  # raised whenever equal input would give other output
    config_model: ClassVar[type[StageConfig]]
    needs: ClassVar[tuple[str, ...]] = ("text",)
    consumes: ClassVar[tuple[str, ...]] = ()  # columns that end with this stage
    decide_knobs: tuple[str, ...] = ()  # knobs that only `decide` reads: scores, summaries stay
    libraries: ClassVar[tuple[str, ...]] = ()  # distributions whose versions change the output
    resources: ClassVar[Resources] = Resources()
    drops: ClassVar[bool] = True  # whether it can drop documents at all

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def provides(self) -> dict[str, pa.DataType]:
        """Document columns that this stage adds or replaces (own prefix, except for the shared names)."""

    @classmethod
    def preceded_by(cls, config: Any) -> list[tuple[str, dict[str, Any]]]:
        """Stages, with their knobs, that a config puts right before this one by itself."""
        return []

    @classmethod
    def pin(cls, config: Any, run: str | None) -> Any:
        """The config with whatever comes and goes by itself as it is now; called once before a run (None: `apply`) reads anything.

        What it returns makes the stage, also in workers, while the run lasts. Raises `StageError` for what cannot be had.
        """
        return config

    def assets(self) -> dict[str, str]:
        """Files that the stage reads, name -> path or URL; their SHA-256 is part of the fingerprint."""
        return {}

    def figures(self) -> dict[str, float]:
        """Numbers that follow from the knobs, which run.json notes with the stage: the bands and rows of an LSH, say."""
        return {}

    def setup(self, assets: Mapping[str, Path]) -> None:  # noqa: B027 - most stages need none
        """Load models and lists, once a worker. Raises `StageError` if one is unusable."""


class MapStage(Stage):
    """Judges or changes one document at a time.

    `measure` and `decide` are pure. The engine gives them only rows that `only` lets through and that share one
    `by_language` variant, and it calls `measure` again row by row if it raises on a batch, so that one bad row fails alone.
    """

    kind = "map"
    edits: bool = False  # whether `decide` can edit the text; an instance sets it where a knob says so
    apply_only: ClassVar[tuple[str, ...]] = ()  # measured columns that `python -m pipeline apply` adds to its output

    @abstractmethod
    def measures(self) -> dict[str, pa.DataType]:
        """The columns of `measure`'s table. Those named in `provides` become document columns."""

    def scored(self) -> tuple[str, ...]:
        """Measured columns kept in scores/: numbers, unless a stage says otherwise."""
        return tuple(
            name
            for name, kind in self.measures().items()
            if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
        )

    def limits(self) -> list[Limit]:
        """The thresholds on scored columns; `decide` applies them."""
        return []

    @abstractmethod
    def measure(self, batch: Batch) -> pa.Table:
        """The measured values, one row for each row of the batch, with the columns of `measures`."""

    def decide(self, values: pa.Table) -> Decision:
        """Verdicts from measured values alone (a table with the columns of `measures`)."""
        return Decision.keep(values.num_rows)

    def explain(self, batch: Batch) -> str | None:
        """A self-contained HTML page that shows how the stage sees these rows; None if it has no such view."""
        return None


KEY = pa.binary(16)  # keys of messages: 128 bits, compared as bytes

ADDRESSED = {"key": KEY, "shard": pa.int32(), "row": pa.int64()}  # the first columns of every message

EDITS = pa.list_(pa.struct([("start", pa.int64()), ("end", pa.int64()), ("replacement", pa.string())]))

VERDICT = {  # the columns of a group stage's verdicts; document columns of `provides` follow
    "shard": pa.int32(),
    "row": pa.int64(),
    "rule": pa.string(),  # null: kept
    "value": pa.float64(),
    "threshold": pa.float64(),
    "kept_id": pa.string(),
    "similarity": pa.float64(),
    "detail": pa.string(),
    "edits": EDITS,  # null: text unchanged
}


FINDINGS = -1  # the `round` of rows for findings/


class Addressed(NamedTuple):
    """A table on its way: messages to a round, or verdicts back to the shards (`round` None), or `FINDINGS`."""

    round: int | None
    table: pa.Table


class GroupStage(Stage):
    """Compares documents by messages to keys, in one or more rounds.

    Round r gets every message addressed to it, by `emit` or by an earlier round, as an iterator of tables sorted by
    (key, shard, row) - ties in the order of emission - cut anywhere, also inside a key. Only a partition of the keys is
    seen at a time; all messages of a key are in the same partition. A row without a verdict is kept.
    `by_language` is refused for group stages: a group may hold several languages.
    Before `extract` there is no `html` here, since payloads are not stored between phases, but `payload_hash`: its XXH3,
    16 bytes, null for documents that came as text (no column where no input can hold HTML).
    """

    kind = "group"

    @abstractmethod
    def messages(self) -> tuple[dict[str, pa.DataType], ...]:
        """The payload columns of each round's messages, after those of `ADDRESSED`."""

    def partitions(self, round: int, wanted: int) -> int:
        """How many partitions a round is cut into; 1 where it must see all of its (small) messages."""
        return wanted

    def findings(self) -> dict[str, pa.DataType]:
        """Columns of what the stage reports beside its verdicts, about other things than documents; none: nothing.

        What is sent to `FINDINGS` stands, in the order of sending, in findings/<stage>/<unit>.parquet of the run.
        """
        return {}

    @abstractmethod
    def emit(self, batch: Batch, shard: int, rows: np.ndarray) -> Iterable[Addressed]:
        """Messages for a batch of one shard; `rows` (int64) are its rows' places in that shard."""

    @abstractmethod
    def reduce(self, round: int, messages: Iterator[pa.Table]) -> Iterable[Addressed]:
        """One partition of a round: messages to later rounds, or verdicts (`VERDICT` columns, then `provides`)."""

    def columns(self, batch: Batch, verdicts: pa.Table) -> dict[str, pa.Array]:
        """The provided columns for a batch; `verdicts` has its rows aligned with the batch, nulls where none was sent."""
        return {name: verdicts.column(name).combine_chunks() for name in self.provides()}


class AggregateStage(Stage):
    """Decides with a summary of the whole corpus: quantiles, budgets, alarms."""

    kind = "aggregate"

    @abstractmethod
    def summarise(self, batch: Batch) -> pa.Table:
        """A small mergeable summary of a batch."""

    @abstractmethod
    def merge(self, summaries: Iterator[pa.Table]) -> pa.Table:
        """One summary of several; associative, and given in shard order."""

    def plan(self, summary: pa.Table) -> dict[str, dict[str, Any]]:
        """What follows from the whole summary, for run.json and the report: plain numbers by row and name.

        Raises `StageError` where what the config asks cannot be had of this corpus; then nothing is decided.
        """
        return {}

    @abstractmethod
    def decide(self, batch: Batch, summary: pa.Table) -> tuple[Decision, dict[str, pa.Array]]:
        """Verdicts and the provided columns for a batch, given the summary of everything."""


S = TypeVar("S", bound=type[Stage])
_REGISTRY: dict[str, type[Stage]] = {}


def register(stage: S) -> S:
    """Class decorator: makes the stage known under its name."""
    if _REGISTRY.get(stage.name, stage).__qualname__ != stage.__qualname__:
        raise ValueError(f"two stages are called {stage.name!r}")
    if stage.kind != "map" and "html" in stage.needs:
        raise ValueError(f"{stage.name}: a {stage.kind} stage is never given `html`; `payload_hash` stands for it")
    _REGISTRY[stage.name] = stage
    return stage


@cache
def _import_all() -> None:
    import stages

    for module in pkgutil.iter_modules(stages.__path__, "stages."):  # a folder imports its own stages
        importlib.import_module(module.name)


def registry() -> dict[str, type[Stage]]:
    """Every stage by name, sorted."""
    _import_all()
    return dict(sorted(_REGISTRY.items()))
