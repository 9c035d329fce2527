"""What other extractors take for the main text: teachers of the block model, and what it is compared with."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import justext
import trafilatura
from resiliparse.extract.html2text import extract_plain_text

STOP_WORDS = frozenset().union(
    *(
        justext.get_stoplist(language)
        for language in ("English", "German", "French", "Spanish", "Italian", "Dutch", "Russian", "Polish")
    )
)


def _trafilatura(**options: Any) -> Callable[[str], str]:
    def text_of(page: str) -> str:
        try:
            return trafilatura.extract(page, include_comments=False, deduplicate=False, **options) or ""
        except Exception:  # whatever a page does to it
            return ""

    return text_of


def _justext(page: str) -> str:
    try:
        found = justext.justext(page.encode("utf-8", "replace"), STOP_WORDS, encoding="utf-8")
    except Exception:  # an empty document, for one
        return ""
    return "\n".join(paragraph.text for paragraph in found if not paragraph.is_boilerplate)


def _resiliparse(page: str) -> str:
    text: str = extract_plain_text(
        page, main_content=True, alt_texts=False, links=False, form_fields=False, noscript=False, comments=False
    )
    return text


TEACHERS: dict[str, tuple[float, Callable[[str], str]]] = {  # with the weight of each one's vote
    "trafilatura": (0.25, _trafilatura()),
    "trafilatura precision": (0.2, _trafilatura(favor_precision=True)),
    "trafilatura recall": (0.15, _trafilatura(favor_recall=True)),
    "trafilatura fast": (0.15, _trafilatura(fast=True)),
    "resiliparse": (0.15, _resiliparse),
    "justext": (0.1, _justext),
}
logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
logging.getLogger("readability").setLevel(logging.CRITICAL)
