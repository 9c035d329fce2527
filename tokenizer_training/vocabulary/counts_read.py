"""Reading a counts table for training: groups weighed and added up."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tokenizer_training.config import TokenizerError
from tokenizer_training.vocabulary.count_table import PretokenTable
from tokenizer_training.vocabulary.counts import COUNTS, GROUPING, Group, counts_facts, numbers, string_buffers
from tokenizer_training.vocabulary.counts_merge import BATCH_ROWS, stretches

Weights = Mapping[
    str, Mapping[str, float]
]  # {"source": {name: factor}, "domain": ..., "language": ...}; others count 1
MOST_NAMES = 12  # in an error


class Counts(NamedTuple):
    """Pre-tokens sorted by their bytes, each once, with counts above zero."""

    data: np.ndarray  # uint8[N], UTF-8
    offsets: np.ndarray  # int64[W + 1]
    counts: np.ndarray  # int64[W]


def give_back_memory() -> None:
    """Memory that was freed goes back to the system: the C library and Arrow would keep it, and what comes next comes on top."""
    pa.default_memory_pool().release_unused()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc's
    if trim is not None:
        trim(0)


class _Sums:
    """Pre-tokens with float64 or exact sums."""

    def __init__(self, whole: bool) -> None:
        self.table = PretokenTable()
        self.sums = np.zeros(1 << 14, np.int64 if whole else np.float64)

    def add(self, rows: pa.RecordBatch, factors: np.ndarray) -> None:
        """Add rows, each by its factor (float64), in their order."""
        places = self.table.number(string_buffers(rows.column(3)), np.zeros(rows.num_rows, np.int64))
        while len(self.table) > len(self.sums):
            self.sums = np.concatenate([self.sums, np.zeros_like(self.sums)])
        counts = numbers(rows.column(4))
        np.add.at(self.sums, places, counts if self.sums.dtype == np.int64 else counts * factors)

    def counts(self) -> Counts:
        rounded = _rounded(self.sums[: len(self.table)])
        slots = self.table.sorted_slots(np.zeros(1, np.int64))
        found = rounded[self.table.values_of(slots)]
        slots, found = slots[found > 0], found[found > 0]
        return Counts(*self.table.bytes_of(slots), found)


def _rounded(sums: np.ndarray) -> np.ndarray:
    if sums.max(initial=0) >= 2.0**62:
        raise TokenizerError("weights: a weighted count exceeds 2**62; lower the weights")
    if sums.dtype == np.int64:
        return sums
    rounded: np.ndarray = np.rint(sums).astype(np.int64)
    return rounded


def _only_group(path: str | Path) -> Group | None:
    """The group of every row of a table, if it has only one and the file's statistics say so."""
    found: set[Group] = set()
    with pq.ParquetFile(path) as file:
        places = [file.schema_arrow.names.index(name) for name in GROUPING]
        for number in range(file.num_row_groups):
            facts = [file.metadata.row_group(number).column(place).statistics for place in places]
            if any(fact is None or not fact.has_min_max or fact.min != fact.max for fact in facts):
                return None
            source, domain, language = (fact.min for fact in facts)
            found.add((source, domain, language))
    return found.pop() if len(found) == 1 else None


def _all_rows(path: str | Path, factor: float) -> Counts:
    """The rows of a table of one group, which are sorted and different already."""
    data, offsets, counts = [], [np.zeros(1, np.int64)], []
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=["pretoken", "count"]):
            raw, places = string_buffers(batch.column("pretoken"))
            found = numbers(batch.column("count"))
            found = found if factor == 1 else _rounded(found * factor)
            sizes = np.diff(places)
            if factor != 1 and not found.all():
                raw = raw[places[0] : places[-1]][np.repeat(found > 0, sizes)]
                sizes, found = sizes[found > 0], found[found > 0]
            else:
                raw = raw[places[0] : places[-1]]
            data.append(raw)
            offsets.append(offsets[-1][-1] + np.cumsum(sizes))
            counts.append(found)
    return Counts(np.concatenate(data), np.concatenate(offsets), np.concatenate(counts))


def read_counts(path: str | Path, weights: Weights | None = None) -> Counts:
    """The pre-tokens of a counts table over all groups.

    A group counts by the product of the weights of its source, domain and language (1 where none is given; 0 leaves it
    out): sums in float64 (exact integers without weights), in the order of the table, rounded once for each pre-token (half to
    even); those that round to 0 are left out. Memory: about 60 bytes and the text for each pre-token of the result.

    Raises `TokenizerError` for weights that are negative or name what the table does not hold, and if nothing is left.
    """
    factors = _checked(path, weights)
    group = _only_group(path)
    if group is not None:
        result = _all_rows(path, _factor(group, factors))
    else:
        sums = _Sums(whole=not any(factors.values()))
        for rows, of_rows, _ in _weighed(path, factors):
            sums.add(rows, of_rows)
        result = sums.counts()
    if len(result.counts) == 0:
        raise TokenizerError(
            f"{path}: {'the weights leave' if factors else 'the table holds'} no pre-token to train on"
        )
    return result


def read_counts_by(path: str | Path, column: str, weights: Weights | None = None) -> dict[str, Counts]:
    """`read_counts` for each value of `column` (source, domain or language) by itself, sorted by name.

    Names of which the weights leave nothing are left out; `TokenizerError` if that is all of them.
    """
    if column not in GROUPING:
        raise TokenizerError(f"column {column!r}: expected one of {', '.join(GROUPING)}")
    factors = _checked(path, weights)
    sums: dict[str, _Sums] = {}
    for rows, of_rows, names in _weighed(path, factors, GROUPING.index(column)):
        for name, start, stop in names:
            own = sums.setdefault(name, _Sums(whole=not any(factors.values())))
            own.add(rows.slice(start, stop - start), of_rows[start:stop])
    found = {name: sums[name].counts() for name in sorted(sums)}
    found = {name: counts for name, counts in found.items() if len(counts.counts)}
    if not found:
        raise TokenizerError(
            f"{path}: {'the weights leave' if factors else 'the table holds'} no pre-token to train on"
        )
    return found


def group_names(path: str | Path) -> dict[str, list[str]]:
    """The sources, domains and languages that a counts table holds, sorted."""
    counts_facts(path)
    found: dict[str, set[str]] = {name: set() for name in GROUPING}
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(1 << 20, columns=list(GROUPING)):
            for name in GROUPING:
                found[name].update(batch.column(name).unique().to_pylist())
    return {name: sorted(values) for name, values in found.items()}


def _checked(path: str | Path, weights: Weights | None) -> dict[str, dict[str, float]]:
    counts_facts(path)
    given = {column: dict(factors) for column, factors in (weights or {}).items() if factors}
    if not given:
        return {}
    held = group_names(path)
    for column, factors in given.items():
        if column not in GROUPING:
            raise TokenizerError(f"weights.{column}: expected {', '.join(GROUPING)}")
        for name, factor in factors.items():
            if name not in held[column]:
                some = ", ".join(map(repr, held[column][:MOST_NAMES])) or "nothing"
                more = f" and {len(held[column]) - MOST_NAMES} more" if len(held[column]) > MOST_NAMES else ""
                raise TokenizerError(f"weights.{column}.{name}: {path} has no such {column}; it holds {some}{more}")
            if not (math.isfinite(factor) and factor >= 0):
                raise TokenizerError(f"weights.{column}.{name}: {factor}; expected a number of at least 0")
    return given


def _factor(group: Group, factors: Mapping[str, Mapping[str, float]]) -> float:
    product = 1.0
    for column, name in zip(GROUPING, group, strict=True):
        product *= factors.get(column, {}).get(name, 1.0)
    return product


def _weighed(
    path: str | Path, factors: Mapping[str, Mapping[str, float]], column: int = 0
) -> Iterator[tuple[pa.RecordBatch, np.ndarray, list[tuple[str, int, int]]]]:
    """Batches of a table without what counts nothing: rows, the factor of each, and where each name in `column` stands."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH_ROWS, columns=COUNTS.names):
            groups = [(group[column], _factor(group, factors), stop - start) for group, start, stop in stretches(batch)]
            of_rows = np.repeat([factor for _, factor, _ in groups], [size for _, _, size in groups])
            if not of_rows.all():
                batch = batch.filter(pa.array(of_rows != 0))
                of_rows = of_rows[of_rows != 0]
            ends = np.cumsum([size if factor else 0 for _, factor, size in groups]).tolist()
            names = [
                (name, start, stop)
                for (name, _, _), start, stop in zip(groups, [0, *ends], ends, strict=False)
                if stop > start
            ]
            yield batch, of_rows, names
