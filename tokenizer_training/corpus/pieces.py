r"""Cutting texts before they reach a tokenizer: endless runs, and documents too long to encode at once.

Two rules, both functions of the text alone:

1. Endless runs are cut by the rule of `vocabulary/pretokenize.py`. A pre-token has no other bound, and merging inside one
   of a megabyte takes minutes. Decoding is unaffected; ids differ from an uncut encoding only in documents with such a run.
2. A text of more than `LONGEST_PIECE` characters is cut where every pattern of `patterns.py` has a boundary anyway: after
   a line feed between a character that is not white space and a letter or digit, else before a single space between
   two letters or digits. Ids stay the same. Where the last half of a piece has neither, the piece is longer.
"""

from __future__ import annotations

import re
from itertools import pairwise

from tokenizer_training.vocabulary.pretokenize import LONGEST_RUN, cuts_of

LONGEST_PIECE = 100_000

_LINE = re.compile(r"(?<=\S\n)(?=[^\W_])")
_WORD = re.compile(r"(?<=[^\W_])(?= [^\W_])")


def cut_runs(text: str, longest: int = LONGEST_RUN) -> list[str]:
    """The text (without lone surrogates) in pieces, none with a run over `longest` bytes of UTF-8."""
    if len(text) * 4 <= longest:
        return [text]
    raw = text.encode("utf-8")
    cuts = [0, *cuts_of(raw, longest), len(raw)]
    return [text] if len(cuts) == 2 else [raw[a:b].decode("utf-8") for a, b in pairwise(cuts)]


def cut_long(text: str, limit: int = LONGEST_PIECE) -> list[str]:
    """The text in pieces of at most `limit` characters, cut at sure pre-token boundaries; longer where there is none."""
    pieces = []
    start = 0
    while len(text) - start > limit:
        low, high = start + limit // 2, start + limit
        cut = -1
        while cut < 0 and low < len(text):
            for boundary in (_LINE, _WORD):
                for match in boundary.finditer(text, low, high):
                    cut = match.start()
                if cut >= 0:
                    break
            low, high = high, high + limit
        if cut < 0:
            break
        pieces.append(text[start:cut])
        start = cut
    pieces.append(text[start:])
    return pieces


def cut(text: str, longest_run: int = LONGEST_RUN, longest_piece: int = LONGEST_PIECE) -> list[str]:
    """Both rules; the pieces joined are the text."""
    return [piece for whole in cut_runs(text, longest_run) for piece in cut_long(whole, longest_piece)]
