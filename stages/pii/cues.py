r"""A text as the recognisers see it: one byte a code point, and the words that stand before a find.

Structured data is ASCII but for its digits and marks, so every recogniser searches `fold(text)`: bytes of the same length, in
which the digits of all scripts, full-width letters, and the many dashes and spaces are their ASCII equals, and any other character
beyond Latin-1 is `?`. Offsets are those of the text, and searching bytes is several times as fast as searching text.
"""

from __future__ import annotations

import re
import sys
import unicodedata
from collections.abc import Callable
from functools import cache, cached_property

import numpy as np
import numpy.typing as npt

from stages.characters import code_points

CUE_REACH = 64  # code points before a find in which a word makes it more certain
DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\uff0d\u30fc\ufe58\ufe63"
SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
OTHER = {"\u2044": "/", "\u2215": "/", "\u2024": ".", "\u2032": "'", "\u2019": "'", "\u2033": '"', "\u201d": '"'}


@cache
def _table() -> npt.NDArray[np.uint8]:
    """The byte of every code point."""
    table = np.full(sys.maxunicode + 1, ord("?"), dtype=np.uint8)
    table[:256] = np.arange(256)
    table[0xFF01:0xFF5F] = np.arange(0x21, 0x7F)  # full-width forms
    for digit in re.findall(r"\d", "".join(map(chr, range(0x80, 0x20000)))):
        table[ord(digit)] = ord(str(unicodedata.digit(digit)))
    for code, equal in {**dict.fromkeys(DASHES, "-"), **dict.fromkeys(SPACES, " "), **OTHER}.items():
        table[ord(code)] = ord(equal)
    return table


def fold(text: str) -> bytes:
    """One byte a code point; see above."""
    return text.encode() if text.isascii() else _table()[code_points(text)].tobytes()


_UNSPACED = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # Thai, kana, Han, Hangul
UNSPACED = re.compile(f"[{_UNSPACED}]")


class Cue:
    r"""Looks for any of some words (regexes), in any case, not inside another word.

    A word that ends in `\w*` may go on; those of scripts without spaces stand anywhere. The pattern is compiled when it is first
    looked for: all of them together take half a second, which a process that never meets their numbers need not spend.
    """

    def __init__(self, *words: str) -> None:
        self._words = words

    @cached_property
    def search(self) -> Callable[[str, int, int], re.Match[str] | None]:
        """The search of the compiled pattern: text, where to begin, where to end."""
        unspaced = [word for word in self._words if UNSPACED.search(word)]
        spaced = [word for word in self._words if not UNSPACED.search(word)]
        pattern = rf"(?:(?<![^\W\d_])|(?<=[{_UNSPACED}]))(?:{'|'.join(spaced)})(?![^\W\d_])"
        return re.compile("|".join([*unspaced, pattern] if spaced else unspaced), re.IGNORECASE).search


def cue(*words: str) -> Cue:
    """See `Cue`."""
    return Cue(*words)


def cued(text: str, start: int, cues: Cue, reach: int = CUE_REACH) -> bool:
    """Whether a cue stands shortly before a place."""
    return cues.search(text, max(0, start - reach), start) is not None


WORD = re.compile(rf"[{_UNSPACED}]+|[^\W\d_{_UNSPACED}]+")


class Lexicon:
    """Many words to look for at once: by table, where a pattern of them all would take a hundred microseconds a place."""

    def __init__(self, words: str) -> None:
        """`words`: divided by white space; `stem*` stands for what begins so, `my_number` for two words in a row."""
        some = words.split()
        self._stems = tuple(word[:-1] for word in some if word.endswith("*"))
        self._words = frozenset(word.replace("_", " ") for word in some if not word.endswith("*"))
        self._unspaced = tuple(word for word in some if UNSPACED.match(word))

    def last(self, words: list[str]) -> int:
        """The place of the last known word of a list (of two in a row, the second); -1 if there is none."""
        for place in range(len(words) - 1, -1, -1):
            word = words[place]
            if word in self._words or (self._stems and word.startswith(self._stems)):
                return place
            if place and f"{words[place - 1]} {word}" in self._words:
                return place
            if self._unspaced and not word.isascii() and any(one in word for one in self._unspaced):
                return place
        return -1


def words_before(text: str, start: int, reach: int) -> list[str]:
    """The words in some code points before a place, lower case; the first may be cut."""
    return WORD.findall(text[max(0, start - reach) : start].lower())


_TOKEN = bytes(97 if (chr(code).isalnum() and code < 128) or chr(code) in "_-." else 0 for code in range(256))


TOKEN = re.compile(rb"[A-Za-z0-9_.\-]+")
SHORT = 400  # bytes under which a pattern is faster than arrays


def long_tokens(folded: bytes, least: int) -> list[tuple[int, int]]:
    """Where runs of at least so many letters, digits, `_`, `-` and `.` are."""
    if len(folded) < SHORT:
        if len(max(folded.split(), key=len, default=b"")) < least:
            return []
        return [token.span() for token in TOKEN.finditer(folded) if token.end() - token.start() >= least]
    ends = np.flatnonzero(np.frombuffer(folded.translate(_TOKEN), dtype=np.uint8) == 0)
    starts = np.concatenate(([0], ends + 1))
    ends = np.append(ends, len(folded))
    found = ends - starts >= least
    return list(zip(starts[found].tolist(), ends[found].tolist(), strict=True))
