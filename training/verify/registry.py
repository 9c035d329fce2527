"""Verifiers by name, and grading many completions at once."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from training.knobs import TrainingError
from training.verify.numbers import integer_verifier, number_verifier
from training.verify.python_tests import python_tests_verifier
from training.verify.text import exact_verifier, format_verifier, regex_verifier
from training.verify.verdict import Verdict, Verifier

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


def grade(
    rows: Sequence[tuple[str | None, str, str | None]], options: Mapping[str, Mapping[str, Any]] | None = None, workers: int = 1
) -> list[Verdict]:  # fmt: skip
    """Verdicts of (name of the verifier, completion, answer), in order.

    options: those of each verifier by its name. workers: runs of code at a time (verifier python_tests). Raises `TrainingError` for a
    row without a verifier or answer.
    """
    given = dict(options or {})
    made: dict[str, Verifier] = {}
    for number, (name, _, answer) in enumerate(rows):
        if name is None or answer is None:
            raise TrainingError(
                f"row {number} has no {'verifier' if name is None else 'answer'}, so nothing can check it"
            )
        if name not in made:
            own = dict(given.get(name, {}))
            if name == "python_tests":
                own.setdefault("workers", workers)
            made[name] = verifier(name, **own)

    def one(row: tuple[str | None, str, str | None]) -> Verdict:
        name, completion, answer = row
        return made[str(name)](completion, str(answer))

    if workers > 1 and "python_tests" in made:
        with ThreadPoolExecutor(workers) as pool:
            return list(pool.map(one, rows))
    return [one(row) for row in rows]
