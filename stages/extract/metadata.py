"""What a page says of itself: title, author, date, canonical address, language, licence.

One compiled pass over the tree notes where the few values stand that matter; only those become strings. Names of the meta
tags: HTML Standard, Open Graph (ogp.me), Dublin Core, schema.org, and what publishers' systems write.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Iterator
from datetime import date, datetime
from email.utils import parsedate
from typing import NamedTuple
from urllib.parse import urljoin

import numpy as np

from stages.extract.blocks import ITEMPROP, next_attribute
from stages.extract.page import Page
from stages.extract.parse import FNV, PRIME, Bytes, Ints, Tree, is_space
from stages.extract.tags import NUMBER, TEXT, hash_table, name_hash
from stages.jit import kernel

MAX_LENGTH = 1000  # characters; longer values are no titles, names or addresses

_TITLE = ("og:title", "twitter:title", "dc.title", "dcterms.title", "citation_title", "title")
_AUTHOR = (
    "author",
    "article:author",
    "dc.creator",
    "dcterms.creator",
    "citation_author",
    "parsely-author",
    "sailthru.author",
)
_PUBLISHED = (
    "article:published_time",
    "datepublished",
    "date",
    "dc.date",
    "dc.date.issued",
    "dcterms.date",
    "dcterms.created",
    "dcterms.issued",
    "pubdate",
    "publishdate",
    "publish-date",
    "publication_date",
    "citation_publication_date",
    "parsely-pub-date",
    "sailthru.date",
    "og:published_time",
    "last-modified",
)
_ISO = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)|(\d{4})(\d{2})(\d{2})(?!\d)")
_DAY_FIRST = re.compile(r"(\d{1,2})\.\s?(\d{1,2})\.\s?(\d{4})(?!\d)")  # dots mean day first wherever they are used
_SPACE = re.compile(r"\s+")
_LD_DATE = re.compile(r'"datePublished"\s*:\s*"([^"\\]{8,40})"')
_LD_AUTHOR = re.compile(r'"author"\s*:\s*\[?\s*(?:\{[^{}]{0,2000}?"name"\s*:\s*)?("(?:[^"\\]|\\.){1,200}")')
_LD_BYTES, _LD_SCRIPTS = 65_536, 4


_META = {
    name: number
    for number, name in enumerate(dict.fromkeys((*_TITLE, *_AUTHOR, *_PUBLISHED, "og:url", "content-language")))
}
_KEYS, _VALUES = hash_table(_META, 256)
_SLOT = np.uint64(len(_KEYS) - 1)
_TITLE_TEXT, _HEADING, _CANONICAL, _LICENCE, _AUTHOR_TEXT, _TIME, _TIME_PUBLISHED, _LANGUAGE, _JSON = range(
    len(_META), len(_META) + 9
)
_MOST = 512  # values noted of a page
_A, _H1, _HTML, _LINK, _META_TAG, _SCRIPT, _TIME_TAG, _TITLE_TAG = (
    NUMBER[name] for name in ("a", "h1", "html", "link", "meta", "script", "time", "title")
)
_SVG = NUMBER["svg"]
_REL, _HREF, _DATETIME, _PUBDATE, _LANG, _XML_LANG, _TYPE, _CONTENT, _PROPERTY, _NAME, _HTTP_EQUIV = (
    np.uint64(name_hash(name))
    for name in (
        "rel",
        "href",
        "datetime",
        "pubdate",
        "lang",
        "xml:lang",
        "type",
        "content",
        "property",
        "name",
        "http-equiv",
    )
)
_W_AUTHOR, _W_PUBLISHED, _W_CANONICAL, _W_LICENCE, _W_JSON = (
    np.uint64(name_hash(word)) for word in ("author", "datepublished", "canonical", "license", "application/ld+json")
)


class Metadata(NamedTuple):
    """Strings or None; `published` is an ISO date (YYYY-MM-DD), the addresses are absolute where the page's own is known."""

    title: str | None = None
    author: str | None = None
    published: str | None = None
    canonical_url: str | None = None
    declared_language: str | None = None
    licence: str | None = None


class _Found:
    """The values that were noted, by what they are: the first non-empty one of each."""

    def __init__(self, page: Page) -> None:
        self._page, self._tree = page.raw, page.tree
        spans = np.empty((_MOST, 3), np.int32)
        count = _note(page.tree, spans)
        self._spans: dict[int, list[tuple[int, int]]] = {}
        for kind, begin, end in spans[:count].tolist():
            self._spans.setdefault(kind, []).append((begin, end))

    def values(self, kind: int) -> Iterator[str]:
        """Attribute values, or for kinds that are nodes, their text; white space collapsed, none empty."""
        for begin, end in self._spans.get(kind, ()):
            raw = self._text(begin) if end < 0 else self._page[begin : min(end, begin + 8 * MAX_LENGTH)]
            if value := _clean(html.unescape(raw.decode("utf-8", "replace"))):
                yield value

    def first(self, *kinds: int) -> str | None:
        """The first value of the first kind that has any."""
        return next((value for kind in kinds for value in self.values(kind)), None)

    def meta(self, *names: str) -> str | None:
        """The content of the first of the named meta tags that has any."""
        return self.first(*(_META[name] for name in names))

    def scripts(self) -> str:
        """The page's JSON-LD, cut short: it is searched, not parsed, since much of it is broken."""
        nodes = [begin for begin, _ in self._spans.get(_JSON, ())][:_LD_SCRIPTS]
        return "\n".join(self._text(node)[:_LD_BYTES].decode("utf-8", "replace") for node in nodes)

    def _text(self, node: int) -> bytes:
        tree = self._tree
        texts = (at for at in range(node, int(tree.last[node])) if tree.tag[at] == TEXT)
        return b"".join(self._page[tree.begin[at] : tree.end[at]] for at in texts)


def read_metadata(page: Page, url: str | None = None) -> Metadata:
    """The metadata of a page; `url` resolves relative addresses."""
    found = _Found(page)
    script = found.scripts()
    return Metadata(
        title=found.meta(_TITLE[0])
        or found.first(_TITLE_TEXT)
        or found.meta(*_TITLE[1:])
        or _short(found.first(_HEADING)),
        author=_author(found, script),
        published=_published(found, script),
        canonical_url=_address(found, _CANONICAL, url) or _web_address(found.meta("og:url"), url),
        declared_language=found.first(_LANGUAGE) or found.meta("content-language"),
        licence=_address(found, _LICENCE, url),
    )


def iso_date(value: str | None) -> str | None:
    """The day that a date string names, as YYYY-MM-DD; None where it names none or is ambiguous (03/04/2020)."""
    if not value:
        return None
    value = value.strip()[:100]
    if match := _ISO.match(value):
        year, month, day = (int(part) for part in match.groups() if part is not None)
    elif match := _DAY_FIRST.match(value):
        day, month, year = (int(part) for part in match.groups())
    elif parts := parsedate(value):
        year, month, day = parts[:3]
    else:
        for form in ("%B %d, %Y", "%b %d, %Y", "%d %B %Y"):
            try:
                return datetime.strptime(value, form).date().isoformat()
            except ValueError:
                continue
        return None
    try:
        return date(year, month, day).isoformat() if year >= 1000 else None
    except ValueError:
        return None


def _author(found: _Found, script: str) -> str | None:
    author = found.meta(*_AUTHOR)
    if author is None or author.startswith(("http://", "https://", "@")):
        author = None
        if match := _LD_AUTHOR.search(script):
            try:
                author = _clean(json.loads(match.group(1), strict=False))
            except ValueError:
                author = None
        if author is not None and author.startswith(("http://", "https://", "@")):
            author = None
    return author or _short(found.first(_AUTHOR_TEXT))


def _published(found: _Found, script: str) -> str | None:
    for name in _PUBLISHED[:2]:
        if day := iso_date(found.meta(name)):
            return day
    if (match := _LD_DATE.search(script)) and (day := iso_date(match.group(1))):
        return day
    for name in _PUBLISHED[2:]:
        if day := iso_date(found.meta(name)):
            return day
    return iso_date(found.first(_TIME_PUBLISHED, _TIME))


def _short(text: str | None) -> str | None:
    return text if text and len(text) <= 200 else None


def _address(found: _Found, kind: int, url: str | None) -> str | None:
    return next((address for value in found.values(kind) if (address := _web_address(value, url))), None)


def _web_address(value: str | None, url: str | None) -> str | None:
    """An absolute http(s) address, or None."""
    value = _clean(value)
    if not value:
        return None
    try:
        address = urljoin(url or "", value)
    except ValueError:  # an unbalanced bracket in the host
        return None
    return address if address.lower().startswith(("http://", "https://")) else None


def _clean(value: str | None) -> str | None:
    """White space collapsed, None for what is empty; cut to `MAX_LENGTH`."""
    if not value:
        return None
    return _SPACE.sub(" ", value[: 4 * MAX_LENGTH]).strip()[:MAX_LENGTH] or None


@kernel
def _meta_kind(page: Bytes, begin: int, end: int) -> int:
    """Which of the wanted names a value is, in any case; -1 for none."""
    while begin < end and is_space(page[begin]):
        begin += 1
    while end > begin and is_space(page[end - 1]):
        end -= 1
    value = FNV
    for at in range(begin, end):
        byte = page[at]
        if 65 <= byte <= 90:
            byte += 32
        value = (value ^ np.uint64(byte)) * PRIME
    slot = value & _SLOT
    while _KEYS[slot] != np.uint64(0):
        if _KEYS[slot] == value:
            return _VALUES[slot]
        slot = (slot + np.uint64(1)) & _SLOT
    return -1


@kernel
def _has_word(page: Bytes, begin: int, end: int, word: np.uint64) -> bool:
    """Whether the word with this hash stands in a value, in any case, between white space or the ends."""
    value = FNV
    for at in range(begin, end + 1):
        if at == end or is_space(page[at]):
            if value == word:
                return True
            value = FNV
            continue
        byte = page[at]
        if 65 <= byte <= 90:
            byte += 32
        value = (value ^ np.uint64(byte)) * PRIME
    return False


@kernel
def _has_role(page: Bytes, begin: int, end: int, link: bool) -> bool:
    """Whether `itemp` stands among the attributes, or in a link `rel=`."""
    for at in range(begin, end - 4):
        if (
            page[at] == 105
            and page[at + 1] == 116
            and page[at + 2] == 101
            and page[at + 3] == 109
            and page[at + 4] == 112
        ):
            return True
        if link and page[at] == 114 and page[at + 1] == 101 and page[at + 2] == 108 and page[at + 3] == 61:
            return True
    return False


@kernel
def _add(spans: Ints, count: int, kind: int, begin: int, end: int) -> int:
    spans[count, 0], spans[count, 1], spans[count, 2] = kind, begin, end
    return count + 1


@kernel
def _note(tree: Tree, spans: Ints) -> int:
    """Where values stand: (kind, begin, end) in the page, or (kind, node, -1) for the text of a node. Returns how many."""
    page, tags, begins, ends = tree.page, tree.tag, tree.begin, tree.end
    count = 0
    kinds = np.empty(4, np.int32)
    seen_title = seen_heading = seen_root = False
    for node in range(tags.size):
        if count + 6 > spans.shape[0]:
            break
        tag = tags[node]
        if tag == TEXT:
            continue
        if tag == _TITLE_TAG and not seen_title and (tree.parent[node] < 0 or tags[tree.parent[node]] != _SVG):
            seen_title = tree.last[node] > node + 1
            count = _add(spans, count, _TITLE_TEXT, node, -1)
        elif tag == _H1 and not seen_heading:
            seen_heading = True
            count = _add(spans, count, _HEADING, node, -1)
        head = tag == _META_TAG or tag == _LINK or tag == _TIME_TAG or tag == _HTML or tag == _SCRIPT
        if ends[node] <= begins[node] or not (head or _has_role(page, begins[node], ends[node], tag == _A)):
            continue
        kind_count = 0
        content = content_end = href = href_end = stamp = stamp_end = lang = lang_end = -1
        canonical = licence = author = published = is_json = False
        at = begins[node]
        while True:
            name, value, value_end, at = next_attribute(page, at, ends[node])
            if name == np.uint64(0):
                break
            if value >= value_end:
                if name == _PUBDATE and tag == _TIME_TAG:
                    published = True
                continue
            if name == ITEMPROP:
                author = author or _has_word(page, value, value_end, _W_AUTHOR)
                published = published or _has_word(page, value, value_end, _W_PUBLISHED)
            elif name == _REL:
                canonical = canonical or _has_word(page, value, value_end, _W_CANONICAL)
                licence = licence or _has_word(page, value, value_end, _W_LICENCE)
                author = author or _has_word(page, value, value_end, _W_AUTHOR)
            elif name == _HREF:
                href, href_end = value, value_end
            elif name == _DATETIME and tag == _TIME_TAG:
                stamp, stamp_end = value, value_end
            elif name == _PUBDATE and tag == _TIME_TAG:
                published = True
            elif (name == _LANG or name == _XML_LANG) and tag == _HTML and lang < 0:
                lang, lang_end = value, value_end
            elif name == _TYPE and tag == _SCRIPT:
                is_json = _has_word(page, value, value_end, _W_JSON)
            if tag == _META_TAG:
                if name == _CONTENT:
                    content, content_end = value, value_end
                elif kind_count < 4 and (name == _PROPERTY or name == _NAME or name == ITEMPROP or name == _HTTP_EQUIV):
                    kind = _meta_kind(page, value, value_end)
                    if kind >= 0:
                        kinds[kind_count] = kind
                        kind_count += 1
        if content >= 0:
            for place in range(kind_count):
                count = _add(spans, count, kinds[place], content, content_end)
        if tag == _LINK and canonical and href >= 0:
            count = _add(spans, count, _CANONICAL, href, href_end)
        if licence and href >= 0:
            count = _add(spans, count, _LICENCE, href, href_end)
        if author and tag != _META_TAG and tag != _LINK:
            count = _add(spans, count, _AUTHOR_TEXT, node, -1)
        if stamp >= 0:
            count = _add(spans, count, _TIME_PUBLISHED if published else _TIME, stamp, stamp_end)
        if lang >= 0 and not seen_root:
            seen_root = True
            count = _add(spans, count, _LANGUAGE, lang, lang_end)
        if is_json:
            count = _add(spans, count, _JSON, node, -1)
    return count
