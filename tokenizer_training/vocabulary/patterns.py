r"""The regular expressions that cut text into pre-tokens, by name.

Spelled for Oniguruma, the engine inside `tokenizers`: there `\p{N}{1,3}+` means "repeat", not "possessive", so that
tiktoken's present spelling of cl100k would give digit runs of any length. The spellings below have no such trap.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

from tokenizer_training.config import TokenizerError

# OpenAI, GPT-2 encoder.py (the same expression as tokenizers' ByteLevel with use_regex)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# tiktoken's cl100k_base as first published; Llama 3 uses it unchanged
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Qwen2 and Qwen3: Llama 3's with single digits (their tokenizers also normalise to NFC)
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

# Qwen3.5: combining marks belong to words
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# nanochat's, with a plain `+` for its possessive ones, which change nothing there; digits in pairs
NANOCHAT = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}{1,2}")

# tiktoken's o200k_base: words may be split at a change from lower to upper case
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CONTRACTION = "(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_O200K_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
O200K = "|".join(
    [
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTION}",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTION}",
        r"\p{N}{1,3}",
        _O200K_REST,
    ]
)

# Mistral's tekken: o200k without contractions, single digits
TEKKEN = O200K.replace(_CONTRACTION, "").replace(r"\p{N}{1,3}", r"\p{N}")

PATTERNS = {
    "gpt2": GPT2,
    "cl100k": LLAMA3,
    "llama3": LLAMA3,
    "o200k": O200K,
    "qwen2": QWEN2,
    "qwen3.5": QWEN35,
    "tekken": TEKKEN,
    "nanochat": NANOCHAT,
}
CUSTOM = "custom"

# How the compiled pre-tokenizer splits each: a family of rules, and the most digits in a group (0: no limit).
GPT2_STYLE, LLAMA3_STYLE, QWEN35_STYLE, O200K_STYLE, TEKKEN_STYLE = range(5)
_COMPILED = {
    "gpt2": (GPT2_STYLE, 0),
    "cl100k": (LLAMA3_STYLE, 3),
    "llama3": (LLAMA3_STYLE, 3),
    "o200k": (O200K_STYLE, 3),
    "qwen2": (LLAMA3_STYLE, 1),
    "qwen3.5": (QWEN35_STYLE, 1),
    "tekken": (TEKKEN_STYLE, 1),
    "nanochat": (LLAMA3_STYLE, 2),
}
_DIGIT_GROUP = {0: r"\p{N}+", 1: r"\p{N}", 2: r"\p{N}{1,2}", 3: r"\p{N}{1,3}"}


class Rules(NamedTuple):
    """How text is cut into pre-tokens."""

    pattern: str  # a name in PATTERNS, or CUSTOM
    regex: str  # for Oniguruma, with the group of digits that was asked for
    style: int  # of the compiled pre-tokenizer; -1: only `tokenizers` can split by this expression
    digits: int  # most digits in a group; 0: no limit


def split_rules(pattern: str, digits: int | None = None, regex: str | None = None) -> Rules:
    r"""The rules of a named pattern, or of the expression `regex` where the pattern is "custom".

    `digits` (1, 2 or 3) replaces the pattern's group of digits; null leaves it. A custom expression is in Oniguruma's
    Ruby syntax, as in a tokenizer.json; text that it does not match becomes pre-tokens of its own.

    Raises `TokenizerError` if the pattern is unknown, or the expression is missing, wrong, or splits a text so that
    not every byte comes back.
    """
    if digits not in (None, 1, 2, 3):
        raise TokenizerError(f"digits {digits}: expected 1, 2, 3 or null for the pattern's own")
    if pattern == CUSTOM:
        if not regex:
            raise TokenizerError('pattern "custom" needs an expression in `regex`')
        if digits is not None:
            raise TokenizerError("digits: write the group of digits into the custom `regex`, and leave digits null")
        _check(regex)
        return Rules(CUSTOM, regex, -1, 0)
    if pattern not in PATTERNS:
        raise TokenizerError(f"pattern {pattern!r}: expected one of {', '.join(PATTERNS)}, or {CUSTOM}")
    if regex is not None:
        raise TokenizerError(f'regex: only with pattern "custom", but the pattern is {pattern!r}')
    style, own = _COMPILED[pattern]
    group = own if digits is None else digits
    expression = PATTERNS[pattern].replace(_DIGIT_GROUP[own] + "|", _DIGIT_GROUP[group] + "|")
    return Rules(pattern, expression, style, group)


def _check(expression: str) -> None:
    from tokenizers import Regex, pre_tokenizers

    try:
        split = pre_tokenizers.Split(Regex(expression), behavior="isolated")
    except Exception as error:  # the library raises plain Exception
        raise TokenizerError(f"regex {expression!r}: {error}") from None
    for text in ("Aa1 b'c\n\n  d\t#$ 12345é漢字\u0301\r\n x", "a", " ", "\n", "1"):
        ends = [0, *(stop for _, (_, stop) in split.pre_tokenize_str(text))]
        if ends[-1] != len(text) or any(b <= a for a, b in itertools.pairwise(ends)):
            raise TokenizerError(f"regex {expression!r}: splits {text!r} at {ends}, so that text would be lost")
