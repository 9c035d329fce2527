"""Adding up counts tables, with memory for a few batches of each whatever their size."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenizer_training.config import TokenizerError
from tokenizer_training.vocabulary.count_table import PretokenTable
from tokenizer_training.vocabulary.counts import (
    COUNTS,
    GROUPING,
    SETTINGS,
    SUMS,
    CountsWriter,
    Group,
    counts_facts,
    numbers,
    put,
    sorted_tables,
    string_buffers,
)

MOST_OPEN = 32  # tables merged at once; more are merged in rounds
BATCH_ROWS = 1 << 15

Key = tuple[str, str, str, str]


class _Input:
    """A sorted table, read in batches."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetFile(path)
        self._batches = self._file.iter_batches(BATCH_ROWS, columns=COUNTS.names)
        self.rows: Any = None
        self.next()

    def next(self) -> None:
        """The next batch; None after the last."""
        self.rows = next((batch for batch in self._batches if batch.num_rows), None)
        if self.rows is None:
            self._file.close()

    def key(self, row: int) -> Key:
        source, domain, language, pretoken = (self.rows.column(number)[row].as_py() for number in range(4))
        return source, domain, language, pretoken

    def up_to(self, bound: Key) -> pa.RecordBatch:
        """Take the rows up to a key off the batch."""
        low, high = 0, self.rows.num_rows
        while low < high:
            middle = (low + high) // 2
            if self.key(middle) <= bound:
                low = middle + 1
            else:
                high = middle
        taken = self.rows.slice(0, low)
        self.rows = self.rows.slice(low)
        if self.rows.num_rows == 0:
            self.next()
        return taken


def merge_rows(paths: Sequence[Path], folder: Path) -> Iterator[pa.Table]:
    """The rows of sorted tables as one sorted table, counts of equal rows added up; `folder` is for what lies between."""
    level = list(paths)
    number = 0
    while len(level) > MOST_OPEN:
        merged = []
        for start in range(0, len(level), MOST_OPEN):
            path = folder / f"merged-{number:06d}.parquet"
            number += 1
            writer = CountsWriter(path)
            for table in _merged(level[start : start + MOST_OPEN]):
                writer.write(table)
            writer.close({})
            merged.append(path)
        for path in set(level) - set(paths):
            path.unlink()
        level = merged
    yield from _merged(level)


def _merged(paths: Sequence[Path]) -> Iterator[pa.Table]:
    inputs = [source for source in map(_Input, paths) if source.rows is not None]
    table = PretokenTable()
    while inputs:
        # every row up to the smallest of the last rows in sight is in sight
        bound = min(source.key(source.rows.num_rows - 1) for source in inputs)
        taken = [rows for source in inputs if (rows := source.up_to(bound)).num_rows]
        groups: dict[Group, int] = {}
        table.clear()
        for rows in taken:
            add_rows(table, groups, rows)
        yield from sorted_tables(table, list(groups))
        inputs = [source for source in inputs if source.rows is not None]


def add_rows(table: PretokenTable, groups: dict[Group, int], rows: pa.RecordBatch) -> None:
    """Add the counts of some sorted rows to a table; `groups` are numbered as they come."""
    places = np.empty(rows.num_rows, np.int64)
    for group, start, stop in stretches(rows):
        places[start:stop] = groups.setdefault(group, len(groups))
    table.add(string_buffers(rows.column(3)), places, numbers(rows.column(4)))


def stretches(rows: pa.RecordBatch) -> list[tuple[Group, int, int]]:
    """The groups of sorted rows: each with its first row and the one after its last."""
    changes = np.zeros(rows.num_rows, bool)
    changes[:1] = True
    for number in range(len(GROUPING)):
        places = numbers(rows.column(number).dictionary_encode().indices)
        changes[1:] |= places[1:] != places[:-1]
    starts = [*np.flatnonzero(changes).tolist(), rows.num_rows]
    found = []
    for start, stop in itertools.pairwise(starts):
        source, domain, language = (rows.column(number)[start].as_py() for number in range(3))
        found.append(((source, domain, language), start, stop))
    return found


def merged_facts(paths: Sequence[str | Path]) -> dict[str, Any]:
    """The metadata of the sum of tables; `TokenizerError` naming both where two were counted in different ways."""
    first: dict[str, Any] = {}
    for path in paths:
        facts = counts_facts(path)
        if not first:
            first = facts
            continue
        for name in SETTINGS:
            if facts[name] != first[name]:
                raise TokenizerError(
                    f"{path} was counted with {name} {facts[name]!r}, {paths[0]} with {first[name]!r}: "
                    "tables that are merged must be counted in the same way"
                )
        for name in SUMS:
            first[name] += facts[name]
        both = zip(_halves(first["inputs"]), _halves(facts["inputs"]), strict=True)
        first["inputs"] = "".join(f"{(one + other) % 2**64:016x}" for one, other in both)
        first["pattern"] = min(first["pattern"], facts["pattern"])  # names of the same expression
        first["minimum_count"] = max(first["minimum_count"], facts["minimum_count"])
    return first


def _halves(digest: str) -> tuple[int, int]:
    return int(digest[:16], 16), int(digest[16:], 16)


def merge_counts(paths: Sequence[str | Path], out: str | Path, minimum_count: int = 1) -> dict[str, Any]:
    """Add up counts tables into `out`, in any order and grouping the same bytes; returns its metadata.

    With `minimum_count` rows that occur less often in all are left out; the metadata says how many (`dropped_rows`), and
    how many pre-tokens they were (`dropped_pretokens`). What was dropped stays dropped: merge first, drop at the end.
    """
    if not paths:
        raise TokenizerError("no counts table to merge")
    if minimum_count < 1:
        raise TokenizerError(f"minimum_count {minimum_count}: expected at least 1")
    facts = merged_facts(paths)
    facts["minimum_count"] = max(facts["minimum_count"], minimum_count)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as folder:
        temporary = Path(folder) / "whole.parquet"
        writer = CountsWriter(temporary)
        for table in _dropping(merge_rows([Path(path) for path in paths], Path(folder)), minimum_count, facts):
            writer.write(table)
        writer.close(facts)
        put(temporary, out)
    return facts


def _dropping(tables: Iterable[pa.Table], minimum: int, facts: dict[str, Any]) -> Iterator[pa.Table]:
    for table in tables:
        if minimum > 1:
            counts = table.column("count")
            keep = pc.greater_equal(counts, minimum)
            kept = table.filter(keep)
            lost = (pc.sum(counts).as_py() or 0) - (pc.sum(kept.column("count")).as_py() or 0)
            facts["dropped_rows"] += table.num_rows - kept.num_rows
            facts["dropped_pretokens"] += lost
            facts["pretokens"] -= lost
            table = kept
        yield table
