"""What a page says of itself: title, author, date, canonical address, language, licence.

One pass of CSS queries over the parsed tree, in C, at a fraction of the cost of a page's extraction. Names of the meta
tags: HTML Standard, Open Graph (ogp.me), Dublin Core, schema.org, and what publishers' systems write.
"""

from __future__ import annotations

import json
import re
from datetime import date, datetime
from email.utils import parsedate
from typing import Any, NamedTuple
from urllib.parse import urljoin

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
_KEYS = ("property", "name", "itemprop", "http-equiv")
_HEAD_ELEMENTS, _BODY_ELEMENTS = 1000, 20  # how many are looked at
_ISO = re.compile(r"(\d{4})[-/.](\d{1,2})[-/.](\d{1,2})(?!\d)|(\d{4})(\d{2})(\d{2})(?!\d)")
_DAY_FIRST = re.compile(r"(\d{1,2})\.\s?(\d{1,2})\.\s?(\d{4})(?!\d)")  # dots mean day first wherever they are used
_SPACE = re.compile(r"\s+")
_LD_DATE = re.compile(r'"datePublished"\s*:\s*"([^"\\]{8,40})"')
_LD_AUTHOR = re.compile(r'"author"\s*:\s*\[?\s*(?:\{[^{}]{0,2000}?"name"\s*:\s*)?("(?:[^"\\]|\\.){1,200}")')
_LD_BYTES, _LD_SCRIPTS = 65_536, 4


class Metadata(NamedTuple):
    """Strings or None; `published` is an ISO date (YYYY-MM-DD), the addresses are absolute where the page's own is known."""

    title: str | None = None
    author: str | None = None
    published: str | None = None
    canonical_url: str | None = None
    declared_language: str | None = None
    licence: str | None = None


def read_metadata(tree: Any, url: str | None = None) -> Metadata:
    """The metadata of a page parsed by resiliparse (`HTMLTree`); `url` resolves relative addresses."""
    document = tree.document
    meta = _meta_tags(document)
    root = document.query_selector("html")
    language = None if root is None else _clean(root.getattr("lang") or root.getattr("xml:lang"))
    script = _linked_data(document)
    return Metadata(
        title=_first(meta, _TITLE[:1]) or _clean(tree.title) or _first(meta, _TITLE[1:]) or _text_of(document, "h1"),
        author=_author(meta, document, script),
        published=_published(meta, document, script),
        canonical_url=_address(document, 'link[rel~="canonical" i][href]', url)
        or _web_address(_first(meta, ("og:url",)), url),
        declared_language=language or _first(meta, ("content-language",)),
        licence=_address(document, '[rel~="license" i][href]', url),
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


def _meta_tags(document: Any) -> dict[str, str]:
    """The first non-empty content of each named meta tag, names in lower case.

    Siblings are walked, since iterating over a query's result takes quadratic time in resiliparse 2.0. Tags that a
    parser moves out of a broken head stand at the top of the body.
    """
    found: dict[str, str] = {}
    for part, most in (("head", _HEAD_ELEMENTS), ("body", _BODY_ELEMENTS)):
        parent = document.query_selector(part)
        element = None if parent is None else parent.first_element_child
        while element is not None and most:
            if element.tag == "meta" and (content := _clean(element.getattr("content"))):
                for key in _KEYS:
                    if name := element.getattr(key):
                        found.setdefault(name.strip().lower(), content)
            element = element.next_element_sibling
            most -= 1
    return found


def _linked_data(document: Any) -> str:
    """The page's JSON-LD as one string, cut short: it is searched, not parsed, since much of it is broken JSON."""
    scripts = document.query_selector_all('script[type="application/ld+json" i]')
    return "\n".join((scripts[i].text or "")[:_LD_BYTES] for i in range(min(len(scripts), _LD_SCRIPTS)))


def _author(meta: dict[str, str], document: Any, script: str) -> str | None:
    author = _first(meta, _AUTHOR)
    if author is None or author.startswith(("http://", "https://", "@")):
        author = None
        if match := _LD_AUTHOR.search(script):
            try:
                author = _clean(json.loads(match.group(1), strict=False))
            except ValueError:
                author = None
        if author is not None and author.startswith(("http://", "https://", "@")):
            author = None
    return author or _text_of(document, '[rel~="author" i], [itemprop="author"]')


def _published(meta: dict[str, str], document: Any, script: str) -> str | None:
    for name in _PUBLISHED[:2]:
        if day := iso_date(meta.get(name)):
            return day
    if (match := _LD_DATE.search(script)) and (day := iso_date(match.group(1))):
        return day
    for name in _PUBLISHED[2:]:
        if day := iso_date(meta.get(name)):
            return day
    stamp = document.query_selector(
        'time[itemprop~="datePublished"][datetime], time[pubdate][datetime], time[datetime]'
    )
    return None if stamp is None else iso_date(stamp.getattr("datetime"))


def _first(meta: dict[str, str], names: tuple[str, ...]) -> str | None:
    return next((meta[name] for name in names if name in meta), None)


def _text_of(document: Any, selector: str) -> str | None:
    element = document.query_selector(selector)
    text = None if element is None else _clean(element.text)
    return text if text and len(text) <= 200 else None


def _address(document: Any, selector: str, url: str | None) -> str | None:
    element = document.query_selector(selector)
    return None if element is None else _web_address(element.getattr("href"), url)


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
