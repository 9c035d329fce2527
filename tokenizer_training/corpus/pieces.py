r"""Cutting texts before they reach the tokenizer: endless runs, and documents too long to encode at once.

Two rules, both functions of the text alone:

1. A run of more than `LONGEST_RUN` characters of one class (letters and marks; digits; white space; everything else) is
   cut every `LONGEST_RUN` characters. A pre-token has no other bound, and merging inside one of a megabyte takes minutes
   in training. Decoding is unaffected; ids differ from an uncut encoding only in documents with such a run.
2. A text of more than `LONGEST_PIECE` characters is cut where every pattern of `patterns.py` has a boundary anyway: after
   a line feed between a character that is not white space and a letter or digit, else before a single space between
   two letters or digits. Ids stay the same. Only where the last half of a piece has neither is it cut at its end.
"""

from __future__ import annotations

import re
from itertools import pairwise

import regex

LONGEST_RUN = 1024
LONGEST_PIECE = 100_000

_CLASSES = (r"[\p{L}\p{M}]", r"\p{N}", r"\s", r"[^\s\p{L}\p{M}\p{N}]")
_RUN = regex.compile("|".join(f"{c}+" for c in _CLASSES))
_FORWARD = [regex.compile(f"{c}*") for c in _CLASSES]
_BACKWARD = [regex.compile(f"(?r){c}*") for c in _CLASSES]
_LINE = re.compile(r"(?<=\S\n)(?=[^\W_])")
_WORD = re.compile(r"(?<=[^\W_])(?= [^\W_])")


def has_long_run(text: str, limit: int = LONGEST_RUN) -> bool:
    """Whether some class runs on for more than `limit` characters; looks only at every `limit`-th, which none can miss."""
    for at in range(limit, len(text), limit):
        for forward, backward in zip(_FORWARD, _BACKWARD, strict=True):
            stop = forward.match(text, at, at + limit + 1).end()
            if stop > at:
                start = backward.match(text, max(0, at - limit), at).start()
                if stop - start > limit:
                    return True
                break
    return False


def cut_runs(text: str, limit: int = LONGEST_RUN) -> list[str]:
    """The text in pieces, none with a run over `limit`; one piece if there is none."""
    if not has_long_run(text, limit):
        return [text]
    cuts = [0]
    for run in _RUN.finditer(text):
        if run.end() - run.start() > limit:
            cuts.extend(range(run.start() + limit, run.end(), limit))
    cuts.append(len(text))
    return [text[a:b] for a, b in pairwise(cuts)]


def cut_long(text: str, limit: int = LONGEST_PIECE) -> list[str]:
    """The text in pieces of at most `limit` characters, cut at sure pre-token boundaries where there is one."""
    pieces = []
    start = 0
    while len(text) - start > limit:
        low, high = start + limit // 2, start + limit
        cut = high
        for boundary in (_LINE, _WORD):
            found = [match.start() for match in boundary.finditer(text, low, high)]
            if found:
                cut = found[-1]
                break
        pieces.append(text[start:cut])
        start = cut
    pieces.append(text[start:])
    return pieces


def cut(text: str, longest_run: int = LONGEST_RUN, longest_piece: int = LONGEST_PIECE) -> list[str]:
    """Both rules; the pieces joined are the text."""
    if len(text) <= longest_run:
        return [text]
    return [piece for long in cut_long(text, longest_piece) for piece in cut_runs(long, longest_run)]
