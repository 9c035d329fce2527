"""Phrases that tell of refusals, disclaimers, injected instructions and unsafe requests: which tags a conversation has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stages.stage import StageError

PLACES = ("answer_start", "answer", "prompt", "any")
START = 200  # characters of an answer in which a refusal begins

_APOSTROPHES = str.maketrans("’‘ʼ`", "''''")
_SPACE = re.compile(r"\s+")
_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")


@dataclass(frozen=True)
class Cue:
    """A tag, where its phrases are looked for, and the phrases as one expression over `plain` text."""

    tag: str
    where: str
    phrases: re.Pattern[str]


def plain(text: str) -> str:
    """Lower case, apostrophes of one kind, runs of whitespace as one space."""
    return _SPACE.sub(" ", text.translate(_APOSTROPHES).lower())


def read_cues(paths: Iterable[Path]) -> list[Cue]:
    """The cues of several files, phrases of one tag put together. Raises `StageError` that names file and key."""
    places: dict[str, str] = {}
    phrases: dict[str, list[str]] = {}
    for path in paths:
        for tag, entry in _load(path).items():
            where, words = _entry(path, tag, entry)
            if places.setdefault(tag, where) != where:
                raise StageError(f"{path}: {tag}.where is {where}, but an earlier list says {places[tag]}")
            phrases.setdefault(tag, []).extend(words)
    return [Cue(tag, places[tag], _expression(phrases[tag])) for tag in sorted(phrases)]


def _load(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StageError(f"{path}: cannot be read as JSON in UTF-8: {error}") from None
    if not isinstance(data, dict):
        raise StageError(f"{path}: expected an object of tags, got {type(data).__name__}")
    return data


def _entry(path: Path, tag: str, entry: Any) -> tuple[str, list[str]]:
    if not _NAME.match(tag):
        raise StageError(f"{path}: {tag!r} is no name of a tag; expected lower-case letters, digits and _")
    if not isinstance(entry, dict) or set(entry) != {"where", "phrases"}:
        raise StageError(f'{path}: {tag}: expected {{"where": ..., "phrases": [...]}}')
    if entry["where"] not in PLACES:
        raise StageError(f"{path}: {tag}.where: expected one of {', '.join(PLACES)}, got {entry['where']!r}")
    words = entry["phrases"]
    if not isinstance(words, list) or not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise StageError(f"{path}: {tag}.phrases: expected a list of phrases, none of them empty")
    return entry["where"], words


def _expression(phrases: Sequence[str]) -> re.Pattern[str]:
    """Any of the phrases as whole words; in scripts without spaces between words, anywhere."""
    parts = []
    for phrase in sorted({plain(phrase).strip() for phrase in phrases}):
        spaced = phrase.isascii() or " " in phrase
        left = r"\b" if spaced and phrase[0].isalnum() else ""
        right = r"\b" if spaced and phrase[-1].isalnum() else ""
        parts.append(f"{left}{re.escape(phrase)}{right}")
    return re.compile("|".join(parts))


def tags_of(cues: Sequence[Cue], prompt: Sequence[str], answers: Sequence[str]) -> list[str]:
    """The tags whose phrases stand in the user's or the assistant's turns; what an answer repeats of the prompt does not count."""
    asked, answered = [plain(text) for text in prompt], [plain(text) for text in answers]
    looked = {
        "prompt": asked,
        "answer": answered,
        "answer_start": [text[:START] for text in answered],
        "any": [*asked, *answered],
    }
    return [cue.tag for cue in cues if any(_found(cue, text, asked) for text in looked[cue.where])]


def _found(cue: Cue, text: str, asked: Sequence[str]) -> bool:
    if not cue.where.startswith("answer"):
        return cue.phrases.search(text) is not None
    return any(all(found.group() not in prompt for prompt in asked) for found in cue.phrases.finditer(text))
