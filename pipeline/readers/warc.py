"""WARC records (ISO 28500), WET among them: head and block to a record."""

from __future__ import annotations

import calendar
import re
from contextlib import suppress
from datetime import datetime
from typing import NamedTuple

from pipeline.readers import http
from pipeline.readers.record import Limits, Place, Record

START = rb"WARC/\d\.\d{1,2}[ \t\r]{0,9}\n[A-Za-z][A-Za-z0-9-]{0,60}[ \t]*:"
HEAD_END = re.compile(rb"\n\r{0,9}\n")  # bare LF line ends are read too, and what became of CRLF converted twice
VERSION = re.compile(r"WARC/\d\.\d")
DATE = re.compile(r"(\d{4})(?:-?(\d\d)(?:-?(\d\d)(?:T?(\d\d)(?::?(\d\d)(?::?(\d\d))?)?)?)?)?")


class Head(NamedTuple):
    """What a record's head says; `length` None if it gives no usable one. ARC heads are read into the same shape."""

    kind: str
    length: int | None
    record_id: str | None
    url: str | None
    date: int | None
    mime: str | None  # of the block: application/http for HTTP responses
    http: bool  # the block is to start with an HTTP head


def parse_head(head: bytes) -> Head | None:
    """The head of a WARC record; None if it is none."""
    lines = head.decode("utf-8", "replace").split("\n")
    if not VERSION.match(lines[0]):
        return None
    fields = http.fields_of(lines[1:])
    length = fields.get("content-length", "")
    kind = fields.get("warc-type", "").lower() or "unknown"
    mime = fields.get("content-type")
    return Head(
        kind=kind,
        length=int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None,
        record_id=fields.get("warc-record-id") or None,
        url=(fields.get("warc-target-uri") or "").strip("<>") or None,
        date=parse_date(fields.get("warc-date")),
        mime=mime,
        http=kind == "response" and (mime is None or mime.lower().startswith("application/http")),
    )


def parse_date(date: str | None) -> int | None:
    """UTC seconds since 1970 of a W3C date of any precision, or of ARC's 14 digits; None if it is no date."""
    if date is not None and len(date) == 20 and date[10] == "T" and date[-1] == "Z":  # nearly all are
        with suppress(ValueError):
            return int(datetime.fromisoformat(date).timestamp())
    match = DATE.match(date or "")
    if not match:
        return None
    year, month, day, hour, minute, second = (int(part) if part else None for part in match.groups())
    month, day = month or 1, day or 1
    try:
        calendar.weekday(year or 0, month, day)
    except ValueError:
        return None
    if not year or (hour or 0) > 23 or (minute or 0) > 59 or (second or 0) > 60:
        return None
    return calendar.timegm((year, month, day, hour or 0, minute or 0, second or 0))


def to_record(place: Place, head: Head, block: bytes, whole: bool, limits: Limits) -> Record:
    """The record of a response, resource or conversion block; `whole` False if `block` is only its start."""
    record = Record(place.offset, place.sub, head.record_id, head.url, head.date)
    if head.http or (head.kind == "response" and block[:5] == b"HTTP/"):
        mime = None if head.mime is None or head.mime.lower().startswith("application/http") else head.mime
        return http.fill_response(record, block, mime, whole, limits)
    if head.kind == "conversion":
        mime = http.mime_of(head.mime) or http.TEXT
        return http.fill(
            record, block, mime, "utf-8" if mime == http.TEXT else http.charset_of(head.mime), whole, limits
        )
    return http.fill(record, block, head.mime, http.charset_of(head.mime), whole, limits)
