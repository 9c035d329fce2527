"""JSONL and Parquet files in chunks of rows, for `apply`: every column kept, order kept, replaced as a whole."""

from __future__ import annotations

import gzip
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from pipeline.engine.writers import TableWriter
from pipeline.readers.stream import Codec, Stream, detect_codec, read_at
from pipeline.yamlfile import ConfigError

CHUNK_ROWS = 512
CHUNK_BYTES = 16 << 20  # as stored in JSONL, or as Parquet's footer says
SUFFIXES = (".jsonl", ".ndjson", ".json")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class Chunk:
    """Some rows of a file: JSON objects, or an Arrow table."""

    rows: list[dict[str, Any]] | None
    table: pa.Table | None = None

    def __len__(self) -> int:
        if self.rows is not None:
            return len(self.rows)
        assert self.table is not None
        return int(self.table.num_rows)

    @property
    def names(self) -> list[str]:
        """Names of the columns; of JSON, of all keys of these rows in the order in which they come."""
        if self.table is not None:
            return list(self.table.column_names)
        return list(dict.fromkeys(name for row in self.rows or () for name in row))

    def values(self, name: str) -> list[Any]:
        """A column as Python values."""
        if self.rows is not None:
            return [row.get(name) for row in self.rows]
        assert self.table is not None
        values: list[Any] = self.table.column(name).to_pylist()
        return values

    def scalars(self) -> pa.Table:
        """The columns of plain values, which are what a stage can read. A JSON field of several types is left out."""
        if self.table is not None:
            flat = [f.name for f in self.table.schema if not pa.types.is_nested(f.type)]
            return self.table.select(flat)
        columns: dict[str, pa.Array] = {}
        for name in self.names:
            values = self.values(name)
            if name != clean(name) or any(isinstance(value, dict | list) for value in values):
                continue
            try:
                columns[name] = pa.array([clean(value) for value in values])
            except (pa.ArrowException, OverflowError):
                continue
        return pa.table(columns) if columns else pa.table({"_": pa.nulls(len(self))})


def clean(value: Any) -> Any:
    """The value with every lone surrogate as U+FFFD, which Arrow can hold; positions stay what they were."""
    if isinstance(value, str):
        return value if value.isascii() else _SURROGATE.sub("\ufffd", value)
    if isinstance(value, dict):
        return {clean(key): clean(item) for key, item in value.items()}
    return [clean(item) for item in value] if isinstance(value, list) else value


def file_kind(path: Path) -> str:
    """'jsonl' or 'parquet', by suffix. Raises `ConfigError`."""
    name = path.name.lower()
    if name.endswith(".parquet"):
        return "parquet"
    for suffix in (".gz", ".zst"):
        name = name.removesuffix(suffix)
    if name.endswith(SUFFIXES):
        return "jsonl"
    raise ConfigError(f"{path}: the format follows the suffix: .jsonl, .jsonl.gz, .jsonl.zst or .parquet")


def check_source(path: Path) -> None:
    """Raise `ConfigError` for what is no file of a known format."""
    file_kind(path)
    if not path.is_file():
        what = "is a directory; give one file" if path.is_dir() else "no such file"
        raise ConfigError(f"{path}: {what}")


def read_chunks(path: Path) -> Iterator[Chunk]:
    """The file's rows, at least one chunk (which may be empty). Raises `ConfigError` naming file and line for what cannot be read."""
    check_source(path)
    yield from _parquet_chunks(path) if file_kind(path) == "parquet" else _json_chunks(path)


def _parquet_chunks(path: Path) -> Iterator[Chunk]:
    try:
        with pq.ParquetFile(path) as parquet:
            names = parquet.schema_arrow.names
            if len(set(names)) < len(names):
                twice = next(name for name in names if names.count(name) > 1)
                raise ConfigError(f"{path}: has two columns called {twice!r}; rename one")
            meta = parquet.metadata
            size = sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))
            rows = max(1, min(CHUNK_ROWS, CHUNK_BYTES * meta.num_rows // max(size, 1)))
            if meta.num_rows == 0:
                yield Chunk(None, parquet.schema_arrow.empty_table())
            for batch in parquet.iter_batches(batch_size=rows):
                yield Chunk(None, pa.Table.from_batches([batch]))
    except (pa.ArrowException, OSError) as error:
        raise ConfigError(f"{path}: cannot be read as Parquet: {str(error).splitlines()[0]}") from None


def _json_chunks(path: Path) -> Iterator[Chunk]:
    rows: list[dict[str, Any]] = []
    size, started = 0, False
    try:
        for number, line in _lines(path):
            rows.append(_row(path, number, line))
            size += len(line)
            if len(rows) >= CHUNK_ROWS or size >= CHUNK_BYTES:
                yield Chunk(rows)
                rows, size, started = [], 0, True
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from None
    if rows or not started:
        yield Chunk(rows)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers from 1."""
    with path.open("rb") as file:
        stream = Stream(file, Codec(detect_codec(read_at(file, 0, 64), path.name), file))
        number, looked = 0, 0
        while True:
            end = stream.buffer.find(b"\n", looked)
            if end < 0:
                looked = len(stream.buffer)
                if stream.fill():
                    continue
                if stream.damage is not None:
                    raise ConfigError(f"{path}: damaged behind line {number} ({stream.damage.reason})")
                end = len(stream.buffer)
            line = bytes(stream.buffer[stream.at : end])
            last = end == len(stream.buffer)
            stream.at = min(end + 1, len(stream.buffer))
            number += 1
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                yield number, line
            if last and not stream.fill():
                if stream.damage is not None:
                    raise ConfigError(f"{path}: damaged behind line {number} ({stream.damage.reason})")
                return
            stream.compact()
            looked = stream.at


def _row(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        row = json.loads(line.decode())
    except UnicodeDecodeError:
        raise ConfigError(f"{path}:{number}: not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{number}: not a line of JSON: {error.msg}, column {error.colno}") from None
    except (ValueError, RecursionError) as error:
        why = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ConfigError(f"{path}:{number}: not a line of JSON: {why}") from None
    if not isinstance(row, dict):
        raise ConfigError(f"{path}:{number}: expected a JSON object, got {type(row).__name__}")
    return row


def file_schema(path: Path, only_scalars: bool = False) -> pa.Schema:
    """Columns of the whole file. JSONL is read through for it.

    Raises `ConfigError` for a JSON field that Arrow cannot hold in one column; with `only_scalars`, nested fields and
    those of several types are left out instead.
    """
    if file_kind(path) == "parquet":
        first = next(read_chunks(path))
        assert first.table is not None
        return first.scalars().schema if only_scalars else first.table.schema
    kinds: dict[str, pa.DataType | None] = {}
    for chunk in read_chunks(path):
        for name in chunk.names:
            try:
                if name != clean(name):
                    raise pa.ArrowInvalid("its name has a lone surrogate")
                kind = pa.array(clean(chunk.values(name))).type
                if name in kinds and kinds[name] is not None:
                    both = [pa.schema([(name, k)]) for k in (kinds[name], kind)]
                    kind = pa.unify_schemas(both, promote_options="permissive").field(0).type
                kinds.setdefault(name, kind)
                kinds[name] = kind if kinds[name] is not None else None
            except (pa.ArrowException, OverflowError, RecursionError) as error:
                if not only_scalars:
                    raise ConfigError(
                        f"{path}: the field {name!a} does not fit into one Parquet column "
                        f"({str(error).splitlines()[0]}); write .jsonl instead"
                    ) from None
                kinds[name] = None
    fits = [(n, k) for n, k in kinds.items() if k is not None and not (only_scalars and pa.types.is_nested(k))]
    return pa.schema(fits)


def as_table(chunk: Chunk, schema: pa.Schema) -> pa.Table:
    """A chunk's columns of a schema that `file_schema` gave; a column that it lacks is null."""
    if chunk.table is not None:
        return chunk.table.select(schema.names)
    names = set(chunk.names)
    arrays = [
        pa.array(clean(chunk.values(field.name)), field.type)
        if field.name in names
        else pa.nulls(len(chunk), field.type)
        for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


class ChunkWriter:
    """Writes chunks with columns added or replaced, to a temporary file in the format of the final one."""

    def __init__(
        self, source: Path, final: Path, temporary: Path, added: dict[str, pa.DataType], without: Iterable[str]
    ) -> None:
        self.without = frozenset(without)
        self.added = added
        self._text: IO[str] | None = None
        self._parquet: TableWriter | None = None
        self._temporary = temporary
        if file_kind(final) == "jsonl":
            self._text = _open_text(temporary, final.name.lower())
            return
        self._schema = file_schema(source)
        fields = {f.name: f for f in self._schema if f.name not in self.without}
        fields |= {name: pa.field(name, kind) for name, kind in added.items()}
        metadata = {
            k: v for k, v in (self._schema.metadata or {}).items() if k != b"huggingface"
        }  # tells the old columns
        try:
            self._parquet = TableWriter(temporary, pa.schema(list(fields.values()), metadata=metadata or None))
        except pa.ArrowException as error:
            raise ConfigError(f"{source}: does not fit into Parquet ({error}); write .jsonl instead") from None

    def add(self, chunk: Chunk, columns: dict[str, pa.Array]) -> None:
        """Append a chunk's rows with `columns` set."""
        if self._text is not None:
            self._add_json(chunk, columns)
            return
        assert self._parquet is not None
        table = as_table(chunk, self._schema)
        arrays = [
            columns[f.name].cast(f.type) if f.name in self.added else table.column(f.name) for f in self._parquet.schema
        ]
        self._parquet.add(pa.Table.from_arrays(arrays, schema=self._parquet.schema))

    def _add_json(self, chunk: Chunk, columns: dict[str, pa.Array]) -> None:
        assert self._text is not None
        rows = chunk.rows if chunk.rows is not None else chunk.table.to_pylist() if chunk.table is not None else []
        values = {name: columns[name].to_pylist() for name in self.added}
        for i, row in enumerate(rows):
            out = {name: value for name, value in row.items() if name not in self.without}
            for name, column in values.items():
                if name == "text" and name in row and column[i] in (None, clean(row[name])):
                    continue  # unchanged: as it came, lone surrogates and odd types included
                out[name] = column[i]
            line = json.dumps(out, ensure_ascii=False, default=_plain)
            self._text.write((json.dumps(out, default=_plain) if _SURROGATE.search(line) else line) + "\n")

    def close(self) -> None:
        """Finish the file, on disk."""
        self.abandon()
        with self._temporary.open("rb+") as handle:
            os.fsync(handle.fileno())

    def abandon(self) -> None:
        """Let go of the file."""
        if self._text is not None:
            self._text.close()
        if self._parquet is not None:
            self._parquet.close()
        self._text = self._parquet = None


def _open_text(path: Path, name: str) -> IO[str]:
    """A text file compressed as the name says; neither name nor time go into it."""
    raw: IO[bytes] = path.open("wb")
    if name.endswith(".gz"):
        raw = _Owning(raw)  # type: ignore[assignment]
    elif name.endswith(".zst"):
        raw = zstandard.ZstdCompressor(level=3).stream_writer(raw)  # type: ignore[assignment]
    return io.TextIOWrapper(io.BufferedWriter(raw, 1 << 20), encoding="utf-8", newline="\n")  # type: ignore[arg-type]


class _Owning(gzip.GzipFile):
    """A gzip stream that closes the file below it."""

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__("", "wb", 6, file, mtime=0)
        self._below = file

    def close(self) -> None:
        """Write the trailer and close both."""
        super().close()
        self._below.close()


def _plain(value: Any) -> Any:
    """What JSON lacks: bytes as text, times in ISO form."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
