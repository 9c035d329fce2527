"""Reading evaluation items: fields of the rows of JSONL and Parquet files, by dotted paths."""

from __future__ import annotations

import glob
import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict

from stages.stage import StageError, knob

SUFFIXES = (".jsonl", ".json", ".jsonl.gz", ".json.gz", ".parquet")


class Benchmark(BaseModel):
    """One evaluation set, and which fields of its items are looked for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = knob(..., "how ledger and report call it", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$")
    paths: str | tuple[str, ...] = knob(..., "its files, or globs: .jsonl (.gz too) or .parquet, one item a row")
    fields: tuple[str, ...] = knob(
        ...,
        "what is taken of each item, in this order: question, choices, answer, context. A dotted path goes into mappings "
        "and, entry by entry, into lists: choices.text, turns.content; a number in it picks one entry: turns.0",
    )
    id: str | None = knob(None, "the field (dotted path) that names an item in the report; null: its row, from 0")


class Item(NamedTuple):
    """An item's name and its texts, one for each field that it has."""

    name: str
    texts: list[str]


def files_of(benchmark: Benchmark) -> list[str]:
    """The files behind a benchmark's paths, sorted below each glob; a pattern without a match stays as it is."""
    given = (benchmark.paths,) if isinstance(benchmark.paths, str) else benchmark.paths
    found: list[str] = []
    for path in given:
        matches = sorted(glob.glob(path, recursive=True)) if "://" not in path else []  # noqa: PTH207 - `**` and roots
        found += matches or [path]
    return found


def read_items(benchmark: Benchmark, files: Sequence[tuple[str, Path]]) -> Iterator[Item]:
    """The items of a benchmark's files, given as (path as the user wrote it, local path).

    Raises `StageError` naming the file for what is not JSONL or Parquet, and for a field that no item of a file has.
    """
    number = 0
    for given, path in files:
        seen: set[str] = set()
        columns: set[str] = set()
        rows = 0
        for row in _rows(benchmark, given, path):
            columns.update(row)
            texts = []
            for field in benchmark.fields:
                parts = list(_texts(_at(row, field.split("."))))
                if parts:
                    seen.add(field)
                    texts.append("\n".join(parts))
            names = [] if benchmark.id is None else list(_texts(_at(row, benchmark.id.split("."))))
            yield Item(names[0] if names else str(number), texts)
            number += 1
            rows += 1
        if missing := [field for field in benchmark.fields if field not in seen]:
            held = f"the fields of its items are {', '.join(sorted(columns))}" if rows else "it holds no item"
            raise StageError(
                f"decontaminate.benchmarks: {benchmark.name}: no item of {given} has text at {missing[0]!r}; {held}"
            )


def _rows(benchmark: Benchmark, given: str, path: Path) -> Iterator[dict[str, Any]]:
    if given.endswith(".parquet"):
        try:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(batch_size=1024):
                    yield from batch.to_pylist()
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise StageError(f"decontaminate.benchmarks: {benchmark.name}: {given} is not readable: {error}") from None
        return
    if not given.endswith(SUFFIXES):
        raise StageError(f"decontaminate.benchmarks: {benchmark.name}: {given}: expected one of {', '.join(SUFFIXES)}")
    line = 0  # for the message
    try:
        with gzip.open(path) if given.endswith(".gz") else path.open("rb") as lines:
            for line, content in enumerate(lines, 1):  # noqa: B007
                if not content.strip():
                    continue
                row = json.loads(content)
                if not isinstance(row, dict):
                    raise ValueError("not an object")
                yield row
    except (ValueError, OSError, EOFError, RecursionError) as error:
        raise StageError(
            f"decontaminate.benchmarks: {benchmark.name}: {given}, line {line}: expected one JSON object a line ({error})"
        ) from None


def _at(value: Any, path: Sequence[str]) -> Any:
    """What stands at a dotted path; lists give a list, one entry for each of theirs."""
    for place, part in enumerate(path):
        if isinstance(value, list):
            if not part.isdecimal():
                return [_at(entry, path[place:]) for entry in value]
            value = value[int(part)] if int(part) < len(value) else None
        elif isinstance(value, dict):
            rest = ".".join(path[place:])
            if rest in value:  # a field whose own name has dots
                return value[rest]
            value = value.get(part)
        else:
            return None
    return value


def _texts(value: Any) -> Iterator[str]:
    """The strings and numbers in a value, in order; of a mapping those of its values."""
    if isinstance(value, str):
        if value.strip():
            yield value
    elif isinstance(value, bool) or value is None:
        return
    elif isinstance(value, int | float):
        yield str(value)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)
