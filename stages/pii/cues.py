r"""A text as the recognisers see it: one byte a code point, and the words that stand before a find.

Structured data is ASCII but for its digits and marks, so every recogniser searches `fold(text)`: bytes of the same length, in
which the digits of all scripts, full-width letters, and the many dashes and spaces are their ASCII equals, and a letter beyond Latin-1 is
`?`. Offsets are those of the text, and searching bytes is several times as fast as searching text.
"""

from __future__ import annotations

import re
import unicodedata
from functools import cache

CUE_REACH = 64  # code points before a find in which a word makes it more certain
DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\uff0d\u30fc\ufe58\ufe63"
SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
OTHER = {"\u2044": "/", "\u2215": "/", "\u2024": ".", "\u3002": ".", "\u2032": "'", "\u2019": "'", "\u2033": '"', "\u201d": '"'}


@cache
def _equals() -> dict[str, str]:
    digits = {chr(code): str(unicodedata.digit(chr(code))) for code in range(0x80, 0x1FBFA)
              if unicodedata.category(chr(code)) == "Nd"}  # fmt: skip
    wide = {chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    return wide | digits | dict.fromkeys(DASHES, "-") | dict.fromkeys(SPACES, " ") | OTHER


@cache
def _unusual() -> re.Pattern[str]:
    return re.compile(f"[{''.join(map(re.escape, _equals()))}]")


def fold(text: str) -> bytes:
    """One byte a code point; see above."""
    if not text.isascii():
        equals = _equals()
        text = _unusual().sub(lambda match: equals[match[0]], text)
    return text.encode("latin-1", "replace")


def cue(*words: str) -> re.Pattern[str]:
    r"""A pattern for any of some words (regexes), in any case, not inside another word.

    A word that ends in `\w*` may go on; letters of scripts without spaces need no boundary.
    """
    return re.compile(rf"(?<![^\W\d_])(?:{'|'.join(words)})(?![^\W\d_])", re.IGNORECASE)


def cued(text: str, start: int, cues: re.Pattern[str], reach: int = CUE_REACH) -> bool:
    """Whether a cue stands shortly before a place."""
    return cues.search(text, max(0, start - reach), start) is not None
