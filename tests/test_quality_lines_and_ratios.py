"""The rules of mC4, RefinedWeb and NeMo Curator's ratios, by hand and against plain Python."""

from __future__ import annotations

import math
import unicodedata
import zlib
from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.batch import Batch, encoded
from stages.lines import lines
from stages.quality.marks import KINDS, kinds
from stages.quality.mc4 import Mc4, Mc4Config
from stages.quality.ratios import Ratios, RatiosConfig
from stages.quality.refinedweb import RefinedWeb, RefinedWebConfig
from stages.quality.rules import RuleStage
from stages.stage import Decision

PROSE = "The committee met on Monday, and it decided to go on with the work that it had begun."


def run(stage: RuleStage, texts: list[str | None]) -> tuple[list[dict], Decision]:
    values = stage.measure(Batch(pa.table({"text": pa.array(texts, pa.string())})))
    assert values.schema == pa.schema(list(stage.measures().items()))
    return values.to_pylist(), stage.decide(values)


def edited(text: str, **knobs: object) -> str:
    _, decision = run(RefinedWeb(RefinedWebConfig(max_words_cut=None, **knobs)), [text])
    assert decision.rule == [None]
    for edit in reversed(decision.edits.get(0, [])):
        text = text[: edit.start] + edit.replacement + text[edit.end :]
    return text


# ---- mC4


def test_three_long_lines() -> None:
    long = "x" * 200
    texts = [f"{long}\n{long}\n{long}", f"{long}\n{long}\n{'x' * 199}", "", None]
    values, decision = run(Mc4(Mc4Config()), texts)
    assert [row["quality_mc4_long_lines"] for row in values] == [3, 2, 0, 0]
    assert decision.rule == [None] + ["min_long_lines"] * 3 and decision.threshold[1] == 3


# ---- RefinedWeb


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("Home", "few_words"),
        ("BREAKING NEWS FROM HERE", "uppercase"),
        ("12 34 56", "numeric"),
        ("1,024 likes", "counter"),
        ("3.5K followers", "counter"),
        ("Sign in to go on", "menu"),
        ("The rest of it: Read more...", "menu"),
        ("3 items in cart", "menu"),
    ],
)
def test_lines_that_are_cut(line: str, rule: str) -> None:
    values, _ = run(RefinedWeb(RefinedWebConfig()), [f"{PROSE}\n{line}\n{PROSE}"])
    assert values[0][f"quality_refinedweb_lines_{rule}"] == 1 and values[0]["quality_refinedweb_lines_kept"] == 2
    assert edited(f"{PROSE}\n{line}\n{PROSE}") == f"{PROSE}\n{PROSE}"
    assert edited(f"{PROSE}\n\n  {line}") == f"{PROSE}\n"
    assert edited(f"{line}\n{PROSE}") == PROSE


@pytest.mark.parametrize(
    "line", ["3 likes are what it got", "世界你好", "Signing up is free for all of us", "12 apples"]
)
def test_lines_that_stay(line: str) -> None:
    assert edited(f"{PROSE}\n{line}") == f"{PROSE}\n{line}"


def test_documents_full_of_leftovers_are_dropped() -> None:
    menu = "\n".join(["Home", "About", "Contact"])
    values, decision = run(
        RefinedWeb(RefinedWebConfig()), [f"{menu}\n{PROSE}", "\n".join([PROSE] * 10 + ["Home"]), menu, ""]
    )
    assert decision.rule == ["max_words_cut", None, "max_words_cut", "no_lines_left"]
    assert values[0]["quality_refinedweb_words_cut"] == pytest.approx(3 / 21) and decision.value[0] == pytest.approx(
        3 / 21
    )
    assert list(decision.edits) == [1]


pieces = st.sampled_from([PROSE, "Home", "", "  ", "12", "3 likes", "\t", "ALL OF IT HERE", "世界你好。", "\u2028x y"])


@settings(max_examples=150, deadline=None)
@given(st.lists(pieces, max_size=10).map("\n".join))
def test_edits_leave_the_kept_lines_and_nothing_else(text: str) -> None:
    values, decision = run(RefinedWeb(RefinedWebConfig(max_words_cut=None)), [text])
    if decision.rule[0] is not None:
        assert values[0]["quality_refinedweb_lines_kept"] == 0
        return
    result = edited(text)
    assert lines(result) == [line for line in lines(text) if line in (PROSE, "世界你好。", "x y")]


# ---- ratios


def plain_kinds(text: str) -> dict[str, int]:
    found = dict.fromkeys(KINDS, 0)
    for char in text:
        category = unicodedata.category(char)
        if category[0] == "N":
            found["numbers"] += 1
        elif category[0] in "LM" or category == "Pc":
            found["letters"] += 1
            found["capitals"] += category == "Lu"
        elif char.isspace():
            found["white"] += 1
        elif char not in "?!,.":
            found["other"] += 1
            found["parentheses"] += char in "()"
    return found


@settings(max_examples=200, deadline=None)
@given(st.text("aÉ1٣ \n().?!,_-世\u0301😀\u3000", max_size=40) | st.text(max_size=20))
def test_kinds_are_those_of_plain_python(text: str) -> None:
    data, bounds = encoded([text])
    assert dict(zip(KINDS, kinds(data, bounds[:-1], bounds[1:])[0].tolist(), strict=True)) == plain_kinds(text)


def test_ratios_by_hand() -> None:
    text = "See (it)\nwww.x.org 12 x."
    row = run(Ratios(RatiosConfig()), [text])[0][0]
    size = len(text)
    assert row["quality_ratios_numbers"] == pytest.approx(2 / size)
    assert row["quality_ratios_urls"] == pytest.approx(len("www.x.org") / size)
    assert row["quality_ratios_parentheses"] == pytest.approx(2 / size)
    assert row["quality_ratios_white_space"] == pytest.approx(4 / size)
    assert row["quality_ratios_non_alphanumeric"] == pytest.approx(5 / size)  # brackets and spaces, not the newline
    assert row["quality_ratios_unpunctuated_lines"] == 0.5
    assert row["quality_ratios_word_length"] == len("www.x.org")
    assert row["quality_ratios_zlib"] == pytest.approx(len(zlib.compress(text.encode(), 6)) / size)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.lists(st.sampled_from("abcd"), max_size=12).map(" ".join), max_size=4))
def test_entropy_is_shannons(texts: list[str]) -> None:
    for row, text in zip(run(Ratios(RatiosConfig()), texts)[0], texts, strict=True):
        counts = Counter(text.split()).values()
        expected = -sum(n / sum(counts) * math.log2(n / sum(counts)) for n in counts)
        assert row["quality_ratios_word_entropy"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("{[%$#]} " * 30, "max_non_alphanumeric"),
        ("1234567 and 1234567 " * 9, "max_numbers"),
        ("read.on https://example.org/a/b/c ", "max_urls"),
        (" ".join("a b c d e f g h") + "   " * 20, "max_non_alphanumeric"),
        ("menu\n" * 10, "max_unpunctuated_lines"),
        ("We use cookies. " + "\nOur privacy policy.", "max_boilerplate_lines"),
        ("x" * 1001 + " is long.", "max_word_length"),
    ],
)
def test_each_rule(text: str, rule: str) -> None:
    assert run(Ratios(RatiosConfig()), [text, PROSE])[1].rule == [rule, None]
    assert run(Ratios(RatiosConfig.model_validate({rule: None})), [text])[1].rule != [rule]


def test_compression_and_entropy_where_they_are_asked_for() -> None:
    texts = ["Buy it now. " * 50, PROSE]
    assert run(Ratios(RatiosConfig(min_zlib=0.2)), texts)[1].rule == ["min_zlib", None]
    assert run(Ratios(RatiosConfig(max_zlib=0.5)), texts)[1].rule == [None, "max_zlib"]
    assert run(Ratios(RatiosConfig(min_word_entropy=2.0)), texts)[1].rule == ["min_word_entropy", None]


@pytest.mark.parametrize("stage", [Mc4(Mc4Config()), RefinedWeb(RefinedWebConfig()), Ratios(RatiosConfig())])
def test_bad_input(stage: RuleStage) -> None:
    texts = ["", None, "\x00", "\n\n\n", "1" * 100_000, "((((", "\u202e\u200b", "😀" * 1000]
    together, _ = run(stage, texts)
    assert together == [run(stage, [text])[0][0] for text in texts]
