"""Shared by tests: small real corpora, and the command line as a user calls it."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
import sys
from pathlib import Path

import yaml
from warcio.archiveiterator import ArchiveIterator
from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

ROOT = Path(__file__).parents[1]
SAMPLE = ROOT / "data" / "sample"


def pipeline(
    *arguments: str | Path, timeout: float = 300, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """`python -m pipeline ...` in the project's folder."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **(env or {})},
        check=False,
    )


def start_pipeline(*arguments: str | Path) -> subprocess.Popen[bytes]:
    """The same in the background, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "pipeline", *map(str, arguments)],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def sample_pages(count: int, largest: int = 30_000) -> list[tuple[str, bytes]]:
    """(url, html) of the first pages of the bundled sample that are not larger than `largest`."""
    pages: list[tuple[str, bytes]] = []
    with (SAMPLE / "crawl-00000.warc.gz").open("rb") as handle:
        for record in ArchiveIterator(handle):
            if record.rec_type == "response" and record.http_headers.get_statuscode() == "200":
                body = record.content_stream().read()
                if len(body) <= largest:
                    pages.append((record.rec_headers.get_header("WARC-Target-URI"), body))
                if len(pages) == count:
                    return pages
    return pages


def write_warc(path: Path, pages: list[tuple[str, bytes]]) -> None:
    """Pages as a WARC.gz file, one gzip member a record."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as handle:
        writer = WARCWriter(handle, gzip=True, warc_version="1.1")
        for number, (url, body) in enumerate(pages):
            head = StatusAndHeaders("200 OK", [("Content-Type", "text/html")], protocol="HTTP/1.1")
            ident = f"<urn:uuid:{hashlib.md5(url.encode() + bytes([number % 256])).hexdigest()}>"
            headers = {"WARC-Date": "2024-05-01T00:00:00Z", "WARC-Record-ID": ident}
            record = writer.create_warc_record(
                url, "response", payload=io.BytesIO(body), http_headers=head, warc_headers_dict=headers
            )
            writer.write_record(record)


def write_config(path: Path, **sections: object) -> Path:
    """A config file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(sections, sort_keys=False))
    return path


def tree(folder: Path, *parts: str) -> dict[str, str]:
    """SHA-256 of every file below the given parts of a folder."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for part in parts
        for path in sorted((folder / part).rglob("*"))
        if path.is_file()
    }
