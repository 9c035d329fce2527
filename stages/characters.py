"""What kind of character each code point is: one table of bits, by which compiled loops tell letters, spaces and stops apart."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Ints: TypeAlias = npt.NDArray[np.int64]
Keys: TypeAlias = npt.NDArray[np.uint64]
Bools: TypeAlias = npt.NDArray[np.bool_]
Bytes: TypeAlias = npt.NDArray[np.uint8]
Table: TypeAlias = npt.NDArray[np.uint16]

LETTER, NUMBER, MARK, UNSPACED, CONNECTOR, JOINER, MID_LETTER, MID_NUMBER = (np.uint16(1 << bit) for bit in range(8))
SPACE, STOP, CLOSER, WIDE_STOP, TERMINAL, RUN_ON, UPPER, PUNCTUATION = (np.uint16(1 << bit) for bit in range(8, 16))
CORE = LETTER | NUMBER | MARK | CONNECTOR  # what words are made of

UNSPACED_RANGES = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007),  # ideographic iteration and closing marks, zero
    (0x3021, 0x3029),  # Hangzhou numerals
    (0x3040, 0x309F),  # Hiragana
    (0x3400, 0x4DBF),  # Han, extension A
    (0x4E00, 0x9FFF),  # Han
    (0xA9E0, 0xA9FF),  # Myanmar, extended B
    (0xAA60, 0xAA7F),  # Myanmar, extended A
    (0xF900, 0xFAFF),  # Han, compatibility
    (0x1B000, 0x1B16F),  # historic kana
    (0x20000, 0x323AF),  # Han, extensions B to H
)
# Word_Break = MidNumLet, MidLetter and MidNum of UAX #29, but for the colon (Swedish writes words with it, but so do "key:value" lists).
BETWEEN_LETTERS = "'.·‘’․﹒＇．·՟״‧"
BETWEEN_NUMBERS = "'.’․﹒＇．,;،٬，；"
JOINERS = "\u00ad\u200c\u200d\u2060"

# Characters that end a sentence, and closing quotation marks after them. C4 names `.`, `!`, `?` and `"`; the others are
# their counterparts: full-width and half-width forms, Chinese and Japanese, Arabic and Urdu, Devanagari, Armenian, Ethiopic, Khmer,
# Burmese, Tibetan, Georgian and Mongolian stops. An ellipsis is no end.
SENTENCE_STOPS = ".!?。．！？｡؟۔।॥։።፧፨။។៕།༎჻᠃᠉‼⁇⁈⁉"
CLOSING_QUOTES = "\"'”’»›」』"
# Within a line a run of stops may hold an ellipsis, and brackets may follow it; stops of scripts that put no space behind them end a
# sentence anywhere.
RUN_STOPS = SENTENCE_STOPS + "…"
CLOSERS = CLOSING_QUOTES + ")]）"
WIDE_STOPS = "。！？｡।॥။៕"


@cache
def classes() -> Table:
    """The class bits of every code point (2.2 MB, a third of a second, once a process). Unicode data is that of the running Python."""
    table = np.zeros(0x110000, dtype=np.uint16)
    bits = {"L": LETTER, "M": MARK, "N": NUMBER, "P": PUNCTUATION, "S": PUNCTUATION}
    category = unicodedata.category
    for first, last in ((0, 0x323B0), (0xE0100, 0xE01F0)):  # the planes between hold no characters
        for code in range(first, last):
            kind = category(chr(code))
            if kind[0] in bits:
                table[code] = bits[kind[0]]
                if kind == "Pc":
                    table[code] |= CONNECTOR
                elif kind == "Lu":
                    table[code] |= UPPER
    for first, last in UNSPACED_RANGES:
        span = table[first : last + 1]
        span[(span & (LETTER | MARK)) != 0] |= UNSPACED
        span |= RUN_ON
    table[[code for code in range(0x3001) if chr(code).isspace()]] |= SPACE
    for characters, bit in (
        (BETWEEN_LETTERS, MID_LETTER),
        (BETWEEN_NUMBERS, MID_NUMBER),
        (JOINERS, JOINER),
        (RUN_STOPS, STOP),
        (CLOSERS, CLOSER),
        (WIDE_STOPS, WIDE_STOP),
        (SENTENCE_STOPS + CLOSING_QUOTES, TERMINAL),
    ):
        table[[ord(character) for character in characters]] |= bit
    table.flags.writeable = False
    return table


def code_points(text: str) -> npt.NDArray[np.uint32]:
    """A text as an array of code points; lone surrogates pass as themselves."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
