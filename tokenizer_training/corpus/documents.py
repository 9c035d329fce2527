"""Reading documents/ Parquet files: batches of id, text and what else encoding needs, with bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tokenizer_training.config import TokenizerError

BATCH_ROWS = 128
MOST_REPEATS = 10_000
PHASES = "mix_phases"
PHASE_BITS = 4  # the first bits of a copy's place, where there are phases
MOST_PHASES = 1 << PHASE_BITS


class Documents(NamedTuple):
    """Rows of a documents file; equal lengths."""

    ids: list[str]
    texts: list[str]
    sources: list[str]
    languages: list[str]  # empty where unknown
    clusters: list[str]  # the duplicate cluster, else the id
    repeats: list[int]
    groups: list[str]  # of the mix, empty where there was none
    phases: list[list[int]]  # how many of the copies stand in each phase of training; empty lists without phases


def find_documents(paths: Sequence[str | Path]) -> list[Path]:
    """Parquet files named by files and folders, sorted; an error if there is none."""
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files.extend(sorted(path.glob("*.parquet")))
        elif path.is_file():
            files.append(path)
        else:
            raise TokenizerError(f"{path}: no such file or folder; expected documents in Parquet")
    if not files:
        raise TokenizerError(f"no .parquet file in {', '.join(map(str, paths))}; expected documents in Parquet")
    return files


def hash64(*parts: str) -> int:
    """The first 64 bits of SHA-256 over the parts, as a number."""
    joined = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(joined).digest()[:8], "big")


def open_parquet(path: Path, needed: Sequence[str]) -> pq.ParquetFile:
    """An opened Parquet file that has the needed columns."""
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise TokenizerError(f"{path}: not a readable Parquet file ({error})") from None
    missing = [name for name in needed if name not in file.schema_arrow.names]
    if missing:
        raise TokenizerError(f"{path}: no column {', '.join(missing)}; it has {', '.join(file.schema_arrow.names)}")
    return file


def strings(column: pa.ChunkedArray, path: Path, name: str) -> list[str | None]:
    """A string column as Python values; bytes that are not UTF-8 become U+FFFD."""
    kind = column.type
    if pa.types.is_null(kind):
        return [None] * len(column)
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        raise TokenizerError(f"{path}: column {name} is {kind}; expected string")
    try:
        values: list[str | None] = column.to_pylist()
    except UnicodeDecodeError:
        raw = pa.chunked_array([chunk.cast(pa.large_binary()) for chunk in column.chunks])
        values = [None if value is None else value.decode("utf-8", "replace") for value in raw.to_pylist()]
    return values


def read_documents(path: Path, text: bool = True) -> Iterator[Documents]:
    """Batches of a documents file. Without `text`, texts are empty and the column is not read.

    Phases are the fields of the struct `mix_phases`, in their order; a null one stands in the first phase alone.
    A missing or null `source` and `language` read as empty, `repeat` as 1, `dup_cluster` as the id, a null text as empty.
    """
    file = open_parquet(path, ["id", "text"])
    names = phase_names(file)
    wanted = ["id", "source", "language", "dup_cluster", "repeat", "mix_group", PHASES, *(["text"] if text else [])]
    columns = [name for name in wanted if name in file.schema_arrow.names]
    row = 0
    for batch in file.iter_batches(BATCH_ROWS, columns=columns):
        table = pa.Table.from_batches([batch])
        rows = table.num_rows

        def values(name: str, table: pa.Table = table, rows: int = rows) -> list[str | None]:
            return strings(table.column(name), path, name) if name in table.column_names else [None] * rows

        ids = values("id")
        for at, value in enumerate(ids):
            if value is None:
                raise TokenizerError(f"{path}: row {row + at} has no id; every document needs one")
        repeats = _repeats(table, path, row)
        known = [value or "" for value in ids]
        yield Documents(
            known,
            [value or "" for value in values("text")],
            [value or "" for value in values("source")],
            [value or "" for value in values("language")],
            [value or own for value, own in zip(values("dup_cluster"), known, strict=True)],
            repeats,
            [value or "" for value in values("mix_group")],
            _phases(table, names, repeats, path, row),
        )
        row += rows


def phase_names(file: pq.ParquetFile) -> list[str]:
    """The phases of training in their order, none if a documents file has no column of them."""
    if PHASES not in file.schema_arrow.names:
        return []
    kind = file.schema_arrow.field(PHASES).type
    if not pa.types.is_struct(kind) or not all(pa.types.is_integer(field.type) for field in kind):
        raise TokenizerError(f"column {PHASES} is {kind}; expected a struct of one integer for each phase")
    if kind.num_fields > MOST_PHASES:
        raise TokenizerError(f"column {PHASES} has {kind.num_fields} phases; expected at most {MOST_PHASES}")
    return [field.name for field in kind]


def _phases(table: pa.Table, names: list[str], repeats: list[int], path: Path, row: int) -> list[list[int]]:
    if not names:
        return [[] for _ in repeats]
    found = []
    for at, (value, repeat) in enumerate(zip(table.column(PHASES).to_pylist(), repeats, strict=True)):
        counts = [repeat, *([0] * (len(names) - 1))] if value is None else [value[name] or 0 for name in names]
        if min(counts) < 0 or sum(counts) != repeat:
            raise TokenizerError(
                f"{path}: row {row + at} has the phases {counts}, which do not sum to its repeat {repeat}"
            )
        found.append(counts)
    return found


def _repeats(table: pa.Table, path: Path, row: int) -> list[int]:
    if "repeat" not in table.column_names:
        return [1] * table.num_rows
    column = table.column("repeat")
    if not pa.types.is_integer(column.type) and not pa.types.is_null(column.type):
        raise TokenizerError(f"{path}: column repeat is {column.type}; expected int32")
    values: list[Any] = column.to_pylist()
    for at, value in enumerate(values):
        if value is not None and not 1 <= value <= MOST_REPEATS:
            raise TokenizerError(f"{path}: row {row + at} has repeat {value}; expected 1 to {MOST_REPEATS}")
    return [1 if value is None else value for value in values]


def text_bytes(path: Path) -> int:
    """UTF-8 bytes of all texts of a documents file."""
    file = open_parquet(path, ["text"])
    total = 0
    for batch in file.iter_batches(BATCH_ROWS, columns=["text"]):
        column: Any = batch.column(0)
        if pa.types.is_null(column.type):
            continue
        if pa.types.is_dictionary(column.type):
            column = column.cast(column.type.value_type)
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            raise TokenizerError(f"{path}: column text is {column.type}; expected string")
        total += pc.sum(pc.binary_length(column)).as_py() or 0
    return total
