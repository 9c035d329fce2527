"""Rows of digits: found once in a text, for the recognisers of phone numbers, cards and national numbers.

A *run* is what digits and the marks between them make (`+49 (30) 90 18-20`), its *groups* are the digits without marks. A shape writes
a few groups down by their lengths: `123-45-6789` is `3-2-4`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, TypeVar

T = TypeVar("T")

MIN_DIGITS = 7
MARKS = b" -./()"
RUN = re.compile(rb"\d[\d \-./()]{%d,}" % (MIN_DIGITS - 1))
GROUP = re.compile(rb"\d+")
WORD = frozenset(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_")
DIGITS = frozenset(b"0123456789")
MONEY = frozenset(b"$\xa3\xa5")  # the euro sign is beyond Latin-1
LONGEST = 40  # no number that is looked for has more code points


class Group(NamedTuple):
    """Digits [start, end) of a folded text, and the marks between the group before and this one (none for a run's first)."""

    start: int
    end: int
    marks: bytes


def runs(folded: bytes) -> Iterator[list[Group]]:
    """The runs with at least MIN_DIGITS digits, each as its groups; long marks end a run."""
    for run in RUN.finditer(folded):
        if len(run[0].translate(None, MARKS)) < MIN_DIGITS:
            continue
        groups: list[Group] = []
        done = run.start()
        for group in GROUP.finditer(folded, run.start(), run.end()):
            marks = folded[done : group.start()]
            if len(marks) > 3 or b"  " in marks:
                if groups:
                    yield groups
                groups, marks = [], b""
            groups.append(Group(group.start(), group.end(), marks))
            done = group.end()
        if groups:
            yield groups


def starts_alone(folded: bytes, groups: list[Group], place: int) -> bool:
    """Whether a number may begin with this group: not inside a word, path, fraction or price."""
    group = groups[place]
    if group.marks:
        return b" " in group.marks or b"(" in group.marks
    if group.start == 0:
        return True
    before = folded[group.start - 1]
    two = folded[group.start - 2] if group.start > 1 else 0
    if before in WORD or before in MONEY or before in b"+\\":
        return False
    if before == ord("."):  # "Tel.030", but neither a fraction nor "B.09.05"
        return two not in WORD or chr(two).islower()
    if before in b":'":
        return two not in DIGITS
    if before == ord(","):  # 1,234,567 is one number; 17,123456789 a row of a table
        return two not in DIGITS or group.end - group.start != 3
    if before in b"-/":
        return two not in WORD and two != ord("/")
    return True


def ends_alone(folded: bytes, groups: list[Group], place: int) -> bool:
    """Whether a number may end with this group."""
    if place + 1 < len(groups):
        return b" " in groups[place + 1].marks or b"(" in groups[place + 1].marks
    end = groups[place].end
    if end >= len(folded):
        return True
    after = folded[end]
    if after in WORD or after in b"%\xb0":
        return False
    if after in b"-.,/:+=@" and end + 1 < len(folded):
        return folded[end + 1] not in DIGITS and (after in b".,:/" or folded[end + 1] not in WORD)
    return True


def in_a_row(groups: list[Group], first: int, last: int) -> bool:
    """Whether a window is cut out of a longer row of groups that are all of a size: a row of a table."""
    size = groups[first].end - groups[first].start
    if any(group.end - group.start != size for group in groups[first : last + 1]):
        return False
    before, after = groups[first - 1 : first], groups[last + 1 : last + 2]
    return any(group.end - group.start == size for group in before + after)


class Shapes:
    """Which kinds of number have which shapes, and all shapes by their beginnings, to give up early."""

    def __init__(self, shapes: Mapping[str, object]) -> None:
        self.known = frozenset(shapes)
        self.begun = frozenset(shape[:end] for shape in shapes for end in range(1, len(shape) + 1))

    def windows(self, folded: bytes, groups: list[Group]) -> Iterator[tuple[int, int, str, str]]:
        """(start, end, shape, digits) of every row of groups with a known shape that stands alone."""
        for first, group in enumerate(groups):
            shape = ""
            for last in range(first, len(groups)):
                one = groups[last]
                mark = one.marks.decode() if last > first else ""
                shape += f"{mark}{one.end - one.start}"
                if len(mark) > 1 or shape not in self.begun:
                    break
                if shape in self.known and ends_alone(folded, groups, last) and starts_alone(folded, groups, first):
                    if " " in shape and in_a_row(groups, first, last):
                        continue
                    value = folded[group.start : one.end]
                    yield group.start, one.end, shape, value.translate(None, MARKS).decode()


def by_shape(kinds: Iterable[tuple[T, Iterable[str]]]) -> dict[str, tuple[T, ...]]:
    """The kinds of each shape, in the order given."""
    found: dict[str, tuple[T, ...]] = {}
    for kind, shapes in kinds:
        for shape in shapes:
            found[shape] = (*found.get(shape, ()), kind)
    return found
