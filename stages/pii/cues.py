r"""Where personal data could be: cheap gates that leave the recognisers almost nothing to look at.

For each entity, `windows` yields the stretches of a text that can hold one. A recogniser run on the windows finds what it
finds in the whole text, because a window is a maximal run of the characters that its patterns are made of, so that its edges look
to them like the edges of a text. Two limits are ours: an e-mail address is looked for in the 128 characters before its `@` and the 256
after it (RFC 5321 allows 64 and 255), and a phone number has at least seven digits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TypeAlias

Windows: TypeAlias = Iterator[tuple[int, int]]

def left_edge(text: str, at: int, floor: int, run: re.Pattern[str]) -> int:
    """Where the run of characters that ends at `at` begins, not before `floor`. `run` matches one or more such characters."""
    size = 64
    while True:
        start = max(floor, at - size)
        back = run.match(text[start:at][::-1])
        length = back.end() if back else 0
        if length < at - start or start == floor:
            return at - length
        size *= 2


EMAIL_LEFT, EMAIL_RIGHT = 128, 256
NO_SPACE = re.compile(r"\S+")


def email_windows(text: str) -> Windows:
    """Around each `@`, up to white space."""
    at, done = text.find("@"), 0
    while at >= 0:
        start = left_edge(text, at, max(done, at - EMAIL_LEFT), NO_SPACE)
        end = last = at
        while last >= 0:  # windows that run into each other are one
            right = NO_SPACE.match(text, last, last + EMAIL_RIGHT)
            end = right.end() if right else last
            last = text.find("@", last + 1, end)
        if start < at:
            yield start, end
        done = end
        at = text.find("@", end)


def runs(gate: str, characters: str) -> Callable[[str], Windows]:
    """Windows around what matches `gate`: the maximal run of `characters` (a regex for one), and one character on each side."""
    gate_pattern, run = re.compile(gate), re.compile(f"{characters}+")

    def windows(text: str) -> Windows:
        done = 0
        cue = gate_pattern.search(text)
        while cue is not None:
            start = left_edge(text, cue.end(), done, run)
            end = run.match(text, start).end()  # type: ignore[union-attr]  # it holds what the gate matched
            yield max(0, start - 1), min(len(text), end + 1)
            done = end
            cue = gate_pattern.search(text, done)

    return windows


# What may stand between the digits of a phone number, and before them, in `phonenumbers` (its VALID_PUNCTUATION and leading characters).
PHONE_MARKS = r"x\-‐-―−ー－-／ \u00a0\u00ad\u200b\u2060\u3000()（）［］.\[\]/~⁓∼～+＋"
PHONE_DIGITS = 7
PHONE = re.compile(rf"\d(?:[{PHONE_MARKS}]{{0,8}}\d){{{PHONE_DIGITS - 1},}}")
PHONE_LEFT, PHONE_RIGHT = 16, 48  # leading brackets and plus signs; an extension ("ext. 123") and what makes it a time or a price
MORE_DIGITS = re.compile(r"\d*")


def phone_windows(text: str) -> Windows:
    """Runs of seven or more digits, with what may come before and after a number; neighbours are one window."""
    start = end = -1
    for run in PHONE.finditer(text):
        if end >= 0 and run.start() - PHONE_LEFT <= end:
            end = run.end() + PHONE_RIGHT
            continue
        if end >= 0:
            yield start, _whole_number(text, end)
        start, end = max(0, run.start() - PHONE_LEFT), run.end() + PHONE_RIGHT
    if end >= 0:
        yield start, _whole_number(text, end)


def _whole_number(text: str, end: int) -> int:
    return MORE_DIGITS.match(text, min(end, len(text))).end()  # type: ignore[union-attr]  # it matches nothing, too


GATES: dict[str, Callable[[str], Windows]] = {
    "EMAIL_ADDRESS": email_windows,
    "PHONE_NUMBER": phone_windows,
    "CREDIT_CARD": runs(r"\d(?:[- ]?\d){11}", r"[\d\- ]"),
    "US_SSN": runs(r"[0-9](?:[- .]?[0-9]){8}", r"[0-9\- .]"),
    "IBAN_CODE": runs(r"[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]{4}){2}", r"[A-Z0-9 \-]"),
    "IP_ADDRESS": runs(r":[0-9A-Fa-f]{0,4}:|\d\.\d{1,3}\.\d{1,3}\.\d", r"[\w:.%/]"),
    "CRYPTO": runs(r"(?:[bB][cC]1|[13])[a-zA-HJ-NP-Z0-9]{25}", r"[a-zA-Z0-9]"),
    "MAC_ADDRESS": runs(r"[:-][0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}[:-]|\.[0-9A-Fa-f]{4}\.", r"[\w:.\-]"),
}
