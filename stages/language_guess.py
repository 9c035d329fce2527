"""A cheap guess at the language of an HTML page, before its text is extracted: tags cut out by pattern, long runs of text read."""

from __future__ import annotations

import codecs
import html as entities
import re
from collections.abc import Iterator

from stages.extract.charset import decode, meta_charset
from stages.language_model import Identifier

LONG_RUN = 60  # bytes between two tags that are read first: sentences rather than menus
SHORT_RUN = 12  # and where those are few, the shorter ones
ENOUGH = 1000  # characters that are read

# A page may be dropped unread if its guess is another language with at least this score. Of 1,905 pages that are kept after
# extraction 6 (0.3%) would be lost, most of them half translated; of those that are not in English, 0.98 (web pages) and
# 0.78 (half translated manuals) are known before.
SURE = 0.8

_PAGE = 1 << 20  # bytes of a page that are looked at
_PART = 1 << 13  # at a time

_HIDDEN = re.compile(rb"<(?:(script|style|noscript|template|textarea|svg|code|pre)[\s>/]|(!--))", re.IGNORECASE)
_RUN = re.compile(rb">([^<>]{%d,})(?=<)" % SHORT_RUN)
_SPACE = re.compile(r"\s+")


def guess(page: bytes, model: Identifier, charset: str | None = None) -> tuple[str, float]:
    """The label of a page and its score (0 to 1), from its first longer pieces of text; `und` and 0 where it has none.

    `charset` is that of the HTTP header. Never raises: what is not HTML has no runs between tags and is read as it is.
    """
    text = page_text(page, charset)
    if not text:
        return "und", 0.0
    label, score, _ = model.best(text)
    return label, score


def page_text(page: bytes, charset: str | None = None) -> str:
    """Up to `ENOUGH` characters of a page's text, in its order, without scripts, styles, comments and tags."""
    page = page[:_PAGE]
    if page[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
        page = page.decode("utf-16", "replace").encode("utf-8", "replace")
    runs: list[bytes] = []
    size = 0  # bytes in long runs
    for part in _shown(page):
        for run in _RUN.findall(part):
            if not run.isspace():
                runs.append(run)
                size += len(run) if len(run) >= LONG_RUN else 0
        if size >= 4 * ENOUGH:  # at most four bytes a character
            break
    if size >= ENOUGH // 2:
        runs = [run for run in runs if len(run) >= LONG_RUN]
    if not runs and b"<" not in page:
        runs = [page]
    text = _decoded(b"\n".join(runs)[: 4 * ENOUGH], page, charset)
    return _SPACE.sub(" ", entities.unescape(text)).strip()[:ENOUGH]


def _shown(page: bytes) -> Iterator[bytes]:
    """The parts of a page, a few kilobytes each, between elements that hold no text for readers.

    An element that is never closed hides the rest. Takes time linear in the page.
    """
    lower, place = page.lower(), 0
    while place < len(page):
        found = _HIDDEN.search(lower, place)
        stop = len(page) if found is None else found.start()
        while place < stop:  # parts end before a tag, so that no run is cut
            end = lower.find(b"<", min(place + _PART, stop), stop)
            end = stop if end < 0 else end
            yield page[place : end + 1]  # with the `<` that ends its last run
            place = end
        if found is None:
            return
        closer = b"-->" if found[2] else b"</" + found[1]
        end = lower.find(closer, found.end())
        if end < 0:
            return
        place = end + (3 if found[2] else 0)


def _decoded(text: bytes, page: bytes, charset: str | None) -> str:
    """UTF-8 where it is that (the last character may be cut), else as `extract` would decode these bytes alone."""
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(text)
    except UnicodeDecodeError:
        return decode(text, charset or meta_charset(page))[0]
