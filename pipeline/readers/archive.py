"""WARC and ARC files: one record after the other, over damage, from any cut of the file.

Reading from a record start on is a function of the bytes that follow, so that a file cut into segments gives the records
of one pass: a segment ends at the first *start* (a member, or in a plain file a byte, that opens with a record head) at
or after its end, and the next begins at the first start it can find. Where that one was inside a payload (an archive
stored in an archive), the two do not meet, and the engine has the segment read again from the right place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

from pipeline.readers import arc, warc
from pipeline.readers.record import Limits, Place, Record, Segment, SegmentReader, Unreadable
from pipeline.readers.stream import ERRORS, Codec, Stream, detect_codec, read_at

WARC = re.compile(warc.START)
ARC = re.compile(arc.START)
ARC_LINE = re.compile(rb"\n(?=" + arc.START + rb")")
LONGEST = 8192 + 256  # bytes of a head that are looked at
PROBE = 1 << 14
SCAN = 1 << 20
MAX_HEAD = 1 << 18
BLANK = re.compile(rb"[\r\n \t]*")
END = re.compile(rb"(?:\r?\n){1,2}\Z")  # what ends a WARC record
CUTTABLE = ("plain", "gzip")


def is_head(data: bytes | bytearray, at: int) -> bool:
    """Whether a record head stands at data[at]; an ARC head only at a line start."""
    if data[at : at + 5] == b"WARC/":
        return WARC.match(data, at) is not None
    return (at == 0 or data[at - 1] == 10) and ARC.match(data, at) is not None


def find_head(data: bytes | bytearray, begin: int, end: int) -> int:
    """The first record head in data[begin:end], or -1. Two searches with literal prefixes: ten times as fast as one."""
    if begin < len(data) and is_head(data, begin):
        return begin
    found = WARC.search(data, begin, end)
    line = ARC_LINE.search(data, begin, end if found is None else min(end, found.start() + LONGEST))
    if line is not None and (found is None or line.end() < found.start()):
        return line.end()
    return -1 if found is None else found.start()


class Broken(Exception):
    """What stands at the place is no record, or one that cannot be read whole."""


class ArchiveReader(SegmentReader):
    """Records of a WARC, WET or ARC segment."""

    def __init__(self, segment: Segment, limits: Limits) -> None:
        super().__init__(segment, limits)
        self.wanted = ("conversion",) if segment.format == "wet" else ("response", "resource", "conversion")

    def read(self) -> Iterator[Record]:
        """The records, over damage."""
        self.place = Place(self.segment.begin, 0)
        try:
            with self.open() as file:
                yield from self._read(file)
        except Unreadable as error:
            yield self.unreadable(self.place, error)

    def _read(self, file: BinaryIO) -> Iterator[Record]:
        segment = self.segment
        self.file, self.end = file, segment.end
        name = segment.codec or detect_codec(read_at(file, 0, 64), segment.key)
        self.codec = Codec(name, file)
        self.stream = stream = Stream(file, self.codec)
        start: int | None = segment.begin
        if not segment.exact:
            start = self._scan(segment.begin, segment.end)
        end = segment.size if segment.end is None else segment.end
        if start is None or start >= max(end, 1):  # an empty file is read, and found to be one
            return
        self.first = start
        stream.seek(start)
        empty = start == 0
        while True:
            stream.compact()
            there = self._skip_blank()
            self.place = place = stream.place()
            if not there and stream.damage is None:
                if empty:
                    yield Record(0).fail("empty_file")
                return
            empty = False
            if there and self._is_next(place):
                self.next = place.offset
                return
            try:
                if not there:
                    raise Broken(stream.damage.reason if stream.damage else "")
                record = self._record(place)
            except Broken as broken:
                yield self._resynchronise(place, str(broken))
                if self.next is not None or stream.at >= len(stream.buffer):
                    return
                continue
            if record is not None:
                yield record

    def _is_next(self, place: Place) -> bool:
        return self.end is not None and place.offset >= self.end and place.sub == 0 and self._probe(place.offset)

    def _skip_blank(self) -> bool:
        """Move to the next byte that is not blank; False at the end of the stream."""
        stream = self.stream
        while True:
            stream.at = BLANK.match(stream.buffer, stream.at).end()  # type: ignore[union-attr]
            if stream.at < len(stream.buffer):
                return True
            stream.compact()
            if not stream.fill():
                return False

    # One record

    def _record(self, place: Place) -> Record | None:
        """The record at the stream's position, None if it is one that is only counted; moves behind it."""
        stream = self.stream
        stream.ensure(5)
        is_warc = stream.buffer[stream.at : stream.at + 5] == b"WARC/"
        head = warc.parse_head(self._head(warc.HEAD_END)) if is_warc else arc.parse_head(self._head(arc.HEAD_END))
        if head is None:
            stream.at += 1
            raise Broken("no record head")
        stream.at += self._head_size
        stream.ensure(0 if is_warc else 256)  # an ARC head has bare LF always: look at the block's
        begin, end = (stream.at - self._head_size, stream.at) if is_warc else (stream.at, stream.at + 256)
        self._bare = stream.buffer.find(b"\r", begin, end) < 0
        if head.kind == "warcinfo" and head.length is None and stream.search(find_head, LONGEST):
            self._count("warcinfo")
            return None
        if head.length is None:
            raise Broken("no record length")
        if head.length > self.limits.max_record_bytes:
            return self._large(place, head)
        block = self._content(place, head.length, wanted=head.kind in self.wanted)
        if block is None:
            self._count(head.kind)
            return None
        return warc.to_record(place, head, block, True, self.limits)

    def _count(self, kind: str) -> None:
        self.other_records[kind] = self.other_records.get(kind, 0) + 1

    def _head(self, pattern: re.Pattern[bytes]) -> bytes:
        """The head at the stream's position, its end included."""
        stream = self.stream
        looked = stream.at
        while True:
            match = pattern.search(stream.buffer, looked, stream.at + MAX_HEAD)
            if match:
                self._head_size = match.end() - stream.at
                return bytes(stream.buffer[stream.at : match.end()])
            looked = max(stream.at, len(stream.buffer) - 4)
            if len(stream.buffer) - stream.at >= MAX_HEAD or not stream.fill():
                break
        if stream.damage is not None:
            stream.at = len(stream.buffer)
            raise Broken(stream.damage.reason)
        reason = "truncated" if is_head(stream.buffer, stream.at) else "no record head"
        stream.at += 1
        raise Broken(reason)

    def _content(self, place: Place, length: int, wanted: bool) -> bytes | None:
        """The block of a record whose head has been passed (None unless wanted); moves to what follows it."""
        stream = self.stream
        start = looked = stream.at
        stop = start + length
        while True:
            here = min(stop, len(stream.buffer))
            lie = next((index for index, offset in stream.boundaries(looked, here) if self._probe(offset)), None)
            if lie is not None:  # a length that lies: another record begins inside
                stop = lie
                break
            looked = here
            if here == stop or not stream.fill():
                break
        if len(stream.buffer) < stop:
            if stream.damage is not None:
                stream.at = len(stream.buffer)
                raise Broken(stream.damage.reason)
            if self.codec.name == "plain" or place.sub or stream.boundaries(start, len(stream.buffer)):
                head = self._head_inside(start, len(stream.buffer))
                stop = len(stream.buffer) if head is None else head
                if not self._is_unix(start, stop, length):
                    stream.at = stop
                    raise Broken("truncated" if head is None else "wrong record length")
            else:
                stop = len(stream.buffer)  # a sound member holds all there is of the record
        stream.at = stop
        last = stream.member_at(stop - 1)
        stop = self._confirm(start, stop, length)
        if stream.at >= len(stream.buffer) and stream.damage is not None and stream.damage.offset == last:
            raise Broken(stream.damage.reason)  # the member's checksum is wrong, or its end is missing
        if not wanted:
            return None
        with memoryview(stream.buffer) as view:
            block = bytes(view[start:stop])
        return block if stop == start + length else END.sub(b"", block)

    def _confirm(self, start: int, stop: int, length: int) -> int:
        """Move to what follows a record, and return its true end; raise `Broken` if its length is wrong beyond repair."""
        stream = self.stream
        stream.ensure(4)
        after = bytes(stream.buffer[stop : stop + 4])
        self._skip_kept()
        if after == b"\r\n\r\n" or stream.at >= len(stream.buffer) or stream.boundaries(stop, stream.at + 1):
            return stop
        if self._at_head():
            return stop
        head = self._head_inside(start, stop)
        if head is not None:
            stream.at = head
            if self._is_unix(start, head, length):
                return head
            raise Broken("wrong record length")
        if after[:1] in (b"\r", b"\n"):
            return stop  # the record is whole, and what follows is none
        # The length is too small (characters counted for bytes, say): the record runs on to the next.
        stream.at = stop
        limit = start + self.limits.max_record_bytes
        while stream.at < limit:
            head = self._head_inside(stream.at, len(stream.buffer) - LONGEST)
            bounds = stream.boundaries(stop, len(stream.buffer) if head is None else head)
            if bounds or head is not None:
                stream.at = bounds[0][0] if bounds else head or 0
                return stream.at
            stream.at = max(stream.at, len(stream.buffer) - LONGEST)
            if not stream.fill():
                head = self._head_inside(stream.at, len(stream.buffer))
                stream.at = len(stream.buffer) if head is None else head
                return stream.at
        stream.at = stop
        return stop

    def _is_unix(self, start: int, stop: int, length: int) -> bool:
        """Whether the length still counts line ends as CRLF, and the file was brought to bare LF."""
        return self._bare and stop - start + self.stream.buffer.count(b"\n", start, stop) >= length

    def _skip_kept(self) -> None:
        """As `_skip_blank`, but what was read of the record stays in the buffer."""
        stream = self.stream
        while True:
            stream.at = BLANK.match(stream.buffer, stream.at).end()  # type: ignore[union-attr]
            if stream.at < len(stream.buffer) or not stream.fill():
                return

    def _at_head(self) -> bool:
        self.stream.ensure(LONGEST)
        return is_head(self.stream.buffer, self.stream.at)

    def _head_inside(self, start: int, stop: int) -> int | None:
        """Where the first record head in buffer[start:stop] starts."""
        found = find_head(self.stream.buffer, start, max(start, min(len(self.stream.buffer), stop + LONGEST)))
        return found if 0 <= found < stop else None

    def _large(self, place: Place, head: warc.Head) -> Record | None:
        """A record over the limit: what its first bytes do not settle fails; the rest is passed over."""
        stream = self.stream
        assert head.length is not None
        stream.ensure(MAX_HEAD)
        start, (offset, sub) = stream.at, stream.place()
        block = bytes(stream.buffer[start : start + MAX_HEAD])
        whole = self._pass(head.length)
        if not whole and stream.damage is not None:
            raise Broken(stream.damage.reason)
        last = stream.member_at(stream.at - 1)
        self._skip_blank()
        if stream.damage is not None and stream.at >= len(stream.buffer) and stream.damage.offset == last:
            raise Broken(stream.damage.reason)
        if not whole or not (stream.at >= len(stream.buffer) or self._at_head()):
            stream.seek(offset)
            stream.skip(sub)
            raise Broken("wrong record length" if whole else "truncated")
        if head.kind not in self.wanted:
            self._count(head.kind)
            return None
        record = warc.to_record(place, head, block, False, self.limits)
        if record.fate is None:
            record.fail("too_large", head.length, self.limits.max_record_bytes)
        return record

    def _pass(self, length: int) -> bool:
        """Pass over a block without holding it, up to a member that opens with a record head; False if the stream ends before."""
        stream = self.stream
        while True:
            here = min(stream.at + length, len(stream.buffer))
            for index, offset in stream.boundaries(stream.at, here):
                if self._probe(offset):
                    stream.at = index
                    return True
            length -= here - stream.at
            stream.at = here
            stream.compact()
            if not length:
                return True
            if not stream.fill():
                return False

    # Finding the next record

    def _resynchronise(self, place: Place, reason: str) -> Record:
        """Move to the next record after an unreadable stretch that starts at `place`; the stretch is one failed row."""
        stream = self.stream
        exhausted = stream.damage is not None and stream.at >= len(stream.buffer)
        found = not exhausted and stream.search(find_head, LONGEST)
        if found:
            where = stream.place()
            skipped = where.offset - place.offset or where.sub - place.sub
            return Record(*place).fail("corrupt", skipped, detail=f"{reason}; {skipped} bytes skipped")
        start = self._scan(stream.damage.offset + 1, None) if stream.damage is not None else None
        if start is None:
            skipped = self.segment.size - place.offset
            if place == (0, 0) and reason == "no record head":
                reason = "not a WARC or ARC file"
            detail = "truncated" if reason == "truncated" else f"{reason}; {skipped} bytes skipped"
            return Record(*place).fail("corrupt", skipped, detail=detail)
        skipped = start - place.offset
        if self.end is not None and start >= self.end:
            self.next = start
        else:
            stream.seek(start)
            stream.fill()
        return Record(*place).fail("corrupt", skipped, detail=f"{reason}; {skipped} bytes skipped")

    def _scan(self, begin: int, end: int | None) -> int | None:
        """Offset of the first record start in [begin, end); None if there is none."""
        if self.codec.name == "plain":
            before = min(begin, 1)
            self.stream.seek(begin - before)
            self.stream.at = before if self.stream.ensure(before + 1) else 0
            stop = None if end is None else end - begin + before
            found = self.stream.search(find_head, LONGEST, stop)
            return self.stream.place().offset if found else None
        magic = self.codec.magic
        if not magic or self.codec.name == "lz4":
            return None
        base, window = begin, b""
        while True:
            data = read_at(self.file, base + len(window), SCAN)
            self.stream.moved()
            window += data
            at = window.find(magic)
            while at >= 0:
                if end is not None and base + at >= end:
                    return None
                if self._probe(base + at):
                    return base + at
                at = window.find(magic, at + 1)
            if not data or (end is not None and base + len(window) >= end + len(magic)):
                return None
            keep = min(len(window), len(magic) - 1)
            base, window = base + len(window) - keep, window[len(window) - keep :]

    def _probe(self, offset: int) -> bool:
        """Whether a member at this file offset opens with a record head."""
        if self.codec.name == "plain":
            before = min(offset, 1)
            data = read_at(self.file, offset - before, LONGEST + before)
            self.stream.moved()
            return len(data) > before and is_head(data, before)
        raw = read_at(self.file, offset, PROBE)
        self.stream.moved()
        if not raw.startswith(self.codec.magic):
            return False
        member, out = self.codec.new(), b""
        try:
            while raw and len(out) < LONGEST and not member.eof:
                more, raw = self.codec.step(member, raw, 512)
                out += more
        except ERRORS:
            pass
        return is_head(out, 0)
