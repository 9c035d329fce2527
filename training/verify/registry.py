"""Verifiers by name."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from training.knobs import TrainingError
from training.verify.numbers import integer_verifier, number_verifier
from training.verify.python_tests import parse_tests, python_tests_verifier
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
    parameters = inspect.signature(VERIFIERS[name], eval_str=True).parameters
    open_ended = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    for option in options:
        if option not in parameters and not open_ended:
            raise TrainingError(f"verifier {name}: unknown option {option!r}: expected {', '.join(parameters)}")
        kind: Any = parameters[option].annotation if option in parameters else Any
        try:
            TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(
                options[option], strict=True
            )
        except ValidationError as error:
            wanted = error.errors()[0]["msg"]
            raise TrainingError(f"verifier {name}: {option}: {wanted}, got {options[option]!r}") from None
    return VERIFIERS[name](**options)


def check_answer(name: str, verify: Verifier, answer: str, where: str) -> None:
    """Raise `TrainingError` for an answer that the verifier of this name cannot check by. Runs no code.

    where: what has the answer, for the message.
    """
    try:
        if name == "python_tests":
            parse_tests(answer)
        else:
            verify("", answer)
    except TrainingError as error:
        raise TrainingError(f"{where}: {error}") from None
