"""Gopher's repetition rules: values worked out by hand, and a slow twin on random text."""

from collections import Counter

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.batch import Batch
from stages.quality.gopher_repetition import GopherRepetition, RepetitionConfig
from stages.words import tokenise

P = "quality_repetition_"


def measure(texts: list[str], **knobs: object) -> pa.Table:
    stage = GopherRepetition(RepetitionConfig(**knobs))
    values = stage.measure(Batch(pa.table({"text": pa.array(texts, pa.string())})))
    assert values.schema == pa.schema(list(stage.measures().items()))
    return values


def value(text: str, name: str, **knobs: object) -> float:
    return measure([text], **knobs).column(P + name)[0].as_py()


def test_lines_and_paragraphs_by_hand() -> None:
    text = "abc\nde\nabc\n\nabc\n\n\n  abc  \nx"
    # lines abc de abc abc abc x: 3 of 6 repeat; 9 of 15 characters
    assert value(text, "duplicate_lines") == pytest.approx(3 / 6)
    assert value(text, "duplicate_line_characters") == pytest.approx(9 / 15)
    # paragraphs "abc\nde\nabc", "abc", "abc  \nx": none repeats
    assert value(text, "duplicate_paragraphs") == 0
    assert value("aa\n\nbbb\n \naa", "duplicate_paragraphs") == pytest.approx(1 / 3)
    assert value("aa\n\nbbb\n \naa", "duplicate_paragraph_characters") == pytest.approx(2 / 7)
    assert value("a\n\n\n\n\nb", "duplicate_lines") == 0  # blank lines are no duplicates


def test_top_ngrams_by_hand() -> None:
    text = "to be or not to be that is"  # "to be" twice: 2 x 4 of 19 characters
    assert value(text, "top_2_gram") == pytest.approx(8 / 19)
    assert value(text, "top_3_gram") == 0  # nothing repeats
    assert value("a b a b ccc dd ccc dd", "top_2_gram") == pytest.approx(10 / 14)  # equally frequent: the longer
    assert value("a a a a", "top_2_gram") == 1  # 3 x 2 characters of 4: at most all
    # datatrove's code: spaces inside count, over the whole text; the first of equals; a single occurrence counts
    assert value(text, "top_2_gram", definition="datatrove") == pytest.approx(2 * 5 / 26)
    assert value(text, "top_3_gram", definition="datatrove") == pytest.approx(len("to be or") / 26)


def test_duplicate_ngrams_by_hand() -> None:
    text = "a b c d e X a b c d e"  # the 5-gram twice: 10 of 11 characters stand in it
    assert value(text, "duplicate_5_grams") == pytest.approx(10 / 11)
    assert value(text, "duplicate_6_grams") == 0
    assert value(text, "duplicate_5_grams", definition="datatrove") == pytest.approx(5 / 21)  # only the later copy
    assert value("a " * 12, "duplicate_10_grams") == 1  # overlapping copies count each word once
    # read left to right: a copy at word 1 (words 1-5), reading goes on at word 6, another at 6-10; 1 word is left
    assert value("a " * 12, "duplicate_5_grams", definition="datatrove") == pytest.approx(10 / 24)


def slow(text: str) -> dict[str, float]:
    """The paper's definition on lists of strings."""
    found = tokenise([text])
    words = [text[a:b] for a, b in zip(found.start, found.end, strict=True)]
    total = sum(map(len, words))
    out = {}
    for n in (2, 3, 4):
        grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        most = max(grams.values(), default=0)
        longest = max((sum(map(len, gram)) for gram, count in grams.items() if count == most), default=0)
        out[f"top_{n}_gram"] = min(1.0, most * longest / total) if most > 1 else 0.0
    for n in range(5, 11):
        grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        inside = {i + k for i in range(len(words) - n + 1) if grams[tuple(words[i : i + n])] > 1 for k in range(n)}
        out[f"duplicate_{n}_grams"] = sum(len(words[i]) for i in inside) / total if total else 0.0
    return out


def slow_datatrove(text: str) -> dict[str, float]:
    found = tokenise([text])
    words = [text[a:b] for a, b in zip(found.start, found.end, strict=True)]
    out = {}
    for n in (2, 3, 4):
        grams = Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1))
        top = grams.most_common(1)
        out[f"top_{n}_gram"] = min(1.0, len(top[0][0]) * top[0][1] / len(text)) if top else 0.0
    for n in range(5, 11):
        seen, repeated, i = set(), 0, 0
        while i < len(words) - n + 1:
            gram = tuple(words[i : i + n])
            if gram in seen:
                repeated += sum(map(len, gram))
                i += n
            else:
                seen.add(gram)
                i += 1
        out[f"duplicate_{n}_grams"] = repeated / len(text) if text else 0.0
    return out


repetitive = st.lists(st.sampled_from(["a", "bb", "the", "cat", "世", "1", "x,", "\n"]), max_size=80).map(" ".join)
phrases = st.lists(
    st.sampled_from(["one two three four five six", "seven eight", "nine", "ten eleven twelve"]), max_size=20
).map(" ".join)


def slow_dolma(text: str) -> dict[str, float]:
    words, out = text.split(), {}
    whole = sum(map(len, words))
    for n in range(2, 11):
        grams = Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))
        if n <= 4:
            gram, count = grams.most_common(1)[0] if grams else ((), 0)
            out[f"top_{n}_gram"] = min(1.0, count * sum(map(len, gram)) / max(whole, 1))
        else:
            every = sum(count * sum(map(len, gram)) for gram, count in grams.items())
            repeated = sum(count * sum(map(len, gram)) for gram, count in grams.items() if count > 1)
            out[f"duplicate_{n}_grams"] = repeated / max(every, 1)
    return out


@settings(max_examples=150, deadline=None)
@given(st.lists(repetitive | phrases, min_size=1, max_size=6))
def test_equals_slow_twins(texts: list[str]) -> None:
    twins = {"paper": slow, "dclm": slow, "datatrove": slow_datatrove, "dolma": slow_dolma}
    for definition, twin in twins.items():
        values = measure(texts, definition=definition, words="whitespace" if definition == "dolma" else "ours")
        for row, text in enumerate(texts):
            for name, expected in twin(text).items():
                assert values.column(P + name)[row].as_py() == pytest.approx(expected), (definition, name, text)


def test_lines_by_each_definition() -> None:
    text = "one two\none two\n one two\n\n\nthree four"
    paper, datatrove, dolma, dclm = (
        measure([text], definition=definition).to_pylist()[0] for definition in ("paper", "datatrove", "dolma", "dclm")
    )
    lines, letters = P + "duplicate_lines", P + "duplicate_line_characters"
    assert (paper[lines], paper[letters]) == (pytest.approx(2 / 4), pytest.approx(14 / 31))  # stripped, later copies
    assert (datatrove[lines], datatrove[letters]) == (
        pytest.approx(1 / 4),
        pytest.approx(7 / len(text)),
    )  # as they stand
    assert (dolma[lines], dolma[letters]) == (
        pytest.approx(4 / 6),
        pytest.approx(14 / 27),
    )  # all copies, blank lines too
    assert (dclm[lines], dclm[letters]) == (pytest.approx(3 / 4), pytest.approx(21 / 31))  # all copies, stripped
    assert dolma[P + "duplicate_paragraphs"] is None and dclm[P + "duplicate_paragraphs"] == 0.0


def test_tags_instead_of_drops() -> None:
    stage = GopherRepetition(RepetitionConfig(mode="tag"))
    values = stage.measure(Batch(pa.table({"text": ["Buy now and save money today. " * 20, "One line."]})))
    assert values.column(P + "rule").to_pylist() == ["max_top_2_gram", None]
    assert stage.decide(values).rule == [None, None]
    assert stage.provides() == {P + "rule": pa.string()} and stage.decide_knobs == ()


def test_verdicts_and_thresholds() -> None:
    stage = GopherRepetition(RepetitionConfig())
    good = "Every sentence here says something that the others have not said yet, which is all a rule can ask."
    bad = "Buy now and save money today. " * 20
    values = stage.measure(Batch(pa.table({"text": [good, bad, ""]})))
    decision = stage.decide(values)
    assert decision.rule[0] is None and decision.rule[2] is None
    assert decision.rule[1] == "max_top_2_gram"
    assert decision.value[1] > decision.threshold[1] == 0.20
    off = GopherRepetition(RepetitionConfig(max_top_2_gram=None))
    assert off.decide(values).rule[1] == "max_top_3_gram"
    assert "max_top_2_gram" not in {limit.rule for limit in off.limits()}
    assert {limit.rule: limit.threshold for limit in stage.limits()}["max_duplicate_10_grams"] == 0.10
    at = pa.Table.from_pylist([{name: 0.2 if name == P + "top_2_gram" else 0.0 for name in stage.measures()}])
    assert stage.decide(at).rule == [None]  # at the threshold a document stays


def test_large_repetition_takes_linear_time() -> None:
    import time

    start = time.process_time()
    values = measure(["word " * 1_000_000, "x" * 5_000_000])
    assert time.process_time() - start < 20
    assert values.column(P + "duplicate_10_grams").to_pylist() == [1.0, 0.0]
