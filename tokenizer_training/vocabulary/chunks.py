r"""Pieces of several words, for a second stage of merges: up to `words` pre-tokens, each but the first a contraction, or a space and letters.

So no chunk holds a line feed or digits, and punctuation only as an apostrophe, or as the one character before its first word
that the pattern takes along. All other pre-tokens stay as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from stages.jit import bare_kernel
from tokenizer_training.vocabulary.characters import character_classes
from tokenizer_training.vocabulary.patterns import (
    CUSTOM,
    GPT2_STYLE,
    LLAMA3_STYLE,
    O200K_STYLE,
    QWEN35_STYLE,
    TEKKEN_STYLE,
    Rules,
)
from tokenizer_training.vocabulary.pretokenize import cuts_of, ends_of
from tokenizer_training.vocabulary.split_kernels import _LETTERS, _MARKS, _NUMBERS, _contraction, _read

_GPT2_SHORT = "'s|'t|'re|'ve|'m|'ll|'d"
_SHORT = f"(?i:{_GPT2_SHORT})"
_BEFORE = r"[^\r\n\p{L}\p{N}]?"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"


def _cased(before: str, after: str) -> str:
    return f"{before}{_UPPER}*{_LOWER}+{after}|{before}{_UPPER}+{_LOWER}*{after}"


# How each style's expression begins (words), and those of these words that may follow another one.
_WORDS = {
    GPT2_STYLE: (rf"{_GPT2_SHORT}| ?\p{{L}}+", rf"{_GPT2_SHORT}| \p{{L}}+"),
    LLAMA3_STYLE: (rf"{_SHORT}|{_BEFORE}\p{{L}}+", rf"{_SHORT}| \p{{L}}+"),
    QWEN35_STYLE: (rf"{_SHORT}|{_BEFORE}[\p{{L}}\p{{M}}]+", rf"{_SHORT}| [\p{{L}}\p{{M}}]+"),
    O200K_STYLE: (_cased(_BEFORE, _SHORT + "?"), _cased(" ", _SHORT + "?")),
    TEKKEN_STYLE: (_cased(_BEFORE, ""), _cased(" ", "")),
}


def chunk_rules(rules: Rules, words: int) -> Rules:
    """The rules that cut text into chunks of up to `words` words, from those of a named pattern."""
    starting, following = _WORDS[rules.style]
    assert rules.regex.startswith(starting + "|")
    rest = rules.regex[len(starting) + 1 :]
    return Rules(CUSTOM, f"(?:{starting})(?:{following}){{0,{words - 1}}}|{rest}", -1, 0)


def chunk_ends(raw: bytes, rules: Rules, words: int) -> np.ndarray:
    """The ends (int64) of a text's chunks in bytes of its UTF-8, from the rules of its pre-tokens."""
    ends = ends_of(raw, rules)
    if not raw:
        return ends
    members = _LETTERS if rules.style in (GPT2_STYLE, LLAMA3_STYLE) else _LETTERS | _MARKS
    short = rules.style in (GPT2_STYLE, LLAMA3_STYLE, QWEN35_STYLE)  # the others have contractions within words
    borders = np.array([*cuts_of(raw), len(raw)], np.int64)
    data = np.frombuffer(raw, np.uint8)
    return ends[: _join(data, ends, borders, character_classes(), members, short, words)]


@bare_kernel
def _join(data: Any, ends: Any, borders: Any, classes: Any, members: int, short: bool, words: int) -> int:
    """Keep of the ends of pre-tokens (in place) those of chunks; how many. No chunk goes over a border."""
    kept, held, at, border = 0, 0, 0, 0
    for number in range(len(ends)):
        end = ends[number]
        while borders[border] < at:
            border += 1
        first, after = _read(data, at, end, classes)
        second = np.int64(0)  # no letter
        if after < end:
            second, _ = _read(data, after, end, classes)
        lettered = (members >> second) & 1 == 1 and after < end
        follows = held > 0 and held < words and borders[border] != at
        if follows and data[at] == 0x20:
            follows = lettered
        elif follows:
            # a contraction is a pre-token of its own, so it need only be told from quoted words
            follows = short and data[at] == 0x27 and _contraction(data, at, end, True) == end
        if follows:
            ends[kept - 1] = end
            held += 1
        else:
            ends[kept] = end
            kept += 1
            headed = ((_LETTERS | _NUMBERS) >> first) & 1 == 0 and data[at] != 0x0A and data[at] != 0x0D
            held = 1 if (members >> first) & 1 == 1 or (headed and lettered) else 0
        at = end
    return kept
