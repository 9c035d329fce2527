"""JSONL and Parquet files in chunks of rows, for `apply`: every column kept, order kept, replaced as a whole."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import zstandard

from pipeline.yamlfile import ConfigError

CHUNK_ROWS = 512


@dataclass
class Chunk:
    """Some rows of a file: JSON objects, or an Arrow table."""

    rows: list[dict[str, Any]] | None
    table: pa.Table | None

    def __len__(self) -> int:
        return len(self.rows) if self.rows is not None else self.arrow().num_rows

    def arrow(self) -> pa.Table:
        """The rows as a table; a JSON field whose values Arrow cannot hold in one column is left out."""
        if self.table is not None:
            return self.table
        assert self.rows is not None
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        columns: dict[str, pa.Array] = {}
        for name in names:
            try:
                columns[name] = pa.array([_clean(row.get(name)) for row in self.rows])
            except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
                continue
        return pa.table(columns) if columns else pa.table({"_none": pa.nulls(len(self.rows))})


def _clean(value: Any) -> Any:
    return (
        value.encode("utf-8", "replace").decode()
        if isinstance(value, str) and not value.isascii() and _lone(value)
        else value
    )


def _lone(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)


def file_kind(path: Path) -> str:
    """'jsonl' or 'parquet', by suffix. Raises `ConfigError`."""
    name = path.name.lower()
    for suffix in (".gz", ".zst"):
        name = name.removesuffix(suffix)
    if name.endswith((".jsonl", ".ndjson", ".json")):
        return "jsonl"
    if path.name.lower().endswith(".parquet"):
        return "parquet"
    raise ConfigError(f"{path}: the format follows the suffix: .jsonl (.gz, .zst) or .parquet")


def read_chunks(path: Path) -> Iterator[Chunk]:
    """The file's rows. Raises `ConfigError` naming file and line for what cannot be read."""
    if not path.is_file():
        raise ConfigError(f"{path}: no such file")
    if file_kind(path) == "parquet":
        try:
            with pq.ParquetFile(path) as parquet:
                for batch in parquet.iter_batches(batch_size=CHUNK_ROWS):
                    yield Chunk(None, pa.Table.from_batches([batch]))
        except (pa.ArrowInvalid, OSError) as error:
            raise ConfigError(f"{path}: not a readable Parquet file: {error}") from None
        return
    rows: list[dict[str, Any]] = []
    number = 0
    try:
        with _open_text(path, "r") as handle:
            for number, line in enumerate(handle, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ConfigError(f"{path}:{number}: expected a JSON object, got {type(row).__name__}")
                rows.append(row)
                if len(rows) == CHUNK_ROWS:
                    yield Chunk(rows, None)
                    rows = []
    except json.JSONDecodeError as error:
        raise ConfigError(f"{path}:{number}: not a JSON line: {error.msg}") from None
    except (OSError, EOFError, UnicodeDecodeError, zstandard.ZstdError) as error:
        raise ConfigError(f"{path}: cannot be read behind line {number}: {error}") from None
    if rows:
        yield Chunk(rows, None)


def _open_text(path: Path, mode: str) -> IO[str]:
    name = path.name.lower()
    raw: IO[bytes]
    if name.endswith(".gz"):
        raw = gzip.GzipFile(path, f"{mode}b", mtime=0) if mode == "w" else gzip.open(path, "rb")  # type: ignore[assignment]
    elif name.endswith(".zst"):
        raw = zstandard.open(path, f"{mode}b")
    else:
        raw = path.open(f"{mode}b")
    return io.TextIOWrapper(raw, encoding="utf-8")


class ChunkWriter:
    """Writes chunks with columns added or replaced, to a temporary file of the final one's format."""

    def __init__(self, final: Path, temporary: Path) -> None:
        self.kind = file_kind(final)
        self._text: IO[str] | None = None
        self._parquet: pq.ParquetWriter | None = None
        self._temporary = temporary
        if self.kind == "jsonl":
            named = temporary.with_name(temporary.name + "".join(s for s in final.suffixes if s in (".gz", ".zst")))
            self._text, self._named = _open_text(named, "w"), named

    def add(self, chunk: Chunk, columns: dict[str, pa.Array], without: tuple[str, ...]) -> None:
        """Append a chunk's rows with `columns` set and `without` left out."""
        if self.kind == "jsonl":
            assert self._text is not None
            rows = chunk.rows if chunk.rows is not None else chunk.arrow().to_pylist()
            values = {name: column.to_pylist() for name, column in columns.items()}
            for i, row in enumerate(rows):
                out = {k: v for k, v in row.items() if k not in without} | {
                    name: column[i] for name, column in values.items()
                }
                line = json.dumps(out, ensure_ascii=False, default=_plain)
                self._text.write((line if not _lone(line) else json.dumps(out, default=_plain)) + "\n")
            return
        table = chunk.arrow()
        for name in without:
            if name in table.column_names:
                table = table.drop_columns([name])
        for name, column in columns.items():
            at = table.column_names.index(name) if name in table.column_names else -1
            table = table.set_column(at, name, column) if at >= 0 else table.append_column(name, column)
        if self._parquet is None:
            self._parquet = pq.ParquetWriter(self._temporary, table.schema, compression="zstd")
        try:
            self._parquet.write_table(table.select(self._parquet.schema.names).cast(self._parquet.schema))
        except (KeyError, pa.ArrowInvalid, ValueError):
            raise ConfigError(
                "the rows' fields change along the file, which Parquet cannot hold; write .jsonl instead"
            ) from None

    def close(self) -> None:
        """Finish the file at its temporary path."""
        if self._text is not None:
            self._text.close()
            if self._named != self._temporary:
                self._named.replace(self._temporary)
        elif self._parquet is not None:
            self._parquet.close()
        else:
            pq.write_table(pa.table({"verdict": pa.array([], pa.string())}), self._temporary)


def _plain(value: Any) -> Any:
    """What JSON lacks: bytes as text, times in ISO form."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
