"""Other extractors behind `extract`: each a function from a page to its main text ("" if it has none)."""

from __future__ import annotations

import re
from collections.abc import Callable
from copy import deepcopy

from stages.extract.metadata import read_metadata
from stages.extract.page import Page

TextOf = Callable[[Page], str]

_RESET_PAGES = 1000  # trafilatura's caches are emptied so often; they only save time
_SENTENCE = re.compile(r"\w[^\n]{60,}[.!?:;…。！？]|[^\n]{100,}|[\u3040-\u30ff\u3400-\u9fff]{20,}")
_NEAR_LINES = 3
_CONTROLS = re.compile(
    rb"[\x00-\x08\x0b\x0c\x0e-\x1f]|\xef\xbf[\xbe\xbf]"
)  # what no XML may hold; the last two are U+FFFE and U+FFFF


def trafilatura_method(fast: bool, favor: str, comments: bool, tables: bool, markdown: bool, max_bytes: int) -> TextOf:
    """trafilatura's text.

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

    def text_of(page: Page) -> str:
        nonlocal pages
        pages += 1
        if pages % _RESET_PAGES == 0:
            reset_caches()
        text = trafilatura.extract(
            page.text,
            fast=fast,
            favor_precision=favor == "precision",
            favor_recall=favor == "recall",
            include_comments=comments,
            include_tables=tables,
            output_format="markdown" if markdown else "txt",
            deduplicate=False,
            config=config,
        )
        return text or ""

    return text_of


def resiliparse_method(favor: str, comments: bool, tables: bool) -> TextOf:
    """resiliparse's main content; recall: all visible text; precision: without short lines far from any sentence.

    No alternative texts, links, form fields and `noscript`: they are no text of the page (F1 0.850 with the library's
    defaults, 0.863 so, on 776 of trafilatura's evaluation pages).
    """
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    skip = None if tables else ["table"]

    def text_of(page: Page) -> str:
        text: str = extract_plain_text(
            HTMLTree.parse(page.text),
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


def justext_method() -> TextOf:
    """jusText's paragraphs, by the stop words of the language that the page declares, else by those of all its languages together.

    Control characters are taken out, on which it raises; a page in which lxml finds no element has no text.
    """
    import justext
    from lxml.etree import ParserError

    known = {name.lower(): name for name in justext.get_stoplists()}
    every = frozenset().union(*(justext.get_stoplist(name) for name in known.values()))

    def text_of(page: Page) -> str:
        code = (read_metadata(page).declared_language or "").replace("_", "-").split("-")[0].lower()
        name = known.get(_JUSTEXT.get(code, ""))
        if not page.text.strip():
            return ""
        words = justext.get_stoplist(name) if name else every
        try:
            paragraphs = justext.justext(_CONTROLS.sub(b"", page.raw), words, encoding="utf-8")
        except ParserError:
            return ""
        return "\n".join(paragraph.text for paragraph in paragraphs if not paragraph.is_boilerplate)

    return text_of


_JUSTEXT = {  # ISO 639-1 to the names of jusText's lists
    "af": "afrikaans", "ar": "arabic", "az": "azerbaijani", "be": "belarusian", "bg": "bulgarian", "bn": "bengali", "bs": "bosnian",
    "ca": "catalan", "cs": "czech", "da": "danish", "de": "german", "el": "greek", "en": "english", "eo": "esperanto", "es": "spanish",
    "et": "estonian", "eu": "basque", "fa": "persian", "fi": "finnish", "fr": "french", "ga": "irish", "gl": "galician",
    "he": "hebrew", "hi": "hindi", "hr": "croatian", "hu": "hungarian", "hy": "armenian", "id": "indonesian", "is": "icelandic",
    "it": "italian", "ka": "georgian", "kk": "kazakh", "ko": "korean", "lt": "lithuanian", "lv": "latvian", "mk": "macedonian",
    "ms": "malay", "nl": "dutch", "nb": "norwegian_bokmal", "no": "norwegian_bokmal", "nn": "norwegian_nynorsk", "pl": "polish",
    "pt": "portuguese", "ro": "romanian", "ru": "russian", "sk": "slovak", "sl": "slovenian", "sq": "albanian", "sr": "serbian",
    "sv": "swedish", "sw": "swahili", "ta": "tamil", "te": "telugu", "tr": "turkish", "uk": "ukrainian", "ur": "urdu",
    "uz": "uzbek", "vi": "vietnamese", "cy": "welsh",
}  # fmt: skip
