"""Writes pages as WARC files, a gzip member a record, and breaks those that are meant to be broken."""

from __future__ import annotations

import gzip
import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from sample_text import DESCRIPTION


@dataclass
class Page:
    """One HTML page and how it will be served."""

    url: str
    body: bytes
    package: str
    language: str
    kind: str = "page"  # why it is in the sample; see README.md
    charset: str = "utf-8"  # what the bytes really are
    declared: str = "right"  # right | wrong | missing
    content_type: str | None = "text/html; charset=utf-8"
    status: str = "200 OK"
    record: str = "response"
    headers: list[tuple[str, str]] = field(default_factory=list)
    damage: str = ""

    def text(self) -> str:
        """The HTML as text."""
        return self.body.decode(self.charset)


def warc_record(
    kind: str,
    url: str,
    date: str,
    content_type: str,
    block: bytes,
    extra: tuple[tuple[str, str], ...] = (),
    length: int = 0,
) -> bytes:
    """One WARC/1.1 record; `length` is a lie about the block's size, if not 0."""
    name = uuid.uuid5(uuid.NAMESPACE_URL, f"{kind} {url} {hashlib.sha256(block).hexdigest()}")
    lines = [("WARC-Type", kind), ("WARC-Record-ID", f"<urn:uuid:{name}>"), ("WARC-Date", date)]
    if kind != "warcinfo":
        lines.append(("WARC-Target-URI", url))
    lines += [*extra, ("Content-Type", content_type), ("Content-Length", str(length or len(block)))]
    head = "WARC/1.1\r\n" + "".join(f"{k}: {v}\r\n" for k, v in lines) + "\r\n"
    return head.encode() + block + b"\r\n\r\n"


def http_block(page: Page) -> bytes:
    """Status line, headers and body of a page's response."""
    length = {"http_length_long": len(page.body) + 999, "http_length_short": len(page.body) // 2}.get(
        page.damage, len(page.body)
    )
    headers = [("Date", "Mon, 01 Jan 2024 00:00:00 GMT"), ("Server", "sample")]
    headers += [("Content-Type", page.content_type)] if page.content_type else []
    headers += page.headers
    if ("Transfer-Encoding", "chunked") not in page.headers:
        headers.append(("Content-Length", str(length)))
    head = f"HTTP/1.1 {page.status}\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers) + "\r\n"
    return (b"" if page.damage == "no_http_header" else head.encode()) + page.body


def digest(data: bytes) -> tuple[tuple[str, str], ...]:
    """The payload digest header."""
    return (("WARC-Payload-Digest", "sha256:" + hashlib.sha256(data).hexdigest()),)


def records(page: Page, date: str, number: int) -> Iterator[tuple[str, bytes]]:
    """A page's records as (type, bytes): sometimes a request before it and metadata or a revisit after it."""
    if page.record != "response":
        yield page.record, warc_record(page.record, page.url, date, page.content_type or "text/html", page.body)
        return
    if number % 25 == 0:
        path = "/" + page.url.split("/", 3)[-1]
        request = f"GET {path} HTTP/1.1\r\nHost: {page.url.split('/')[2]}\r\nUser-Agent: sample\r\n\r\n".encode()
        yield "request", warc_record("request", page.url, date, "application/http; msgtype=request", request)
    block = http_block(page)
    lie = {"warc_length_long": len(block) + 500, "warc_length_short": len(block) - 700}.get(page.damage, 0)
    when = "yesterday" if page.damage == "bad_date" else date
    yield (
        "response",
        warc_record("response", page.url, when, "application/http; msgtype=response", block, digest(page.body), lie),
    )
    if number % 50 == 0:
        yield "metadata", warc_record("metadata", page.url, date, "application/warc-fields", b"fetchTimeMs: 120\r\n")
    if number % 60 == 7:
        profile = ("WARC-Profile", "http://netpreserve.org/warc/1.1/revisit/identical-payload-digest")
        extra = (profile, ("WARC-Refers-To-Target-URI", page.url), *digest(page.body))
        head = b"HTTP/1.1 304 Not Modified\r\n\r\n"
        yield (
            "revisit",
            warc_record("revisit", page.url + "?again", date, "application/http; msgtype=response", head, extra),
        )


def member(data: bytes) -> bytes:
    """A gzip member, the same on every machine that has the same zlib."""
    return gzip.compress(data, 9, mtime=0)


def break_member(packed: bytes, damage: str) -> bytes:
    """Damage done to the compressed bytes."""
    middle = len(packed) // 2
    if damage == "corrupt_member":
        return packed[:middle] + bytes(b ^ 0x55 for b in packed[middle : middle + 64]) + packed[middle + 64 :]
    if damage == "truncated_member":
        return packed[:middle]
    if damage == "garbage_between":
        return packed + b"\x00" * 100 + b"this is no gzip member " * 8
    return packed


def write(name: str, pages: list[Page], manifest: list[dict[str, object]], start: datetime) -> None:
    """One WARC file, a gzip member a record, and its lines of the manifest."""
    info = f"software: make_sample.py\r\nformat: WARC File Format 1.1\r\ndescription: {DESCRIPTION}\r\n".encode()
    stamp = start.strftime("%Y-%m-%dT%H:%M:%SZ")
    out = bytearray(
        member(warc_record("warcinfo", name, stamp, "application/warc-fields", info, (("WARC-Filename", name),)))
    )
    for number, page in enumerate(pages):
        date = (start + timedelta(seconds=37 * number)).strftime("%Y-%m-%dT%H:%M:%SZ")
        for kind, data in records(page, date, number):
            packed = break_member(member(data), page.damage)
            if kind == page.record:
                manifest.append(
                    {"file": name, "offset": len(out), "length": len(packed), "url": page.url, "type": kind, "package": page.package,
                     "language": page.language, "kind": page.kind, "charset": page.charset, "declared": page.declared,
                     "content_type": page.content_type, "status": int(page.status[:3]), "bytes": len(page.body),
                     "damage": page.damage}
                )  # fmt: skip
            out += packed
    (Path(__file__).parent / name).write_bytes(bytes(out))
