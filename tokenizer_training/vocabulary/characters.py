"""The class of every character, as the regular expressions of `tokenizers` see it.

Engines for regular expressions know different versions of Unicode. So the table is not made from Python's tables: the very
engine was asked for the class of every character, and `characters.npz` keeps the answer of the version that it names.
With another version of `tokenizers` it is asked again, which takes about three seconds a process.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

ASSET = Path(__file__).with_name("characters.npz")
CODE_POINTS = 0x110000

# Exclusive classes. Newlines (CR, LF) and the space are white space that patterns treat apart.
OTHER, UPPER, LOWER, TITLE, MODIFIER, LETTER, MARK, NUMBER, BLANK, NEWLINE, SPACE = range(11)
_PROPERTIES = {
    UPPER: r"\p{Lu}",
    LOWER: r"\p{Ll}",
    TITLE: r"\p{Lt}",
    MODIFIER: r"\p{Lm}",
    LETTER: r"\p{Lo}",
    MARK: r"\p{M}",
    NUMBER: r"\p{N}",
    BLANK: r"\s",
}


@cache
def character_classes() -> np.ndarray:
    """The class of each code point: uint8[0x110000], read-only."""
    import tokenizers

    with np.load(ASSET) as kept:
        if str(kept["version"]) == tokenizers.__version__:
            classes = np.repeat(kept["classes"], np.diff(kept["starts"], append=CODE_POINTS))
        else:
            classes = ask_engine()
    classes.setflags(write=False)
    return classes


def ask_engine() -> np.ndarray:
    """The class of each code point: uint8[0x110000], from the engine that is installed."""
    from tokenizers import Regex, pre_tokenizers

    def split(expression: str, text: str, matches: Any) -> list[tuple[int, int]]:
        pieces = pre_tokenizers.Split(Regex(expression), behavior=matches).pre_tokenize_str(text)
        return [place for _, place in pieces]

    codes = np.concatenate([np.arange(0xD800), np.arange(0xE000, CODE_POINTS)])
    text = "".join(map(chr, codes.tolist()))
    # stretches of one class at first, then the class of the first character of each
    stretches = split("|".join(f"{name}+" for name in _PROPERTIES.values()), text, "isolated")
    starts = np.array([start for start, _ in stretches])
    firsts = "".join(text[start] for start in starts.tolist())
    found = np.full(len(firsts), OTHER, np.uint8)
    for number, name in _PROPERTIES.items():
        matched = np.ones(len(firsts), bool)
        for start, stop in split(name, firsts, "removed"):
            matched[start:stop] = False
        if (found[matched] != OTHER).any():
            raise AssertionError(f"a character of {name} is in a second class")
        found[matched] = number
    classes = np.zeros(CODE_POINTS, np.uint8)
    classes[codes] = np.repeat(found, np.diff(starts, append=len(text)))
    classes[[0x0A, 0x0D]] = NEWLINE
    classes[0x20] = SPACE
    return classes


# What normalisation to NFC needs to know of a character.
PLAIN, COMBINING, CHANGING = range(3)


def normal_forms() -> np.ndarray:
    """For each code point (uint8[0x110000]): PLAIN: NFC as it is, whatever stands beside it that is PLAIN as well;
    COMBINING: so too, unless another mark precedes it; CHANGING: NFC may be something else.

    By Python's tables, which never change for a character once it is assigned; unassigned ones are CHANGING.
    """
    forms = np.full(CODE_POINTS, CHANGING, np.uint8)
    second = {*range(0x1161, 0x1176), *range(0x11A8, 0x11C3)}  # Hangul vowels and finals, which join what precedes
    for code in range(CODE_POINTS):
        parts = unicodedata.decomposition(chr(code)).split()
        if len(parts) == 2 and not parts[0].startswith("<"):
            second.add(int(parts[1], 16))
    for code in range(CODE_POINTS):
        character = chr(code)
        if (
            code not in second
            and unicodedata.category(character) not in ("Cn", "Cs")
            and unicodedata.is_normalized("NFC", character)
        ):
            forms[code] = COMBINING if unicodedata.combining(character) else PLAIN
    return forms


@cache
def known_normal_forms() -> np.ndarray:
    """`normal_forms`, as kept in the file: uint8[0x110000], read-only."""
    with np.load(ASSET) as kept:
        forms = np.repeat(kept["forms"], np.diff(kept["form_starts"], append=CODE_POINTS))
    forms.setflags(write=False)
    return forms


def write_asset(path: Path = ASSET) -> None:
    """Write what the installed engine, and Python, say to the file."""
    import tokenizers

    def runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        starts = np.flatnonzero(np.diff(values, prepend=255)).astype(np.uint32)
        return starts, values[starts]

    starts, classes = runs(ask_engine())
    form_starts, forms = runs(normal_forms())
    np.savez_compressed(
        path, version=tokenizers.__version__, starts=starts, classes=classes, form_starts=form_starts, forms=forms
    )


if __name__ == "__main__":
    write_asset()
