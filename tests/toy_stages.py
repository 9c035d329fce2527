"""Stages for tests of the engine: they crash, hang, take memory, count their work, or need the whole corpus.

A test runs them with `toy_pipeline`, whose processes import this module before the command line is parsed.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import numpy as np
import pyarrow as pa

from stages.batch import Batch
from stages.stage import (
    ADDRESSED,
    KEY,
    VERDICT,
    Addressed,
    AggregateStage,
    Decision,
    Edit,
    GroupStage,
    Limit,
    MapStage,
    StageConfig,
    knob,
    register,
)

ROOT = Path(__file__).parents[1]
START = "import sys, tests.toy_stages; from pipeline.cli import main; sys.exit(main())"


def toy_pipeline(
    *arguments: str | Path, timeout: float = 300, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m pipeline ...`, with these stages known."""
    return subprocess.run(
        [sys.executable, "-c", START, *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
        check=False,
    )


def run_toy(config: Path, out: Path | str, *overrides: str, **options: Any) -> tuple[int, str]:
    """`run` in this process with the inline executor and without a report: exit code and what was said."""
    from pipeline.config import read_config  # not at the top: workers import this module too
    from pipeline.run import Options, run

    said: list[str] = []
    settings = read_config(config, ["engine.executor=inline", *overrides])
    with mock.patch("pipeline.run._report", lambda store, say: None):
        code = run(settings, Options(str(out), overrides=overrides, **options), said.append)
    return code, "\n".join(said)


def write_rows(path: Path, texts: Iterable[str], **columns: Sequence[Any]) -> None:
    """Texts as a JSONL file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        for row, text in enumerate(texts):
            file.write(json.dumps({"text": text, **{name: values[row] for name, values in columns.items()}}) + "\n")


def start_toy_pipeline(*arguments: str | Path) -> subprocess.Popen[str]:
    """The same in the background."""
    return subprocess.Popen(
        [sys.executable, "-c", START, *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


class PoisonConfig(StageConfig):
    """Knobs of `toy.poison`."""

    antidote: str | None = knob(None, "a file: while it exists, marked texts do no harm")


HELD: list[np.ndarray] = []  # memory that a batch's heavy texts take together


def act(text: str) -> None:
    """Do what the text asks for."""
    if "[[raise]]" in text:
        raise ValueError("a stage's own error")
    if "[[oserror]]" in text:
        raise FileNotFoundError(2, "a record that names a file")
    if "[[sysexit]]" in text:
        sys.exit(3)
    if "[[loop]]" in text:
        while True:
            try:
                sum(range(1000))
            except Exception:  # what many a library does
                continue
    if "[[native]]" in text:
        hashlib.pbkdf2_hmac("sha256", b"x", b"y", 2_000_000_000)
    if "[[segv]]" in text:
        os.kill(os.getpid(), signal.SIGSEGV)
        time.sleep(60)
    if "[[memory]]" in text:
        held = []
        while True:
            held.append(np.ones(4 << 20, dtype=np.uint8))
            time.sleep(0.002)
    if "[[sleep]]" in text:
        time.sleep(0.3)
    if "[[heavy]]" in text:
        HELD.append(np.ones(12 << 20, dtype=np.uint8))
    if "[[exit]]" in text:
        os._exit(3)


@register
class Poison(MapStage):
    """Ends its worker, in many ways, at a text that says so."""

    name = "toy.poison"
    config_model = PoisonConfig
    config: PoisonConfig

    def provides(self) -> dict[str, pa.DataType]:
        return {}

    def measures(self) -> dict[str, pa.DataType]:
        return {"toy_poison_length": pa.int64()}

    def measure(self, batch: Batch) -> pa.Table:
        HELD.clear()
        if self.config.antidote is None or not Path(self.config.antidote).exists():
            for text in batch.texts():
                if "[[length]]" not in text and "[[group]]" not in text:
                    act(text)
        return pa.table({"toy_poison_length": pa.array([len(text) for text in batch.texts()], pa.int64())})


class LengthConfig(StageConfig):
    """Knobs of `toy.length`."""

    unit: int = knob(1, "characters that count as one", ge=1)
    shortest: int = knob(0, "shorter texts are dropped")
    longest: int | None = knob(None, "longer texts are dropped")
    log: str | None = knob(None, "a file that gets the id of every row measured")


@register
class Length(MapStage):
    """Drops by length, and keeps a record of what it measured."""

    name = "toy.length"
    config_model = LengthConfig
    config: LengthConfig
    decide_knobs: ClassVar[tuple[str, ...]] = ("shortest", "longest")

    def provides(self) -> dict[str, pa.DataType]:
        return {"toy_length_units": pa.int64()}

    def measures(self) -> dict[str, pa.DataType]:
        return {"toy_length_units": pa.int64()}

    def limits(self) -> list[Limit]:
        return [Limit("toy_length_units", "short", self.config.shortest)]

    def measure(self, batch: Batch) -> pa.Table:
        if self.config.log is not None:
            with open(self.config.log, "a") as log:
                log.writelines(f"{id_}\n" for id_ in batch.values("id"))
        for text in batch.texts():
            if "[[length]]" in text:
                act(text)
        lengths = [len(text) // self.config.unit for text in batch.texts()]
        return pa.table({"toy_length_units": pa.array(lengths, pa.int64())})

    def decide(self, values: pa.Table) -> Decision:
        decision = Decision.keep(values.num_rows)
        lengths = values.column("toy_length_units").to_numpy()
        assert not np.isnan(lengths.astype(float)).any(), "decide was given rows that were not measured"
        decision.drop_where(lengths < self.config.shortest, "short", lengths, self.config.shortest)
        if self.config.longest is not None:
            decision.drop_where(lengths > self.config.longest, "long", lengths, self.config.longest)
        return decision


TAG = pa.struct([("word", pa.string()), ("places", pa.list_(pa.int32()))])


class TagsConfig(StageConfig):
    """Knobs of `toy.tags`."""

    mark: str = knob("#", "what is put behind every word")
    words: int = knob(3, "words that are tagged")
    forbidden: str | None = knob(None, "texts with this word are dropped")


@register
class Tags(MapStage):
    """Columns of many types, edits, drops and rows that cannot be measured."""

    name = "toy.tags"
    config_model = TagsConfig
    config: TagsConfig
    edits = True

    def provides(self) -> dict[str, pa.DataType]:
        return {name: kind for name, kind in self.measures().items() if name != "toy_tags_cuts"}

    def measures(self) -> dict[str, pa.DataType]:
        return {
            "toy_tags": pa.list_(TAG),
            "toy_tags_first": pa.string(),
            "toy_tags_large": pa.large_string(),
            "toy_tags_short": pa.bool_(),
            "toy_tags_bytes": pa.binary(),
            "toy_tags_share": pa.float32(),
            "toy_tags_when": pa.timestamp("s", tz="UTC"),
            "toy_tags_cuts": pa.list_(pa.int64()),
        }

    def measure(self, batch: Batch) -> pa.Table:
        rows = []
        for text in batch.texts():
            act(text)
            words = text.split()[: self.config.words]
            rows.append(
                {
                    "toy_tags": [{"word": w, "places": [i for i, c in enumerate(w) if c == "a"] or None} for w in words]
                    or None,
                    "toy_tags_first": words[0] + self.config.mark if words else None,
                    "toy_tags_large": text[::-1],
                    "toy_tags_short": len(text) < 20 if text else None,
                    "toy_tags_bytes": text.encode()[:4] or None,
                    "toy_tags_share": len(words) / (len(text) or 1),
                    "toy_tags_when": len(text),
                    "toy_tags_cuts": [i for i, c in enumerate(text) if c == " "],
                }
            )
        schema = pa.schema(list(self.measures().items()))
        return pa.Table.from_pylist(rows, schema=schema) if rows else schema.empty_table()

    def decide(self, values: pa.Table) -> Decision:
        decision = Decision.keep(values.num_rows)
        for row, (tags, cuts) in enumerate(
            zip(values.column("toy_tags").to_pylist(), values.column("toy_tags_cuts").to_pylist(), strict=True)
        ):
            if tags is None:
                decision.skipped["untagged"] = decision.skipped.get("untagged", 0) + 1
            elif self.config.forbidden is not None and self.config.forbidden in [tag["word"] for tag in tags]:
                decision.drop(row, "forbidden", detail=self.config.forbidden)
                continue
            if cuts:
                decision.edits[row] = [Edit(cut, cut + 1, self.config.mark) for cut in cuts]
        return decision


class MedianConfig(StageConfig):
    """Knobs of `toy.median`."""

    factor: float = knob(1.0, "texts shorter than this many medians are dropped")


@register
class Median(AggregateStage):
    """Keeps the documents that are at least as long as the median of the corpus."""

    name = "toy.median"
    config_model = MedianConfig
    config: MedianConfig

    def provides(self) -> dict[str, pa.DataType]:
        return {"toy_median": pa.float64()}

    def summarise(self, batch: Batch) -> pa.Table:
        lengths, counts = np.unique([len(text) for text in batch.texts()], return_counts=True)
        return pa.table({"length": pa.array(lengths, pa.int64()), "count": pa.array(counts, pa.int64())})

    def merge(self, summaries: Iterator[pa.Table]) -> pa.Table:
        total: dict[int, int] = {}
        for summary in summaries:
            for length, count in zip(
                summary.column("length").to_pylist(), summary.column("count").to_pylist(), strict=True
            ):
                total[length] = total.get(length, 0) + count
        lengths = sorted(total)
        return pa.table(
            {"length": pa.array(lengths, pa.int64()), "count": pa.array([total[n] for n in lengths], pa.int64())}
        )

    def decide(self, batch: Batch, summary: pa.Table) -> tuple[Decision, dict[str, pa.Array]]:
        lengths = np.repeat(summary.column("length").to_numpy(), summary.column("count").to_numpy())
        median = float(np.median(lengths)) if len(lengths) else 0.0
        own = np.array([len(text) for text in batch.texts()], dtype=np.float64)
        decision = Decision.keep(len(batch))
        decision.drop_where(own < self.config.factor * median, "short", own, self.config.factor * median)
        return decision, {"toy_median": pa.array([median] * len(batch), pa.float64())}


class FirstConfig(StageConfig):
    """Knobs of `toy.first`."""

    antidote: str | None = knob(None, "a file: while it exists, marked texts do no harm")


@register
class First(GroupStage):
    """Keeps the first document of each first word; ends its worker at a text that says so."""

    name = "toy.first"
    config_model = FirstConfig
    config: FirstConfig

    def provides(self) -> dict[str, pa.DataType]:
        return {}

    def messages(self) -> tuple[dict[str, pa.DataType], ...]:
        return ({"id": pa.string()},)

    def emit(self, batch: Batch, shard: int, rows: np.ndarray) -> Iterable[Addressed]:
        keys = []
        for text in batch.texts():
            if "[[group]]" in text and not (self.config.antidote and Path(self.config.antidote).exists()):
                act(text)
            keys.append(hashlib.md5((text.split() or [""])[0].encode()).digest())
        columns = [pa.array(keys, KEY), pa.array([shard] * len(rows), pa.int32()), pa.array(rows), batch.column("id")]
        yield Addressed(0, pa.table(columns, schema=pa.schema([*ADDRESSED.items(), ("id", pa.string())])))

    def reduce(self, round: int, messages: Iterator[pa.Table]) -> Iterable[Addressed]:
        last: tuple[bytes, str] | None = None
        for table in messages:
            rows = []
            for message in table.to_pylist():
                if last is not None and last[0] == message["key"]:
                    rows.append({"shard": message["shard"], "row": message["row"], "rule": "again", "kept_id": last[1]})
                else:
                    last = (message["key"], message["id"])
            yield Addressed(None, pa.Table.from_pylist(rows, schema=pa.schema(list(VERDICT.items()))))
