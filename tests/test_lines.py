"""Lines and paragraphs by compiled loops, against what plain Python says."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.batch import encoded
from stages.characters import CLOSING_QUOTES, SENTENCE_STOPS
from stages.lines import Lines, find_lines, lines, paragraphs

ALPHABET = "ab.…#-•\n\n \t\r\x0b\x85\u2028\u00a0é世。\"'\0😀"


def found(*texts: str) -> tuple[Lines, list[list[str]]]:
    data, bounds = encoded(texts)
    one = find_lines(data, bounds)
    whole = data.tobytes()
    strings = [whole[a:b].decode("utf-8", "surrogatepass") for a, b in zip(one.begin, one.end, strict=True)]
    return one, [strings[one.rows[row] : one.rows[row + 1]] for row in range(len(texts))]


def test_by_hand() -> None:
    one, strings = found("  a b \n\n\t\nc...\nd…  \n", "", "x\r\n \r\ny")
    assert strings == [["a b", "c...", "d…"], [], ["x", "y"]]
    assert one.length.tolist() == [3, 4, 2, 1, 1]
    assert one.ellipsis.tolist() == [False, True, True, False, False]
    assert one.paragraph_length.tolist() == [3, 7, 1, 1] and one.paragraph_rows.tolist() == [0, 2, 2, 4]
    assert one.newlines.tolist() == [5, 0, 2] and one.ellipses.tolist() == [2, 0, 0]


def test_lines_and_paragraphs_in_plain_python() -> None:
    text = " one \r\n\n  \n two\nthree\n \t\n\nfour\n"
    assert lines(text) == ["one", "two", "three", "four"]
    assert paragraphs(text) == ["one", "two\nthree", "four"]
    assert lines("") == paragraphs("\n \n") == []


@settings(max_examples=400, deadline=None)
@given(st.lists(st.text(ALPHABET, max_size=40) | st.text(max_size=20), max_size=4))
def test_equals_plain_python(texts: list[str]) -> None:
    one, strings = found(*texts)
    assert strings == [lines(text) for text in texts]
    every = [line for some in strings for line in some]
    assert one.length.tolist() == list(map(len, every))
    assert one.terminal.tolist() == [line.endswith(tuple(SENTENCE_STOPS + CLOSING_QUOTES)) for line in every]
    assert one.ellipsis.tolist() == [line.endswith(("...", "…")) for line in every]
    assert len(dict(zip(one.key.tolist(), every, strict=True))) == len(set(every))
    blocks = [block for text in texts for block in paragraphs(text)]
    assert one.paragraph_length.tolist() == list(map(len, blocks))
    assert len(dict(zip(one.paragraph_key.tolist(), blocks, strict=True))) == len(set(blocks))
    assert one.characters.tolist() == list(map(len, texts))
    assert one.newlines.tolist() == [text.count("\n") for text in texts]
    assert one.hashes.tolist() == [text.count("#") for text in texts]
    assert one.ellipses.tolist() == [text.count("...") + text.count("…") for text in texts]
    data, _ = encoded(texts)
    heads = ("•", "-", "ab")
    assert one.starting(data, heads).tolist() == [line.startswith(heads) for line in every]


def test_equal_lines_have_equal_keys_wherever_they_stand() -> None:
    one, _ = found("one line\nother\n\n  one line ", "one line", "é", " é ")
    assert one.key[0] == one.key[2] == one.key[3] and one.key[4] == one.key[5] != one.key[0]
    assert one.paragraph_key[1] == one.paragraph_key[2] != one.paragraph_key[0]


@pytest.mark.parametrize("text", ["\n" * 3_000_000, "x" * 3_000_000, " \n" * 1_500_000, "a\n" * 1_500_000])
def test_large_texts_take_linear_time(text: str) -> None:
    start = time.process_time()
    found(text)
    assert time.process_time() - start < 10
