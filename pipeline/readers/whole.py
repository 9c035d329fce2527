"""Files that are one record: the bytes of the whole file, decompressed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

from pipeline.readers.record import Place, Record, SegmentReader, Unreadable
from pipeline.readers.stream import Codec, Stream, detect_codec, read_at


class WholeFileReader(SegmentReader):
    """One record, at offset 0."""

    def read(self) -> Iterator[Record]:
        """The record."""
        if self.segment.begin > 0:
            return
        self.first = 0
        record = Record(0)
        try:
            data = self._content(record)
        except Unreadable as error:
            yield self.unreadable(Place(0, 0), error)
            return
        yield record if data is None else self.fill(record, data)

    @abstractmethod
    def fill(self, record: Record, data: bytes) -> Record:
        """The record with its content."""

    def _content(self, record: Record) -> bytes | None:
        """The file's content; None, and the record settled, if there is none to use."""
        limit = self.limits.max_record_bytes
        with self.open() as file:
            # By its first bytes only: what is called .gz and is none is read as it stands.
            codec = detect_codec(read_at(file, 0, 64), "")
            stream = Stream(file, Codec(codec, file))
            stream.seek(0)
            if stream.ensure(limit + 1):
                record.fail("too_large", self.segment.size if codec == "plain" else None, limit)
            elif stream.damage is not None:
                record.fail("corrupt", detail=stream.damage.reason)
            elif not stream.buffer:
                record.fail("empty_file")
            else:
                return bytes(stream.buffer)
        return None
