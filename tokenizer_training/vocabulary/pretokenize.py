r"""Pre-tokens: a text cut as the regular expressions of `patterns.py` cut it, by compiled loops over its UTF-8 bytes.

For every named pattern the pre-tokens are those of `tokenizers` (`Split` with that expression, `isolated`; for gpt2 the
expression built into `ByteLevel`). Custom expressions are run by `tokenizers` itself.

The rule for endless runs, a function of the text alone, the same for every pattern, in training and in encoding:

    A run is a longest stretch of characters that are all letters or marks; all digits (\p{N}); all white space (\s);
    or all marks or none of these. In a run of more than LONGEST_RUN bytes, from byte a to byte b, the text is cut at
    a + LONGEST_RUN, a + 2 LONGEST_RUN, ... below b, each moved back to where a character begins.
    What lies between two cuts is split as if it were a text of its own.

So a pre-token has at most 2 LONGEST_RUN + 8 bytes, and a tokenizer that is given the pieces one after the other instead of
the text gives the same ids whichever engine it is. `run_cuts` finds the cuts, at next to no cost (it looks at one character
in LONGEST_RUN bytes). Order: lone surrogates to U+FFFD, normalisation of the whole text, cuts, pre-tokens.

The kernels `next_end` (the end of one pre-token) and `run_cuts`, in split_kernels.py, are for other compiled loops to call.
"""

from __future__ import annotations

import itertools
from functools import cache
from typing import Any

import numpy as np

from tokenizer_training.vocabulary.characters import character_classes, known_normal_forms
from tokenizer_training.vocabulary.patterns import Rules
from tokenizer_training.vocabulary.split_kernels import is_nfc, mark_changed, pretoken_ends, run_cuts
from tokenizer_training.vocabulary.split_kernels import next_end as next_end  # for others to import from here

LONGEST_RUN = 4096  # bytes; every run of up to 1,024 characters is whole


def changed_by_nfc(data: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """For each of n texts (uint8[N], offsets int64[n + 1]) whether NFC may change it: bool[n]."""
    changed = np.empty(len(offsets) - 1, np.bool_)
    mark_changed(data, offsets, known_normal_forms(), changed)
    return changed


def room_for_cuts(size: int, longest: int = LONGEST_RUN) -> np.ndarray:
    """Room for the cuts of a text of `size` bytes."""
    return np.empty(6 + 2 * (size // longest), np.int64)


def cuts_of(text: str | bytes, longest: int = LONGEST_RUN) -> list[int]:
    """The places, in bytes of UTF-8, where a text (without lone surrogates) is cut for its endless runs; mostly none."""
    raw = text.encode("utf-8") if isinstance(text, str) else text
    if len(raw) <= longest:
        return []
    data, cuts = np.frombuffer(raw, np.uint8), room_for_cuts(len(raw), longest)
    count = run_cuts(data, 0, len(raw), character_classes(), longest, cuts)
    return [int(place) for place in cuts[:count]]


def ends_of(text: str | bytes, rules: Rules, longest: int = LONGEST_RUN) -> np.ndarray:
    """The ends of a text's pre-tokens in bytes of its UTF-8: int64. The text (without lone surrogates) is not normalised."""
    raw = text.encode("utf-8") if isinstance(text, str) else text
    if rules.style < 0:
        return _custom_ends(raw, rules, longest)
    data, ends = np.frombuffer(raw, np.uint8), np.empty(len(raw), np.int64)
    if not raw:
        return ends
    cuts = room_for_cuts(len(raw), longest)
    count = pretoken_ends(data, 0, len(raw), character_classes(), rules.style, rules.digits, longest, cuts, ends)
    return ends[:count].copy()


def pretokens(text: str, rules: Rules, longest: int = LONGEST_RUN) -> list[str]:
    """The pre-tokens of a text (without lone surrogates), which joined are the text."""
    raw = text.encode("utf-8")
    ends = [0, *ends_of(raw, rules, longest).tolist()]
    return [raw[a:b].decode("utf-8") for a, b in itertools.pairwise(ends)]


def to_nfc(text: str) -> str:
    """The text in NFC, exactly as the NFC normalizer of `tokenizers` gives it, which is asked only where need be."""
    if text.isascii():
        return text
    data = np.frombuffer(text.encode("utf-8"), np.uint8)
    if is_nfc(data, 0, len(data), known_normal_forms()):
        return text
    normal: str = _nfc().normalize_str(text)
    return normal


def library_pre_tokenizer(rules: Rules) -> Any:
    """The pre-tokenizer of `tokenizers` that splits by these rules (but for the cuts of endless runs)."""
    from tokenizers import Regex, pre_tokenizers

    if rules.pattern == "gpt2" and rules.digits == 0:  # the expression built in, which other tools know as GPT-2's
        return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    split = pre_tokenizers.Split(Regex(rules.regex), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


@cache
def _nfc() -> Any:
    from tokenizers import normalizers

    return normalizers.NFC()


@cache
def _custom_split(expression: str) -> Any:
    from tokenizers import Regex, pre_tokenizers

    return pre_tokenizers.Split(Regex(expression), behavior="isolated")


def _custom_ends(raw: bytes, rules: Rules, longest: int) -> np.ndarray:
    split = _custom_split(rules.regex)
    borders = [0, *cuts_of(raw, longest), len(raw)]
    ends: list[np.ndarray] = []
    for low, high in itertools.pairwise(borders):
        piece = raw[low:high]
        # the library counts in characters: the byte at which each one begins
        data = np.frombuffer(piece, np.uint8)
        begins = np.append(np.flatnonzero((data & 0xC0) != 0x80), len(piece))
        places = [stop for _, (_, stop) in split.pre_tokenize_str(piece.decode("utf-8"))]
        ends.append(begins[np.array(places, np.int64)] + low)
    return np.concatenate(ends) if ends else np.empty(0, np.int64)
