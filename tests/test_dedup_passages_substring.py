"""`dedup.substring` against a suffix array of the whole corpus: every repeated run of k words is found, and nothing else is cut."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from stages.dedup.anchors import anchor_words, anchors, run_keys
from stages.dedup.runs import read_words, verified
from stages.dedup.substring import Substring, SubstringConfig
from stages.words import tokenise
from tests.passages_common import run, shards, texts_after
from tests.support import ROOT

BEGIN, END = "\ue000", "\ue001"  # put around words, so that equal text with them is equal text with equal words


def stage(words: int, **knobs: Any) -> Substring:
    return Substring(SubstringConfig(words=words, **knobs))


def repeated_words(texts: list[str], k: int, keep: str) -> list[set[int]]:
    """The words of each text that go, by a suffix array over all texts with their words marked."""
    found = [tokenise([text]) for text in texts]
    marked, starts = "", []
    for text, words in zip(texts, found, strict=True):
        parts, last = [], 0
        own = []
        size = len(marked)
        for begin, end in zip(words.start.tolist(), words.end.tolist(), strict=True):
            parts.append(text[last:begin])
            own.append(size + sum(map(len, parts)))
            parts.append(BEGIN + text[begin:end] + END)
            last = end
        marked += "".join([*parts, text[last:], "\ue002"])
        starts.append(own)
    windows = [
        (doc, i, own[i], own[i + k - 1] + marked[own[i + k - 1] :].index(END) + 1)
        for doc, own in enumerate(starts)
        for i in range(len(own) - k + 1)
    ]
    windows.sort(key=lambda one: marked[one[2] :])  # the suffix array, of the places where a run begins
    gone: list[set[int]] = [set() for _ in texts]
    at = 0
    while at < len(windows):
        _, _, begin, end = windows[at]
        run_ = marked[begin:end]
        last = at
        while last < len(windows) and marked.startswith(
            run_, windows[last][2]
        ):  # the suffixes with this prefix stand together
            last += 1
        places = sorted((doc, i) for doc, i, *_ in windows[at:last])
        if len(places) > 1:
            (first_doc, first), *others = places
            for doc, i in others if keep == "first" else places:
                low = max(i, first + k) if keep == "first" and doc == first_doc else i
                gone[doc] |= set(range(low, i + k))
        at = last
    return gone


def cut_words(row: dict[str, Any]) -> tuple[set[int], set[int]]:
    """The words that a row's edits take out as a whole, and those that they touch at all."""
    words = tokenise([row["text"]])
    gone = np.zeros(len(row["text"]) + 1, dtype=bool)
    for start, end, _ in row["edits"]:
        gone[start:end] = True
    pairs = list(zip(words.start.tolist(), words.end.tolist(), strict=True))
    return {i for i, (a, b) in enumerate(pairs) if gone[a:b].all()}, {
        i for i, (a, b) in enumerate(pairs) if gone[a:b].any()
    }


def check(texts: list[str], k: int, keep: str, exact: bool = True, **runner: Any) -> int:
    """Compare with the suffix array; how many words went."""
    cut = runner.pop("cut", len(texts) // 2)
    rows = run(stage(k, keep=keep), shards(texts, (cut,)), **runner)
    want = repeated_words(texts, k, keep)
    for row, words in zip(rows, want, strict=True):
        if row["rule"]:
            assert len(words) == len(tokenise([row["text"]]).start) and row["value"] == 0
            continue
        whole, touched = cut_words(row)
        assert whole == touched, "a word was torn apart"
        assert whole == words if exact else whole <= words
        assert (row["dup_substring_share"] is None) == (not row["edits"])
    return sum(map(len, want))


ALPHABETS = [["a", "b"], ["a", "b", "c"], [*"abcdefgh"], ["一", "二", "ก", "x"], ["don't", "3.14", "é", "e\u0301"]]
GAPS = [[" "], [" ", ". ", "\n"], [" ", "", ", "]]


@pytest.mark.parametrize("seed", range(60))
def test_random_texts_of_small_alphabets(seed: int) -> None:
    rng = random.Random(seed)
    alphabet, gaps = ALPHABETS[seed % 5], rng.choice(GAPS)
    size = rng.choice([10, 40, 120])
    texts = [
        "".join(rng.choice(alphabet) + rng.choice(gaps) for _ in range(rng.randint(0, size)))
        for _ in range(rng.randint(1, 8))
    ]
    check(texts, rng.choice([4, 5, 6, 9]), rng.choice(["first", "none"]), partitions=rng.choice([1, 2, 8]))


@pytest.mark.parametrize("seed", range(8))
def test_marks_and_joiners_are_never_torn_off(seed: int) -> None:
    rng = random.Random(seed)
    pieces = ["a", "\u0301", "é", "\u200d", "क्", "ष", "一", " ", " ", "-", "\u00ad", "\ufe0f", "❤"]
    texts = ["".join(rng.choices(pieces, k=rng.randint(10, 60))) for _ in range(5)]
    texts += [text[rng.randint(0, 9) :] + texts[0] for text in texts]
    rows = run(stage(4), shards(texts))
    assert any(row["edits"] for row in rows)
    for row in rows:
        for start, end, _ in row["edits"]:
            for at in (start, end):
                hangs = row["text"][at : at + 1] in ("\u0301", "\u200d", "\ufe0f", "\u094d", "\u00ad")
                assert at == 0 or not hangs, (row["text"], row["edits"])
    check(texts, 4, "first", exact=False)


def test_real_text() -> None:
    """The project's own files: code repeats headers, signatures and loops."""
    files = sorted((ROOT / "stages").glob("*.py"))[:12] + sorted((ROOT / "docs").glob("*.md"))[:4]
    texts = [path.read_text(encoding="utf-8")[:12_000] for path in files]
    assert check(texts, 8, "first", chunk=1000) > 200
    assert check(texts, 12, "none", chunk=1000, partitions=8) > 50


def words(count: int, seed: int) -> str:
    rng = random.Random(seed)
    return " ".join("".join(rng.choices("abcdefghij", k=5)) for _ in range(count))


def test_what_goes_is_as_long_as_it_is_equal_and_leaves_the_gap_before_it() -> None:
    copy = words(10, 1)
    texts = [f"One. {copy}. Two.", f"Three: {copy}. Four.", f"Five, {copy}!", f"({copy}) six", f"Seven {copy}"]
    assert texts_after(stage(10), shards(texts)) == [texts[0], "Three: Four.", "Five, !", "() six", "Seven"]
    assert texts_after(stage(10, keep="none"), shards(texts[:2])) == ["One. Two.", "Three: Four."]
    assert texts_after(stage(11), shards(texts)) == texts


def test_a_run_must_be_equal_in_every_character_and_end_with_a_word() -> None:
    copy = words(10, 1)
    assert texts_after(stage(10), shards([copy, copy.replace(" ", "  ", 1), copy.upper(), copy + "x", "x" + copy])) == [
        copy, copy.replace(" ", "  ", 1), copy.upper(), copy + "x", "x" + copy,
    ]  # fmt: skip
    assert texts_after(stage(9), shards([copy, f"y {copy}x"])) == [copy, f"y {copy.split()[-1]}x"]


def test_letters_on_both_sides_do_not_run_together() -> None:
    copy = "一二三四五六七八九十"
    assert texts_after(stage(10), shards([copy, f"left{copy}right", f"左{copy}右"])) == [copy, "left right", "左右"]
    longer = f"{copy}百千万億兆"
    assert texts_after(stage(10), shards([copy, longer, f"left{longer}right {copy}left"])) == [
        copy, "百千万億兆", "left right left",
    ]  # fmt: skip


def test_repetition_in_one_text_leaves_one_copy() -> None:
    assert texts_after(stage(10), shards(["a " * 200])) == ["a " * 9 + "a"]
    block = words(12, 3)
    assert texts_after(stage(12), shards([f"{block}. {block}. {block}. End"])) == [f"{block}. End"]
    (row,) = run(stage(12, keep="none"), shards([f"{block}. {block}. {block}. End"]))
    assert row["after"] == "End"


def test_survivor_scope_and_modes() -> None:
    copy = words(20, 5)
    texts = [f"{copy} a", f"{copy} b b", f"{copy} c c c", f"x y z {words(30, 6)} {copy}"]
    assert texts_after(stage(20, survivor=["longest"]), shards(texts)) == ["a", "b b", "c c c", texts[3]]
    assert texts_after(stage(20, scope="source"), shards(texts, source=["s", "t", "s", "t"]))[:3] == [
        *texts[:2],
        "c c c",
    ]
    rows = run(stage(20, mode="drop", max_share=0.6), shards(texts))
    assert [row["rule"] for row in rows] == [None, "repeated_text", "repeated_text", None]
    assert (
        rows[1]["kept_id"] == "d0"
        and rows[1]["threshold"] == 0.6
        and rows[1]["value"] == rows[1]["dup_substring_share"]
    )
    assert rows[3]["dup_substring_share"] == pytest.approx(len(copy) / len(texts[3]), abs=0.01)
    assert texts_after(stage(20, mode="tag"), shards(texts)) == texts


def test_little_left_names_the_document_that_keeps_the_text() -> None:
    copy = words(20, 5)
    rows = run(stage(20, min_left=3), shards([copy, f"{copy} one two", f"{copy} three four five", copy]))
    assert [(row["rule"], row["value"], row["threshold"], row["kept_id"]) for row in rows] == [
        (None, None, None, None), ("little_left", 2.0, 3.0, "d0"), (None, None, None, None), ("little_left", 0.0, 3.0, "d0"),
    ]  # fmt: skip


def test_partitions_and_shards_change_nothing() -> None:
    rng = random.Random(9)
    blocks = [words(rng.randint(8, 30), n) for n in range(9)]
    texts = [" ".join([*rng.choices(blocks, k=rng.randint(0, 4)), words(5, 100 + n)]) for n in range(40)]
    names = ("id", "rule", "value", "kept_id", "edits", "dup_substring_share")

    def result(cuts: tuple[int, ...], **runner: Any) -> list[Any]:
        return [[row[name] for name in names] for row in run(stage(10, min_left=6), shards(texts, cuts), **runner)]

    plain = result((), partitions=1)
    assert sum(bool(row[4]) for row in plain) > 5 and any(row[1] for row in plain)
    assert result((11, 12), partitions=2, chunk=2) == plain
    assert result((30,), partitions=8, chunk=1000, batch=3) == plain


def test_a_passage_on_two_thousand_documents(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also with keys that come in many pieces."""
    monkeypatch.setattr("stages.dedup.passages.PIECE", 64)
    monkeypatch.setattr("stages.dedup.substring.PIECE", 64)
    passage = words(55, 1)
    texts = [f"Page p{n} {passage} {n} times" for n in range(2000)]
    after = texts_after(stage(50), shards(texts, (700,)), chunk=5000)
    assert after[0] == texts[0]
    assert after[1:] == [f"Page p{n} {n} times" for n in range(1, 2000)]


def test_a_document_of_ten_megabytes() -> None:
    large = "\n".join(f"This is line {i} of a long text without an end. " for i in range(215_000))
    assert len(large) > 10_000_000
    slice_ = large[5_000_000:5_020_000]
    whole = slice_[slice_.index(" ") + 1 : slice_.rindex(" ")].strip()
    assert texts_after(stage(50), shards([large, f"Before: {whole}; after."]), chunk=100_000) == [
        large,
        "Before: ; after.",
    ]


BAD: list[str | None] = [
    None,
    "",
    "\x00" * 500,
    "\n" * 500,
    "a" * 100_000,
    "\u0301 " * 60,
    "\u200d" * 99,
    "𝔘 " * 9,
    ". " * 100,
]


def test_bad_input() -> None:
    rows = run(stage(4, min_left=1), shards([*BAD, "\ud7ff a b c d", None]))
    assert [row["rule"] for row in rows] == [None] * len(rows)
    assert run(stage(4), shards([])) == []
    twice = run(stage(4), shards(BAD * 2))
    for row in twice:
        assert row["rule"] in (None, "little_left")


# The compiled loops beside plain Python


def test_equal_runs_have_equal_anchors_inside_them() -> None:
    rng = np.random.default_rng(1)
    for k in (4, 7, 50):
        keys = rng.integers(0, 3, 500).astype(np.uint64)
        chosen, grams = anchors(keys, k)
        h = anchor_words(k)
        assert len(chosen) == 500 - k + 1 and len(grams) == 500 - h + 1
        smallest: dict[bytes, int] = {}
        text_of: dict[bytes, bytes] = {}
        for place in range(len(grams)):
            assert (
                text_of.setdefault(grams[place].tobytes(), keys[place : place + h].tobytes())
                == keys[place : place + h].tobytes()
            )
        for place in range(len(chosen)):
            inside = grams[place : place + k - h + 1, 0]
            assert chosen[place] == place + max(np.flatnonzero(inside == inside.min()))
            own = keys[place : place + k].tobytes()
            assert smallest.setdefault(own, int(chosen[place] - place)) == chosen[place] - place
    assert len(anchors(keys[:3], 4)[0]) == 0


def test_run_keys_are_equal_for_equal_text() -> None:
    rng = random.Random(4)
    text = "".join(rng.choice(["a", "b", "ab", "é"]) + rng.choice([" ", "  "]) for _ in range(4000))
    found = read_words(text)
    for k in (4, 6):
        keys = run_keys(found.data, found.begin, found.stop, k)
        pairs = {(keys[i].tobytes(), text[found.start[i] : found.end[i + k - 1]]) for i in range(len(keys))}
        assert len(pairs) == len({key for key, _ in pairs}) == len({run_ for _, run_ in pairs})
        assert len(keys) == 4000 - k + 1
    assert [text.encode()[a:b].decode() for a, b in zip(found.begin, found.stop, strict=True)] == text.split()


def test_what_is_not_equal_is_not_cut_whatever_the_hash_says() -> None:
    """A run is compared with the text that stays: a hash alone never cuts."""
    kept = read_words("one two three four five. six")
    run_ = {
        "kept_at": 0,
        "size": 5,
        "start": 0,
        "end": 23,
        "clean": 23,
        "clean_last": 5,
        "first": 0,
        "last": 5,
        "tail": 0,
        "joins": 0,
    }
    same = {**run_, "bytes": b"one two three four five. ten", "solid": 23}
    assert [cut["end"] for cut in verified(kept, same, False)] == [25]
    assert verified(kept, {**same, "bytes": b"one two three four fivE. ten"}, False) == []
    assert verified(kept, {**same, "bytes": b"one two three four fiv. ten", "solid": 22}, False) == []
    assert verified(kept, {**same, "kept_at": 2}, False) == []
