"""ARC records (Internet Archive's ARC 1 and 2): a one-line head, then the block."""

from __future__ import annotations

import re

from pipeline.readers import warc

_IP = rb"(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f.]{0,15}){2,8}|-)"
START = rb"[A-Za-z][A-Za-z0-9+.-]{1,15}:[^\n]{0,8000}? " + _IP + rb" \d{14,20} [^\n]{0,150}?-?\d{1,18}\r?\n"
HEAD_END = re.compile(rb"\n")
LINE = re.compile(rb"([A-Za-z][A-Za-z0-9+.-]{1,15}:.*?) " + _IP + rb" (\d{8,20}|null) (.*?) ?(-?\w+)\s*$", re.DOTALL)


def parse_head(line: bytes) -> warc.Head | None:
    """The head of an ARC record: URL, IP, date, type, ..., length (spaces in the URL and type are met); None if it is none."""
    match = LINE.match(line)
    if not match:
        return None
    url, date, kind, length = (part.decode("utf-8", "replace") for part in match.groups())
    is_info = url.startswith("filedesc:")
    return warc.Head(
        kind="warcinfo" if is_info else "response",
        length=int(length) if re.fullmatch(r"[0-9]{1,18}", length) else None,
        record_id=None,
        url=url,
        date=warc.parse_date(date[:14]),
        mime=kind.split(" ")[0],
        http=not is_info and url.lower().startswith(("http:", "https:")),
    )
