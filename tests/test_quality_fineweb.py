"""FineWeb's rules: values worked out by hand, thresholds as in the paper."""

import pyarrow as pa
import pytest

from stages.batch import Batch
from stages.quality.fineweb import FineWeb, FineWebConfig
from stages.stage import Decision

P = "quality_fineweb_"


def run(texts: list[str | None], **knobs: object) -> tuple[list[dict[str, float]], Decision]:
    stage = FineWeb(FineWebConfig(**knobs))
    values = stage.measure(Batch(pa.table({"text": pa.array(texts, pa.string())})))
    assert values.schema == pa.schema(list(stage.measures().items()))
    return values.to_pylist(), stage.decide(values)


LONG = "This line is certainly longer than thirty characters"


def test_values_by_hand() -> None:
    text = f"{LONG}.\nshort\n\n{LONG}!\nshort\nanother one."
    (row,), _ = run([text])
    size = len(LONG) + 1
    assert row[P + "punctuated_lines"] == pytest.approx(3 / 5)
    assert row[P + "short_lines"] == pytest.approx(3 / 5)
    assert row[P + "duplicate_line_characters"] == pytest.approx(5 / (2 * size + 5 + 5 + 12))
    assert row[P + "newline_ratio"] == pytest.approx(5 / (8 + 1 + 8 + 1 + 2))


def test_short_means_fewer_than_thirty() -> None:
    (row,), _ = run(["x" * 29 + "\n" + "x" * 30])
    assert row[P + "short_lines"] == 0.5


def prose(lines: int) -> list[str]:
    return [f"{LONG}, and this is number {i}." for i in range(lines)]


CASES = {
    "min_punctuated_lines": "\n".join(line[:-1] for line in prose(10)),
    "max_short_lines": "\n".join([*prose(2), *(f"Item number {i} is here." for i in range(8))]),
    "max_duplicate_line_characters": "\n".join(prose(4) * 2),
    "max_newline_ratio": "\n".join(["Donaudampfschifffahrtsgesellschaft" + chr(97 + i) + "." for i in range(9)]),
}


@pytest.mark.parametrize("rule", CASES)
def test_each_rule(rule: str) -> None:
    _, decision = run([CASES[rule], "\n".join(prose(10))])
    assert decision.rule == [rule, None]
    assert decision.threshold[0] == getattr(FineWebConfig(), rule)
    _, off = run([CASES[rule]], **{rule: None})
    assert off.rule == [None]


def test_the_papers_comparisons_include_the_threshold() -> None:
    stage = FineWeb(FineWebConfig())
    good = {
        P + "punctuated_lines": 0.5,
        P + "short_lines": 0.0,
        P + "duplicate_line_characters": 0.0,
        P + "newline_ratio": 0.3,
    }
    rows = [
        good,
        good | {P + "punctuated_lines": 0.12},
        good | {P + "short_lines": 0.67},
        good | {P + "duplicate_line_characters": 0.1},
    ]
    decision = stage.decide(pa.Table.from_pylist(rows))
    assert decision.rule == [None, "min_punctuated_lines", "max_short_lines", "max_duplicate_line_characters"]


def test_empty_texts_have_no_punctuated_line() -> None:
    _, decision = run(["", None, "\n\n"])
    assert decision.rule == ["min_punctuated_lines"] * 3
