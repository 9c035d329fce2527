"""What a verifier says."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Verdict(NamedTuple):
    """score: 0 to 1. detail: one line, why."""

    score: float
    detail: str


Verifier = Callable[[str, str], Verdict]  # completion, answer
MAX_CHARACTERS = 100_000  # of a completion: its end is looked at, so that no length costs more than this one


def short(text: str, length: int = 60) -> str:
    """Text for a detail: one line, cut."""
    line = " ".join(text.split())
    return repr(line if len(line) <= length else line[: length - 1] + "…")
