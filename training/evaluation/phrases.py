"""Does an answer refuse, or say that it does not know? By phrases of each language, in probes/phrases.json."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

PROBES = Path(__file__).parent / "probes"
START = 160  # characters of an answer in which it must say so: later on it speaks of something else
KINDS = ("refusal", "unknown")
WITHOUT_SPACES = "\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff"  # Thai, kana, Han: words are not parted

Kind = Literal["refusal", "unknown"]


@cache
def phrases() -> dict[str, dict[str, list[str]]]:
    """Language -> refusal and unknown -> phrases, as the file has them."""
    return json.loads((PROBES / "phrases.json").read_text(encoding="utf-8"))


def says(kind: Kind, answer: str, language: str | None = None, extra: Sequence[str] = ()) -> bool:
    """Whether a phrase of `kind` stands, as whole words, at the beginning of the answer.

    Phrases of all languages are looked for: a model may answer in another one than it was asked in. `language` limits
    them to one, where the file has it.
    """
    known = phrases()
    chosen = (language,) if language in known else tuple(known)
    return _pattern(kind, chosen, tuple(extra)).search(_plain(answer.strip()[:START])) is not None


@cache
def _pattern(kind: str, languages: tuple[str, ...], extra: tuple[str, ...]) -> re.Pattern[str]:
    found = [*(phrase for language in languages for phrase in phrases()[language][kind]), *extra]
    parts = []
    for phrase in sorted({_plain(one) for one in found}, key=lambda one: (-len(one), one)):
        body = re.escape(phrase).replace(r"\ ", r"\s+")
        joined = re.search(f"[{WITHOUT_SPACES}]", phrase)
        parts.append(body if joined else rf"(?<!\w){body}(?!\w)")
    return re.compile("|".join(parts))


def _plain(text: str) -> str:
    """Case-folded, composed, with straight apostrophes."""
    return unicodedata.normalize("NFC", text).casefold().replace("\u2019", "'").replace("\u02bc", "'")
