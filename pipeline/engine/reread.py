"""Payloads read again: where a phase ends before the stage that uses them up, rows cross without their `html`."""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import pyarrow as pa

from pipeline.engine.rows import payload_hash, record_id, stored_rows
from pipeline.engine.shards import Shard
from pipeline.engine.stitch import Place, Span
from pipeline.readers import open_segment
from pipeline.readers.record import Limits, Record, Segment

if TYPE_CHECKING:
    from pipeline.engine.map_unit import MapTask

PAGES_BYTES = 8 << 20  # payload bytes joined at once


class InputChanged(OSError):
    """A record that was read before is not there any more, or is another one."""


def read_segments(shard: Shard, spans: Mapping[Place, Span]) -> tuple[Segment, ...]:
    """The segments of a shard as its first phase read them in the end: from the record start that each truly has.

    Archives whose unit took no record of a segment (it was empty, or behind a limit) have nothing to read again.
    """
    found = []
    for segment in shard.segments:
        span = spans.get((segment.source, segment.key, segment.begin))
        if span is None:
            continue
        if segment.format in ("warc", "wet"):
            if span.first is None:
                continue
            segment = replace(segment, begin=span.first, exact=True)
        found.append(segment)
    return tuple(found)


def rows_with_payload(task: MapTask) -> Iterator[tuple[pa.Table, int]]:
    """The rows that the phase before stored with their `html` read again, as `stored_rows` gives them.

    Both are in the order of the input, so that one pass over the segments is enough; it ends with the last row that
    had a payload, and never begins where no row had one. Raises `InputChanged`.
    """
    assert task.upstream is not None
    with contextlib.closing(_pages(task.segments, task.limits)) as pages:
        for stored, row in stored_rows(task.store, task.upstream):
            hashes = stored.column("payload_hash").to_pylist()
            start, size, found = 0, 0, []
            for place, hashed in enumerate(hashes):
                page = None if hashed is None else _find(pages, stored, place, hashed)
                found.append(page)
                size += len(page or b"")
                if size >= PAGES_BYTES or place + 1 == len(hashes):
                    part = stored.slice(start, len(found))
                    part = part.append_column("html", pa.array(found, pa.large_binary()))
                    yield part if task.leaves_payload else part.drop_columns(["payload_hash"]), row + start
                    start, size, found = place + 1, 0, []


def _pages(segments: Sequence[Segment], limits: Limits) -> Generator[tuple[Segment, Record]]:
    """Every record of the segments, in order."""
    for segment in segments:
        with contextlib.closing(open_segment(segment, limits)) as reader:
            for record in reader:
                yield segment, record


def _find(pages: Iterator[tuple[Segment, Record]], stored: pa.Table, place: int, hashed: bytes) -> bytes:
    """The payload of a stored row: that of the next record with its id."""
    wanted = stored.column("id")[place].as_py()
    fault = ""  # of the reader, on the way
    for segment, record in pages:
        if record.rule == "unreadable":
            fault = f" ({record.detail} while it was read)"
        if record_id(segment.source, segment.key, record.offset, record.sub) == wanted:
            if record.html is not None and payload_hash(record.html) == hashed:
                return record.html
            break
    key, offset, source = (stored.column(name)[place].as_py() for name in ("_file", "_offset", "source"))
    raise InputChanged(
        f"input {source!r}: {key}: the page at offset {offset} was read before, and is not there any more or another one{fault}; "
        "expected files that stay as they are while a run goes on; run the same command again: what changed is then read anew"
    )
