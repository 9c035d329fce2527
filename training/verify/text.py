"""Verifiers of text: equal when normalised, matching a pattern, keeping a format."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import regex

from training.knobs import TrainingError
from training.verify.numbers import boxed
from training.verify.verdict import MAX_CHARACTERS, Verdict, Verifier, short

REGEX_SECONDS = 1.0


# exact


def exact_verifier(*, case: bool = False, punctuation: bool = False, where: Literal["whole", "marked", "last_line"] = "marked") -> Verifier:  # fmt: skip
    """Whether the completion, or the part of it that answers, is the answer once both are normalised.

    The answer may be a JSON list of strings, any of which is right. where: the "whole" completion, its "last_line", or what is
    "marked": in the last `\\boxed{...}`, else behind the last `####`, else the whole. case, punctuation: whether they count;
    Unicode forms (NFKC), whitespace, outer quotes and a final full stop never do.
    """
    if where not in ("whole", "marked", "last_line"):
        raise TrainingError(f"verifier exact: where {where!r}: expected whole, marked or last_line")

    def verify(completion: str, answer: str) -> Verdict:
        wanted = [normalised(text, case, punctuation) for text in alternatives(answer)]
        if not any(wanted):
            raise TrainingError(f"verifier exact: the answer {short(answer)} has nothing left to compare")
        given = normalised(_part(completion[-MAX_CHARACTERS:], where), case, punctuation)
        right = bool(given) and given in wanted
        return Verdict(float(right), f"{short(given)} {'is' if right else 'is not'} {short(wanted[0])}")

    return verify


def alternatives(answer: str) -> list[str]:
    """The answers of a JSON list of strings, or the one."""
    if answer.lstrip().startswith("["):
        try:
            found = json.loads(answer)
        except (ValueError, RecursionError):
            return [answer]
        if found and all(isinstance(text, str) for text in found):
            return found
    return [answer]


# Putting the marks over one letter in order takes time that is quadratic in their number; Unicode's stream-safe text has 30.
_PILES = regex.compile(r"(\p{M}{30})\p{M}+")


def normalised(text: str, case: bool = False, punctuation: bool = False) -> str:
    """NFKC, one space for any whitespace, without outer quotes and final full stop, and as the flags say."""
    text = unicodedata.normalize("NFKC", _PILES.sub(r"\1", text))
    if not case:
        text = text.casefold()
    if not punctuation:
        text = "".join(" " if unicodedata.category(c).startswith("P") else c for c in text)
    else:
        text = text.strip().strip("\"'`“”‘’«»*").removesuffix(".")
    return " ".join(text.split())


def _part(text: str, where: str) -> str:
    if where == "last_line":
        return text.rstrip().rpartition("\n")[2]
    if where == "marked":
        inside = boxed(text)
        if inside is not None:
            return inside
        _, found, behind = text.rpartition("####")
        return behind if found else text
    return text


# regex


def regex_verifier(*, mode: Literal["search", "fullmatch"] = "search", ignore_case: bool = False) -> Verifier:
    """Whether the answer, a regular expression of the package regex, is found in the completion, or matches the whole of it.

    A match that takes longer than a second is none.
    """
    if mode not in ("search", "fullmatch"):
        raise TrainingError(f"verifier regex: mode {mode!r}: expected search or fullmatch")
    flags = regex.IGNORECASE if ignore_case else 0

    def verify(completion: str, answer: str) -> Verdict:
        try:
            pattern = regex.compile(answer, flags)
        except (regex.error, RecursionError) as error:
            raise TrainingError(
                f"verifier regex: the answer {short(answer)} is no regular expression: {error}"
            ) from None
        try:
            found = getattr(pattern, mode)(completion[-MAX_CHARACTERS:], timeout=REGEX_SECONDS)
        except TimeoutError:
            return Verdict(0.0, f"the pattern took longer than {REGEX_SECONDS:g} s")
        return Verdict(float(found is not None), f"{short(answer)} {'matches' if found else 'does not match'}")

    return verify


# format


def format_verifier(*, partial: bool = False, **spec: Any) -> Verifier:
    """Whether the completion keeps a format: the checks of the options, and of the answer if that is a JSON object of them.

    tags: list of names: the completion is `<a>...</a>` of each in this order, once, with whitespace alone around. json: true, or
    a mapping from key to type (string, number, integer, boolean, array, object, null, any): all of it, or its only fenced block,
    is JSON, an object with these keys. starts_with, ends_with, contains, without: a string or a list of them. min_words, max_words,
    min_characters, max_characters. partial: the score is the share of checks kept, instead of all or nothing.
    """
    ours = _checks(spec)

    def verify(completion: str, answer: str) -> Verdict:
        checks = ours
        if answer.strip().startswith("{"):
            try:
                own = json.loads(answer)
            except (ValueError, RecursionError):
                raise TrainingError(
                    f"verifier format: the answer {short(answer)} is no JSON object of checks"
                ) from None
            checks = {**ours, **_checks(own)}
        if not checks:
            raise TrainingError(f"verifier format: nothing to check: give {', '.join(FORMAT_CHECKS)}")
        if len(completion) > MAX_CHARACTERS:
            return Verdict(0.0, f"longer than {MAX_CHARACTERS:,} characters")
        wrong = [problem for name, value in checks.items() if (problem := FORMAT_CHECKS[name](completion, value))]
        score = (len(checks) - len(wrong)) / len(checks)
        return Verdict(score if partial else float(not wrong), "; ".join(wrong) or "kept")

    return verify


def _checks(spec: Mapping[str, Any]) -> dict[str, Any]:
    kinds: dict[str, tuple[type, ...]] = {
        "tags": (list, tuple), "json": (bool, dict), "starts_with": (str, list, tuple), "ends_with": (str, list, tuple),
        "contains": (str, list, tuple), "without": (str, list, tuple), "min_words": (int,), "max_words": (int,),
        "min_characters": (int,), "max_characters": (int,),
    }  # fmt: skip
    for name, value in spec.items():
        if name not in kinds:
            raise TrainingError(f"verifier format: unknown check {name!r}: expected {', '.join(kinds)}")
        if not isinstance(value, kinds[name]) or value is False:
            raise TrainingError(f"verifier format: {name}: {short(repr(value))} is not what this check takes")
        strings = value if isinstance(value, list | tuple) else ()
        if not all(isinstance(item, str) and item for item in strings):
            raise TrainingError(f"verifier format: {name}: expected a list of strings that are not empty")
        if name == "json" and isinstance(value, dict) and not all(kind in list(JSON_TYPES) for kind in value.values()):
            raise TrainingError(f"verifier format: json: types are {', '.join(JSON_TYPES)}")
    return dict(spec)


def _tags(text: str, names: Sequence[str]) -> str:
    at = 0
    for name in names:
        opening, closing = f"<{name}>", f"</{name}>"
        if text.count(opening) != 1 or text.count(closing) != 1:
            return f"not one {opening}...{closing}"
        start, end = text.index(opening), text.index(closing)
        if start < at or end < start + len(opening):
            return f"{opening} out of order"
        if text[at:start].strip():
            return f"text before {opening}"
        at = end + len(closing)
    return f"text behind </{names[-1]}>" if names and text[at:].strip() else ""


JSON_TYPES: dict[str, Callable[[Any], bool]] = {
    "string": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "array": lambda value: isinstance(value, list),
    "object": lambda value: isinstance(value, dict),
    "null": lambda value: value is None,
    "any": lambda value: True,
}


def _json(text: str, keys: bool | Mapping[str, str]) -> str:
    fenced = text.strip()
    if fenced.startswith("```") and fenced.endswith("```") and fenced.count("```") == 2:
        fenced = re.sub(r"\A```\w{0,20}", "", fenced)[:-3]
    try:
        found = json.loads(fenced)
    except (ValueError, RecursionError):
        return "no JSON"
    if keys is True:
        return ""
    assert isinstance(keys, Mapping)
    if not isinstance(found, dict):
        return "JSON, but no object"
    for key, kind in keys.items():
        if key not in found:
            return f"JSON without {key!r}"
        if not JSON_TYPES[kind](found[key]):
            return f"{key!r} is no {kind}"
    return ""


def _strings(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


FORMAT_CHECKS: dict[str, Callable[[str, Any], str]] = {  # "" or what is wrong
    "tags": _tags,
    "json": _json,
    "starts_with": lambda text, value: "" if text.startswith(tuple(_strings(value))) else f"does not start with {short(str(value))}",
    "ends_with": lambda text, value: "" if text.endswith(tuple(_strings(value))) else f"does not end with {short(str(value))}",
    "contains": lambda text, value: "".join(f"no {short(part)}" for part in _strings(value) if part not in text),
    "without": lambda text, value: "".join(f"has {short(part)}" for part in _strings(value) if part in text),
    "min_words": lambda text, value: "" if len(text.split()) >= value else f"fewer than {value} words",
    "max_words": lambda text, value: "" if len(text.split()) <= value else f"more than {value} words",
    "min_characters": lambda text, value: "" if len(text) >= value else f"fewer than {value} characters",
    "max_characters": lambda text, value: "" if len(text) <= value else f"more than {value} characters",
}  # fmt: skip
