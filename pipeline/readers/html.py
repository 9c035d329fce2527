"""HTML files: one page a file; plain or compressed."""

from __future__ import annotations

from pipeline.readers.record import Record
from pipeline.readers.whole import WholeFileReader


class HtmlReader(WholeFileReader):
    """The page, as bytes: its charset is found where it is parsed."""

    def fill(self, record: Record, data: bytes) -> Record:
        """The record with its page."""
        record.html = data
        return record
