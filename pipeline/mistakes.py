"""What pydantic finds wrong in a config, in the user's words: the key, what was expected, the nearest valid one."""

from __future__ import annotations

import difflib
import math
import types
from collections.abc import Iterable, Mapping
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError

from pipeline.yamlfile import Key, Mistake, shown

_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "none_required": "null",
    "finite_number": "a finite number",
    "size": "a size, such as 64MB, 2GiB or a number of bytes",
}
_BOUNDS = {
    "greater_than": ("more than", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("less than", "lt"),
    "less_than_equal": ("at most", "le"),
}
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.\-]*$"
_PATTERNS = {
    NAME: "letters, digits and any of _ . - (the first a letter or a digit)",
    r"^[a-z][a-z0-9_.]*$": "lower-case letters, digits and any of _ . (the first a letter)",
}


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean ...?`, or nothing where no known word is near."""
    close = difflib.get_close_matches(str(word), [str(k) for k in known], n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def unsaid(mistakes: list[Mistake], said: list[Mistake]) -> list[Mistake]:
    """The mistakes at places of which nothing is said yet."""
    return [m for m in mistakes if not any(m[0][: len(place)] == place for place, _ in said)]


def explain(
    error: ValidationError, model: type[BaseModel], data: Any, place: Key = (), label: str = "", help: str = ""
) -> list[Mistake]:
    """Every finding as a mistake at its place in the file.

    `data` is what was validated, `place` where it stands in the file, `label` how its keys are called in messages
    (nothing for the whole config), `help` what prints its valid keys.
    """
    mistakes: list[Mistake] = []
    expected: dict[Key, list[str]] = {}  # what the branches of a union would have taken, by key
    choices: dict[Key, list[str]] = {}
    got: dict[Key, Any] = {}
    for finding in error.errors():
        path = _path(finding["loc"], data, finding["type"])
        name = ".".join(str(part) for part in (label, *path) if part != "")
        kind, context = finding["type"], finding.get("ctx", {})
        if kind == "extra_forbidden":
            keys = _keys(model, path[:-1])
            near = nearest(str(path[-1]), keys)
            valid = near or (f"; valid keys: {', '.join(keys)}" if keys else "")
            more = f" ({help} explains them all)" if help and near else ""
            mistakes.append(((*place, *path), f"unknown key {name!r}{valid}{more}"))
        elif kind == "missing":
            mistakes.append(((*place, *path), f"{name!r} is missing: {_doc(model, path)}"))
        elif kind in ("value_error", "assertion_error"):
            message = finding["msg"].removeprefix("Value error, ").removeprefix("Assertion failed, ")
            first, separator, rest = message.partition(": ")
            if separator and first in _keys(model, path):  # the model's own check names the key at fault
                path, name, message = (*path, first), f"{name}.{first}" if name else first, rest
            mistakes.append(((*place, *path), f"{name}: {message}" if name else message))
        else:
            words = _expectation(kind, context, finding["input"], finding["msg"])
            expected.setdefault(path, []).append(words)
            if kind == "literal_error":
                choices[path] = words.removeprefix("one of ").split(", ")
            got[path] = finding["input"]
    for path, wanted in expected.items():
        name = ".".join(str(part) for part in (label, *path) if part != "")
        text = f"{name}: expected {' or '.join(dict.fromkeys(wanted))}, got {shown(got[path])}"
        hint = nearest(got[path], choices.get(path, ())) if isinstance(got[path], str) else ""
        mistakes.append(((*place, *path), text + hint))
    return mistakes


def _expectation(kind: str, context: Mapping[str, Any], value: Any, message: str) -> str:
    """What was expected, in words that follow 'expected'."""
    if kind in _EXPECTED:
        return _EXPECTED[kind]
    if kind in _BOUNDS:
        words, name = _BOUNDS[kind]
        return f"{words} {context[name]:,}" if isinstance(context[name], int) else f"{words} {context[name]:g}"
    if kind in ("tuple_type", "list_type", "set_type", "frozen_set_type"):
        return f"a list, as in [{value}]" if isinstance(value, str | int | float) else "a list"
    if kind in ("model_type", "model_attributes_type", "dict_type", "dataclass_type"):
        return "a mapping (`key: value`)"
    if kind == "string_type":
        plain = isinstance(value, bool | int | float)
        return f'a string (in quotes: "{shown(value)}")' if plain else "a string"
    if kind == "literal_error":
        choices = str(context["expected"]).replace(" or ", ", ").replace("'", "")
        return f"one of {choices}" if "," in choices else choices
    if kind == "string_pattern_mismatch":
        return _PATTERNS.get(context["pattern"], f"a string that matches {context['pattern']}")
    return message[0].lower() + message[1:].removeprefix("nput should be ")


def _path(location: tuple[int | str, ...], data: Any, kind: str) -> Key:
    """The user's part of pydantic's location: branches of unions and the like are no keys of the data's."""
    path: list[int | str] = []
    current = data
    for place, part in enumerate(location):
        if (isinstance(current, dict) and part in current) or (
            isinstance(current, list | tuple) and isinstance(part, int) and part < len(current)
        ):
            current = current[part]  # type: ignore[index]
        elif not (kind == "missing" and place == len(location) - 1):
            continue
        path.append(part)
    return tuple(path)


def odd_numbers(model: type[BaseModel], data: Any, place: Key = (), label: str = "") -> list[Mistake]:
    """Numbers that pydantic would take and nobody means: true for 1, and those that are not finite."""
    mistakes: list[Mistake] = []
    if not isinstance(data, dict):
        return mistakes
    for key, value in data.items():
        field = next((f for n, f in model.model_fields.items() if key in (n, f.alias)), None)
        name = f"{label}.{key}" if label else str(key)
        inner = model_in(field.annotation) if field is not None else None
        for index, entry in enumerate(value if isinstance(value, list) and inner is not None else ()):
            mistakes += odd_numbers(inner, entry, (*place, key, index), f"{name}.{index}")  # type: ignore[arg-type]
        kinds = _scalars(field.annotation) if field is not None else set()
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            mistakes.append(((*place, key), f"{name}: expected a number, got {shown(value)}"))
        elif isinstance(value, float) and not math.isfinite(value):
            mistakes.append(((*place, key), f"{name}: expected a finite number, got {value}"))
        elif inner is not None:
            mistakes += odd_numbers(inner, value, (*place, key), name)
    return mistakes


def _scalars(annotation: Any) -> set[type]:
    """The plain types that an annotation takes, not looking into lists and mappings."""
    if isinstance(annotation, type):
        return {annotation}
    if get_origin(annotation) in (Union, types.UnionType):
        return {kind for branch in get_args(annotation) for kind in _scalars(branch)}
    if hasattr(annotation, "__metadata__"):  # Annotated
        return _scalars(get_args(annotation)[0])
    return set()


def model_in(annotation: Any) -> type[BaseModel] | None:
    """The model that an annotation leads to, through unions, lists and mappings."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = model_in(argument)
        if found is not None:
            return found
    return None


def _field(model: type[BaseModel], path: Key) -> Any:
    """The pydantic field that a path leads to, if it leads through models."""
    field = None
    current: type[BaseModel] | None = model
    for part in path:
        if isinstance(part, int):
            continue
        if current is None:
            return None
        field = next((f for n, f in current.model_fields.items() if part in (n, f.alias)), None)
        current = model_in(field.annotation) if field is not None else None
    return field


def _keys(model: type[BaseModel], path: Key) -> list[str]:
    """The keys of the mapping at a path, as declared."""
    field = _field(model, path) if path else None
    inner = model_in(field.annotation) if field is not None else (model if not path else None)
    return [f.alias or n for n, f in inner.model_fields.items()] if inner else []


def _doc(model: type[BaseModel], path: Key) -> str:
    field = _field(model, path)
    return (field.description or "required") if field is not None else "required"
