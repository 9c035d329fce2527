"""Lists of words and phrases, found as whole words, with contexts that excuse them.

A list is a file LANGUAGE.txt, one entry a line, lower case or not; `#` begins a comment line. A list of contexts is such a file too: a
phrase excuses every entry inside it (`sex education`), `near: WORD` every entry up to NEAR words away (a phrase may stand there too; its first word counts).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stages.words import Words, tokenise

NEAR = 10  # words to either side
_GAP = re.compile(r"[\s\-‐‑_/]{0,3}")  # what may stand between two words of a phrase


class Phrase(NamedTuple):
    """An entry: its text in lower case, and the keys of its words."""

    text: str
    keys: tuple[int, ...]


class Found(NamedTuple):
    """What was found in one text: entries that count, those excused by their context, and the different ones that count."""

    counted: int
    excused: int
    distinct: int


def read_list(path: Path) -> list[str]:
    """The entries of a file. Raises `ValueError` if it is not UTF-8 text."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not UTF-8 text; save it as UTF-8") from error
    return [line for line in map(str.strip, lines) if line and not line.startswith("#")]


class WordList:
    """A list with its contexts, ready to be looked for in tokenised texts in lower case."""

    def __init__(self, entries: Iterable[str], contexts: Iterable[str] = ()) -> None:
        contexts = [line.lower() for line in contexts]
        near = [line.removeprefix("near:").strip() for line in contexts if line.startswith("near:")]
        phrases = [line for line in contexts if not line.startswith("near:")]
        lowered = list(dict.fromkeys(entry.lower() for entry in entries))
        self._entries, without_words = _by_first_word(lowered)
        self._symbols = tuple(without_words)  # emoji: found anywhere
        self._phrases, _ = _by_first_word(phrases)
        self._phrase_first = np.array(list(self._phrases), dtype=np.uint64)
        self._near, _ = _by_first_word(near)
        self._near_first = np.array(list(self._near), dtype=np.uint64)
        self._first = np.sort(np.array(list(self._entries), dtype=np.uint64))

    def candidates(self, words: Words) -> npt.NDArray[np.int64]:
        """Places among the words of a batch where an entry may begin."""
        if not len(self._first):
            return np.zeros(0, dtype=np.int64)
        place = np.minimum(np.searchsorted(self._first, words.key), len(self._first) - 1)
        return np.flatnonzero(self._first[place] == words.key)

    def find(self, text: str, words: Words, row: int, candidates: Sequence[int]) -> Found:
        """The entries in one row; `text` is what was tokenised, `candidates` the row's, in order."""
        first, end = int(words.rows[row]), int(words.rows[row + 1])
        matches = []
        covered = first
        for place in candidates:
            phrase = _match(self._entries, text, words, place, end) if place >= covered else None
            if phrase is not None:
                covered = place + len(phrase.keys)
                matches.append((place, covered, phrase.text))
        excused = self._excused(text, words, first, end, [(start, stop) for start, stop, _ in matches])
        counting = [name for (_, _, name), excuse in zip(matches, excused, strict=True) if not excuse]
        symbols = {symbol: text.count(symbol) for symbol in self._symbols}
        distinct = set(counting) | {symbol for symbol, times in symbols.items() if times}
        return Found(len(counting) + sum(symbols.values()), sum(excused), len(distinct))

    def _excused(self, text: str, words: Words, first: int, end: int, spans: Sequence[tuple[int, int]]) -> list[bool]:
        """Whether each span of words is inside a context's phrase, or near one of its words."""
        if not spans or not (len(self._near) or self._phrases):
            return [False] * len(spans)
        keys = words.key[first:end]
        begins = np.isin(keys, self._near_first)
        for place in np.flatnonzero(begins).tolist():
            begins[place] = _match(self._near, text, words, first + place, end) is not None
        near = np.concatenate([[0], np.cumsum(begins)])  # how many begin before each word
        around = {}  # where a context's phrase begins: where it ends
        for place in (first + np.flatnonzero(np.isin(keys, self._phrase_first))).tolist():
            phrase = _match(self._phrases, text, words, place, end)
            if phrase is not None:
                around[place] = place + len(phrase.keys)
        size = end - first
        return [
            bool(near[min(size, stop - first + NEAR)] - near[max(0, start - first - NEAR)])
            or any(around.get(place, 0) >= stop for place in range(max(first, start - NEAR), start + 1))
            for start, stop in spans
        ]


def _by_first_word(entries: Sequence[str]) -> tuple[dict[int, list[Phrase]], list[str]]:
    """Phrases by the key of their first word, the longest first; and the entries that hold no word."""
    words = tokenise(entries)
    found: dict[int, list[Phrase]] = {}
    without = []
    for row, entry in enumerate(entries):
        keys = tuple(words.key[words.rows[row] : words.rows[row + 1]].tolist())
        if keys:
            found.setdefault(keys[0], []).append(Phrase(entry, keys))
        elif entry:
            without.append(entry)
    for phrases in found.values():
        phrases.sort(key=lambda phrase: (-len(phrase.keys), phrase.text))
    return found, without


def _match(phrases: dict[int, list[Phrase]], text: str, words: Words, place: int, end: int) -> Phrase | None:
    """The longest phrase that begins at this word and does not run over punctuation that it does not have itself."""
    for phrase in phrases.get(int(words.key[place]), ()):
        stop = place + len(phrase.keys)
        if stop > end or tuple(words.key[place:stop].tolist()) != phrase.keys:
            continue
        starts, ends = words.start[place:stop].tolist(), words.end[place:stop].tolist()
        together = all(_GAP.fullmatch(text, a, b) for a, b in zip(ends[:-1], starts[1:], strict=True))
        if text[starts[0] : ends[-1]] == phrase.text or (together and not _odd(phrase.text)):
            return phrase
    return None


def _odd(text: str) -> bool:
    """Whether an entry has marks between its words that say something (`s&m`): it must stand as it is."""
    return any(not char.isalnum() and _GAP.fullmatch(char) is None and char not in "'’." for char in text)
