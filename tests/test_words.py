"""The tokenisation against a slow reading of its definition, and against bad input."""

import time
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import words
from stages.characters import BETWEEN_LETTERS, BETWEEN_NUMBERS, JOINERS, UNSPACED_RANGES
from stages.words import Words, tokenise, word_key


def strings(text: str) -> list[str]:
    found = tokenise([text])
    return [text[a:b] for a, b in zip(found.start, found.end, strict=True)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Don't stop, e.g. 3.14 or 1,000!", ["Don't", "stop", "e.g", "3.14", "or", "1,000"]),
        ("well-known foo_bar __ -- … ***", ["well", "known", "foo_bar"]),
        ("l’eau 'quoted' it's. col·lega", ["l’eau", "quoted", "it's", "col·lega"]),
        ("हिन्दी में", ["हिन्दी", "में"]),  # vowel signs are marks, inside the word
        ("cafe\u0301 e\u0301", ["cafe\u0301", "e\u0301"]),
        ("می\u200cخواهم", ["می\u200cخواهم"]),  # zero-width non-joiner
        ("你好，世界abc123カタカナひら", ["你", "好", "世", "界", "abc123カタカナ", "ひ", "ら"]),
        ("ที่นี่", ["ที่", "นี่"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("a\0b\ufffd c\u2028d", ["a", "b", "c", "d"]),
        ("1.a a.1 1.2 a,b", ["1", "a", "a", "1", "1.2", "a", "b"]),
        ("\u0301 \u0301a", ["\u0301a"]),  # a mark alone is no word
        ("", []),
    ],
)
def test_definition(text: str, expected: list[str]) -> None:
    assert strings(text) == expected


def slow_words(text: str) -> list[tuple[int, int]]:
    """One character at a time."""

    def kind(char: str) -> str:
        category = unicodedata.category(char)
        if category[0] in "LNM":
            return category[0]
        return "_" if category == "Pc" else ""

    def unspaced(char: str) -> bool:
        return kind(char) in ("L", "M") and any(a <= ord(char) <= b for a, b in UNSPACED_RANGES)

    def bridges(before: str, char: str, after: str) -> bool:
        if not kind(before) or not kind(after) or unspaced(before) or unspaced(after):
            return False
        if char in JOINERS:
            return True
        letters = kind(before) in "LM" and kind(after) in "LM"
        numbers = kind(before) == kind(after) == "N"
        return (char in BETWEEN_LETTERS and letters) or (char in BETWEEN_NUMBERS and numbers)

    found: list[list[int]] = []
    for place, char in enumerate(text):
        if not kind(char):
            inner = 0 < place < len(text) - 1 and bridges(text[place - 1], char, text[place + 1])
            if inner:
                found[-1][1] = place + 1
            continue
        joined = bool(found) and found[-1][1] == place
        own = unspaced(char) and kind(char) == "L"
        after_own = joined and unspaced(text[place - 1]) and not unspaced(char) and kind(char) != "M"
        if joined and not own and not after_own:
            found[-1][1] = place + 1
        else:
            found.append([place, place + 1])
    return [(a, b) for a, b in found if any(kind(char) in ("L", "N") for char in text[a:b])]


ALPHABET = "ab1é\u0301 _.,'’-\u200c\n世กั\u0e31ーア你5·،\0😀"


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text(ALPHABET, max_size=40) | st.text(max_size=20), max_size=5))
def test_equals_slow_reading(texts: list[str]) -> None:
    found = tokenise(texts)
    assert len(found.rows) == len(texts) + 1
    for row, text in enumerate(texts):
        span = slice(found.rows[row], found.rows[row + 1])
        assert list(zip(found.start[span], found.end[span], strict=True)) == slow_words(text)
        for a, b, alphabetic in zip(found.start[span], found.end[span], found.alphabetic[span], strict=True):
            assert alphabetic == any(unicodedata.category(char)[0] == "L" for char in text[a:b])


def test_keys_stand_for_words() -> None:
    text = "the cat the Cat act tac cat's cats \u0301a á a\u0301 " + " ".join(f"w{i} {i}" for i in range(5000))
    found = tokenise([text, "the cat"])
    by_key: dict[int, set[str]] = {}
    for row in (0, 1):
        for i in range(found.rows[row], found.rows[row + 1]):
            by_key.setdefault(int(found.key[i]), set()).add([text, "the cat"][row][found.start[i] : found.end[i]])
    assert all(len(same) == 1 for same in by_key.values())
    assert len(by_key) == len(set(strings(text)))
    assert word_key("the") == found.key[0]
    with pytest.raises(ValueError, match="not one word"):
        word_key("two words")


def test_result_does_not_depend_on_neighbours() -> None:
    texts = ["one two, three's 3.5 ", "", "你好 four" * 20, "x" * 500 + " y", "\n\n", "last wörd"] * 3
    together = tokenise(texts)
    for row, one in enumerate(tokenise([text]) for text in texts):
        span = slice(together.rows[row], together.rows[row + 1])
        for name in ("start", "end", "key", "alphabetic", "unspaced"):
            assert np.array_equal(getattr(together, name)[span], getattr(one, name)), (row, name)


def test_bytes_that_are_no_utf8_are_read_to_their_end() -> None:
    for data in (b"ab\xe4", b"\xf0\x9f", b"\xff\xfe a", b"\x80\x80", b"a\xc3"):
        found = words._words(np.frombuffer(data, np.uint8), np.array([0, len(data)]))
        assert found.counts[0] <= len(data) and (found.end <= len(data)).all()


def test_totals() -> None:
    found: Words = tokenise(["a bb ccc", "", "1 x"])
    assert found.counts.tolist() == [3, 0, 2]
    assert found.total(found.length).tolist() == [6, 0, 2]
    assert found.total(found.alphabetic).tolist() == [3, 0, 1]
    assert found.row.tolist() == [0, 0, 0, 2, 2]


@pytest.mark.parametrize(
    "text", ["x" * 5_000_000, "word " * 1_000_000, "a." * 1_000_000, "世" * 1_000_000, "'" * 1_000_000]
)
def test_large_texts_take_linear_time(text: str) -> None:
    start = time.process_time()
    found = tokenise([text])
    assert time.process_time() - start < 5
    assert found.counts[0] == {"x": 1, "w": 1_000_000, "a": 1, "世": 1_000_000, "'": 0}[text[0]]
