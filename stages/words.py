"""One tokenisation of a document, shared by every stage that counts words."""

from __future__ import annotations

import re

WORD = re.compile(r"\w+")


def lower_words(text: str) -> list[str]:
    r"""The lower-case `\w+` runs of a text: the words of dedup's shingles."""
    return WORD.findall(text.lower())
