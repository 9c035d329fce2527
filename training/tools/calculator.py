"""A calculator for models: arithmetic alone, exact where it can be, with limits on length, depth and size.

expression := term (('+' | '-') term)*
term       := signed (('*' | '/' | '//' | '%') signed)*
signed     := ('+' | '-') signed | power
power      := atom (('^' | '**') signed)?
atom       := number | 'pi' | 'e' | name '(' expression (',' expression)* ')' | '(' expression ')'
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction

MAX_CHARACTERS = 500
MAX_DEPTH = 50
MAX_BITS = 4096  # of a numerator or denominator
MAX_DIGITS = 1000  # of a result that is written out

Value = Fraction | float

_GROUPED = r"\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|"  # 1,000
_REST = r"\d+(?:\.\d*)?(?:[eE][+-]?\d{1,3})?|\.\d+)|([a-z]\w{0,20})|(\*\*|//|[-+*/%^(),]))"
_TOKEN = re.compile(rf"\s*(?:({_REST}")
_TOKEN_GROUPED = re.compile(rf"\s*(?:({_GROUPED}{_REST}")
_SIGNS = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "[": "(", "]": ")"})


class CalculatorError(ValueError):
    """What is no arithmetic, has no value, or would be too large; the message is for the model."""


def calculate(expression: str) -> str:
    """The value of an expression: whole numbers and finite decimals exactly, others to 12 digits. Raises `CalculatorError`."""
    if len(expression) > MAX_CHARACTERS:
        raise CalculatorError(f"longer than {MAX_CHARACTERS} characters")
    return written(_Parser(_tokens(expression.translate(_SIGNS))).whole())


def written(value: Value) -> str:
    """A value as text: `4`, `-0.5`, `0.333333333333`, `1.5e+30`."""
    if isinstance(value, Fraction):
        if value.denominator == 1:
            digits = str(value.numerator)
            if len(digits) > MAX_DIGITS:
                raise CalculatorError("the result has too many digits")
            return digits
        rest, places = value.denominator, 0
        while rest % 10 in (0, 2, 4, 5, 6, 8) and places < 12:
            rest, places = (rest // math.gcd(rest, 10)), places + 1
        if rest == 1:  # a finite decimal
            scaled = abs(value.numerator) * 10**places // value.denominator
            text = str(scaled).rjust(places + 1, "0")
            return f"{'-' * (value < 0)}{text[:-places]}.{text[-places:].rstrip('0')}"
        value = _float(value)
    if not math.isfinite(value):
        raise CalculatorError("the result is not finite")
    text = f"{value:.12g}"
    return "0" if text == "-0" else text


def _tokens(expression: str) -> list[str]:
    out, at = [], 0
    text = expression.strip().removesuffix("=").rstrip()
    # between the arguments of a function a comma is no separator of thousands
    pattern = _TOKEN if any(f"{name}(" in text for name in FUNCTIONS) else _TOKEN_GROUPED
    while at < len(text):
        found = pattern.match(text, at)
        if found is None:
            raise CalculatorError(
                f"cannot read {text[at : at + 10].strip()!r}; expected numbers, + - * / // % ^ ( ) and {', '.join(FUNCTIONS)}"
            )
        out.append(found[0].strip())
        at = found.end()
    return out


class _Parser:
    """Recursive descent over tokens; computes as it goes."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0
        self.depth = 0

    def whole(self) -> Value:
        value = self.expression()
        if self.at < len(self.tokens):
            raise CalculatorError(f"did not expect {self.tokens[self.at]!r}")
        return value

    def expression(self) -> Value:
        value = self.term()
        while operator := self.take("+", "-"):
            other = self.term()
            value = bounded(_both(value, other, lambda a, b: a + b if operator == "+" else a - b))
        return value

    def term(self) -> Value:
        value = self.signed()
        while operator := self.take("*", "/", "//", "%"):
            other = self.signed()
            if operator != "*" and other == 0:
                raise CalculatorError("division by zero")
            value = bounded(_both(value, other, _OPERATORS[operator]))
        return value

    def signed(self) -> Value:
        self.deeper()
        sign = self.take("+", "-")
        value = self.signed() if sign else self.power()
        self.depth -= 1
        return -value if sign == "-" else value

    def power(self) -> Value:
        base = self.atom()
        return _power(base, self.signed()) if self.take("^", "**") else base

    def atom(self) -> Value:
        if self.at >= len(self.tokens):
            raise CalculatorError("the expression ends too early")
        token = self.tokens[self.at]
        self.at += 1
        if token[0].isdigit() or token[0] == ".":
            return bounded(Fraction(token.replace(",", "").removesuffix(".")))
        if token == "(":
            self.deeper()
            value = self.expression()
            self.close()
            return value
        if token in ("pi", "e"):
            return math.pi if token == "pi" else math.e
        if token in FUNCTIONS:
            if not self.take("("):
                raise CalculatorError(f"{token} needs its argument in parentheses")
            self.deeper()
            values = [self.expression()]
            while self.take(","):
                values.append(self.expression())
            self.close()
            return _call(token, values)
        raise CalculatorError(f"did not expect {token!r}")

    def take(self, *expected: str) -> str | None:
        if self.at < len(self.tokens) and self.tokens[self.at] in expected:
            self.at += 1
            return self.tokens[self.at - 1]
        return None

    def close(self) -> None:
        if not self.take(")"):
            raise CalculatorError("a parenthesis is not closed")
        self.depth -= 1

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise CalculatorError(f"nested deeper than {MAX_DEPTH}")


def _both(one: Value, other: Value, function: Callable[[Value, Value], Value]) -> Value:
    """Exactly on fractions, on floats where one is a float."""
    if isinstance(one, float) or isinstance(other, float):
        one, other = _float(one), _float(other)
    try:
        return function(one, other)
    except OverflowError:
        raise CalculatorError("the result is too large") from None


_OPERATORS: dict[str, Callable[[Value, Value], Value]] = {
    "*": lambda a, b: a * b,
    "/": lambda a, b: a / b,
    "//": lambda a, b: Fraction(a // b) if isinstance(a, Fraction) else float(a // b),
    "%": lambda a, b: a % b,
}


def _power(base: Value, exponent: Value) -> Value:
    if isinstance(exponent, Fraction) and exponent.denominator == 1 and isinstance(base, Fraction):
        if base == 0 and exponent < 0:
            raise CalculatorError("division by zero")
        size = max(base.numerator.bit_length(), base.denominator.bit_length()) * abs(exponent.numerator)
        if abs(base) not in (0, 1) and size > MAX_BITS:
            raise CalculatorError("the result is too large")
        return base ** (exponent.numerator if abs(base) not in (0, 1) else _small(base, exponent.numerator))
    try:
        value = _float(base) ** _float(exponent)
    except (OverflowError, ZeroDivisionError):
        raise CalculatorError("the result is too large") from None
    if isinstance(value, complex):
        raise CalculatorError("a root of a negative number")
    return value


def _small(base: Fraction, exponent: int) -> int:
    """An exponent with the same result for a base of 0, 1 or -1."""
    return min(exponent, 1) if base >= 0 else exponent % 2


def _root(value: Value) -> Value:
    if value < 0:
        raise CalculatorError("a root of a negative number")
    if isinstance(value, Fraction):
        top, bottom = math.isqrt(value.numerator), math.isqrt(value.denominator)
        if Fraction(top * top, bottom * bottom) == value:
            return Fraction(top, bottom)
    return math.sqrt(_float(value))


def _rounded(value: Value, places: Value = Fraction(0)) -> Value:
    """Halves away from zero, as taught in schools."""
    if places != int(places) or not -100 <= places <= 100:
        raise CalculatorError("round takes a whole number of places up to 100")
    scale = Fraction(10) ** int(places)
    exact = Fraction(value) * scale
    return Fraction(math.floor(abs(exact) + Fraction(1, 2)) * (1 if exact >= 0 else -1)) / scale


FUNCTIONS: dict[str, tuple[Callable[..., Value], int, int]] = {  # with how many arguments, from and to
    "sqrt": (_root, 1, 1),
    "abs": (abs, 1, 1),
    "round": (_rounded, 1, 2),
    "floor": (lambda x: Fraction(math.floor(x)), 1, 1),
    "ceil": (lambda x: Fraction(math.ceil(x)), 1, 1),
    "min": (min, 1, 100),
    "max": (max, 1, 100),
    "exp": (lambda x: math.exp(_float(x)), 1, 1),
    "log": (lambda x: math.log(_float(x)), 1, 1),
    "log10": (lambda x: math.log10(_float(x)), 1, 1),
    "sin": (lambda x: math.sin(_float(x)), 1, 1),
    "cos": (lambda x: math.cos(_float(x)), 1, 1),
    "tan": (lambda x: math.tan(_float(x)), 1, 1),
}


def _call(name: str, values: list[Value]) -> Value:
    function, least, most = FUNCTIONS[name]
    if not least <= len(values) <= most:
        raise CalculatorError(
            f"{name} takes {least if least == most else f'{least} to {most}'} arguments, got {len(values)}"
        )
    try:
        return bounded(function(*values))
    except (ValueError, OverflowError) as error:
        if isinstance(error, CalculatorError):
            raise
        raise CalculatorError(f"{name} has no value there") from None


def _float(value: Value) -> float:
    try:
        return float(value)
    except OverflowError:
        raise CalculatorError("the result is too large") from None


def bounded(value: Value) -> Value:
    """The value. Raises `CalculatorError` if it is beyond the limits."""
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
            raise CalculatorError("the result is too large")
    elif not math.isfinite(value):
        raise CalculatorError("the result is not finite")
    return value
