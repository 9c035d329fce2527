"""Verifiers on answers that are right, wrong, oddly written and hostile."""

import json
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import pytest

from training.knobs import TrainingError
from training.verify import Verdict, verifier
from training.verify.jail.values import decoded
from training.verify.numbers import final_number, numbers
from training.verify.python_tests import equal, extract_code, last_function, parse_tests, same_output
from training.verify.sandbox import Sandbox, SandboxError
from training.verify.text import normalised

ROOT = Path(__file__).parent.parent


def score(name, completion, answer, **options):
    found = verifier(name, **options)(completion, answer)
    assert isinstance(found, Verdict) and 0 <= found.score <= 1 and found.detail and "\n" not in found.detail
    return found.score


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The answer is 42.", 42), ("$1,234.50.", "1234.5"), ("16-3=13", 13), ("16 - 3 - 4", 4), ("x = -5", -5), ("− 7", -7),
        ("$-5", -5), ("-$5", -5), ("3/4", "3/4"), ("1 1/2 cups", "3/2"), ("1.8 billion", 1_800_000_000), ("A: 7/14", "1/2"),
        (r"\boxed{\frac{1}{2}} or 7", "1/2"), (r"so \dfrac{-3}{4}", "-3/4"), (r"\boxed{1{,}000}", 1000), ("1e3", 1000),
        (r"\boxed{x=\text{-3}}", -3), (r"\boxed{5} is \boxed{", 5), ("12 / 4 = 3\n#### 3\n99", 3), ("#### $1,000 (2 each)", 1000),
        ("-.5", "-1/2"), ("a5", 5), ("5-6", 6), ("1/0 then 4", 4), ("7 of 0/0", 7), ("1" * 500 + " 3", 3), ("2e9999 8", 8),
        ("none", None), ("", None), ("...", None), ("$", None), ("--", None), ("½", None), (r"\boxed{none} 5", None), ("### 4", 4),
        ("1 000 000", 1_000_000), ("#### 1 000", 1000), (r"so \boxed{12 000}", 12_000), ("it is 1\u202f000\u202f000 euros", 1_000_000),
        ("-1\u00a0000.5", "-2001/2"), ("1 2 200", 200), ("7, 10 200", 200), ("0 200", 200), ("2 000 4", 4),
    ],
)  # fmt: skip
def test_the_number_that_a_text_ends_on(text, expected):
    found = final_number(text, "any")
    assert (found and found.value) == (None if expected is None else Fraction(expected))


def test_numbers_are_compared_by_value():
    for right in ("1,000", "1000.0", "$1000", "1e3", "1000.", "x = 1,000 dollars", "1 thousand", "2000/2"):
        assert score("number", right, "1000") == score("number", "1000", right) == 1
    assert score("number", "266.6666666666667", "800/3") == 1 and score("number", "266.67", "800/3") == 0
    assert score("number", "266.67", "800/3", tolerance=0.01) == 1
    assert score("number", "266.67", "800/3", relative_tolerance=1e-4) == 1
    assert score("number", "3.14", "3.15") == score("number", "no", "3") == score("number", "-3", "3") == 0
    assert score("number", "100000000001", "100000000000") == 0  # whole numbers are equal or not
    assert score("number", "101", "100", tolerance=1) == 1
    assert score("number", "50%", "0.5") == score("number", "0.5", "50%") == score("number", "50%", "50") == 1
    assert score("number", "5%", "0.5") == 0
    assert score("number", "12 is it \\boxed{3}", "3", marker="boxed") == 1
    assert score("number", "it is 3", "3", marker="boxed") == score("number", "it is 3", "3", marker="####") == 0
    assert (
        score("number", "\\boxed{4} #### 3", "3", marker="####") == 1
        and score("number", "\\boxed{4} 3", "3", marker="none") == 1
    )
    assert score("integer", "17", "17") == score("integer", "17.0", "17") == score("integer", "#### 1,700", "1700") == 1
    assert score("integer", "17.5", "17") == score("integer", "17%", "17") == score("integer", "", "17") == 0
    for name, answer in (("number", "none"), ("integer", "1.5"), ("integer", "x")):
        with pytest.raises(TrainingError, match="answer"):
            verifier(name)("1", answer)
    for options in ({"marker": "x"}, {"tolerance": -1}, {"relative_tolerance": 2}):
        with pytest.raises(TrainingError):
            verifier("number", **options)


HOSTILE = ["1", "1,", "\\boxed{", "-", "1 ", "1/", ".", "$", "\\frac{1", " ", "1e", "1{,}", "{", "- ", "1,111", "####", "1.", "9 1/", "```\n", "`", "<a>", "</a>", '{"a":', "[", "def f(", '"', "```a\n", "\u0301\u0323"]  # fmt: skip


@pytest.mark.timeout(60)  # quadratic in the length, one of these would take hours
def test_the_time_of_finding_code_is_linear():
    for part in HOSTILE:
        extract_code(part * (100_000 // len(part)), True)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", ["number", "exact", "regex", "format"])
def test_the_time_is_linear_in_what_a_completion_holds(name):
    answers = {"number": "1", "exact": "1", "regex": "(a+)+b", "format": '{"tags": ["a", "b"], "json": {"a": "any"}}'}
    check = verifier(name)
    for part in HOSTILE:
        assert check(part * (100_000 // len(part)), answers[name]).score in (0, 1)


def test_a_pattern_that_explodes_is_stopped():
    found = verifier("regex")("a" * 5000 + "!", r"^(a|aa|a*b?)+$|((a*)*)*c")
    assert found.score == 0 and "longer than 1 s" in found.detail


def test_exact_regex_and_format():
    assert (
        score("exact", " The  Answer. ", "the answer")
        == score("exact", "“Paris”", "Paris")
        == score("exact", "ﬁn", "fin")
        == 1
    )
    assert score("exact", "paris", "Paris", case=True) == 0 and score("exact", "a-b", "a b", punctuation=True) == 0
    assert score("exact", "I think Paris", "Paris") == 0 and score("exact", "I think\n#### Paris", "Paris") == 1
    assert (
        score("exact", "so \\boxed{Paris}!", "Paris") == 1
        and score("exact", "so \\boxed{Paris}!", "Paris", where="whole") == 0
    )
    assert score("exact", "think\nParis\n", "Paris", where="last_line") == 1
    assert score("exact", "Rome", '["Paris", "Rome"]') == 1 and score("exact", "", "x") == 0
    assert (
        normalised("*Yes.*", case=True, punctuation=True) == "Yes."
        or normalised("Yes.", case=True, punctuation=True) == "Yes"
    )
    with pytest.raises(TrainingError, match="nothing left"):
        verifier("exact")("x", "...")
    assert score("regex", "it is blue", r"\bblue\b") == 1 and score("regex", "BLUE", "blue") == 0
    assert (
        score("regex", "BLUE", "blue", ignore_case=True) == 1
        and score("regex", "it is blue", "blue", mode="fullmatch") == 0
    )
    with pytest.raises(TrainingError, match="no regular expression"):
        verifier("regex")("x", "(")
    tags = {"tags": ["think", "answer"]}
    assert score("format", "<think>a</think>\n<answer>b</answer>", "", **tags) == 1
    for bad in ("<think>a</think>", "x<think>a</think><answer>b</answer>", "<answer>b</answer><think>a</think>", "<think>a<answer></think>b</answer>", "<think>a</think><answer>b</answer>!", "<think><think>a</think><answer>b</answer>", "</think><think><answer>b</answer>"):  # fmt: skip
        assert score("format", bad, "", **tags) == 0, bad
    assert score("format", '```json\n{"a": 1, "b": "x"}\n```', '{"json": {"a": "integer", "b": "string"}}') == 1
    for bad in ('{"a": "1", "b": "x"}', '{"a": true, "b": "x"}', '{"a": 1}', "[1]", "{", "[" * 9999, "1" * 9999):
        assert score("format", bad, '{"json": {"a": "integer", "b": "string"}}') == 0, bad
    assert score("format", "[1]", '{"json": true}') == 1
    assert score(
        "format", "one two", '{"min_words": 3, "starts_with": "one", "without": "four"}', partial=True
    ) == pytest.approx(2 / 3)
    assert score("format", "one two", '{"max_words": 2, "ends_with": ["two", "2"], "contains": ["o", "w"], "min_characters": 7, "max_characters": 7}') == 1  # fmt: skip
    for bad in ('{"tag": []}', '{"json": {"a": "int"}}', '{"max_words": "3"}', '{"tags": [""]}', "{", ""):
        with pytest.raises(TrainingError, match="verifier format"):
            verifier("format")("x", bad)


# code


def test_the_code_of_a_completion():
    talk = "Here:\n```python\ndef f(x):\n    return x\n```\nUse it:\n```python\nprint(f(1))\n```\nDone."
    assert (
        extract_code(talk, function=True).startswith("def f") and extract_code(talk, function=False) == "print(f(1))\n"
    )
    assert extract_code("def f(): pass", True) == "def f(): pass"
    assert extract_code("```python\ndef f(): pass", True) == "def f(): pass"
    assert extract_code("```\nx\n```\n```text\ny\n```", False) == "x\n"
    assert last_function("def a(x):\n  def b(): pass\nasync def c ( y): pass\nclass D:\n  def e(self): pass") == "c"
    assert last_function("x = 1") is None


@pytest.mark.parametrize(
    "answer",
    ["", "[]", "{}", "3", '[{"input": 1}]', '[{"stdin": 1, "stdout": "x"}]', "def (", '{"test": "x"}', '{"tests": [1]}', '{"cases": "assert", "function": "a b"}', '[{"args": 1, "output": 2}]', "null", '[{"input": ' + "[" * 500 + "]" * 500 + ', "output": 1}]'],
)  # fmt: skip
def test_answers_that_are_no_tests_are_refused(answer):
    with pytest.raises(TrainingError, match="verifier python_tests"):
        parse_tests(answer)


def test_comparing_outside():
    assert equal((1, [2.0]), [1, [2]], 1e-9) and not equal([1, 2], (1, 2), 0) and not equal([1], [1, 1], 0)
    assert equal({1: "a"}, {"1": "a"}, 0) and not equal({1: "a"}, {"2": "a"}, 0) and not equal([], {}, 0)
    assert equal(0.1 + 0.2, 0.3, 1e-9) and not equal(0.31, 0.3, 1e-9) and not equal(1, True, 0) and not equal("1", 1, 0)
    assert equal(float("nan"), float("nan"), 0) and equal(float("inf"), float("inf"), 0) and not equal(10**400, 1.5, 0)
    assert same_output("1 2 \n3.0000000001\n\n", "1 2\n3.0", 1e-9) and not same_output("1\n2", "1 2", 0)
    assert not same_output("x", "1.0", 1) and not same_output("2", "1", 1)


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox() as made:
        try:
            made.run("pass")
        except SandboxError as error:
            pytest.skip(str(error))
        yield made


def test_code_against_tests(sandbox):
    def run(completion, answer, **options):
        return score(
            "python_tests",
            completion,
            answer if isinstance(answer, str) else json.dumps(answer),
            sandbox=sandbox,
            **options,
        )

    double = "```python\ndef double(x):\n    return 2 * x\n```"
    assert (
        run(double, [{"input": 2, "output": 4}, {"input": "a", "output": "aa"}, {"input": [1], "output": [1, 1]}]) == 1
    )
    assert run(double, [{"input": 2, "output": 4}, {"input": 2, "output": 5}]) == 0
    assert run(double, [{"input": 2, "output": 4}, {"input": 2, "output": 5}], partial=True) == 0.5
    assert (
        run(
            double,
            "assert double(2) == 4\nassert double('{f}') == '{f}{f}'\nassert abs(double(.5) - 1) < 1e-9\nassert not double(0)",
        )
        == 1
    )
    assert run(double, "import math\nassert math.isclose(double(1), 2)") == 1
    assert (
        run(double, ["assert double(1) == 3"])
        == run(double, ["assert double(0)"])
        == run(double, ["assert 4 is double(2.5)"])
        == 0
    )
    assert run("def f(x): return [x]", ["assert f(1) == [1]", "assert f(1) != (1,)", "assert f(0) is not None"]) == 1
    assert (
        run("def f(x): return (x,)", ["assert f(1) == [1]"]) == 0
        and run("def f(x): return (x,)", [{"input": 1, "output": [1]}]) == 1
    )
    assert (
        run("def f(a, b=1): return a - b", [{"args": [5], "kwargs": {"b": 2}, "output": 3}, {"args": [5], "output": 4}])
        == 1
    )
    assert run("def f(x): return x == float('inf')", '[{"input": Infinity, "output": true}]') == 1
    helper = "def g(x): return x\ndef h(): pass"
    assert (
        run(helper, {"function": "g", "tests": [{"input": 1, "output": 1}]})
        == run(helper, [{"input": 1, "output": 1}], function="g")
        == 1
    )
    assert (
        run("def f(x): return math.sqrt(x)", {"test_setup_code": "import math", "test_list": ["assert f(4) == 2"]}) == 1
    )
    human = {"prompt": "def f(x):\n", "test": "def check(c):\n    assert c(1) == 2", "entry_point": "f"}
    assert run("    return x + 1", human) == 1 and run("    return x", human) == 0
    adder = "print(sum(map(int, input().split())))"
    assert run(adder, [{"stdin": "1 2\n", "stdout": "3\n"}, {"stdin": "4", "stdout": "4"}]) == 1
    assert run(adder, [{"stdin": "1 2\n", "stdout": "4\n"}, {"stdin": "4", "stdout": "4"}], partial=True) == 0.5
    assert (
        run(
            "def f(x):\n    while x: pass\n    return 0",
            [{"input": 0, "output": 0}, {"input": 1, "output": 0}],
            partial=True,
            cpu=1,
        )
        == 0.5
    )
    sample = [json.loads(line) for line in (ROOT / "data/sample/chat/prompts.jsonl").read_text().splitlines()]
    tested = next(row for row in sample if row.get("verifier") == "python_tests")
    assert run("def double(x): return x + x", tested["answer"]) == 1


def test_hacking_the_reward_is_no_pass(sandbox):
    """What lets code pass without being right, in graders that compare beside it."""
    answers = [[{"input": 3, "output": 9}], ["assert square(3) == 9"]]
    equal_to_all = "class A:\n    def __eq__(self, other): return True\n    def __repr__(self): return '9'\n"
    hacks = [
        f"{equal_to_all}def square(x): return A()",
        "class A(int):\n    def __eq__(self, other): return True\ndef square(x): return A()",
        "import os\nos._exit(0)",
        "import sys\nsys.exit(0)",
        "def square(x):\n    raise SystemExit(0)",
        "def square(x):\n    import os\n    os._exit(0)",
        "import builtins, sys\ndef square(x): return 8\nsys.modules['__main__'].__dict__['square'] = lambda x: 8",
        "import gc\ndef square(x):\n    return [o for o in gc.get_objects() if isinstance(o, dict) and 'expected' in o][0]['expected']",
        "import sys\ndef square(x):\n    f = sys._getframe()\n    while f.f_back: f = f.f_back\n    return f.f_locals.get('expected')",
        'import os, json\nos.write(3, b\'{"check": 0, "passed": true}\\n\')\nos._exit(0)',
        "import json, os\nreal = os.write\nos.write = lambda fd, data: real(fd, b'passed\\n')\ndef square(x): return 0",
        "print('1 of 1 tests passed')",
    ]
    check = verifier("python_tests", sandbox=sandbox)
    for hack in hacks:
        for answer in answers:
            assert check(hack, json.dumps(answer)).score == 0, hack
    assert all(check("def square(x): return x * x", json.dumps(answer)).score == 1 for answer in answers)
    assert "checked beside the code" in check("def square(x): return 9", "assert square(3) > square(2)").detail


# by name


def test_names_options_and_rows():
    with pytest.raises(TrainingError, match="did you mean 'number'"):
        verifier("numbr")
    with pytest.raises(TrainingError, match="unknown option 'tolerence'"):
        verifier("number", tolerence=1)
    with pytest.raises(TrainingError, match="unknown check"):
        verifier("format", tagz=["a"])
    with pytest.raises(TrainingError, match="worker"):
        verifier("python_tests", workers=0)
    assert verifier("number", tolerance=1)("5", "6").score == 1  # a whole number is a number
    for name, options in (
        ("number", {"tolerance": "a"}),
        ("number", {"marker": []}),
        ("exact", {"case": "yes"}),
        ("python_tests", {"workers": "3"}),
        ("format", {"json": {"a": ["string"]}}),
    ):
        with pytest.raises(TrainingError, match=f"verifier {name}: {next(iter(options))}: "):
            verifier(name, **options)


def test_code_of_several_threads_runs_side_by_side(sandbox):
    check = verifier("python_tests", workers=2, cpu=4)
    with ThreadPoolExecutor(4) as pool:
        found = pool.map(lambda n: check(f"def f(x): return {n}", '[{"input": 1, "output": 2}]').score, range(5))
    assert list(found) == [0, 0, 1, 0, 0]


def test_all_numbers_of_a_text():
    assert [str(one.value) for one in numbers("1,000 apples at $2.50, 3/4 of them")] == ["1000", "5/2", "3/4"]


@pytest.mark.parametrize(
    "value", [{"complex": [10**400, 1]}, {"complex": ["x"]}, {"tuple": 3}, {"bytes": "zz"}, {"what": []}]
)
def test_a_value_that_code_made_up_is_none(value):
    with pytest.raises(ValueError):
        decoded(value)


def test_exact_looks_at_thirty_marks_over_a_letter():
    check = verifier("exact")
    assert check("caf" + "e\u0301", "caf\u00e9").score == 1
    assert check("a" + "\u0301" * 31, "a" + "\u0301" * 500).score == 1  # cut to the same
    assert check("a" + "\u0301" * 29, "a" + "\u0301" * 30).score == 0
