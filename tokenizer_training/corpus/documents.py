"""The documents of a corpus: batches of id, text and what else encoding needs, whatever their columns are called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from tokenizer_training.config import TokenizerError
from tokenizer_training.corpus.files import Stretch, is_jsonl, jsonl_tables, open_parquet, parquet_tables

MOST_REPEATS = 10_000
PHASES = "mix_phases"
PHASE_BITS = 4  # the first bits of a copy's place, where there are phases
MOST_PHASES = 1 << PHASE_BITS


class Fields(NamedTuple):
    """What the columns of a corpus are called. Only `text` must be there; `domain` is any column to count by."""

    text: str = "text"
    id: str = "id"
    source: str = "source"
    language: str = "language"
    domain: str | None = None


FIELDS = Fields()


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


def hash64(*parts: str) -> int:
    """The first 64 bits of SHA-256 over the parts, as a number."""
    joined = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(joined).digest()[:8], "big")


def document_tables(
    path: Path, columns: Sequence[str], fields: Fields = FIELDS, stretch: Stretch | None = None
) -> Iterator[pa.Table]:
    """Batches (about 16 MiB) of a Parquet or JSONL file, or of a stretch of it, as tables with exactly `columns`, under the names used here.

    `id text source language domain dup_cluster mix_group` are large_string without nulls: a missing or null one is empty, an
    id that no column gives is `<file name>:<row>` (of the stretch), a missing `dup_cluster` is the id; bytes that are not UTF-8 and lone
    surrogates become U+FFFD. `repeat` is int32, 1 where missing. `mix_phases` is there only if the file has it (Parquet).
    """
    named = {"text": fields.text, "id": fields.id, "source": fields.source, "language": fields.language}
    named |= {"domain": fields.domain} if fields.domain else {}
    wanted = list(dict.fromkeys(["id", *columns] if "dup_cluster" in columns else columns))
    theirs = {name: named.get(name, name) for name in wanted if name != "domain" or fields.domain}
    if fields.domain and "domain" in wanted and not is_jsonl(path):
        open_parquet(path, [fields.domain])
    row = 0
    for table in _tables(path, fields, theirs, stretch):
        made = named_columns(table, {name: theirs.get(name, "") for name in wanted}, fields, path, row)
        yield pa.table({name: made[name] for name in columns if name in made})
        row += table.num_rows


def named_columns(
    table: pa.Table, theirs: dict[str, str], fields: Fields, path: Path, row: int
) -> dict[str, pa.Array | pa.ChunkedArray]:
    """The columns that `theirs` names, as `document_tables` describes them, under its keys. `row`: the table's first, for errors."""
    made: dict[str, Any] = {}
    for name, their in theirs.items():
        column = table.column(their) if their in table.column_names else None
        if name == "repeat":
            made[name] = _repeats(column, table.num_rows, path, row)
        elif name == PHASES:
            if column is not None:
                made[name] = column
        else:
            made[name] = _strings(column, table.num_rows, path, their or name)
    if "id" in made:
        made["id"] = _ids(made["id"], fields.id not in table.column_names, path, row)
    if "dup_cluster" in made:
        own: Any = made["dup_cluster"]
        made["dup_cluster"] = pc.if_else(pc.equal(pc.binary_length(own), 0), made["id"], own)
    return made


def _tables(path: Path, fields: Fields, theirs: dict[str, str], stretch: Stretch | None) -> Iterator[pa.Table]:
    if not is_jsonl(path):
        yield from parquet_tables(path, [fields.text], list(theirs.values()), stretch)
        return
    kinds = {their: pa.int32() if name == "repeat" else pa.large_string() for name, their in theirs.items()}
    kinds.pop(PHASES, None)
    seen = 0
    for table in jsonl_tables(path, {fields.text: pa.large_string(), **kinds}, stretch):
        if seen == 0 and table.column(fields.text).null_count == table.num_rows:
            raise TokenizerError(f"{path}: no field {fields.text!r} with text in its first {table.num_rows} lines")
        seen += table.num_rows
        # a field that no line has is a column that the file lacks
        yield table.select(
            [n for n in table.column_names if n == fields.text or table.column(n).null_count < len(table)]
        )


def _strings(column: Any, rows: int, path: Path, name: str) -> pa.Array:
    """A column as large_string without nulls."""
    if column is None or pa.types.is_null(column.type):
        offsets = pa.py_buffer(bytes(8 * (rows + 1)))  # `pa.array` of a list imports pandas, if it is installed
        return pa.Array.from_buffers(pa.large_string(), rows, [None, offsets, pa.py_buffer(b"")])
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind = column.type
    if pa.types.is_integer(kind) and name != "text":
        column = column.cast(pa.large_string())
    elif not (_is_text(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise TokenizerError(f"{path}: column {name} is {kind}; expected string")
    else:
        raw = column.cast(pa.large_binary())
        try:
            column = raw.cast(pa.large_string())  # checks that it is UTF-8
        except pa.ArrowInvalid:
            texts = [None if value is None else value.decode("utf-8", "replace") for value in raw.to_pylist()]
            column = pa.chunked_array([pa.array(texts, pa.large_string())])
    whole = column.combine_chunks()
    return whole if whole.null_count == 0 else whole.fill_null("")  # which imports pandas as well


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _ids(ids: Any, missing: bool, path: Path, row: int) -> pa.Array:
    if missing:
        return pa.array([f"{path.name}:{row + at}" for at in range(len(ids))], pa.large_string())
    empty = pc.equal(pc.binary_length(ids), 0)
    if pc.any(empty).as_py():
        at = empty.to_pylist().index(True)
        raise TokenizerError(f"{path}: row {row + at} has no id; every document needs one (or name another id field)")
    return ids  # type: ignore[no-any-return]


def _repeats(column: Any, rows: int, path: Path, row: int) -> pa.Array:
    if column is None or pa.types.is_null(column.type):
        return pa.array([1] * rows, pa.int32())
    if not pa.types.is_integer(column.type):
        raise TokenizerError(f"{path}: column repeat is {column.type}; expected int32")
    filled: Any = column.combine_chunks().fill_null(1)
    wrong = pc.or_(pc.less(filled, 1), pc.greater(filled, MOST_REPEATS))
    if pc.any(wrong).as_py():
        at = wrong.to_pylist().index(True)
        raise TokenizerError(f"{path}: row {row + at} has repeat {filled[at].as_py()}; expected 1 to {MOST_REPEATS}")
    return filled.cast(pa.int32())  # type: ignore[no-any-return]


def read_documents(path: Path, text: bool = True, fields: Fields = FIELDS) -> Iterator[Documents]:
    """Batches of a documents file as Python values. Without `text`, texts are empty and the column is not read.

    Phases are the fields of the struct `mix_phases`, in their order; a null one stands in the first phase alone.
    """
    names = phase_names(path)
    columns = ["id", "source", "language", "dup_cluster", "repeat", "mix_group", PHASES, *(["text"] if text else [])]
    row = 0
    for table in document_tables(path, columns, fields):
        values = {name: table.column(name).to_pylist() for name in table.column_names if name != PHASES}
        rows = table.num_rows
        yield Documents(
            values["id"],
            values.get("text", [""] * rows),
            values["source"],
            values["language"],
            values["dup_cluster"],
            values["repeat"],
            values["mix_group"],
            _phases(table, names, values["repeat"], path, row),
        )
        row += rows


def phase_names(path: Path) -> list[str]:
    """The phases of training in their order, none if a documents file has no column of them."""
    if is_jsonl(path):
        return []
    schema = open_parquet(path, []).schema_arrow
    if PHASES not in schema.names:
        return []
    kind = schema.field(PHASES).type
    if not pa.types.is_struct(kind) or not all(pa.types.is_integer(field.type) for field in kind):
        raise TokenizerError(f"{path}: column {PHASES} is {kind}; expected a struct of one integer for each phase")
    if kind.num_fields > MOST_PHASES:
        raise TokenizerError(f"{path}: column {PHASES} has {kind.num_fields} phases; expected at most {MOST_PHASES}")
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


def text_bytes(path: Path, fields: Fields = FIELDS) -> int:
    """UTF-8 bytes of all texts of a documents file."""
    return sum(
        pc.sum(pc.binary_length(table.column("text"))).as_py() or 0 for table in document_tables(path, ["text"], fields)
    )
