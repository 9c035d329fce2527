"""The payload of a web record: HTTP head, transfer and content encodings, MIME type, charset."""

from __future__ import annotations

import re
import zlib
from typing import NamedTuple

import zstandard

from pipeline.readers.charset import decode_text
from pipeline.readers.record import Limits, Record

HTML = frozenset({"text/html", "application/xhtml+xml", "application/vnd.wap.xhtml+xml"})
TEXT = "text/plain"

HEAD_END = re.compile(rb"\r{0,9}\n\r{0,9}\n")
CHARSET = re.compile(r"charset\s*=\s*[\"']?\s*([^\s\"';,]{1,40})", re.IGNORECASE)
MIME = re.compile(r"[a-z0-9!#$&^_.+-]+/[a-z0-9!#$&^_.+-]+$")

# What HTML starts with where no type is given: the WHATWG MIME Sniffing Standard, section 7.1, and XHTML's own start.
HTML_START = re.compile(
    rb"(?:\xef\xbb\xbf)?\s*(?:<(?:!doctype html|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p)[\s>]"
    rb"|<!--|<\?xml[^>]*\?>\s*(?:<!--.{0,500}?-->\s*)?<(?:!doctype html|html)[\s>])",
    re.IGNORECASE | re.DOTALL,
)
SNIFFED = 1445  # bytes of the resource header, same standard

# Fields by which a publisher says what may be done with a page; stage `opt_out` reads them.
OPT_OUT = frozenset({"x-robots-tag", "tdm-reservation", "content-usage", "content-signal"})
OPT_OUT_CHARS = 4096  # of all of them together


class TooLarge(Exception):
    """A payload is larger than the limit once it is decoded."""


class Head(NamedTuple):
    """An HTTP response head; `body` is where the body starts in the block, `opt_out` as in `Record`."""

    status: int | None
    fields: dict[str, str]
    body: int
    opt_out: str | None = None


def parse_head(block: bytes) -> Head | None:
    """The head of the final response in an HTTP block; None if the block does not start as HTTP does."""
    start = 0
    while True:
        if block[start : start + 5].upper() != b"HTTP/":
            return None
        end = HEAD_END.search(block, start)
        stop, body = (end.start(), end.end()) if end else (len(block), len(block))
        lines = block[start:stop].decode("latin-1").split("\n")
        words = lines[0].split(None, 2)
        status = int(words[1]) if len(words) > 1 and re.fullmatch(r"[0-9]{3}", words[1]) else None
        if status is not None and 100 <= status < 200 and block[body : body + 5] == b"HTTP/":
            start = body  # an interim response (100 Continue) stands before the real one
            continue
        fields = fields_of(lines[1:])
        return Head(status, fields, body, None if OPT_OUT.isdisjoint(fields) else opt_out_of(lines[1:]))


def fields_of(lines: list[str]) -> dict[str, str]:
    """Header fields by lower-case name; the first of a name counts, folded lines are joined."""
    fields: dict[str, str] = {}
    name = ""
    for line in lines:
        key, colon, value = line.partition(":")
        if line[:1] in " \t":
            if name and line:
                fields[name] += " " + line.strip()
        elif colon:
            name = key.strip().lower()
            if name in fields:
                name = ""
            else:
                fields[name] = value.strip()
    return fields


def opt_out_of(lines: list[str]) -> str:
    """The fields of `OPT_OUT`, one `name: value` a line; unlike others they may stand several times, and all count."""
    found: list[str] = []
    taken = False
    for line in lines:
        if line[:1] in (" ", "\t"):  # a folded line
            if taken:
                found[-1] += " " + line.strip()
            continue
        name, _, value = line.partition(":")
        name = name.strip().lower()
        taken = name in OPT_OUT
        if taken:
            found.append(f"{name}: {value.strip()}")
    return "\n".join(found)[:OPT_OUT_CHARS]


def fill_response(record: Record, block: bytes, fallback: str | None, whole: bool, limits: Limits) -> Record:
    """Fill or settle a record from an HTTP response block; `fallback` is the type to use where HTTP names none.

    With `whole` False, `block` is only the start of a record too large to read: what it can settle is settled, else it fails.
    """
    head = parse_head(block)
    if head is None:
        return fill(record, block, fallback, None, whole, limits)
    if head.status != 200:
        return record.drop("http_status", head.status, None if head.status else "no status")
    record.opt_out = head.opt_out
    body = block[head.body :]
    declared = head.fields.get("content-type")
    if whole:
        try:
            body = decode_body(body, head.fields, limits.max_record_bytes)
        except TooLarge:
            declared_type = mime_of(declared or fallback)
            if declared_type is not None and declared_type not in HTML and declared_type != TEXT:
                return record.drop("content_type", detail=declared_type)
            return record.fail("too_large", None, limits.max_record_bytes, "content encoding")
        except ValueError as error:
            declared_type = mime_of(declared or fallback)
            if declared_type is not None and declared_type not in HTML and declared_type != TEXT:
                return record.drop("content_type", detail=declared_type)
            return record.fail("corrupt", detail=f"content encoding: {error}")
    return fill(record, body, declared or fallback, charset_of(declared), whole, limits)


def fill(
    record: Record, payload: bytes, content_type: str | None, charset: str | None, whole: bool, limits: Limits
) -> Record:
    """Fill or settle a record from its payload and declared type."""
    mime = mime_of(content_type)
    if mime is None:
        if not HTML_START.match(payload[:SNIFFED]):
            return record.drop("content_type", detail="none" if not content_type else clean(content_type))
    elif mime not in HTML and mime != TEXT:
        return record.drop("content_type", detail=mime)
    if not whole:
        return record
    if len(payload) > limits.max_record_bytes:
        return record.fail("too_large", len(payload), limits.max_record_bytes)
    record.charset = charset
    if mime == TEXT:
        record.text = decode_text(payload, charset)
    else:
        record.html = payload
    return record


def mime_of(content_type: str | None) -> str | None:
    """`text/html` of `Text/HTML; charset=x`; None if there is none, or what is there names no type."""
    mime = (content_type or "").partition(";")[0].partition(",")[0].strip().lower()
    return clean(mime) if MIME.match(mime) and "unknown" not in mime else None


def charset_of(content_type: str | None) -> str | None:
    """The charset parameter, as written."""
    match = CHARSET.search(content_type or "")
    return match[1] if match and match[1].isascii() and match[1].isprintable() else None


def clean(text: str) -> str:
    """Short printable text for the ledger."""
    return "".join(character for character in text if character.isprintable())[:100]


def decode_body(body: bytes, fields: dict[str, str], limit: int) -> bytes:
    """A body without its transfer and content encodings. Raises `TooLarge`, and ValueError if nothing can be decoded.

    Archives often store decoded bodies under the original head: a body that is not encoded as declared is taken as it is.
    """
    if "chunked" in fields.get("transfer-encoding", "").lower():
        body = dechunk(body)
    encodings = [name.strip().lower() for name in fields.get("content-encoding", "").split(",") if name.strip()]
    for name in reversed(encodings):
        body = decode_content(body, name, limit)
    return body


def dechunk(body: bytes) -> bytes:
    """The data of a chunked body; what follows a broken chunk head is kept as it is."""
    parts: list[bytes] = []
    at = 0
    while True:
        end = body.find(b"\n", at, at + 1000)
        size = body[at:end].partition(b";")[0].strip() if end >= 0 else b""
        if not re.fullmatch(rb"[0-9a-fA-F]{1,15}", size):
            parts.append(body[at:])
            break
        length = int(size, 16)
        if length == 0:
            break
        parts.append(body[end + 1 : end + 1 + length])
        at = end + 1 + length
        if body[at : at + 2] == b"\r\n":
            at += 2
        elif body[at : at + 1] == b"\n":
            at += 1
        if at >= len(body):
            break
    return b"".join(parts)


def decode_content(body: bytes, encoding: str, limit: int) -> bytes:
    """Undo one content encoding. A truncated body gives what it holds."""
    if encoding in ("gzip", "x-gzip"):
        return _inflate(body, 31, limit) if body[:2] == b"\x1f\x8b" else body
    if encoding == "deflate":
        # RFC 9110 says zlib; much software sends raw deflate.
        if len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0:
            return _inflate(body, 15, limit)
        return body if HTML_START.match(body) else _inflate(body, -15, limit)
    if encoding == "zstd" and body[:4] == b"\x28\xb5\x2f\xfd":
        return _take(zstandard.ZstdDecompressor().stream_reader(body), limit, zstandard.ZstdError)
    if encoding == "br" and body and not HTML_START.match(body):
        import io

        from fastwarc.stream_io import BrotliReader

        return _take(BrotliReader(io.BytesIO(body)), limit, OSError)
    return body


def _inflate(body: bytes, bits: int, limit: int) -> bytes:
    member = zlib.decompressobj(bits)
    parts: list[bytes] = []
    size = 0
    try:
        while body and not member.eof:  # in pieces: what precedes an error is kept
            out = member.decompress(member.unconsumed_tail + body[:4096], limit + 1 - size)
            body = body[4096:]
            parts.append(out)
            size += len(out)
            if size > limit:
                raise TooLarge
    except zlib.error as error:
        if not size:
            raise ValueError("not deflate") from error
    return b"".join(parts)


def _take(reader: object, limit: int, error: type[Exception]) -> bytes:
    parts: list[bytes] = []
    size = 0
    try:
        while size <= limit and (data := reader.read(1 << 12)):  # type: ignore[attr-defined]
            parts.append(data)
            size += len(data)
    except error as broken:
        if not size:
            raise ValueError("cannot be decoded") from broken
    if size > limit:
        raise TooLarge
    return b"".join(parts)
