"""Readers: input files cut into segments, segments read as records.

    for segment in split(file, shard_bytes, options):
        for record in open_segment(segment, limits): ...

Segments of one file are read in any order, and joined afterwards with `restart` and `carry`:

    expected = 0
    for segment, reader in zip(segments, readers):             # in file order, exhausted
        while (again := restart(segment, expected, reader)) is not None:
            segment, reader = again, <read again>                # the segment had begun inside a payload
        expected = carry(expected, reader)
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

from pipeline.files import InputFile, open_input
from pipeline.readers import jsonl, parquet
from pipeline.readers.archive import CUTTABLE, ArchiveReader
from pipeline.readers.html import HtmlReader
from pipeline.readers.jsonl import JsonlReader
from pipeline.readers.parquet import ParquetReader
from pipeline.readers.record import UNKNOWN, Limits, ReadOptions, Record, Segment, SegmentReader
from pipeline.readers.stream import detect_codec
from pipeline.readers.text import TextReader

__all__ = [
    "UNKNOWN",
    "Limits",
    "ReadOptions",
    "Record",
    "Segment",
    "SegmentReader",
    "carry",
    "open_segment",
    "preflight",
    "restart",
    "split",
]

READERS: dict[str, type[SegmentReader]] = {
    "warc": ArchiveReader,
    "wet": ArchiveReader,
    "jsonl": JsonlReader,
    "parquet": ParquetReader,
    "html": HtmlReader,
    "text": TextReader,
}


class Joint(Protocol):
    """How a segment that has been read joins its neighbours: `SegmentReader`, or what was noted of one."""

    first: int | None
    next: int | None


def split(file: InputFile, shard_bytes: int, options: ReadOptions) -> list[Segment]:
    """The segments of a file, in order: one, or several of about `shard_bytes` where the format can be cut."""
    whole = Segment(file.source, file.key, file.url, file.format, file.size, options=options)
    if file.size <= shard_bytes or file.format in ("html", "text"):
        return [whole]
    if file.format in ("jsonl", "parquet"):
        return (jsonl if file.format == "jsonl" else parquet).cut(file, shard_bytes, options)
    with open_input(file.url, options.storage_options) as opened:
        codec = detect_codec(opened.read(64), file.key)
    if codec not in CUTTABLE:
        return [replace(whole, codec=codec)]
    count = -(-file.size // shard_bytes)
    cuts = [file.size * index // count for index in range(count)]
    return [
        replace(whole, begin=begin, end=end, exact=begin == 0, codec=codec)
        for begin, end in zip(cuts, [*cuts[1:], None], strict=True)
    ]


def open_segment(segment: Segment, limits: Limits = Limits()) -> SegmentReader:  # noqa: B008 - frozen
    """The reader of a segment."""
    return READERS[segment.format](segment, limits)


def preflight(file: InputFile, options: ReadOptions) -> None:
    """Raise `InputError` for what can be known to be the user's mistake before the run (a missing text column, say)."""
    if file.format in ("jsonl", "parquet"):
        (jsonl if file.format == "jsonl" else parquet).preflight(file, options)


def restart(segment: Segment, expected: int | None, joint: Joint) -> Segment | None:
    """None if the reading of a segment stands, else the segment to read in its place.

    `expected` is what `carry` gave for the segments before it (0 before the first): where the next record starts.
    """
    if expected == UNKNOWN:
        return None
    owed = expected is not None and (segment.end is None or expected < segment.end)
    if joint.first == (expected if owed else None):
        return None
    again = replace(segment, begin=expected if owed and expected is not None else segment.size, exact=True)
    return None if again == segment else again  # read from the right place already, and failed there


def carry(expected: int | None, joint: Joint) -> int | None:
    """Where the next record starts after a segment whose reading stands."""
    return expected if joint.first is None and joint.next != UNKNOWN else joint.next
