"""The two corpora of the bundled quality model, made of the bundled sample: `python -m benchmarks.prose_corpora FOLDER`.

Good are the sentences of English pages, ordinary everything else on the same pages: menus, headings, tables, lists, code, indexes. Both come
from the same pages, so the model cannot go by subject. Only packages under permissive licences or in the public domain (PACKAGES) are used;
their notices stand in data/sample/ATTRIBUTION.md. With the corpora in place,

    python -m benchmarks.prose_corpora /tmp/prose
    CORPORA=/tmp/prose python -m pipeline train-classifier benchmarks/prose.yaml --output /tmp/prose/model

gives the bytes of stages/assets/quality/prose.ftz.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from fastwarc.warc import ArchiveIterator, WarcRecordType
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding

SAMPLE = Path(__file__).parents[1] / "data/sample"
PACKAGES = {
    "apache2-doc": "Apache-2.0",
    "postgresql-doc-15": "PostgreSQL",
    "sqlite3-doc": "public domain",
    "rust-doc": "Apache-2.0",
    "llvm-16-doc": "Apache-2.0 with LLVM exceptions",
}
CHUNK = 60  # words, about: as much as a short page has
LEAST_WORDS = 10  # of a line of sentences

_WORD = re.compile(r"[A-Za-z]{2,}")
_ENDS = re.compile(r"[.!?:][\"')\]]*$")
_MARKER = re.compile(r"^(?:[•*\-–]|[0-9]{1,3}[.)])\s+")  # of a list's entry


def is_prose(line: str) -> bool:
    """Whether a line is a paragraph of sentences: at least LEAST_WORDS words, mostly letters, an end."""
    words = line.split()
    return (
        len(words) >= LEAST_WORDS
        and _ENDS.search(line) is not None
        and sum(_WORD.search(word) is not None for word in words) >= 0.75 * len(words)
        and line[:1].isupper()
    )


def chunks(lines: list[str]) -> Iterator[str]:
    """Lines joined to texts of at least CHUNK words; the rest at the end of a page if it is half as long."""
    held: list[str] = []
    words = 0
    for line in lines:
        held.append(line)
        words += len(line.split())
        if words >= CHUNK:
            yield "\n".join(held)
            held, words = [], 0
    if words >= CHUNK // 2:
        yield "\n".join(held)


def pages() -> Iterator[tuple[str, str]]:
    """(package, all text of the page) of the sample's English pages that may be used."""
    known = {}
    with gzip.open(SAMPLE / "manifest.jsonl.gz", "rt") as file:
        for line in file:
            row = json.loads(line)
            if row["package"] in PACKAGES and row["kind"] in ("page", "release") and row["language"] == "en":
                known[row["url"]] = row["package"]
    for path in sorted(SAMPLE.glob("crawl-0000[012].warc.gz")):
        for record in ArchiveIterator(path.open("rb"), record_types=WarcRecordType.response, parse_http=True):
            package = known.get(record.headers["WARC-Target-URI"])
            if package is not None:
                body = record.reader.read()
                html = bytes_to_str(body, detect_encoding(body))
                yield package, extract_plain_text(html, main_content=False, alt_texts=False, links=False)


def corpora() -> Iterator[tuple[str, bool, str]]:
    """(package, whether good, text)."""
    for package, text in pages():
        lines = [_MARKER.sub("", line) for line in map(str.strip, text.split("\n")) if line]
        for good in (True, False):
            for chunk in chunks([line for line in lines if is_prose(line) == good]):
                yield package, good, chunk


def main(folder: Path) -> None:
    """Write good.jsonl and ordinary.jsonl."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "good.jsonl").open("w") as good_file, (folder / "ordinary.jsonl").open("w") as other_file:
        for package, good, text in corpora():
            (good_file if good else other_file).write(json.dumps({"package": package, "text": text}) + "\n")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m benchmarks.prose_corpora FOLDER")
    main(Path(sys.argv[1]))
