"""C4's rules: line by line and as edits of the text."""

import time

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.batch import Batch, encoded
from stages.quality.c4 import C4, C4Config
from stages.quality.c4_lines import LineKnobs, ascii_lower, count_sentences, holds_any, judge_all
from stages.stage import Decision
from stages.words import tokenise
from tests import c4_plain

P = "quality_c4_"
FIVE = "One is here. Two is here. Three is here. Four is here. Five is here."


def run(texts: list[str | None], **knobs: object) -> tuple[pa.Table, Decision]:
    stage = C4(C4Config(**knobs))
    values = stage.measure(Batch(pa.table({"text": pa.array(texts, pa.string())})))
    assert values.schema == pa.schema(list(stage.measures().items()))
    return values, stage.decide(values)


def edited(text: str, **knobs: object) -> str:
    """The text after its edits; None of the document rules is on unless a knob says so."""
    knobs = {"min_sentences": 0} | knobs
    _, decision = run([text], **knobs)
    assert decision.rule == [None], decision
    out, done = [], 0
    for edit in decision.edits.get(0, []):
        assert done <= edit.start < edit.end <= len(text)
        out += [text[done : edit.start], edit.replacement]
        done = edit.end
    return "".join(out) + text[done:]


@pytest.mark.parametrize(
    ("line", "rule"),
    [
        ("This line has no end", "no_terminal_punctuation"),
        ("This line just trails off...", "no_terminal_punctuation"),
        ("This line just trails off…", "no_terminal_punctuation"),
        ("Two words.", "few_words"),
        ("Please enable JavaScript to see this.", "javascript"),
        ("Read our Privacy Policy before you go.", "policy"),
        ("Look at this " + "x" * 1001 + ".", "long_word"),
    ],
)
def test_line_rules(line: str, rule: str) -> None:
    text = f"A first good line.\n{line}\nA last good line."
    values, _ = run([text])
    counts = {
        name: values.column(f"{P}lines_{name}")[0].as_py()
        for name in ("long_word", "no_terminal_punctuation", "few_words", "javascript", "policy")
    }
    assert {name for name, count in counts.items() if count} == {rule}
    assert values.column(P + "lines_kept")[0].as_py() == 2
    assert edited(text) == "A first good line.\nA last good line."
    switched_off = {
        "long_word": {"max_word_length": None},
        "no_terminal_punctuation": {"terminal_punctuation": False},
        "few_words": {"min_line_words": None},
        "javascript": {"javascript": False},
        "policy": {"policy_phrases": ()},
    }[rule]
    assert edited(text, **switched_off) == text


@pytest.mark.parametrize(
    "line",
    ['He said "yes, we can."', "Is this a line?", "It is, indeed!", "  padded with some spaces.  ", "she called it ‘fine.’",
     "这是一个完整的句子。", "هل هذه جملة كاملة؟", "यह एक पूरा वाक्य है।", "Ένα δύο τρία τέσσερα."],
)  # fmt: skip
def test_lines_that_stay(line: str) -> None:
    assert edited(line) == line


def test_blank_lines() -> None:
    assert (
        edited("menu\n\nA good line.\n\nmenu\nmenu\n\nAnother good line.\n\nfooter\n")
        == "A good line.\n\nAnother good line."
    )
    assert (
        edited("A good line.\n\n\nAnother good line.\n") == "A good line.\n\n\nAnother good line.\n"
    )  # nothing to cut
    assert edited("One good line.\nmenu\nAnother good line.\nmenu") == "One good line.\nAnother good line."


def test_citations() -> None:
    text = "The sky is blue[1] and[citation needed] wide.[12][edit]\n[1] [2] [3]."
    assert edited(text) == "The sky is blue and wide."  # the second line is no words without its marks
    values, decision = run(["A fact is here.[3]"], citations=False, min_sentences=0)
    assert decision.rule == ["no_lines_left"] and values.column(P + "citations")[0].as_py() == 0


def test_document_rules() -> None:
    texts = [
        FIVE,
        FIVE + " {",
        FIVE + "\nLorem Ipsum dolor sit",
        FIVE.replace("Five is here.", ""),
        "no\nsentence",
        "",
        None,
    ]
    values, decision = run(texts)
    assert decision.rule == [
        None,
        "curly_bracket",
        "lorem_ipsum",
        "min_sentences",
        "min_sentences",
        "min_sentences",
        "min_sentences",
    ]
    assert decision.value[3] == 4 and decision.threshold[3] == 5
    _, lenient = run(texts, curly_bracket=False, lorem_ipsum=False, min_sentences=None)
    # a line that ends in a bracket is cut, and with it the whole text
    assert lenient.rule == [None, "no_lines_left", None, None, "no_lines_left", "no_lines_left", "no_lines_left"]
    assert values.column(P + "sentences").to_pylist()[0] == 5


def test_dropped_rows_have_no_edits() -> None:
    _, decision = run([FIVE + "\nmenu", "menu\nA line that stays."])
    assert list(decision.edits) == [0] and decision.rule == [None, "min_sentences"]


@pytest.mark.parametrize(
    ("line", "sentences"),
    [
        ("One. Two! Three?", 3),
        ('He said "no." Then he left.', 2),
        ("e.g. this is one, with 3.5 of them", 1),
        ("No end", 1),
        ("An end. And no end", 2),
        ("你好。我很好！再见", 3),
        ("Wait... what?! Yes.", 2),
        ("数字3.5是。", 1),
    ],
)
def test_sentences(line: str, sentences: int) -> None:
    assert count_sentences(line) == sentences


ENDS = st.text("ab. .!?…\"')]’”。！？।1Az\u00a0\u3000[世", max_size=30)


@settings(max_examples=600, deadline=None)
@given(ENDS | st.text(max_size=20))
def test_compiled_sentences_are_those_of_the_definition(text: str) -> None:
    line = text.replace("\n", " ").strip()
    assert count_sentences(line) == c4_plain.count_sentences(line)


LINES = ENDS | st.sampled_from(
    ["a good line here.", "[1] x [edit]", "[]", "use cookies a. b", "JavaScript. a b", "[citation needed]", ""]
)


@settings(max_examples=500, deadline=None)
@given(
    st.lists(st.lists(LINES | st.lists(LINES, max_size=3).map("".join), max_size=6).map("\n".join), max_size=4),
    st.builds(
        LineKnobs,
        st.booleans(),
        st.sampled_from([None, 3]),
        st.sampled_from([None, 4]),
        st.booleans(),
        st.sampled_from([(), ("use COOKIES", "a. é"), ("",)]),
        st.booleans(),
    ),
)
def test_the_compiled_loop_is_the_plain_one(texts: list[str], knobs: LineKnobs) -> None:
    found = judge_all(texts, *encoded(texts), tokenise(texts), knobs)
    assert found == [c4_plain.judge(text, knobs) for text in texts]


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.text("abKİ\u212aAB [é", max_size=12), max_size=4), st.lists(st.text("ab k[é", max_size=3), max_size=3)
)
def test_phrases_are_found_in_any_case(texts: list[str], phrases: list[str]) -> None:
    found = holds_any(*encoded(texts), phrases)
    assert found.tolist() == [any(phrase and phrase in ascii_lower(text) for phrase in phrases) for text in texts]


def test_long_runs_of_scripts_without_spaces_are_no_long_words() -> None:
    line = "字" * 3000 + "。"
    assert edited(line) == line


pieces = st.sampled_from(
    [
        "A good line here.",
        "menu",
        "",
        "  ",
        "x.",
        "Use cookies on this.",
        "[1]",
        "One. Two. Three is.",
        "{",
        "世界你好。",
    ]
)


@settings(max_examples=80, deadline=None)
@given(st.lists(st.lists(pieces, max_size=3).map(" ".join), max_size=12).map("\n".join))
def test_edits_leave_the_kept_lines_and_nothing_else(text: str) -> None:
    _, decision = run([text], curly_bracket=False, min_sentences=0)
    if decision.rule[0] == "no_lines_left":
        assert not decision.edits
        return
    result = edited(text, curly_bracket=False)
    again = edited(result, curly_bracket=False)
    assert again == result  # what stays is what the rules let stay
    kept = [line.strip() for line in result.split("\n") if line.strip()]
    original = [line.replace("[1]", "").strip() for line in text.split("\n")]
    assert kept and all(line in original for line in kept)


def test_hard_texts_take_linear_time() -> None:
    texts = [
        "." * 1_000_000,
        ". " * 500_000,
        "x" * 5_000_000,
        "[" * 1_000_000,
        "a\n" * 500_000,
        "y" * 999 + (" " + "y" * 999) * 2000,
        "“" * 500_000,
    ]
    start = time.process_time()
    _, decision = run(texts)
    assert time.process_time() - start < 20
    assert decision.rule == ["min_sentences"] * len(texts)
