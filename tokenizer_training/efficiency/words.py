"""Words and scripts of many texts at once, by tables over code points.

What counts as a word is recorded in every report, because fertility means nothing without it. `SEGMENTER` is the rule as
a regular expression; `segment` does the same in passes over arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import pyarrow as pa
import regex

# A word is encoded with the space before it, as it stands in text. Scripts written without spaces: one character with its
# marks is one word.
SEGMENTER = (
    r" ?(?:[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]\p{M}*"
    r"|(?:(?![\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}])[\p{L}\p{M}\p{N}])+)"
)
SCRIPTS = [
    "Latin", "Cyrillic", "Greek", "Armenian", "Georgian", "Hebrew", "Arabic", "Syriac", "Thaana", "Ethiopic",
    "Devanagari", "Bengali", "Gurmukhi", "Gujarati", "Oriya", "Tamil", "Telugu", "Kannada", "Malayalam", "Sinhala",
    "Thai", "Lao", "Khmer", "Myanmar", "Tibetan", "Mongolian", "Han", "Hiragana", "Katakana", "Hangul", "Bopomofo",
    "Cherokee", "Canadian_Aboriginal", "Javanese", "Tifinagh", "Nko", "Vai", "Yi",
]  # fmt: skip
OTHER = "other script"  # letters of a script that is not listed
NO_LETTERS = "no letters"
JAPANESE = "Japanese"  # Han among Hiragana or Katakana

GAP, LETTER, MARK, LONE, LONE_MARK = range(5)
_LONE = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]"
_KINDS = (
    (LONE_MARK, regex.compile(rf"(?=\p{{M}}){_LONE}")),
    (LONE, regex.compile(_LONE)),
    (MARK, regex.compile(r"\p{M}")),
)
_WORD = regex.compile(r"[\p{L}\p{N}]")
_LETTER = regex.compile(r"\p{L}")


@cache
def _script_patterns() -> list[regex.Pattern[str]]:
    return [regex.compile(rf"\p{{{name}}}") for name in SCRIPTS]


class CharacterTable:
    """Kind (what `segment` needs) and script of code points, looked up by `regex` when first seen."""

    def __init__(self) -> None:
        self.kinds = np.zeros(0x110000, np.uint8)
        self.scripts = np.zeros(0x110000, np.uint8)  # 1 + index into SCRIPTS, 0: no letter, 255: other
        self._known = np.zeros(0x110000, np.bool_)

    def learn(self, points: np.ndarray) -> None:
        """Look up those of some code points (uint32) that were not seen before."""
        for point in np.unique(points[~self._known[points]]).tolist():
            letter = chr(point)
            self.kinds[point] = next((kind for kind, pattern in _KINDS if pattern.match(letter)), GAP)
            if self.kinds[point] == GAP and _WORD.match(letter):
                self.kinds[point] = LETTER
            if _LETTER.match(letter):
                found = (1 + i for i, pattern in enumerate(_script_patterns()) if pattern.match(letter))
                self.scripts[point] = next(found, 255)
            self._known[point] = True


def code_points(text: str) -> np.ndarray:
    """The code points (uint32) of a text without lone surrogates."""
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def segment(points: np.ndarray, table: CharacterTable) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends (int64, in code points) of the words that `SEGMENTER` finds, in order."""
    if len(points) == 0:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    kind = table.kinds[points]
    index = np.arange(len(kind), dtype=np.int64)
    # A mark belongs to the word before it, of whatever kind that is; without one it begins a word of letters.
    owner = kind[np.maximum.accumulate(np.where(kind != MARK, index, 0))]
    state = np.full(len(kind), GAP, np.uint8)
    state[(kind == LETTER) | (kind == MARK)] = LETTER
    state[(kind == LONE) | (kind == LONE_MARK)] = LONE
    state[(kind == MARK) & ((owner == LONE) | (owner == LONE_MARK))] = LONE
    before = np.concatenate([[GAP], state[:-1]]).astype(np.uint8)
    begins = (state != GAP) & (
        (kind == LONE) | ((kind == MARK) & (before == GAP)) | ((kind != MARK) & (before != state))
    )
    starts = np.flatnonzero(begins)
    # a word ends where the next begins or where letters do
    ends_here = (state != GAP) & np.concatenate([(state[1:] == GAP) | begins[1:], [True]])
    ends = np.flatnonzero(ends_here) + 1
    spaced = (starts > 0) & (points[np.maximum(starts - 1, 0)] == 32)
    return starts - spaced, ends


def byte_offsets(points: np.ndarray) -> np.ndarray:
    """int64[n + 1]: where each code point begins in UTF-8."""
    lengths = 1 + (points >= 0x80).astype(np.int8) + (points >= 0x800) + (points >= 0x10000)
    return np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])


def count_words(
    texts: Sequence[str], groups: np.ndarray, table: CharacterTable
) -> tuple[pa.Array, np.ndarray, np.ndarray, np.ndarray]:
    """The distinct words of texts, and for each pair of a group and a word how often it stands there.

    `groups` int64: of each text. Returns words (large_string[W]) and three int64 arrays of equal length: group, word, count.
    """
    points = code_points("\n".join(texts))
    table.learn(points)
    starts, ends = segment(points, table)
    at = byte_offsets(points)
    data = np.frombuffer("\n".join(texts).encode("utf-8"), np.uint8)
    lengths = at[ends] - at[starts]
    # the bytes of words, one after the other: a word of bytes [a, b) keeps them
    edges = np.zeros(len(data) + 1, np.int8)
    edges[at[starts]] += 1
    edges[at[ends]] -= 1
    kept = data[np.cumsum(edges[:-1], dtype=np.int8).astype(np.bool_)]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    words = pa.LargeStringArray.from_buffers(
        len(lengths), pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(kept))
    )
    coded = words.dictionary_encode()
    codes = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    bounds = np.cumsum([0] + [len(text) + 1 for text in texts])
    owner = groups[np.searchsorted(bounds, ends - 1, side="right") - 1] if len(ends) else np.zeros(0, np.int64)
    distinct = max(len(coded.dictionary), 1)
    pairs, counts = np.unique(owner * distinct + codes, return_counts=True)
    return coded.dictionary, pairs // distinct, pairs % distinct, counts.astype(np.int64)


def scripts_of(texts: Sequence[str], table: CharacterTable) -> list[str]:
    """The script that most letters of each text have; Han with a tenth of kana or more is Japanese."""
    points = code_points("".join(texts))
    table.learn(points)
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in texts])
    counts = np.bincount(owner * 256 + table.scripts[points], minlength=256 * len(texts)).reshape(-1, 256)
    counts[:, 0] = 0
    letters = counts.sum(1)
    han = counts[:, 1 + SCRIPTS.index("Han")]
    kana = counts[:, 1 + SCRIPTS.index("Hiragana")] + counts[:, 1 + SCRIPTS.index("Katakana")]
    japanese = (kana > 0) & (10 * kana >= kana + han) & (2 * (kana + han) >= letters)
    names = [NO_LETTERS, *SCRIPTS, *[OTHER] * (255 - len(SCRIPTS))]
    found = [names[best] if count else NO_LETTERS for best, count in zip(counts.argmax(1), letters, strict=True)]
    return [JAPANESE if is_japanese else name for name, is_japanese in zip(found, japanese, strict=True)]
