"""Gold sets of web pages, read from a folder with one sub-folder a set, and their scores.

A set is `gold.jsonl.xz` (`id`, `file`, and either `with` and `without`, lists of wanted and unwanted segments, or `text`, the whole
main text) beside `html.tar.xz` with the pages as they were served; or `pages.jsonl.xz` with `html` and `markdown`, as WebMainBench
has them (its annotators' attributes are taken out).
"""

from __future__ import annotations

import hashlib
import json
import lzma
import re
import statistics
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

WORD = re.compile(r"\w+")
ANNOTATION = re.compile(r' (?:cc|data-anno)-[a-z-]+="[^"]*"')
FOLDS = 5

# What a page says it is: Open Graph's `og:type`, or types of schema.org in JSON-LD and microdata. The first that fits counts.
DECLARED = {
    "forum": rb"DiscussionForumPosting|QAPage|\bSocialMediaPosting",
    "product": rb"schema\.org/Product|\"Product\"|og:type\"? content=\"(?:og:)?product",
    "recipe": rb"schema\.org/Recipe|\"Recipe\"",
    "article": rb"Article\b|BlogPosting|og:type\"? content=\"(?:article|blog)",
    "website": rb"og:type\"? content=\"(?:website|webpage|company)",
}
_TYPES = {name: re.compile(pattern) for name, pattern in DECLARED.items()}
_SAID = re.compile(
    rb"<meta[^>]{0,300}og:type[^>]{0,300}>|application/ld\+json.{0,20000}?</script|itemtype=[^>]{0,100}", re.DOTALL
)


@dataclass
class Page:
    """A page with what is known of its main text."""

    set: str
    id: str
    html: bytes
    url: str | None = None
    text: str | None = None
    wanted: list[str] = field(default_factory=list)
    unwanted: list[str] = field(default_factory=list)

    @property
    def group(self) -> str:
        """Pages of one site are never on both sides of a split."""
        host = urlsplit(self.url or "").hostname
        return ".".join(host.split(".")[-2:]) if host else self.id


def fold_of(page: Page) -> int:
    """One of `FOLDS`; all pages of a site are in the same."""
    return int(hashlib.sha256(page.group.encode()).hexdigest(), 16) % FOLDS


def declared_type(page: Page) -> str:
    """What a page says it is; `undeclared` where it says nothing."""
    said = b"\n".join(_SAID.findall(page.html))
    return next((name for name, pattern in _TYPES.items() if pattern.search(said)), "undeclared")


def read_set(folder: Path) -> list[Page]:
    """The pages of one set."""
    if (folder / "pages.jsonl.xz").exists():
        with lzma.open(folder / "pages.jsonl.xz", "rt", encoding="utf-8") as lines:
            return [
                Page(folder.name, row["id"], ANNOTATION.sub("", row["html"]).encode(), row["url"], row["markdown"])
                for row in map(json.loads, lines)
            ]
    with tarfile.open(folder / "html.tar.xz") as archive:
        files = {
            PurePosixPath(member.name).name: content.read()
            for member in archive
            if (content := archive.extractfile(member)) is not None
        }
    pages = []
    with lzma.open(folder / "gold.jsonl.xz", "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            html = files[PurePosixPath(row["file"]).name]
            pages.append(
                Page(
                    folder.name,
                    row["id"],
                    html,
                    row.get("url"),
                    row.get("text"),
                    row.get("with", []),
                    row.get("without", []),
                )
            )
    return pages


def read_warcs(paths: Sequence[Path], every: int = 1) -> Iterator[Page]:
    """Every n-th HTML page of WARC files, without gold."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    number = 0
    for path in paths:
        with path.open("rb") as file:
            for record in ArchiveIterator(file, record_types=WarcRecordType.response, parse_http=True):
                if record.http_headers.status_code == 200:
                    if number % every == 0:
                        url = record.headers.get("WARC-Target-URI")
                        yield Page(path.parent.name, url, record.reader.read(), url)
                    number += 1


@dataclass(frozen=True)
class Score:
    """Precision, recall, and their harmonic mean."""

    precision: float
    recall: float

    @property
    def f1(self) -> float:
        """0 where both are."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0

    def __str__(self) -> str:
        return f"{self.f1:.4f} ({self.precision:.3f} / {self.recall:.3f})"


def score(pages: Sequence[Page], texts: Sequence[str]) -> Score:
    """The score of a set in the way that its gold allows."""
    return segment_score(pages, texts) if pages[0].text is None else shingle_score(pages, texts)


def segment_score(pages: Sequence[Page], texts: Sequence[str]) -> Score:
    """Wanted segments that are in the text, and unwanted ones that are not, white space aside, over all pages together."""
    found = extra = wanted = 0
    for page, text in zip(pages, texts, strict=True):
        flat = squash(text)
        found += sum(squash(segment) in flat for segment in page.wanted)
        extra += sum(squash(segment) in flat for segment in page.unwanted)
        wanted += len(page.wanted)
    return Score(found / (found + extra) if found + extra else 0.0, found / wanted if wanted else 0.0)


def shingle_score(pages: Sequence[Page], texts: Sequence[str], length: int = 4) -> Score:
    """Means over pages of the precision and recall of word 4-grams, counted as often as they occur (Scrapinghub's article benchmark)."""
    precisions, recalls = [], []
    for page, text in zip(pages, texts, strict=True):
        gold, mine = shingles(page.text or "", length), shingles(text, length)
        both = (gold & mine).total()
        if mine:
            precisions.append(both / mine.total())
        if gold:
            recalls.append(both / gold.total())
        if not mine and not gold:
            precisions.append(1.0)
            recalls.append(1.0)
    return Score(statistics.mean(precisions or [0.0]), statistics.mean(recalls or [0.0]))


def shingles(text: str, length: int) -> Counter[tuple[str, ...]]:
    """The word n-grams of a text; a shorter text is one."""
    words = WORD.findall(text)
    return Counter(tuple(words[at : at + length]) for at in range(max(1, len(words) - length + 1)) if words)


def squash(text: str) -> str:
    """White space as single spaces."""
    return " ".join(text.split())
