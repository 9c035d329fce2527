"""Text files: one document a file; plain or compressed."""

from __future__ import annotations

from pipeline.readers.charset import decode_text
from pipeline.readers.record import Record
from pipeline.readers.whole import WholeFileReader


class TextReader(WholeFileReader):
    """The text, decoded; NUL and other control characters are left for a stage to judge."""

    def fill(self, record: Record, data: bytes) -> Record:
        """The record with its text."""
        record.text = decode_text(data)
        return record
