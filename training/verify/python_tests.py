"""Code in a completion, run against tests in the sandbox.

Where a test compares what the code gives with a known value, the value alone crosses the wall and the comparison is made outside: the
code never sees what is expected, and an object that calls itself equal to everything does not get out. Other assertions run beside
the code, which could cheat them; the detail counts those.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.knobs import TrainingError
from training.verify.sandbox import Check, Limits, Ran, Sandbox, cores, shared_sandbox
from training.verify.verdict import MAX_CHARACTERS, Verdict, Verifier, short

MAX_TESTS = 1000
DEEPEST = 100  # lists in lists of an answer; Python's own parser takes 200
_OPENING = re.compile(r"[ \t]{0,3}```[ \t]*(\w{0,20})[^\n`]{0,100}")
_CLOSING = re.compile(r"[ \t]{0,3}```[ \t]*")
_FUNCTION = re.compile(r"^(?:async[ \t]+)?def[ \t]+(\w{1,200})[ \t]*\(|^class[ \t]+(\w{1,200})", re.MULTILINE)


@dataclass(frozen=True)
class Test:
    """One check of the code: a call of its function, an expression or statements, or a program's input and output.

    arguments: those of a call, as Python. exact: the value must be `==` to `expected`, as in an assertion, instead of `equal`.
    inside: `code` is statements, and passing is not raising.
    """

    code: str = ""
    arguments: str | None = None
    expected: Any = None
    exact: bool = False
    inside: bool = False
    stdin: str | None = None
    stdout: str = ""


@dataclass(frozen=True)
class Tests:
    """What an answer asks for. setup: code before the completion's; function: the one to call, None: the last that is defined."""

    tests: tuple[Test, ...]
    setup: str = ""
    function: str | None = None


def python_tests_verifier(
    *,
    partial: bool = False,
    tolerance: float = 1e-9,
    function: str | None = None,
    wall: float = Limits.wall,
    cpu: float = Limits.cpu,
    memory: int = Limits.memory,
    workers: int | None = None,
    allow_unsandboxed: bool = False,
    sandbox: Sandbox | None = None,
) -> Verifier:
    """Whether the completion's code passes the tests of the answer (see `parse_tests`).

    partial: the score is the share of tests passed, instead of all or nothing. tolerance: by which floats may differ, relative or
    absolute. function: its name, if the answer names none. wall, cpu, memory: seconds and bytes of a run (all tests of a function
    together; each input of a program). workers: runs at a time, of callers in several threads, by default one for each core. Raises `SandboxError` where code
    cannot be walled in, unless `allow_unsandboxed`.
    """
    limits = Limits(wall=wall, cpu=cpu, memory=memory)
    if workers is not None and workers < 1:
        raise TrainingError(f"verifier python_tests: workers must be at least 1, got {workers}")
    if not 0 <= tolerance < 1:
        raise TrainingError(f"verifier python_tests: tolerance is at least 0 and below 1, got {tolerance}")

    def verify(completion: str, answer: str) -> Verdict:
        asked = parse_tests(answer)
        code = extract_code(completion, any(test.stdin is None for test in asked.tests))
        if len(code) > MAX_CHARACTERS:
            return Verdict(0.0, f"longer than {MAX_CHARACTERS:,} characters")
        name = asked.function or function or last_function(code)
        if name is None and any(test.arguments is not None for test in asked.tests):
            return Verdict(0.0, "no function is defined")
        place = sandbox or shared_sandbox(workers or cores(), allow_unsandboxed)
        passed, problem = _run(place, asked, code, name, limits, tolerance)
        inside = sum(test.inside for test in asked.tests)
        count = len(asked.tests)
        score = passed / count if partial else float(passed == count)
        detail = f"{passed} of {count} tests passed"
        detail += f", {inside} of them checked beside the code" if inside else ""
        return Verdict(score, f"{detail}; {problem}" if problem else detail)

    return verify


def _run(
    place: Sandbox, asked: Tests, code: str, name: str | None, limits: Limits, tolerance: float
) -> tuple[int, str]:
    """How many tests pass, and what is wrong with the first that does not."""
    passed, problem = 0, ""
    program = f"{asked.setup}\n{code}" if asked.setup else code
    called = [test for test in asked.tests if test.stdin is None]
    if called:
        checks = [Check(_code(test, name), "exec" if test.inside else "eval") for test in called]
        ran = place.run(program, checks=checks, limits=limits)
        for test, outcome in zip(called, ran.checks, strict=True):
            wrong = outcome.error
            if wrong is None and not test.inside and not _right(test, outcome.value, tolerance):
                wrong = f"gave {short(repr(outcome.value))}"
            passed += wrong is None
            if wrong is not None and not problem:
                problem = ran.detail if wrong == "not reached" else wrong
    for test in asked.tests:
        if test.stdin is not None:
            ran = place.run(program, stdin=test.stdin, limits=limits)
            good = ran.ended == "ok" and same_output(ran.stdout, test.stdout, tolerance)
            passed += good
            if not good and not problem:
                problem = _why(ran)
    return passed, problem


def _code(test: Test, name: str | None) -> str:
    return test.code if test.arguments is None else f"{name}({test.arguments})"


def _right(test: Test, found: Any, tolerance: float) -> bool:
    return bool(found == test.expected) if test.exact else equal(found, test.expected, tolerance)


def _why(ran: Ran) -> str:
    return ran.detail if ran.ended != "ok" else f"printed {short(ran.stdout)}"


# the code


def _fenced(text: str) -> list[tuple[str, str]]:
    """(language, body) of each closed block of code, in one pass over the lines."""
    found: list[tuple[str, str]] = []
    language: str | None = None
    body: list[str] = []
    for line in text.split("\n"):
        if language is None:
            opening = _OPENING.fullmatch(line)
            language, body = opening and opening[1], []
        elif _CLOSING.fullmatch(line):
            found.append((language, "".join(body)))
            language = None
        else:
            body.append(line + "\n")
    return found


def extract_code(completion: str, function: bool) -> str:
    """The completion's last fenced block of Python (or of no named language), one that defines something if `function` is asked for.

    Without a fence, the whole completion; behind one that never closes, the rest.
    """
    blocks = [
        body
        for language, body in _fenced(completion[-MAX_CHARACTERS:])
        if language.lower() in ("python", "py", "python3", "")
    ]
    if not blocks:
        opened = re.search(r"^```(?:python3?|py)[ \t]*\n", completion[-MAX_CHARACTERS:], re.MULTILINE)
        return completion[-MAX_CHARACTERS:][opened.end() :] if opened else completion
    defining = [body for body in blocks if _FUNCTION.search(body)] if function else []
    return (defining or blocks)[-1]


def last_function(code: str) -> str | None:
    """The last function that is defined at the outermost level."""
    names = [name for name, _ in _FUNCTION.findall(code) if name]
    return names[-1] if names else None


# the tests


def parse_tests(answer: str) -> Tests:
    """The tests of an answer. Raises `TrainingError` that says what is expected.

    JSON: a list, or an object with a list under `tests`, `cases` or `test_list`, `setup` (or `test_setup_code`: imports) and
    `function` (or `entry_point`, `fn_name`). In the list: `{"input": x, "output": y}` calls the function with x, `{"args": [..],
    "kwargs": {..}, "output": y}` with those; `{"stdin": s, "stdout": t}` runs the code as a program; a string is an assertion or
    other statements. An object with `test` and `entry_point` is one of HumanEval (Chen et al. 2021): code that defines `check`.
    What is not JSON is Python statements: assertions one by one, anything else as a whole.
    """
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError):
        found = [answer]
    if _deeper(found, DEEPEST):
        raise TrainingError(f"verifier python_tests: the answer {short(answer)} is nested deeper than {DEEPEST}")
    about: Mapping[str, Any] = {}
    if isinstance(found, dict):
        about = found
        if isinstance(found.get("test"), str):
            name = _first(found, ("entry_point", "function", "fn_name"))
            if not isinstance(name, str) or not name.isidentifier():
                raise TrainingError(
                    f"verifier python_tests: the answer {short(answer)} has a test without an entry_point"
                )
            return Tests(
                (Test(f"{found['test']}\ncheck({name})", inside=True),), _text(found, ("setup", "prompt")), name
            )
        found = _first(found, ("tests", "cases", "test_list")) or [found]
    if isinstance(found, str):
        found = [found]
    if not isinstance(found, list) or not 0 < len(found) <= MAX_TESTS:
        raise TrainingError(f"verifier python_tests: the answer {short(answer)} is no list of 1 to {MAX_TESTS:,} tests")
    tests = [test for item in found for test in _tests(item, answer)]
    if not tests:
        raise TrainingError(f"verifier python_tests: the answer {short(answer)} holds no test")
    name = _first(about, ("function", "entry_point", "fn_name"))
    if name is not None and not (isinstance(name, str) and name.isidentifier()):
        raise TrainingError(f"verifier python_tests: {short(repr(name))} is no function's name")
    return Tests(tuple(tests), _text(about, ("setup", "test_setup_code")), name)


def _deeper(value: Any, depth: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return depth < 0 or any(_deeper(item, depth - 1) for item in inner)


def _first(found: Mapping[str, Any], names: Sequence[str]) -> Any:
    return next((found[name] for name in names if found.get(name) is not None), None)


def _text(found: Mapping[str, Any], names: Sequence[str]) -> str:
    value = _first(found, names)
    return "\n".join(map(str, value)) if isinstance(value, list) else str(value or "")


def _tests(item: Any, answer: str) -> list[Test]:
    if isinstance(item, str):
        return _statements(item)
    if isinstance(item, dict):
        if "stdin" in item or "stdout" in item:
            given, wanted = item.get("stdin", ""), item.get("stdout")
            if isinstance(given, str) and isinstance(wanted, str):
                return [Test(stdin=given, stdout=wanted)]
        elif "output" in item and ("input" in item or isinstance(item.get("args", item.get("kwargs")), list | dict)):
            args = [item["input"]] if "input" in item else item.get("args", [])
            named = item.get("kwargs", {})
            if isinstance(args, list) and isinstance(named, dict) and all(str(key).isidentifier() for key in named):
                written = ", ".join(
                    [*map(_literal, args), *(f"{key}={_literal(value)}" for key, value in named.items())]
                )
                return [Test(arguments=written, expected=item["output"])]
    raise TrainingError(
        f"verifier python_tests: the answer {short(answer)} has a test that is none of: an assertion as a string, "
        "input and output, args and output, stdin and stdout"
    )


def _literal(value: Any) -> str:
    """A JSON value as Python; infinities and NaN have no name there."""
    return repr(value) if not _special(value) else f"__import__('json').loads({json.dumps(value)!r})"


def _special(value: Any) -> bool:
    if isinstance(value, float):
        return not math.isfinite(value)
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(_special(item) for item in inner)


def _statements(code: str) -> list[Test]:
    """Assertions one by one, each `assert EXPRESSION == VALUE` as an expression with a value; other code whole."""
    try:
        body = ast.parse(code).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise TrainingError(f"verifier python_tests: the test {short(code)} is no Python: {error}") from None
    if not body or not all(isinstance(statement, ast.Assert) for statement in body):
        return [Test(code, inside=True)] if body else []
    return [_assertion(statement) for statement in body if isinstance(statement, ast.Assert)]


def _assertion(statement: ast.Assert) -> Test:
    tested = statement.test
    if isinstance(tested, ast.Compare) and len(tested.ops) == 1 and isinstance(tested.ops[0], ast.Eq | ast.Is):
        for side, other in ((tested.left, tested.comparators[0]), (tested.comparators[0], tested.left)):
            try:
                expected = ast.literal_eval(other)
            except (ValueError, TypeError, MemoryError, RecursionError):
                continue
            if isinstance(tested.ops[0], ast.Eq):
                return Test(ast.unparse(side), expected=expected, exact=True)
            if expected is None or isinstance(expected, bool):
                return Test(ast.unparse(side), expected=expected)
    if isinstance(tested, ast.Call | ast.Name):
        return Test(f"bool({ast.unparse(tested)})", expected=True)
    if isinstance(tested, ast.UnaryOp) and isinstance(tested.op, ast.Not):
        return Test(f"bool({ast.unparse(tested.operand)})", expected=False)
    return Test(ast.unparse(statement), inside=True)


# comparing


def equal(found: Any, expected: Any, tolerance: float) -> bool:
    """Equality of plain data, of floats within a tolerance; a tuple is a list to an answer in JSON, which has none."""
    if isinstance(found, bool) or isinstance(expected, bool):
        return found is expected
    if isinstance(found, float) or isinstance(expected, float):
        if not (isinstance(found, int | float) and isinstance(expected, int | float)):
            return False
        if found == expected or (found != found and expected != expected):
            return True
        try:
            return math.isclose(found, expected, rel_tol=tolerance, abs_tol=tolerance)
        except OverflowError:  # an integer beyond floats
            return False
    if isinstance(expected, list | tuple):
        alike = type(found) is type(expected) or (isinstance(found, tuple) and isinstance(expected, list))
        return (
            alike
            and len(found) == len(expected)
            and all(equal(a, b, tolerance) for a, b in zip(found, expected, strict=True))
        )
    if isinstance(expected, dict):
        if not isinstance(found, dict) or len(found) != len(expected):
            return False
        # JSON has strings for keys
        keys = found if expected.keys() == found.keys() else {str(key): value for key, value in found.items()}
        return keys.keys() == expected.keys() and all(
            equal(keys[key], value, tolerance) for key, value in expected.items()
        )
    return type(found) is type(expected) and bool(found == expected)


def same_output(found: str, expected: str, tolerance: float) -> bool:
    """Equality of what programs print, but for space at the ends of lines and of the text; numbers with a point within a tolerance."""
    lines, wanted = ([line.split() for line in text.strip().split("\n")] for text in (found, expected))
    if [len(line) for line in lines] != [len(line) for line in wanted]:
        return False
    return all(
        one == other or ("." in other and _as_floats(one, other, tolerance))
        for line, want in zip(lines, wanted, strict=True)
        for one, other in zip(line, want, strict=True)
    )


def _as_floats(one: str, other: str, tolerance: float) -> bool:
    try:
        return math.isclose(float(one), float(other), rel_tol=tolerance, abs_tol=tolerance)
    except ValueError:
        return False
