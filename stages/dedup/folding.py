"""What two passages may differ in and still be equal: a table that says what each character counts as."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Literal

import numpy as np

from stages.characters import SPACE, classes

Fold = Literal["case", "digits", "punctuation", "accents", "whitespace", "ccnet"]
FOLDS = (
    "what passages may differ in and still be equal: case, digits (every digit counts as 0), punctuation (and invisible characters: not"
    " there), accents (combining marks: not there), whitespace (any run counts as one space; none at the ends, with or without this);"
    " ccnet, alone: lower case, digits as 0, CCNet's list of punctuation and all control characters not there; [] compares as it is"
)
DROPPED = -1
# The punctuation that CCNet takes out before it hashes a line (Wenzek et al. 2020, `normalize_for_dedup` of its code); no ASCII among it.
CCNET_PUNCTUATION = "，。、„”“«»」「《》´∶：？！（）；–—．～’…━〈〉【】％►"
_LAST = 0x323B0  # the planes behind hold no letters, but for the tags and selectors of plane 14
_SIGMAS = {
    ord("ς"): ord("σ")
}  # which of the two small forms a capital has depends on its neighbours; here they are one


def check(folds: tuple[Fold, ...]) -> tuple[Fold, ...]:
    """The folds, each once. Raises ValueError where one says nothing beside the others."""
    if len(set(folds)) < len(folds):
        raise ValueError("one stands twice")
    if "ccnet" in folds and len(folds) > 1:
        raise ValueError("`ccnet` is a whole definition and stands alone")
    return folds


@cache
def fold_table(folds: tuple[Fold, ...]) -> np.ndarray:
    """For each code point what it counts as, `DROPPED` where it counts as nothing (int32, 0x110000).

    Letter by letter: of a letter that becomes several, the first. White space is left as it is, whatever is folded.
    """
    table = np.arange(0x110000, dtype=np.int32)
    if not folds:
        return table
    ccnet = "ccnet" in folds
    space = (classes() & SPACE) != 0
    for code in (*range(_LAST), *range(0xE0000, 0xE01F0)):
        if ccnet and (code < 32 or 127 <= code < 160):
            table[code] = DROPPED
        elif not space[code]:
            table[code] = _folded(chr(code), folds)
    if ccnet:
        table[[ord(character) for character in CCNET_PUNCTUATION]] = DROPPED
    table.flags.writeable = False
    return table


def _folded(character: str, folds: tuple[Fold, ...]) -> int:
    kind = unicodedata.category(character)
    if "accents" in folds:
        if kind == "Mn":
            return DROPPED
        base = [one for one in unicodedata.normalize("NFD", character) if unicodedata.category(one) != "Mn"]
        if len(base) == 1:  # not a syllable of Hangul, which is composed of letters
            character = base[0]
    if kind == "Nd" and ("digits" in folds or "ccnet" in folds):
        return ord("0")
    if "punctuation" in folds and (kind[0] == "P" or kind in ("Cc", "Cf")):
        return DROPPED
    if "case" in folds or "ccnet" in folds:
        small = ord(character.lower()[0])
        return _SIGMAS.get(small, small)
    return ord(character)
