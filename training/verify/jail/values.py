"""Values that cross the wall: plain Python data as JSON, each kind by its own name, so that a tuple stays a tuple.

An object of any other type does not cross: what `==` says of it inside is worth nothing outside.
"""

from __future__ import annotations

from typing import Any

SEQUENCES: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


def encoded(value: Any, depth: int = 0) -> Any:
    """Plain data as JSON types. Raises `TypeError` for other types, `ValueError` for nesting deeper than 100."""
    if depth > 100:
        raise ValueError("nested deeper than 100")
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if kind is complex:
        return {"complex": [value.real, value.imag]}
    if kind is bytes:
        return {"bytes": value.hex()}
    if kind is dict:
        return {"dict": [[encoded(key, depth + 1), encoded(item, depth + 1)] for key, item in value.items()]}
    for name, sequence in SEQUENCES.items():
        if kind is sequence:
            return {name: [encoded(item, depth + 1) for item in value]}
    if isinstance(value, dict):  # Counter, defaultdict, OrderedDict compare as dicts
        return encoded(dict(value), depth)
    plain: Any
    for plain in (int, float, str, list, tuple):  # enums of numbers, named tuples
        if isinstance(value, plain):
            return encoded(plain(value), depth)
    raise TypeError(f"an object of type {kind.__name__} is no plain value")


def decoded(value: Any) -> Any:
    """The value that was encoded. Raises `ValueError` for anything that `encoded` does not write."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if not isinstance(value, dict) or len(value) != 1:
        raise ValueError("no encoded value")
    ((kind, inner),) = value.items()
    try:
        if kind == "dict":
            return {decoded(key): decoded(item) for key, item in inner}
        if kind == "bytes":
            return bytes.fromhex(inner)
        if kind == "complex":
            return complex(*inner)
        return SEQUENCES[kind](decoded(item) for item in inner)
    except (KeyError, TypeError, RecursionError, ArithmeticError) as error:
        raise ValueError(f"no encoded value: {error}") from None
