"""`dedup.lines` and `dedup.spans`: definitions with their expected survivors, plain twins, skew, bad input."""

from __future__ import annotations

import random
import re
import unicodedata
from collections import defaultdict
from typing import Any

import pyarrow as pa
import pytest
from pydantic import ValidationError

from stages.batch import Batch
from stages.characters import CLOSERS, RUN_STOPS, WIDE_STOPS
from stages.dedup.folding import CCNET_PUNCTUATION, fold_table
from stages.dedup.lines import Lines, LinesConfig
from stages.dedup.passages import meet
from stages.dedup.spans import Spans, SpansConfig
from stages.dedup.units import LINE, PARAGRAPH, SENTENCE, batch_units
from stages.lines import lines as plain_lines
from stages.lines import paragraphs as plain_paragraphs
from stages.quality.c4_lines import count_sentences
from stages.words import tokenise
from tests.passages_common import run, shards, texts_after

FOOTER = "Share this page with all of your friends!"
ODD = [
    "\x00",
    "\u0301",
    "\u200d",
    "\u3000",
    "\x85",
    "\u2028",
    "ﬁ",
    "İ",
    "Σ",
    "ς",
    "한",
    "é",
    "e\u0301",
    "٣",
    "１",
    "—",
    "…",
]


def lines(
    texts: list[str | None], cuts: tuple[int, ...] = (), columns: dict[str, Any] | None = None, **knobs: Any
) -> list[str | None]:
    stage = Lines(LinesConfig(**{"report": 0, **knobs}))
    return texts_after(stage, shards(texts, cuts, **(columns or {})))


def spans(texts: list[str | None], **knobs: Any) -> list[str | None]:
    small = {"min_left": 1, "min_left_sentences": 0} if knobs.get("mode", "trim") == "trim" else {}
    return texts_after(Spans(SpansConfig(**{"report": 0, **small, **knobs})), shards(texts))


# Lines


def test_a_line_stays_in_the_first_document_and_goes_from_the_others() -> None:
    texts = [
        f"One thing.\n{FOOTER}\nLast.",
        f"Another thing.\n{FOOTER}\nEnd.",
        f"{FOOTER}\nThird thing.",
        f"Fourth.\n{FOOTER}",
    ]
    assert lines(texts) == [texts[0], "Another thing.\nEnd.", "Third thing.", "Fourth."]
    assert lines(texts, keep="none") == ["One thing.\nLast.", "Another thing.\nEnd.", "Third thing.", "Fourth."]
    assert lines(texts, max_documents=3) == ["One thing.\n" + FOOTER + "\nLast.", *lines(texts)[1:]]
    assert lines(texts, max_documents=4) == texts


def test_repetitions_in_one_document_count_once_and_go_together() -> None:
    own = f"{FOOTER}\n{FOOTER}\nText of mine."
    assert lines([own, "Other text."]) == [own, "Other text."]
    assert lines(["Other text.\n" + FOOTER, own]) == ["Other text.\n" + FOOTER, "Text of mine."]


def test_blank_lines_and_lines_without_letters_never_count() -> None:
    ruled = "a b\n\n \n----------\n* * * * *\n\t\n----------\nc d"
    assert lines([ruled, ruled + "\ne f"], min_words=2) == [ruled, "----------\n* * * * *\n\t\n----------\ne f"]
    out = run(Lines(LinesConfig(min_words=2)), shards(["x\n\n\ny", "z\n\n\nw", "\n\n", " \n \n"]))
    assert [row["rule"] for row in out] == [None] * 4 and not any(row["edits"] for row in out)


def test_what_is_cut_takes_the_lesser_gap_with_it() -> None:
    first = f"{FOOTER}\nThe second of the common lines."
    cases = {
        f"A.\n\n{FOOTER}\n\nB.": "A.\n\nB.",
        f"A.\n{FOOTER}\n\nB.": "A.\n\nB.",
        f"A.\n\n{FOOTER}\nB.": "A.\n\nB.",
        f"A.\n\n{first}\n\n\nB.": "A.\n\n\nB.",
        f"A.\n{FOOTER}\nB.\nThe second of the common lines.\n\n": "A.\nB.\n\n",
        f"  {FOOTER}  \n  A.  ": "  A.  ",
    }
    assert lines([first, *cases]) == [first, *cases.values()]


def test_paragraphs_are_compared_whole() -> None:
    block = "Terms of use apply here.\nAll rights are reserved now."
    texts = [
        f"Intro.\n\n{block}",
        f"Other.\n\n{block}\n\nEnd.",
        f"{block}\nbut more of it.\n\nEnd.",
        "Terms of use apply here.\n\nB.",
    ]
    assert lines(texts, unit="paragraph") == [texts[0], "Other.\n\nEnd.", texts[2], texts[3]]


def test_scopes_and_documents_without_a_domain() -> None:
    texts = [f"Text {name} of its own.\n{FOOTER}" for name in "abcdef"]
    urls = ["http://a.example.com/1", "https://b.example.com/2", "http://example.org/", None, None, "nonsense://"]
    columns = {"url": urls, "source": ["s", "s", "t", "t", "u", "u"]}

    def touched(**knobs: Any) -> list[int]:
        return [i for i, (a, b) in enumerate(zip(texts, lines(texts, columns=columns, **knobs), strict=True)) if a != b]

    assert touched(scope="global") == [1, 2, 3, 4, 5]
    assert touched(scope="source") == [1, 3, 5]
    assert touched(scope="domain") == [1]
    assert touched(scope="domain", min_words=9) == []
    assert lines(texts, scope="domain") == texts  # no column of addresses


def test_the_survivor_order_decides_who_keeps_a_passage() -> None:
    texts = [f"{FOOTER}\nshort", f"{FOOTER}\nlonger than the first", f"{FOOTER}\nlongest of all three of them"]
    assert lines(texts, survivor=["longest"]) == ["short", "longer than the first", texts[2]]
    scores = {"score": [0.5, 0.9, None]}
    assert lines(texts, columns=scores, survivor=["best:score"]) == ["short", texts[1], "longest of all three of them"]


def test_drop_and_tag() -> None:
    texts = [f"{FOOTER}\nx", f"{FOOTER}\ny", f"{FOOTER}\n" + "a text of its own " * 9, f"{FOOTER} {FOOTER}\n{FOOTER}"]
    rows = run(Lines(LinesConfig(mode="drop", max_share=0.5)), shards(texts))
    assert [row["rule"] for row in rows] == [None, "repeated_lines", None, None]
    assert rows[1]["value"] == rows[1]["dup_lines_share"] == pytest.approx(41 / 42) and rows[1]["threshold"] == 0.5
    assert rows[1]["kept_id"] == "d0" and not any(row["edits"] for row in rows)
    tagged = run(Lines(LinesConfig(mode="tag")), shards(texts))
    assert [row["dup_lines_share"] for row in tagged] == [row["dup_lines_share"] for row in rows]
    assert [row["dup_lines_share"] is None for row in rows] == [True, False, False, False]
    assert all(row["rule"] is None and not row["edits"] for row in tagged)
    gone = run(Lines(LinesConfig(keep="none", mode="drop")), shards(texts))
    assert [row["rule"] for row in gone[:2]] == ["repeated_lines"] * 2 and gone[1]["kept_id"] is None


def test_little_left() -> None:
    texts = [f"{FOOTER}\nShare this page, and this one, too!", f"one two three\n{FOOTER}", FOOTER.upper(), "one two"]
    rows = run(Lines(LinesConfig(min_left=4)), shards(texts))
    assert [(row["rule"], row["value"], row["threshold"], row["kept_id"]) for row in rows] == [
        (None, None, None, None), ("little_left", 3.0, 4.0, "d0"), ("little_left", 0.0, 4.0, "d0"), (None, None, None, None),
    ]  # fmt: skip


def test_knobs_of_another_mode_are_refused() -> None:
    for wrong in (
        {"mode": "tag", "max_share": 0.1}, {"mode": "drop", "min_left": 3}, {"keep": "none", "survivor": ["longest"]},
        {"normalize": ["ccnet", "case"]}, {"normalize": ["case", "case"]}, {"max_documents": 0},
    ):  # fmt: skip
        with pytest.raises(ValidationError):
            LinesConfig.model_validate(wrong)
    with pytest.raises(ValidationError, match="belongs to mode: trim"):
        SpansConfig(mode="drop", min_left_sentences=2)


def test_findings_name_the_frequent_passages_with_their_domains() -> None:
    count = 300
    texts = [
        f"Page number {'x' * i} is here now.\n{FOOTER}\n" + ("Seldom repeated line of text." if i % 100 == 0 else "")
        for i in range(count)
    ]
    urls = [f"http://s{i % 3}.example{i % 2}.com/{i}" if i % 10 else None for i in range(count)]
    findings: list[pa.Table] = []
    run(Lines(LinesConfig(report=1, keep="none")), shards(texts, (100, 150), url=urls), partitions=1, findings=findings)
    (row,) = pa.concat_tables(findings).to_pylist()
    assert (row["text"], row["documents"], row["domains_counted"], row["other_documents"]) == (FOOTER, 300, 2, 30)
    assert {d["domain"]: d["documents"] for d in row["domains"]} == {"example0.com": 120, "example1.com": 150}


def test_a_footer_on_ten_thousand_documents_goes_from_all_but_one() -> None:
    count = 10_000
    texts: list[str | None] = [
        f"{FOOTER}\nDocument number {'i' * (1 + i % 7)} {i * i} says so {chr(97 + i % 26) * (i // 26)}."
        for i in range(count)
    ]
    rows = run(Lines(LinesConfig(normalize=["case"])), shards(texts, (4000,)), chunk=20_000, findings=(found := []))
    assert rows[0]["after"] == texts[0]
    assert [row["after"] for row in rows[1:]] == [(text or "").partition("\n")[2] for text in texts[1:]]
    assert max(row["documents"] for table in found for row in table.to_pylist()) == count


# Spans


def test_of_three_sentences_all_but_the_first_go() -> None:
    common = "The cat sat. The dog ran. The bird flew."
    texts = [
        f"Mine. {common} Yes.",
        f"Thine begins. {common} And ends.",
        f"{common}",
        f"Other. {common.upper()}\nNew line.",
        "The cat sat. The dog ran. Else.",
    ]
    assert spans(texts) == [texts[0], "Thine begins. And ends.", None, "Other.\nNew line.", texts[4]]
    assert spans(texts, keep="none")[0] == "Mine. Yes."
    assert spans(texts, sentences=2)[4] == "Else."
    assert spans(texts, min_words=10) == texts


def test_spans_inside_one_document_go_too() -> None:
    assert spans(["A b. C d. E f. A b. C d. E f. Rest of it."]) == ["A b. C d. E f. Rest of it."]


def test_limits_of_what_is_left() -> None:
    common = "The cat sat. The dog ran. The bird flew."
    texts = [
        f"Mine. {common}",
        f"{common} One two. " + "Three four five six seven.",
        f"{common} W" + "ord word " * 24 + "ord end.",
        f"{common} W" + "ord word " * 24 + "end.",
    ]
    rows = run(Spans(SpansConfig()), shards(texts))
    assert [(row["rule"], row["value"], row["threshold"]) for row in rows] == [
        (None, None, None), ("little_left", 7.0, 50.0), ("few_sentences", 1.0, 3.0), ("little_left", 49.0, 50.0),
    ]  # fmt: skip
    assert [row["kept_id"] for row in rows] == [None, "d0", "d0", "d0"]


def test_scripts_without_spaces() -> None:
    common = "猫が座った。犬が走った！鳥が飛んだ？"
    assert spans([f"始め。{common}", f"{common}終わりです。"]) == [f"始め。{common}", "終わりです。"]
    hindi = "बिल्ली बैठी। कुत्ता दौड़ा। चिड़िया उड़ी।"
    assert spans([f"पहला। {hindi}", f"{hindi} अंत।"]) == [f"पहला। {hindi}", "अंत।"]
    assert lines(["本日は晴天なり本日は\n甲", "乙\n本日は晴天なり本日は"]) == ["本日は晴天なり本日は\n甲", "乙"]


def test_every_sentence_stays_somewhere() -> None:
    rng = random.Random(3)
    pool = [f"Sentence {word} here." for word in ("alpha", "beta", "gamma", "delta", "eta")]
    for _ in range(20):
        texts: list[str | None] = [" ".join(rng.choices(pool, k=rng.randint(0, 12))) for _ in range(6)]
        after = spans(texts, sentences=rng.randint(1, 3))
        assert {s for s in pool if any(s in (t or "") for t in texts)} == {
            s for s in pool if any(s in (t or "") for t in after)
        }


# Both


@pytest.mark.parametrize("stage", [Lines, Spans])
def test_the_number_of_partitions_and_shards_changes_nothing(stage: Any) -> None:
    rng = random.Random(5)
    pool = [f"The {word} of sentence goes here. " for word in ("one", "two", "three", "four", "five", "six", "seven")]
    texts: list[str | None] = [
        "".join(rng.choice(pool) + rng.choice(["", "\n", "\n\n"]) for _ in range(rng.randint(0, 9))) for _ in range(60)
    ]

    def result(keep: str, cuts: tuple[int, ...], **runner: Any) -> list[Any]:
        rows = run(stage(stage.config_model(keep=keep, min_left=12)), shards(texts, cuts), **runner)
        names = ("id", "rule", "value", "threshold", "kept_id", "edits", "after", f"dup_{stage.name[6:]}_share")
        return [[row[name] for name in names] for row in rows]

    for keep in ("first", "none"):
        plain = result(keep, (), partitions=1)
        assert any(row[5] for row in plain) and any(row[1] for row in plain)
        assert result(keep, (7, 30), partitions=2, chunk=3) == plain
        assert result(keep, (50,), partitions=8, chunk=1000, batch=3) == plain


BAD: list[str | None] = [
    None,
    "",
    "\x00" * 50,
    "\n" * 1000,
    "\x00\n\x00",
    " ",
    "\u0301" * 9,
    ".",
    "...!!!",
    "\u2028\x85",
    "a" * 100_000,
    "\r\n" * 9,
    "𝔘" * 99,
]


@pytest.mark.parametrize(
    "stage", [Lines(LinesConfig(min_words=1)), Spans(SpansConfig(sentences=1, min_left=1, min_left_sentences=0))]
)
def test_bad_input(stage: Any) -> None:
    rows = run(stage, shards(BAD * 2))
    for row, text in zip(rows, BAD * 2, strict=True):
        assert row["rule"] in (None, "little_left") and (row["after"] is None or row["after"] == (text or ""))
    assert run(stage, shards([])) == []


@pytest.mark.parametrize(
    "stage",
    [
        Lines(LinesConfig(normalize=("case",), report=0)),
        Spans(SpansConfig(normalize=("case",), report=0, min_left=1, min_left_sentences=0)),
    ],
)
def test_a_document_of_ten_megabytes(stage: Any) -> None:
    large = "\n".join(f"This is line {i} of a long text without an end. " for i in range(215_000))
    assert len(large) > 10_000_000
    tables = shards([large, large + "\nA line of its own here."])
    assert texts_after(stage, tables, chunk=100_000) == [large, "A line of its own here."]


# The compiled loops beside plain Python


def plain_fold(text: str, folds: tuple[str, ...]) -> str:
    if "ccnet" in folds:
        text = re.sub(r"\d", "0", text.strip().lower())
        return re.sub(f"[{CCNET_PUNCTUATION}\x00-\x1f\x7f-\x9f]", "", text)
    if "case" in folds:
        text = text.lower()
    out = []
    for c in text.strip():
        kind = unicodedata.category(c)
        if not c.isspace():
            if "accents" in folds:
                c = (
                    "".join(x for x in unicodedata.normalize("NFD", c) if unicodedata.category(x) != "Mn")
                    if not "\uac00" <= c <= "\ud7a3"
                    else c
                )
            if "digits" in folds and kind == "Nd":
                c = "0"
            if "punctuation" in folds and (kind[0] == "P" or kind in ("Cc", "Cf")):
                c = ""
        out.append(c)
    text = "".join(out)
    return " ".join(text.split()) if "whitespace" in folds else text


@pytest.mark.parametrize(
    "folds",
    [
        (),
        ("ccnet",),
        ("case", "digits", "punctuation", "whitespace"),
        ("accents", "whitespace"),
        ("accents", "case", "punctuation"),
    ],
)
def test_equal_keys_mean_equal_folded_text(folds: tuple[Any, ...]) -> None:
    rng = random.Random(7)
    usual = [c for c in ODD if c not in "İΣςﬁ"]  # letters whose small form depends on neighbours, or is several
    alphabet = [*"aAbé 1.!  ", *usual]
    texts = [rng.choice(["", "a", "A"]) + "".join(rng.choices(alphabet, k=rng.randint(0, 4))) for _ in range(3000)]
    texts = [" ".join(text.split("\n")) for text in texts]
    units = batch_units(Batch(pa.table({"text": texts})), LINE, folds)
    forms: dict[bytes, set[str]] = defaultdict(set)
    keys: dict[str, set[bytes]] = defaultdict(set)
    for row in range(len(texts)):
        if units.rows[row] == units.rows[row + 1]:
            assert not texts[row].strip()
            continue
        unit = units.rows[row]
        form = plain_fold(texts[row], folds)
        assert bool(units.folded[unit]) == bool(form), (texts[row], form)
        forms[units.key[unit].tobytes()].add(form)
        keys[form].add(units.key[unit].tobytes())
    assert (
        len(forms) > 300
        and all(len(one) == 1 for one in forms.values())
        and all(len(one) == 1 for one in keys.values())
    )


def test_ccnet_is_its_code() -> None:
    table = fold_table(("ccnet",))
    assert (
        table[ord("A")] == ord("a") and table[ord("７")] == table[ord("7")] == ord("0") and table[ord(".")] == ord(".")
    )
    assert table[ord("—")] == table[9] == table[0x85] == -1 and table[ord("é")] == ord("é")


def plain_sentences(line: str) -> list[tuple[int, int]]:
    pattern = re.compile(f"[{re.escape(RUN_STOPS)}]+[{re.escape(CLOSERS)}]*")
    ends, at = [], 0
    while match := pattern.search(line, at):
        after = line[match.end() :]
        wide = line[match.start()] in WIDE_STOPS
        if not after or wide or (after[0].isspace() and not re.match("[a-z]", after.lstrip())):
            ends.append(match.end())
            at = match.end()
        else:
            at = match.start() + 1
            while at < len(line) and line[at] in RUN_STOPS:
                at += 1
    starts = [0, *ends]
    found = []
    for low, high in zip(starts, [*ends, len(line)], strict=True):
        part = line[low:high]
        if part.strip():
            found.append((low + len(part) - len(part.lstrip()), high))
    return found


def test_units_are_those_of_plain_python() -> None:
    rng = random.Random(11)
    alphabet = ["a", "B", " ", " ", "\n", "\n", ".", "!", "。", "？", '"', ")", "…", "\u3000", "é", "\x00", "1"]
    texts = ["".join(rng.choices(alphabet, k=rng.randint(0, 30))) for _ in range(3000)]
    batch = Batch(pa.table({"text": texts}))
    for kind, plain in ((LINE, plain_lines), (PARAGRAPH, plain_paragraphs)):
        units = batch_units(batch, kind, ())
        for row, text in enumerate(texts):
            own = slice(units.rows[row], units.rows[row + 1])
            found = [text[a:b] for a, b in zip(units.start[own], units.end[own], strict=True)]
            if kind == PARAGRAPH:
                found = ["\n".join(line.strip() for line in one.split("\n")) for one in found]
            assert found == plain(text), repr(text)
    units = batch_units(batch, SENTENCE, ())
    data, _ = batch.utf8()
    for row, text in enumerate(texts):
        own = slice(units.rows[row], units.rows[row + 1])
        spans_ = list(zip(units.start[own].tolist(), units.end[own].tolist(), strict=True))
        want, offset = [], 0
        for line in text.split("\n"):
            lead = len(line) - len(line.lstrip())
            want += [(offset + lead + a, offset + lead + b) for a, b in plain_sentences(line.strip())]
            assert not line.strip() or len(plain_sentences(line.strip())) == count_sentences(line.strip())
            offset += len(line) + 1
        assert spans_ == want, repr(text)
        for (a, b), low, high in zip(spans_, units.begin_byte[own], units.end_byte[own], strict=True):
            assert bytes(data[low:high]).decode() == text[a:b]
        ends = [0, *(b for _, b in spans_)]
        assert units.breaks[own].tolist() == [text[e:a].count("\n") for e, (a, _) in zip(ends, spans_, strict=False)]
        starts = tokenise([text]).start.tolist()
        assert units.words[own].tolist() == [sum(a <= s < b for s in starts) for a, b in spans_]
        assert units.characters[row] == len(text)


@pytest.mark.parametrize("keep", ["first", "none"])
def test_copies_of_a_key_that_comes_in_pieces(monkeypatch: pytest.MonkeyPatch, keep: str) -> None:
    """Each message of a key with too many is told once, whatever its rank, but for the best."""
    monkeypatch.setattr("stages.dedup.passages.PIECE", 4)
    rng = random.Random(13)
    for most in (1, 3, 6):
        sizes = [1, 2, 3, 4, 5, 8, 9, 40, 4, 12]
        rows = [(bytes([k]) * 16, p, rng.randint(0, 5)) for k, n in enumerate(sizes) for p in range(n)]
        table = pa.table({
            "key": pa.array([k for k, _, _ in rows], pa.binary(16)), "shard": pa.array([0] * len(rows), pa.int32()),
            "row": pa.array([p for _, p, _ in rows], pa.int64()), "rank_0": pa.array([r for *_, r in rows], pa.int64()),
            "at": pa.array([0] * len(rows), pa.int64()),
        })  # fmt: skip
        pieces, start = [], 0
        while start < len(rows):
            step = rng.randint(0, 6)
            pieces.append(table.slice(start, step))
            start += step
        told = []
        for met in meet(pieces, ["rank_0"], most, keep):
            told += met.table.take(pa.array(met.copies)).select(["key", "row"]).to_pylist()
            better = met.table.column("rank_0").to_numpy()
            assert (better[met.kept] <= better[met.copies]).all()
        want = []
        for k, n in enumerate(sizes):
            own = sorted((r, p) for key, p, r in rows if key[0] == k)
            want += [(k, p) for _, p in own[1 if keep == "first" else 0 :]] if n > most else []
        assert sorted((one["key"][0], one["row"]) for one in told) == sorted(want)
