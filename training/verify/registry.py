"""Verifiers by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from training.knobs import TrainingError
from training.verify.numbers import integer_verifier, number_verifier
from training.verify.python_tests import python_tests_verifier
from training.verify.text import exact_verifier, format_verifier, regex_verifier
from training.verify.verdict import Verifier

VERIFIERS: dict[str, Callable[..., Verifier]] = {
    "number": number_verifier,
    "integer": integer_verifier,
    "exact": exact_verifier,
    "regex": regex_verifier,
    "format": format_verifier,
    "python_tests": python_tests_verifier,
}


def verifier(name: str, **options: Any) -> Verifier:
    """The verifier of this name: (completion, answer) -> Verdict. Raises `TrainingError` for a name or option that is unknown.

    What it returns never raises for what a completion holds; for an answer that it cannot check against it raises `TrainingError`.
    """
    if name not in VERIFIERS:
        near = difflib.get_close_matches(str(name), VERIFIERS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise TrainingError(f"unknown verifier {name!r}: expected {', '.join(VERIFIERS)}{hint}")
    parameters = inspect.signature(VERIFIERS[name]).parameters
    open_ended = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    for option in options:
        if option not in parameters and not open_ended:
            raise TrainingError(f"verifier {name}: unknown option {option!r}: expected {', '.join(parameters)}")
    return VERIFIERS[name](**options)
