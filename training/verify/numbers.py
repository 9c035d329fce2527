"""Numbers in answers: which one a completion ends on, and whether it is the right one.

A completion's number is looked for in its last `\\boxed{...}` (MATH, Hendrycks et al. 2021), else behind its last `####` (GSM8K,
Cobbe et al. 2021), else it is the last one of the text. Every pattern is bounded, so the time is linear in the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from typing import Literal, NamedTuple

from training.knobs import TrainingError
from training.verify.verdict import MAX_CHARACTERS, Verdict, Verifier, short

DIGITS = 400  # of one number; longer ones are no answer
EXPONENT = 400
SCALES = {"hundred": 2, "thousand": 3, "million": 6, "billion": 9, "trillion": 12}  # powers of ten

_NUMBER = re.compile(
    r"""
    (?P<sign>(?<![\w.)\]}%$])[-+−–](?=[\d.$€£¥\\])|(?<![\w.)\]}%$]\s)(?<![\w.)\]}%$])[-+−–]\s)?  # no minus of 16-3, 16 - 3
    (?:\\?[$€£¥]\s?(?P<sign_inside>[-−](?=[\d.]))?)?
    (?: \\[dt]?frac\s?\{\s?(?P<top>[-−]?\d{1,400})\s?\}\s?\{\s?(?P<bottom>[-−]?\d{1,400})\s?\}
      | (?:(?P<whole>\d{1,400})\s)?(?P<over>\d{1,400})\s?/\s?(?P<under>\d{1,400})(?![\d.]|,\d)
      | (?P<integer>\d{1,3}(?:(?:,|\{,\}|\\,|[\u00a0\u2009\u202f])\d{3})+(?!\d)|\d+)?(?:\.(?P<decimals>\d+))?(?P<exponent>[eE][-+]?\d{1,4}(?![\w.]))?
    )
    (?P<percent>\s?\\?%)?(?:\s(?P<scale>hundred|thousand|million|billion|trillion)\b)?
    """,
    re.VERBOSE | re.IGNORECASE,
)
_START = re.compile(r"\d|\.\d|\\[dt]?frac|[-+−–]\s?(?:[\\$€£¥\d]|\.\d)|\\?[$€£¥]\s?[-−]?(?:\d|\.\d)")

# plain spaces between groups of three digits: of a text that is nothing else, since they also part the numbers of a list
_SPACED = re.compile(r"(?P<front>[^\w.]{0,4})(?P<groups>[1-9]\d{0,2}(?: \d{3})+)(?P<rest>(?:\.\d+)?\s?\\?%?\.?)")


class Number(NamedTuple):
    """Its exact value, and whether a percent sign follows (50% has the value 50)."""

    value: Fraction
    percent: bool = False


def number_verifier(
    *,
    marker: Literal["any", "boxed", "####", "none"] = "any",
    tolerance: float = 0.0,
    relative_tolerance: float = 1e-9,
) -> Verifier:
    """Whether the completion's number is that of the answer.

    marker: what the number must stand in or behind: "any" as this file says, "none" always the last one of the text. tolerance,
    relative_tolerance: two numbers are equal if they differ by no more than either; two whole numbers must be equal unless
    `tolerance` says otherwise. `50%` is 50 and 0.5.
    """
    if marker not in ("any", "boxed", "####", "none"):
        raise TrainingError(f"verifier number: marker {marker!r}: expected any, boxed, #### or none")
    if not (0 <= tolerance < float("inf") and 0 <= relative_tolerance < 1):
        raise TrainingError("verifier number: tolerances are at least 0, the relative one below 1")

    def verify(completion: str, answer: str) -> Verdict:
        expected = final_number(answer, "any")
        if expected is None:
            raise TrainingError(f"verifier number: the answer {short(answer)} holds no number")
        found = final_number(completion, marker)
        if found is None:
            return Verdict(0.0, "no number" if marker in ("any", "none") else f"no number in or behind {marker}")
        right = any(
            _close(one, other, tolerance, relative_tolerance) for one in values(found) for other in values(expected)
        )
        return Verdict(float(right), f"{shown(found)} {'is' if right else 'is not'} {shown(expected)}")

    return verify


def integer_verifier(*, marker: Literal["any", "boxed", "####", "none"] = "any") -> Verifier:
    """Whether the completion's number is whole and that of the answer, digit by digit; no percentages."""
    number_verifier(marker=marker)  # checks it

    def verify(completion: str, answer: str) -> Verdict:
        expected = final_number(answer, "any")
        if expected is None or expected.value.denominator != 1 or expected.percent:
            raise TrainingError(f"verifier integer: the answer {short(answer)} is no whole number")
        found = final_number(completion, marker)
        if found is None:
            return Verdict(0.0, "no number" if marker in ("any", "none") else f"no number in or behind {marker}")
        right = found.value == expected.value and not found.percent
        return Verdict(float(right), f"{shown(found)} {'is' if right else 'is not'} {shown(expected)}")

    return verify


def _close(one: Fraction, other: Fraction, tolerance: float, relative: float) -> bool:
    if one == other:
        return True
    difference = abs(one - other)
    if tolerance and difference <= Fraction(repr(tolerance)):
        return True
    if one.denominator == other.denominator == 1:
        return False
    return difference <= Fraction(repr(relative)) * max(abs(one), abs(other))


def values(number: Number) -> tuple[Fraction, ...]:
    """What a number may mean: 50% is 50 or one half."""
    return (number.value, number.value / 100) if number.percent else (number.value,)


def shown(number: Number) -> str:
    """A number for a reader."""
    text = str(number.value)
    if len(text) > 40:
        text = f"a number of {len(text)} digits"
    return text + "%" * number.percent


def final_number(text: str, marker: Literal["any", "boxed", "####", "none"]) -> Number | None:
    """The number that a text ends on, None if there is none where `marker` wants it."""
    text = text[-MAX_CHARACTERS:]
    if marker in ("any", "boxed"):
        inside = boxed(text)
        if inside is not None or marker == "boxed":
            return _last(inside or "")
    if marker in ("any", "####"):
        _, found, behind = text.rpartition("####")
        if not found and marker == "####":
            return None
        if found:
            return next(numbers(_joined(behind.lstrip().partition("\n")[0])), None)
    return _last(text)


def boxed(text: str) -> str | None:
    """What the last closed `\\boxed{...}` of a text holds, braces balanced."""
    end = len(text)
    while (start := text.rfind("\\boxed{", 0, end)) >= 0:
        depth = 0
        for at in range(start + 6, end):
            depth += (text[at] == "{") - (text[at] == "}")
            if depth == 0:
                return text[start + 7 : at]
        end = start  # not closed: up to here nothing can be
    return None


def _last(text: str) -> Number | None:
    for match in reversed(list(_matches(_joined(text)))):  # arithmetic on the last one alone
        number = _number(match)
        if number is not None:
            return number
    return None


def _joined(text: str) -> str:
    """A text that is one number with spaces between its thousands, without them; any other as it is."""
    spaced = _SPACED.fullmatch(text.strip())
    return text if spaced is None else spaced["front"] + spaced["groups"].replace(" ", "") + spaced["rest"]


def numbers(text: str) -> Iterator[Number]:
    """All numbers of a text, from left to right."""
    return (number for match in _matches(text) if (number := _number(match)) is not None)


def _matches(text: str) -> Iterator[re.Match[str]]:
    at = 0
    while start := _START.search(text, at):
        match = _NUMBER.match(text, start.start())
        assert match is not None  # every part of the pattern is optional
        at = max(match.end(), start.start() + 1)
        yield match


def _number(match: re.Match[str]) -> Number | None:
    parts = match.groupdict()
    value: Fraction
    if parts["top"] is not None or parts["over"] is not None:
        whole = int(parts["whole"] or 0)
        top, bottom = (parts["top"], parts["bottom"]) if parts["top"] is not None else (parts["over"], parts["under"])
        below = int(bottom.replace("−", "-"))
        if below == 0:
            return None
        value = whole + Fraction(int(top.replace("−", "-")), below)
    else:
        integer = re.sub(r"[^\d]", "", parts["integer"] or "")
        decimals = parts["decimals"] or ""
        if (not integer and not decimals) or len(integer) > DIGITS or len(decimals) > DIGITS:
            return None
        exponent = int((parts["exponent"] or "e0")[1:])
        if abs(exponent) > EXPONENT:
            return None
        value = Fraction(int(integer + decimals or "0")) * Fraction(10) ** (exponent - len(decimals))
    negative = (parts["sign"] or "").startswith(("-", "−", "–")) or bool(parts["sign_inside"])
    value *= 10 ** SCALES.get((parts["scale"] or "").lower(), 0)
    return Number(-value if negative else value, parts["percent"] is not None)
