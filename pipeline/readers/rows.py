"""A row of named values (JSONL, Parquet) to a record."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime
from typing import Any, BinaryIO

from pipeline.readers.charset import valid
from pipeline.readers.conversation import BadRow, conversation
from pipeline.readers.record import Limits, Place, ReadOptions, Record, SegmentReader, Unreadable
from pipeline.readers.warc import parse_date


class RowReader(SegmentReader):
    """Rows of a segment; `row` is the number of the one being read, which an I/O error is reported at."""

    def read(self) -> Iterator[Record]:
        """The records, in order."""
        self.row = self.first_row()
        try:
            with self.open() as file:
                yield from self.rows(file)
        except Unreadable as error:
            yield self.unreadable(Place(self.row, 0), error)

    @abstractmethod
    def first_row(self) -> int:
        """Number of the segment's first row."""

    @abstractmethod
    def rows(self, file: BinaryIO) -> Iterator[Record]:
        """The records of the opened file; moves `row` on."""


def fill_row(record: Record, row: Mapping[str, Any], options: ReadOptions, limits: Limits) -> Record:
    """Fill a record from a row: its text, else its HTML (a string or bytes), or its conversation; a row without fails."""
    record.record_id = name_of(row.get(options.id_field)) if options.id_field else None
    url = row.get(options.url_field)
    record.url = valid(url) if isinstance(url, str) and url else None
    record.date = seconds_of(row.get(options.date_field))
    if options.kind != "text":
        return _fill_conversation(record, row, options, limits)
    text, html = row.get(options.text_field), row.get(options.html_field)
    if isinstance(text, str):
        record.text = valid(text)
    elif text is None and isinstance(html, str):
        record.html, record.charset = valid(html).encode(), "utf-8"
    elif text is None and isinstance(html, bytes):
        record.html = html
    elif text is None:
        return record.fail("bad_row", detail="no text")
    else:
        return record.fail("bad_row", detail=f"text is no string but {type(text).__name__}")
    size = len(record.html) if record.html is not None else len(record.text or "")
    if size > limits.max_record_bytes:
        return record.fail("too_large", size, limits.max_record_bytes)
    return record


def _fill_conversation(record: Record, row: Mapping[str, Any], options: ReadOptions, limits: Limits) -> Record:
    try:
        found = conversation(row, options.kind, options.fields, options.verifier)
    except BadRow as error:
        return record.fail("bad_row", detail=valid(str(error))[:500])
    record.conversation, record.text = found, found.text
    if len(record.text) > limits.max_record_bytes:
        return record.fail("too_large", len(record.text), limits.max_record_bytes)
    return record


def name_of(value: Any) -> str | None:
    """A record's own name as a string."""
    if value is None:
        return None
    if isinstance(value, str):
        return valid(value)
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return json.dumps(value, sort_keys=True, default=str)


def seconds_of(value: Any) -> int | None:
    """UTC seconds since 1970 of a date: ISO text, seconds, or a date or datetime (UTC where it names no zone)."""
    if isinstance(value, datetime):
        return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() // 1)
    if isinstance(value, date):
        return int(datetime(value.year, value.month, value.day, tzinfo=UTC).timestamp())
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    if isinstance(value, str):
        try:
            return seconds_of(datetime.fromisoformat(value))
        except ValueError:
            return parse_date(value)
    # What a timestamp[s] column and Python's datetime both can hold.
    return int(value // 1) if -62_135_596_800 <= value <= 253_402_300_799 else None
