r"""The regular expressions that cut text into pre-tokens, by name.

Spelled for Oniguruma, the engine inside `tokenizers`: there `\p{N}{1,3}+` means "repeat", not "possessive", so that
tiktoken's present spelling of cl100k would give digit runs of any length. The original spellings below have no such trap.
"""

from __future__ import annotations

# OpenAI, GPT-2 encoder.py (the same expression as tokenizers' ByteLevel with use_regex)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

# tiktoken's cl100k_base as first published; Llama 3 uses it unchanged
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# Qwen2: Llama 3's with single digits
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

# tiktoken's o200k_base: words may be split at a change from lower to upper case
O200K = "|".join(
    [
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)

PATTERNS = {"gpt2": GPT2, "llama3": LLAMA3, "cl100k": LLAMA3, "qwen2": QWEN2, "o200k": O200K}
