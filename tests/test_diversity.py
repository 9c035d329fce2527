"""Diversity: sketches of documents, and what the report makes of them before and after each stage."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from pipeline.config import resolve
from pipeline.report import write_report
from pipeline.report.diversity import diversity, entropy, gini
from pipeline.run import Options, run
from pipeline.yamlfile import Located
from stages.batch import Batch
from stages.diversity import Diversity, DiversityConfig, candidates, sketch


def measured(texts: list[str | None], sample: int = 1) -> list[dict[str, Any]]:
    stage = Diversity(DiversityConfig(sample=sample))
    return stage.measure(Batch(pa.table({"text": pa.array(texts, pa.large_string())}))).to_pylist()


def test_a_sketch_counts_the_words_it_follows() -> None:
    (row,) = measured(["The lamp, the LAMP and the wick. 东京 ไทย"])
    assert row["diversity_tokens"] == 12  # 7 words, and 5 letters of scripts without spaces
    assert sorted(row["diversity_counts"]) == [1, 1, 1, 1, 1, 1, 1, 2, 3]
    assert row["diversity_topics"] == ["lamp"]


def test_followed_words_are_the_same_everywhere_and_a_fair_share() -> None:
    words = Counter(f"word{n}" for n in range(40_000))
    all_ = sketch(words, 64)
    assert abs(64 * len(all_) / 40_000 - 1) < 0.15  # 625 expected; four standard deviations are 0.16
    one, other = Counter({"word7": 3, "word8": 1}), Counter({"word8": 5})
    assert set(sketch(other, 2)) == set(sketch(one, 2)) & set(sketch(other, 1)) or not sketch(other, 2)
    assert set(sketch(one, 64)) <= set(all_)


def test_topics() -> None:
    text = "The lamp and the lamp of the lighthouse: lighthouse, lighthouse 1234 1234"
    assert candidates(text, Counter(text.lower().replace(",", "").replace(":", "").split())) == ["lighthouse", "lamp"]
    assert candidates("东京都东京", Counter("东京都东京")) == ["东京"]
    assert candidates("", Counter()) == []


@pytest.mark.parametrize("text", [None, "", "\x00", "\ud800".encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"), "a" * 1_000_000, "\u4e2d" * 50_000])  # fmt: skip
def test_odd_texts(text: str | None) -> None:
    rows = measured([text, "some words"])
    assert rows[0] == measured([text])[0] and rows[1] == measured(["some words"])[0]
    assert len(rows[0]["diversity_words"]) <= 1


def test_entropy_and_gini() -> None:
    assert (
        entropy(np.array([1, 1, 1, 1])) == 2.0
        and entropy(np.array([5])) == 0.0
        and entropy(np.array([], dtype=int)) == 0.0
    )
    assert gini(np.array([3, 3, 3])) == 0.0 and gini(np.array([])) == 0.0
    assert np.isclose(gini(np.array([1, 3])), 0.25) and gini(np.array([1] * 99 + [10_000])) > 0.97


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 different pages of 10 domains, and 60 copies of one of an eleventh."""
    folder = tmp_path_factory.mktemp("diversity")
    names = ["harbour", "orchard", "glacier", "violin", "kitchen", "tunnel", "meadow", "lantern", "saddle", "quarry"]
    rows = [
        {"url": f"https://www.{name}.example{n % 10}.org/{n}", "text": f"A {name} is a {name}. Number{n} tells of thing{n} and thing{n}."}
        for n, name in enumerate(names * 4)
    ]  # fmt: skip
    rows += [{"url": f"https://copies.net/{n}", "text": "The carpet and the carpet, once more."} for n in range(60)]
    (folder / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "name": "many",
        "input": {"source": "web", "format": "jsonl", "paths": [str(folder / "in.jsonl")]},
        "stages": [{"diversity": {"sample": 1, "as": "spread"}}, "dedup.exact"],
        "engine": {"executor": "inline"},
    }
    assert run(resolve(Located(config, "test", {})), Options(str(folder / "run")), lambda line: None) == 0
    return folder / "run"


def test_before_and_after(finished: Path) -> None:
    facts = json.loads((finished / "run.json").read_text())
    found = diversity(finished, facts["stages"], facts["config"])
    assert found is not None and found["sampled"] is None
    before, after = found["rows"]
    assert (before["stage"], after["stage"]) == ("into spread", "dedup.exact")
    assert (before["documents"], after["documents"]) == (100, 41)
    assert before["domains"] == after["domains"] == 11
    shares = np.array([4.0] * 10 + [60.0]) / 100
    assert np.isclose(before["effective_domains"], 2 ** -(shares * np.log2(shares)).sum())
    assert before["effective_domains"] < 6 < 10 < after["effective_domains"]
    assert before["gini"] > 0.4 > 0.1 > after["gini"]
    # 40 numbers and things, 10 names, "a is tells of and" and "the carpet once more"
    assert before["vocabulary"] == after["vocabulary"] == 80 + 10 + 5 + 4
    assert after["growth"] > before["growth"]
    assert after["word_entropy"] > before["word_entropy"] and after["topics"] > 2 * before["topics"]
    text = write_report(finished).read_text(encoding="utf-8")
    assert "into spread" in text and "Effective".lower() in text.lower()


def test_without_sketches_there_is_no_section(finished: Path) -> None:
    facts = json.loads((finished / "run.json").read_text())
    assert diversity(finished, facts["stages"], {"stages": ["dedup.exact"]}) is None
    (finished / "scores").rename(finished / "gone")
    assert diversity(finished, facts["stages"], facts["config"]) is None
    assert "Not measured" in write_report(finished).read_text(encoding="utf-8")
    (finished / "gone").rename(finished / "scores")
