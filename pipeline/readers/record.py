"""What readers take and give: a segment of a file, limits on records, and records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, BinaryIO, Literal, NamedTuple

from pipeline.files import open_input
from pipeline.readers.conversation import Conversation

UNKNOWN = -1  # `SegmentReader.next` where an I/O error hid what follows


class Place(NamedTuple):
    """Where a record starts: file offset of its compressed member, and offset in that member's decompressed bytes."""

    offset: int
    sub: int


@dataclass(slots=True)
class Record:
    """One record of the input, or one unreadable stretch of it; (offset, sub) is unique in its file.

    `offset` is the file offset of the (compressed) member, or the row number for JSONL and Parquet, or 0 for whole-file
    formats; `sub` the offset inside the decompressed member. `date` is in UTC seconds since 1970. Records that reading
    settles have a `fate`, with the `rule`, `value`, `threshold` and `detail` of their ledger row.
    """

    offset: int
    sub: int = 0
    record_id: str | None = None
    url: str | None = None
    date: int | None = None
    html: bytes | None = None
    text: str | None = None
    charset: str | None = None  # as the HTTP header names it
    conversation: Conversation | None = None  # of chat, preference and prompt data; `text` is its rendering
    opt_out: str | None = None  # HTTP fields by which the publisher reserves uses, one `name: value` a line
    fate: Literal["dropped", "failed"] | None = None
    rule: str | None = None
    value: float | None = None
    threshold: float | None = None
    detail: str | None = None

    def drop(self, rule: str, value: float | None = None, detail: str | None = None) -> Record:
        """Settle as dropped."""
        self.fate, self.rule, self.value, self.detail = "dropped", rule, value, detail
        self.html = self.text = self.conversation = None
        return self

    def fail(
        self, rule: str, value: float | None = None, threshold: float | None = None, detail: str | None = None
    ) -> Record:
        """Settle as failed."""
        self.fate, self.rule, self.value, self.threshold, self.detail = "failed", rule, value, threshold, detail
        self.html = self.text = self.conversation = None
        return self


@dataclass(frozen=True)
class Limits:
    """Limits on records. A larger record is one `failed` row, `too_large`, and never in memory as a whole."""

    max_record_bytes: int = 100_000_000  # of decompressed payload


@dataclass(frozen=True)
class ReadOptions:
    """How to read: the fields of rows (JSONL, Parquet), and how to open files.

    A row without `text_field` is read from `html_field`. Rows of a `kind` other than text hold conversations; `fields` are
    their names for known keys, `verifier` that of prompts that name none. `storage_options` may hold credentials: not for logs.
    """

    text_field: str = "text"
    id_field: str | None = None
    html_field: str = "html"
    url_field: str = "url"
    date_field: str = "date"
    kind: str = "text"
    fields: Mapping[str, str] = field(default_factory=dict)
    verifier: str | None = None
    storage_options: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Segment:
    """The records of a file that start in [begin, end): byte offsets, or row numbers for Parquet; `end` None is the end.

    `exact`: `begin` is a record start; otherwise the reader looks for the first one at or after it. `base_row` is the
    row number of the first line (JSONL). `codec` is the compression, None where the reader is to find out.
    """

    source: str
    key: str
    url: str
    format: str
    size: int
    begin: int = 0
    end: int | None = None
    base_row: int = 0
    exact: bool = True
    codec: str | None = None
    options: ReadOptions = ReadOptions()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Segment:
        """The segment that `to_dict` wrote."""
        return cls(**{**values, "options": ReadOptions(**values["options"])})


class SegmentReader(ABC):
    """An iterator of the records of a segment. After exhaustion it says how the segment joins the next one.

    `first`: offset of the first record start that it took, None if it took none. `next`: offset of the first record
    start at or after the segment's end, None at the end of the file (or where it took none), `UNKNOWN` after an I/O
    error. `other_records`: records that are only counted, by WARC type.
    """

    def __init__(self, segment: Segment, limits: Limits) -> None:
        self.segment = segment
        self.limits = limits
        self.first: int | None = None
        self.next: int | None = None
        self.other_records: dict[str, int] = {}
        self._records = self.read()

    @abstractmethod
    def read(self) -> Iterator[Record]:
        """The records, once; sets `first`, `next` and `other_records`."""

    def __iter__(self) -> SegmentReader:
        return self

    def __next__(self) -> Record:
        return next(self._records)

    def open(self) -> BinaryIO:
        """The segment's file. Raises `Unreadable`."""
        try:
            return open_input(self.segment.url, self.segment.options.storage_options)
        except Exception as error:  # every file system has its own kinds
            raise Unreadable from error

    def close(self) -> None:
        """Stop reading and close the file."""
        close = getattr(self._records, "close", None)
        if close is not None:
            close()

    def unreadable(self, place: Place, error: Exception) -> Record:
        """The row for an I/O error; what follows in the file is unknown. The message may hold paths: only the kind is told."""
        self.next = UNKNOWN
        cause = error.__cause__ or error
        return Record(place.offset, place.sub).fail("unreadable", detail=type(cause).__name__)


class Unreadable(Exception):
    """The file system failed while a file was opened or read; the cause is chained."""
