"""The extractors behind `extract`: each a function from a page to its main text ("" if it has none)."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

TextOf = Callable[[str, Any], str]  # (page, the same parsed by resiliparse) -> text

_RESET_PAGES = 1000  # trafilatura's caches are emptied so often; they only save time
_SENTENCE = re.compile(r"\w[^\n]{60,}[.!?:;…。！？]|[^\n]{100,}|[\u3040-\u30ff\u3400-\u9fff]{20,}")
_NEAR_LINES = 3


def trafilatura_method(fast: bool, favor: str, comments: bool, tables: bool, max_bytes: int) -> TextOf:
    """trafilatura's plain text.

    Its duplicate cache, which spans pages, stays off: output must not depend on what was read before. Its metadata are
    not asked for: they take about as long as the extraction itself.
    """
    import logging

    import trafilatura
    from trafilatura.meta import reset_caches
    from trafilatura.settings import DEFAULT_CONFIG

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # an error line for each odd page
    logging.getLogger("readability").setLevel(logging.CRITICAL)
    config = deepcopy(DEFAULT_CONFIG)
    config.set("DEFAULT", "MAX_FILE_SIZE", str(max_bytes))  # ours decides, not a second, silent one
    config.set("DEFAULT", "MIN_FILE_SIZE", "0")
    pages = 0

    def text_of(page: str, tree: Any) -> str:
        nonlocal pages
        pages += 1
        if pages % _RESET_PAGES == 0:
            reset_caches()
        text = trafilatura.extract(
            page,
            fast=fast,
            favor_precision=favor == "precision",
            favor_recall=favor == "recall",
            include_comments=comments,
            include_tables=tables,
            output_format="txt",
            deduplicate=False,
            config=config,
        )
        return text or ""

    return text_of


def resiliparse_method(fast: bool, favor: str, comments: bool, tables: bool, max_bytes: int) -> TextOf:
    """resiliparse's main content; recall: all visible text; precision: without short lines far from any sentence.

    No alternative texts, links, form fields and `noscript`: they are no text of the page (F1 0.850 with the library's
    defaults, 0.863 so, on 776 of trafilatura's evaluation pages).
    """
    from resiliparse.extract.html2text import extract_plain_text

    skip = None if tables else ["table"]

    def text_of(page: str, tree: Any) -> str:
        text: str = extract_plain_text(
            tree,
            preserve_formatting=True,
            main_content=favor != "recall",
            list_bullets=True,
            alt_texts=False,
            links=False,
            form_fields=False,
            noscript=False,
            comments=comments,
            skip_elements=skip,
        )
        return near_sentences(text) if favor == "precision" else text

    return text_of


def near_sentences(text: str) -> str:
    """The lines that are sentences, and those at most three lines from one.

    A sentence here is a line of 60 characters or more that ends one, of 100 without an end, or 20 ideographs or kana.
    """
    lines = text.split("\n")
    near = [False] * len(lines)
    for number, line in enumerate(lines):
        if _SENTENCE.search(line):
            start, end = max(0, number - _NEAR_LINES), number + _NEAR_LINES + 1
            near[start:end] = [True] * len(lines[start:end])
    return "\n".join(line for line, keep in zip(lines, near, strict=True) if keep)
