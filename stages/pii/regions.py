"""The numbering plans of countries, from the metadata of the package `phonenumbers`, as plain patterns.

`phonenumbers` finds numbers by trying every plan on every row of digits, in Python; here a plan is one compiled pattern of all its
valid numbers, so that a row of digits is judged in about a microsecond. What is valid is the same.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

TYPES = (
    "fixed_line", "mobile", "toll_free", "premium_rate", "shared_cost", "voip", "personal_number", "pager", "uan", "voicemail",
)  # fmt: skip


class Plan(NamedTuple):
    """One country's numbers. Patterns are of significant numbers: without the country's code and the trunk prefix."""

    region: str
    country_code: str
    trunk: str  # what is dialled before a number inside the country, often 0
    trunk_pattern: re.Pattern[str] | None
    transform: str | None
    lengths: frozenset[int]
    general: re.Pattern[str]
    valid: re.Pattern[str]
    areas: tuple[tuple[re.Pattern[str], int], ...]  # pattern of some numbers, and how many digits their first group has

    def significant(self, digits: str) -> str | None:
        """The significant number that these digits, as dialled in the country, are a valid number by; None if they are not."""
        if self.trunk_pattern is not None:
            begun = self.trunk_pattern.match(digits)
            if begun is not None and begun.end():
                rest = digits[begun.end() :]
                if self.transform and begun.lastindex:
                    rest = begun.expand(self.transform) + rest
                if (
                    len(rest) in self.lengths
                    and self.valid.fullmatch(rest)
                    and (self.general.fullmatch(rest) or not self.general.fullmatch(digits))
                ):
                    return rest
        return digits if len(digits) in self.lengths and self.valid.fullmatch(digits) else None

    def area(self, number: str) -> int:
        """How many digits of a significant number are usually written as its first group; 0 if that is not known."""
        return next((size for pattern, size in self.areas if pattern.match(number)), 0)


@cache
def plan(region: str) -> Plan:
    """The plan of a country by its two letters. Raises `ValueError` if there is none."""
    import phonenumbers
    from phonenumbers import PhoneMetadata

    if region not in phonenumbers.SUPPORTED_REGIONS:
        raise ValueError(f"unknown phone regions ['{region}']; expected two-letter codes such as US, GB, DE")
    data: Any = PhoneMetadata.metadata_for_region(region)
    some = [getattr(data, name) for name in TYPES]
    patterns = [one.national_number_pattern for one in some if one is not None and one.national_number_pattern]
    areas = []
    for form in data.number_format:
        leading = form.leading_digits_pattern[-1] if form.leading_digits_pattern else ""
        size = re.match(r"\(\\d(?:\{(\d+)\})?\)", form.pattern)
        sized = re.match(r"\(\[[^\]]*\]\\d\{(\d+)\}\)", form.pattern)
        if size or sized:
            count = int(size[1] or 1) if size else int(sized[1]) + 1  # type: ignore[index]  # one of the two matched
            areas.append((re.compile(leading), count))
    return Plan(
        region,
        str(data.country_code),
        data.national_prefix or "",
        re.compile(data.national_prefix_for_parsing) if data.national_prefix_for_parsing else None,
        data.national_prefix_transform_rule,
        frozenset(data.general_desc.possible_length),
        re.compile(data.general_desc.national_number_pattern),
        re.compile("|".join(f"(?:{pattern})" for pattern in patterns)),
        tuple(areas),
    )


@cache
def country_codes() -> dict[str, tuple[str, ...]]:
    """The regions of every country code: `1` has twenty-five."""
    import phonenumbers

    return {str(code): tuple(regions) for code, regions in phonenumbers.COUNTRY_CODE_TO_REGION_CODE.items()}


def international(digits: str) -> bool | None:
    """Whether digits that follow a `+` are a valid number (True), have a known country code and a possible length (False), or neither (None)."""
    for size in (1, 2, 3):
        regions = country_codes().get(digits[:size])
        if regions is None:
            continue
        rest = digits[size:]
        if regions == ("001",):  # numbers of no country: freephone, satellites
            return False if 6 <= len(rest) <= 12 else None
        plans = [plan(region) for region in regions]
        for variant in (rest, rest[1:] if rest[:1] == "0" else rest):  # +44 (0)20
            if any(len(variant) in one.lengths and one.valid.fullmatch(variant) for one in plans):
                return True
        return False if any(len(rest.lstrip("0")) in one.lengths or len(rest) in one.lengths for one in plans) else None
    return None


def national(digits: str, plans: Sequence[Plan]) -> tuple[Plan, str] | None:
    """The first country in which these digits, as dialled there, are a valid number, and the significant number."""
    for one in plans:
        number = one.significant(digits)
        if number is not None:
            return one, number
    return None
