"""JSON lines: one object a line; plain, or compressed by gzip, zstd or xz."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.files import InputError, InputFile, open_input
from pipeline.readers.record import ReadOptions, Record, Segment
from pipeline.readers.rows import RowReader, fill_row
from pipeline.readers.stream import Codec, Stream, detect_codec, read_at

COUNTED = 1 << 20  # bytes read at a time to count lines


class JsonlReader(RowReader):
    """Rows of a JSONL segment, which begins at the start of a line. `offset` is the row number; blank lines count too."""

    def first_row(self) -> int:
        """Rows are numbered from the start of the file."""
        return self.segment.base_row

    def rows(self, file: BinaryIO) -> Iterator[Record]:
        """The records of the opened file."""
        segment, limit = self.segment, self.limits.max_record_bytes
        stop = segment.size if segment.end is None else segment.end
        if segment.begin >= max(stop, 1):
            return
        self.first, self.next = segment.begin, segment.end
        stream = Stream(file, Codec(segment.codec or detect_codec(read_at(file, 0, 64), segment.key), file))
        stream.seek(segment.begin)
        seen = False
        while True:
            if stream.codec.name == "plain" and segment.begin + stream.base + stream.at >= stop:
                return
            line, size = _next_line(stream, limit)
            if line is None and stream.damage is not None:
                reason = stream.damage.reason
                yield Record(self.row).fail(
                    "corrupt", detail=reason if reason == "truncated" else f"{reason}; the rest is not read"
                )
                return
            if line is None:
                if not seen and segment.begin == 0:
                    yield Record(self.row).fail("empty_file")
                return
            if size > limit:
                yield Record(self.row).fail("too_large", size, limit)
            elif line.strip():
                yield self._record(line)
            seen = seen or size > limit or bool(line.strip())
            self.row += 1

    def _record(self, line: bytes) -> Record:
        record = Record(self.row)
        try:
            row = json.loads(line.decode("utf-8-sig" if self.row == 0 else "utf-8"))
        except UnicodeDecodeError:
            return record.fail("bad_row", detail="not UTF-8")
        except (ValueError, RecursionError) as error:
            position = f" at character {error.pos}" if isinstance(error, json.JSONDecodeError) else ""
            return record.fail(
                "bad_row", detail=f"not JSON{position}" if isinstance(error, ValueError) else "nested too deeply"
            )
        if not isinstance(row, dict):
            return record.fail("bad_row", detail=f"no object but {type(row).__name__}")
        return fill_row(record, row, self.segment.options, self.limits)


def _next_line(stream: Stream, limit: int) -> tuple[bytes | None, int]:
    """(line without its end, its size): only a part of a line over `limit`; None at the end of the stream or at damage."""
    stream.compact()
    looked, size = stream.at, 0
    while True:
        end = stream.buffer.find(b"\n", looked)
        if end >= 0:
            line = bytes(stream.buffer[stream.at : end])
            stream.at = end + 1
            return line, size + len(line)
        if len(stream.buffer) - stream.at > limit:
            size += len(stream.buffer) - stream.at
            stream.at = len(stream.buffer)
            stream.compact()
        looked = len(stream.buffer)
        if not stream.fill():
            if stream.damage is not None or (stream.at >= len(stream.buffer) and not size):
                return None, 0
            line = bytes(stream.buffer[stream.at :])
            stream.at = len(stream.buffer)
            return line, size + len(line)


def cut(file: InputFile, shard_bytes: int, options: ReadOptions) -> list[Segment]:
    """Segments of about `shard_bytes` that begin at line starts, if the file is plain; it is read once to count lines."""
    whole = Segment(file.source, file.key, file.url, file.format, file.size, options=options)
    with open_input(file.url, options.storage_options) as stream:
        head = stream.read(64)
        codec = detect_codec(head, file.key)
        if codec != "plain":
            return [whole]
        starts = [(0, 0)]
        stream.seek(0)
        offset, row, due = 0, 0, shard_bytes
        while data := stream.read(COUNTED):
            at = 0
            while due <= offset + len(data):
                newline = data.find(b"\n", max(at, due - 1 - offset))
                if newline < 0:
                    break
                row += data.count(b"\n", at, newline + 1)
                at = newline + 1
                starts.append((offset + at, row))
                due = offset + at + shard_bytes
            row += data.count(b"\n", at)
            offset += len(data)
    starts = [start for start in starts if start[0] < file.size]
    ends: list[int | None] = [start[0] for start in starts[1:]]
    return [
        Segment(file.source, file.key, file.url, file.format, file.size, begin, end, base_row, True, "plain", options)
        for (begin, base_row), end in zip(starts, [*ends, None], strict=True)
    ]


def preflight(file: InputFile, options: ReadOptions) -> None:
    """Raise `InputError` for a file that is JSON, but not JSON lines in UTF-8."""
    with open_input(file.url, options.storage_options) as opened:
        head = opened.read(64)
    if head[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(
            f"{file.key}: is UTF-16; expected JSON lines in UTF-8; convert it first (iconv -f utf-16 -t utf-8)"
        )
    if head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[":
        raise InputError(
            f"{file.key}: is a JSON array; expected one JSON object a line; convert it first (jq -c '.[]')"
        )
