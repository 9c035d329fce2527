"""The normalize stage: what changes, what must not, and that twice is once."""

from __future__ import annotations

import unicodedata

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.mojibake import gate, repair
from stages.normalize import Normalize, NormalizeConfig, normalize
from tests.web_stages import ready, run

CHANGED = [
    ("a\x00b\x07c\x1b[31md\x1b[0m", "abcd"),
    ("a\r\nb\rc\x0cd\u2028e\x85f", "a\nb\nc\nd\ne\nf"),
    ("one \t\n\n\n\n\ntwo\n\n", "one\n\ntwo"),
    ("\n\n  indented\n    more", "  indented\n    more"),
    ("10\u202f000\u00a0km\u2009h", "10 000 km h"),
    ("e\u0301te\u0301", "été"),
    ("e\u200b\u0301", "é"),  # composed only once what stood between is gone
    ("\ufeffmark\ufeff", "mark"),
    ("soft\u00adhyphen zero\u200bwidth te\u200dst", "softhyphen zerowidth test"),
    ("\u202eevil\u202c", "evil"),
    ("\ud83d\ude00 and \ud800", "😀 and \ufffd"),
    ("schÃ¶n â€“ dass", "schön – dass"),
    ("Ã\u00a0 la carte", "à la carte"),
    ("\x93quoted\x94", "“quoted”"),
    ("РїСЂРёРІРµС‚ РјРёСЂ", "привет мир"),
    ("good line é\nbad line cafÃ©", "good line é\nbad line café"),
]
UNCHANGED = [
    "",
    "Plain text.\n\nWith a paragraph\tand a tab.",
    "“Curly” ‘quotes’ ﬁ １２３ … &amp; stay",
    "l’été à l’école : « ça »",
    "می\u200cخواهم",  # Persian: the joiner parts letters
    "क्\u200dष क्\u200cष",  # Hindi: joiners shape the conjunct
    "👨\u200d👩\u200d👧 👩🏽\u200d🚀 ❤\ufe0f\u200d🔥",
    "กา\u200bรณ",  # Thai: the zero-width space parts words
    "　全角の字下げ　は残る",
    "Україна і Європа, її мова",
    "def f(x):\n    return x  # code keeps its indentation",
]


@pytest.mark.parametrize(("text", "expected"), CHANGED)
def test_normalize_changes_what_is_broken(text: str, expected: str) -> None:
    assert normalize(text).text == expected


@pytest.mark.parametrize("text", UNCHANGED)
def test_normalize_leaves_what_authors_chose(text: str) -> None:
    assert normalize(text) == (text, 0, 0)


PIECES = st.sampled_from(
    [
        *(text for text, _ in CHANGED),
        "Ã",
        "â€",
        "\u00a0",
        "\x9d",
        "\u0301",
        "\u200d",
        "\u200b",
        " ",
        "\n",
        "\r",
        "\ufffd",
        "ł",
        "ก",
        "�",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(st.characters()), st.lists(PIECES, max_size=12).map("".join)))
def test_normalizing_twice_changes_nothing_more(text: str) -> None:
    once = normalize(text).text
    assert normalize(once).text == once
    assert unicodedata.is_normalized("NFC", once)
    once.encode()  # no lone surrogates are left
    assert not [c for c in once if unicodedata.category(c) == "Cc" and c not in "\n\t"]


def test_the_gate_lets_through_what_ftfy_would_repair() -> None:
    from ftfy import TextFixerConfig, fix_encoding

    samples = [
        "Größe und Maß – „schön“", "déjà vu, l’été “à l’école”…", "Łódź, żółw i gęś", "Ελληνικά κείμενα", "Привіт, світе",
        "Съешь ещё этих булок", "señor, ¿cómo está?", "coração português", "这是一段中文文字", "これは日本語です",
        "이것은 한국어 문장입니다", "هذا نص عربي", "זה טקסט עברי", "นี่คือข้อความ", "costs €5 ™ naïve", "İstanbul’da ışık",
    ]  # fmt: skip
    wrong = ["latin-1", "cp1252", "cp1251", "cp1250", "cp1253", "cp1254", "iso8859-2", "mac-roman", "cp437"]
    tried = 0
    for sample in samples:
        for charset in wrong:
            try:
                broken = sample.encode().decode(charset)
            except UnicodeDecodeError:
                continue
            repaired = fix_encoding(broken, TextFixerConfig(unescape_html=False))
            tried += repaired != broken
            assert repair(broken)[0] == repaired, (sample, charset)
    assert tried > 40
    assert not gate().search("Ganz normaler Text mit Umlauten: äöüß ÄÖÜ.")


def test_stage_counts_and_drops_what_is_left_empty() -> None:
    stage = ready(Normalize(NormalizeConfig()))
    texts = ["clean", "caf\u00c3\u00a9\x00", " \u200b\x00\n", "", None]
    values, decision = run(stage, text=pa.array(texts, pa.string()))
    assert values.column("text").to_pylist() == ["clean", "café", "", "", ""]
    assert values.column("normalize_changed").to_pylist() == [False, True, True, False, False]
    assert values.column("normalize_removed").to_pylist() == [0, 1, 2, 0, 0]
    assert values.column("normalize_repaired_lines").to_pylist() == [0, 1, 0, 0, 0]
    assert decision.rule == [None, None, "empty", "empty", "empty"]
    assert decision.value[2] == 0 and decision.threshold[2] == 1


def test_mojibake_can_be_left_alone() -> None:
    stage = ready(Normalize(NormalizeConfig(mojibake=False)))
    values, _ = run(stage, text=["cafÃ© "])
    assert values.column("text").to_pylist() == ["cafÃ©"]


def test_one_enormous_line_is_passed_over_by_ftfy_and_done_in_time() -> None:
    text = "é" + "x Ã© " * 300_000
    result = normalize(text)
    assert result.repaired == 0 and len(result.text) == len(text) - 1


def test_endless_combining_marks_cost_no_quadratic_time() -> None:
    marks = "\u0301\u0327" * 100_000
    text = f"e\u0301 a{marks} u\u0308"
    result = normalize(text)
    assert result.text == f"\u00e9 a{marks} \u00fc"
    assert normalize(result.text).text == result.text
