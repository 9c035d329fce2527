"""The calculator for models: exact arithmetic, limits, and what is none."""

import math
import random
from fractions import Fraction

import pytest

from training.tools.calculator import MAX_BITS, CalculatorError, calculate


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1+2*3", "7"), ("(17 + 4) * 3", "63"), ("2^10", "1024"), ("2**-2", "0.25"), ("-2^2", "-4"), ("2^3^2", "512"), ("1/3", "0.333333333333"),
        ("0.1+0.2", "0.3"), ("-7//2", "-4"), ("-7 % 3", "2"), ("sqrt(16/9)*3", "4"), ("sqrt(2)", "1.41421356237"), ("1,000*2 =", "2000"),
        ("max(1,200)", "200"), ("min(3, 1, 2)", "1"), ("round(2.5)", "3"), ("round(-1.005, 2)", "-1.01"), ("5 × 3 − 1", "14"), ("10 ÷ 4", "2.5"),
        ("1/1024", "0.0009765625"), ("1^99999999999", "1"), ("(-1)^3", "-1"), ("0^0", "1"), ("pi", "3.14159265359"), ("99999999*99999999", "9999999800000001"),
        ("floor(-1.5)+ceil(1.2)", "0"), ("abs(-3)", "3"), ("log(e)", "1"), ("2^0.5", "1.41421356237"), (".5", "0.5"), ("3.", "3"), ("sin(0)-0", "0"),
    ],
)  # fmt: skip
def test_arithmetic(expression, value):
    assert calculate(expression) == value


@pytest.mark.parametrize(
    "expression",
    ["", "a", "1 2", "1/0", "5 % 0", "0^-1", "__import__('os')", "().__class__", "9^9^9^9", "2^99999999", "(" * 60 + "1", "-" * 60 + "1", "1" * 501, "sqrt(-1)", "(-8)^0.5", "log(0)", "exp(1000)", "min()", "sqrt(1,2)", "1)", "(1", "1e9999", "100%", "x=1", "round(1, 1000)", "sqrt 4", "10^1100"],
)  # fmt: skip
def test_what_is_no_arithmetic_says_so(expression):
    with pytest.raises(CalculatorError) as caught:
        calculate(expression)
    assert str(caught.value) and len(str(caught.value)) < 200


def test_arithmetic_is_that_of_python():
    draw = random.Random(5)
    for _ in range(300):
        parts = [str(draw.randint(0, 999)) for _ in range(draw.randint(2, 6))]
        text = parts[0] + "".join(f" {draw.choice(['+', '-', '*', '//', '%', '/'])} {part}" for part in parts[1:])
        if draw.random() < 0.5:
            text = f"({text}) * {draw.randint(-9, 9)}"
        try:
            expected = eval(_exact(text), {"Fraction": Fraction})
        except ZeroDivisionError:
            with pytest.raises(CalculatorError):
                calculate(text)
            continue
        assert math.isclose(float(calculate(text)), float(expected), rel_tol=1e-11, abs_tol=1e-11), text
    assert len(calculate(f"2^{MAX_BITS // 2 - 1}")) > 600


def _exact(text):
    """The same with exact fractions, as Python code."""
    return " ".join(
        f"Fraction({part})" if part.isdigit() else part for part in text.replace("(", "( ").replace(")", " )").split()
    )
