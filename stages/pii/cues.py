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

import numpy as np
import numpy.typing as npt

from stages.characters import LETTER, NUMBER, Bools, Ints, classes, code_points

Windows: TypeAlias = Iterator[tuple[int, int]]

PHONE_DIGITS = 7
PHONE_GAP = 8  # most marks between two digits of a phone number
PHONE_SPAN = PHONE_DIGITS + (PHONE_DIGITS - 1) * PHONE_GAP


class Characters:
    """Where the characters stand that cues are made of, from one look at a text: what can be ruled out at once is not searched for."""

    def __init__(self, text: str) -> None:
        codes = code_points(text)
        kinds = classes()[codes]
        self.digits = np.flatnonzero((kinds & NUMBER) != 0)
        self.capital_pairs = _upper(codes, self.digits - 1) & _upper(codes, self.digits - 2)
        self.colons, self.dots, self.hyphens = (np.flatnonzero(codes == ord(mark)) for mark in ":.-")
        self.breaks = np.flatnonzero((kinds & (LETTER | NUMBER)) == 0)
        self.size = len(codes)

    def digits_within(self, count: int, span: int) -> bool:
        """Whether `count` digits stand within `span` code points."""
        return within(self.digits, count, span)

    def possible(self, entity: str) -> bool:
        """Whether the text can hold a match of the entity's gate at all."""
        match entity:
            case "PHONE_NUMBER":
                return self.digits_within(PHONE_DIGITS, PHONE_SPAN)
            case "CREDIT_CARD":
                return self.digits_within(12, 23)
            case "US_SSN":
                return self.digits_within(9, 17)
            case "IBAN_CODE":
                return bool(np.any(self.capital_pairs))
            case "IP_ADDRESS":
                return within(self.colons, 2, 6) or (within(self.dots, 3, 9) and self.digits_within(4, 11))
            case "MAC_ADDRESS":
                return within(np.union1d(self.colons, self.hyphens), 3, 7) or within(self.dots, 2, 6)
            case "CRYPTO":
                return bool(np.any(np.diff(self.breaks, prepend=-1, append=self.size) > 26))
            case _:
                return True

    def digit_areas(self) -> Iterator[tuple[int, int]]:
        """The stretches where PHONE_DIGITS digits stand within PHONE_SPAN code points, joined where they overlap."""
        start, end = self.digits[: 1 - PHONE_DIGITS], self.digits[PHONE_DIGITS - 1 :] + 1
        near = end - start <= PHONE_SPAN
        start, end = start[near], end[near]
        new = np.flatnonzero(np.append(True, start[1:] >= end[:-1])) if len(start) else start
        yield from (
            zip(start[new].tolist(), end[np.append(new[1:], len(end)) - 1].tolist(), strict=True) if len(start) else ()
        )


def within(places: Ints, count: int, span: int) -> bool:
    """Whether `count` of the ascending places stand within `span` code points."""
    return len(places) >= count and bool(np.any(places[count - 1 :] - places[: len(places) - count + 1] < span))


def _upper(codes: npt.NDArray[np.uint32], places: Ints) -> Bools:
    found = codes[np.maximum(places, 0)]
    return (places >= 0) & (found >= ord("A")) & (found <= ord("Z"))


Gate: TypeAlias = Callable[[str, Characters], Windows]


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


def email_windows(text: str, _: Characters) -> Windows:
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


def runs(gate: str, characters: str) -> Gate:
    """Windows around what matches `gate`: the maximal run of `characters` (a regex for one), and one character on each side."""
    gate_pattern, run = re.compile(gate), re.compile(f"{characters}+")

    def windows(text: str, _: Characters) -> Windows:
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
PHONE = re.compile(rf"\d(?:[{PHONE_MARKS}]{{0,{PHONE_GAP}}}\d){{{PHONE_DIGITS - 1},}}")
PHONE_LEFT, PHONE_RIGHT = (
    16,
    48,
)  # leading brackets and plus signs; an extension ("ext. 123") and what makes it a time or a price
MORE_DIGITS = re.compile(r"\d*")
# Years, dates and fractions have as many digits as phone numbers, and are most of what is seen.
_YEAR = r"(?:1[0-9]|20)\d\d"
NOT_PHONE = re.compile(
    rf"(?<!\d)(?:{_YEAR}([-/.])[01]?\d\1[0-3]?\d|[0-3]?\d([-/.])[0-3]?\d\2{_YEAR}|{_YEAR} ?[-–/] ?{_YEAR}|\d{{1,2}}\.\d{{7,}})(?!\d)"
)


def phone_windows(text: str, characters: Characters) -> Windows:
    """Runs of seven or more digits, dates and fractions aside, with what may come before and after a number; neighbours are one."""
    start = end = -1
    for a, b in characters.digit_areas():
        for run in PHONE.finditer(text, a, b):
            if not _has_phone_digits(run[0]):
                continue
            if end >= 0 and run.start() - PHONE_LEFT <= end:
                end = run.end() + PHONE_RIGHT
                continue
            if end >= 0:
                yield start, _whole_number(text, end)
            start, end = max(0, run.start() - PHONE_LEFT), run.end() + PHONE_RIGHT
    if end >= 0:
        yield start, _whole_number(text, end)


def _has_phone_digits(run: str) -> bool:
    rest = NOT_PHONE.sub("", run)
    return len(rest) == len(run) or sum(map(str.isdigit, rest)) >= PHONE_DIGITS


def _whole_number(text: str, end: int) -> int:
    return MORE_DIGITS.match(text, min(end, len(text))).end()  # type: ignore[union-attr]  # it matches nothing, too


GATES: dict[str, Gate] = {
    "EMAIL_ADDRESS": email_windows,
    "PHONE_NUMBER": phone_windows,
    "CREDIT_CARD": runs(r"\d(?:[- ]?\d){11}", r"[\d\- ]"),
    "US_SSN": runs(r"[0-9](?:[- .]?[0-9]){8}", r"[0-9\- .]"),
    "IBAN_CODE": runs(r"[A-Z]{2}[0-9]{2}(?:[ -]?[A-Z0-9]{4}){2}", r"[A-Z0-9 \-]"),
    "IP_ADDRESS": runs(r":[0-9A-Fa-f]{0,4}:|\d\.\d{1,3}\.\d{1,3}\.\d", r"[\w:.%/]"),
    "CRYPTO": runs(r"(?:[bB][cC]1|[13])[a-zA-HJ-NP-Z0-9]{25}", r"[a-zA-Z0-9]"),
    "MAC_ADDRESS": runs(r"[:-][0-9A-Fa-f]{2}[:-][0-9A-Fa-f]{2}[:-]|\.[0-9A-Fa-f]{4}\.", r"[\w:.\-]"),
}


def windows(text: str, characters: Characters, entity: str) -> Windows:
    """The windows of a text that can hold this entity, in order."""
    return GATES[entity](text, characters) if characters.possible(entity) else iter(())
