"""Parquet files: one record a row, read a few rows at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.files import InputError, InputFile, open_input
from pipeline.readers.conversation import ASKED, CONVERSATIONS, FIELDS
from pipeline.readers.record import ReadOptions, Record, Segment
from pipeline.readers.rows import RowReader, fill_row
from pipeline.readers.stream import read_at

BATCH_BYTES = 8 << 20  # of decoded values at a time, about
MAX_BATCH_ROWS = 1024
MAGIC = (b"PAR1", b"PARE")


class ParquetReader(RowReader):
    """Rows [begin, end) of a Parquet file; `offset` is the row number. A broken row group is one failed row."""

    def first_row(self) -> int:
        """Rows are numbered from the start of the file."""
        return self.segment.begin

    def rows(self, file: BinaryIO) -> Iterator[Record]:
        """The records of the opened file."""
        segment = self.segment
        self.first, self.next = segment.begin, segment.end
        if segment.size == 0:
            yield Record(0).fail("empty_file")
            return
        head = read_at(file, 0, 4)
        try:
            parquet = _open(file)
            columns = _columns(parquet.schema_arrow, segment.options)
        except (pa.ArrowException, OSError) as error:
            detail = "not a Parquet file" if head not in MAGIC else f"footer: {type(error).__name__}"
            yield Record(0).fail("corrupt", segment.size, detail=detail)
            return
        end = parquet.metadata.num_rows if segment.end is None else segment.end
        start = 0
        for group in range(parquet.num_row_groups):
            rows = parquet.metadata.row_group(group).num_rows
            if segment.begin <= start < end:
                yield from self._read_group(parquet, group, start, rows, columns)
            start += rows

    def _read_group(
        self, parquet: pq.ParquetFile, group: int, start: int, rows: int, columns: list[str]
    ) -> Iterator[Record]:
        self.row = start
        try:
            for batch in parquet.iter_batches(
                _batch_rows(parquet, group, columns), [group], columns, use_threads=False
            ):
                values = {name: _values(batch.column(name)) for name in columns}
                for index in range(batch.num_rows):
                    yield self._record({name: values[name][index] for name in columns})
                    self.row += 1
        except (pa.ArrowException, OSError) as error:
            left = start + rows - self.row
            yield Record(self.row).fail("corrupt", left, detail=f"{type(error).__name__}; {left} rows not read")

    def _record(self, row: dict[str, Any]) -> Record:
        record = Record(self.row)
        text = row.get(self.segment.options.text_field)
        try:
            values = {
                name: _text(value) if name != self.segment.options.html_field else value for name, value in row.items()
            }
        except UnicodeDecodeError:
            return record.fail("bad_row", detail="not UTF-8")
        if isinstance(text, bytes) and len(text) > self.limits.max_record_bytes:
            return record.fail("too_large", len(text), self.limits.max_record_bytes)
        return fill_row(record, values, self.segment.options, self.limits)


def _open(file: BinaryIO) -> pq.ParquetFile:
    # A buffered stream reads a column chunk page by page; pre-buffering would hold the whole row group.
    return pq.ParquetFile(file, buffer_size=1 << 20, pre_buffer=False)


def _columns(schema: pa.Schema, options: ReadOptions) -> list[str]:
    """The columns to read, in the file's order. Raises `InputError` if there is no text or HTML (or conversation) among them."""
    if options.kind != "text":
        return _conversation_columns(schema, options)
    wanted = (options.text_field, options.html_field, options.id_field, options.url_field, options.date_field)
    for name in (options.text_field, options.html_field):
        if name in schema.names and not _is_text(schema.field(name).type):
            raise InputError(f"column {name!r} is of type {schema.field(name).type}; expected string")
    if options.text_field not in schema.names and options.html_field not in schema.names:
        raise InputError(
            f"no column {options.text_field!r} (nor {options.html_field!r}); it has {', '.join(schema.names) or 'none'}; "
            "set input.text_field to the column that holds the text"
        )
    if options.id_field is not None and options.id_field not in schema.names:
        raise InputError(f"no column {options.id_field!r} (input.id_field); it has {', '.join(schema.names)}")
    return [name for name in schema.names if name in wanted]


def _conversation_columns(schema: pa.Schema, options: ReadOptions) -> list[str]:
    """The columns that a row of chat, preference or prompt data may be made of."""
    wanted = {*FIELDS, *options.fields.values(), options.id_field, options.url_field, options.date_field}
    missing = [f"{ours}: {theirs}" for ours, theirs in options.fields.items() if theirs not in schema.names]
    if missing:
        raise InputError(f"input.fields: no column for {missing[0]!r}; it has {', '.join(schema.names) or 'none'}")
    heads = {*CONVERSATIONS, *ASKED, *options.fields.values(), *(("chosen",) if options.kind == "preference" else ())}
    if not heads & set(schema.names):
        raise InputError(
            f"no column of {options.kind} data; it has {', '.join(schema.names) or 'none'}; "
            "name them with input.fields ({prompt: COLUMN, ...}; docs/chat.md lists the keys)"
        )
    return [name for name in schema.names if name in wanted]


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return any(
        test(kind)
        for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary, pa.types.is_large_binary)
    ) or str(kind) in ("string_view", "binary_view")


def _batch_rows(parquet: pq.ParquetFile, group: int, columns: list[str]) -> int:
    facts = parquet.metadata.row_group(group)
    size = sum(
        facts.column(index).total_uncompressed_size
        for index in range(facts.num_columns)
        if facts.column(index).path_in_schema.split(".")[0] in columns
    )
    return max(1, min(MAX_BATCH_ROWS, BATCH_BYTES * facts.num_rows // max(size, 1)))


def _values(column: pa.Array) -> list[Any]:
    """Python values; strings as bytes, since Parquet does not promise that they are UTF-8."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_string(column.type):
        column = column.cast(pa.binary())
    elif pa.types.is_large_string(column.type) or str(column.type) == "string_view":
        column = column.cast(pa.large_binary())
    elif pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("s"), safe=False).cast(pa.int64())  # beyond Python's years, too
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:  # in strings of nested values
        return [_value(column, row) for row in range(len(column))]


def _value(column: pa.Array, row: int) -> Any:
    try:
        return column[row].as_py()
    except UnicodeDecodeError as error:
        return error


def _text(value: Any) -> Any:
    if isinstance(value, UnicodeDecodeError):
        raise value
    return value.decode("utf-8") if isinstance(value, bytes) else value


def cut(file: InputFile, shard_bytes: int, options: ReadOptions) -> list[Segment]:
    """Segments of whole row groups of about `shard_bytes` together."""
    whole = Segment(file.source, file.key, file.url, file.format, file.size, options=options)
    try:
        with open_input(file.url, options.storage_options) as opened:
            metadata = _open(opened).metadata
    except (pa.ArrowException, OSError):
        return [whole]  # reading it tells what is wrong
    starts, row, size = [0], 0, 0
    for group in range(metadata.num_row_groups):
        facts = metadata.row_group(group)
        if size >= shard_bytes:
            starts.append(row)
            size = 0
        row += facts.num_rows
        size += sum(facts.column(index).total_compressed_size for index in range(facts.num_columns))
    starts = sorted({start for start in starts if start < row} | {0})
    return [
        Segment(file.source, file.key, file.url, file.format, file.size, begin, end, begin, options=options)
        for begin, end in zip(starts, [*starts[1:], None], strict=True)
    ]


def preflight(file: InputFile, options: ReadOptions) -> None:
    """Raise `InputError` if the file has no column to read. A broken file is not the user's error but a ledger row."""
    try:
        with open_input(file.url, options.storage_options) as opened:
            schema = _open(opened).schema_arrow
    except (pa.ArrowException, OSError):
        return
    try:
        _columns(schema, options)
    except InputError as error:
        raise InputError(f"{file.key}: {error}") from None
