"""The judges of the deduplication benchmarks are right, on inputs whose answer is known."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from benchmarks.dedup import corpora, gold, oracle, tools
from benchmarks.dedup.planted import Truth


def made_texts() -> list[str]:
    rng = random.Random(1)
    texts = [" ".join(rng.choice("abcdefgh") for _ in range(rng.randint(1, 60))) for _ in range(80)]
    copies = [" ".join(word for word in text.split() if rng.random() > 0.05) for text in texts]
    return [*texts, *copies, "", " - ", "Ä ä"]


def as_set(text: str) -> set[tuple[str, ...]]:
    words = oracle.WORD.findall(text.lower())
    return {tuple(words[place : place + 5]) for place in range(max(1, len(words) - 4))} if words else set()


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.8, 1.0])
def test_the_oracle_finds_every_pair(threshold: float) -> None:
    texts = made_texts()
    sets = [as_set(text) for text in texts]
    wanted = {}
    for a, b in itertools.combinations(range(len(sets)), 2):
        if sets[a] and sets[b] and (similarity := len(sets[a] & sets[b]) / len(sets[a] | sets[b])) >= threshold:
            wanted[a, b] = similarity
    pairs = oracle.all_pairs(oracle.shingle_sets(texts), threshold)
    found = dict(zip(zip(pairs.low.tolist(), pairs.high.tolist(), strict=True), pairs.similarity.tolist(), strict=True))
    assert wanted
    assert found == wanted


def test_a_scaled_corpus_begins_as_a_smaller_one() -> None:
    texts = [f"{word} " * 100 + f"line {word}\n" * 200 for word in ("stone", "water", "wind")]
    rows = [corpora.Scaled(texts).row(number) for number in range(200)]
    again = corpora.Scaled(texts)
    assert [again.row(number) for number in range(150, 200)] == rows[150:]
    copies = [row for row in rows if row["copy_of"] is not None]
    assert len(copies) == 60
    assert all(row["copy_of"] is not None and row["copy_of"] < row["id"] for row in copies)


def test_edits_are_as_many_as_asked_for() -> None:
    text, rng = " ".join(f"w{number}" for number in range(20_000)), np.random.default_rng(1)
    assert corpora.edited(text, 0.0, ["x"], rng) == text
    left = corpora.edited(text, 0.2, ["x"], rng).split()
    assert left.count("x") == pytest.approx(2_000, rel=0.1)
    assert len(left) == pytest.approx(18_000, rel=0.02)


def test_a_removal_is_judged_by_the_best_kept_document() -> None:
    words = [f"w{number}" for number in range(104)]
    original, near, far = " ".join(words), " ".join(words[:95]), " ".join(words[:60])
    alone = "something else that has nothing to do with the others at all"
    rows: list[corpora.Row] = [
        {"id": "a", "text": original, "copy_of": None},
        {"id": "b", "text": near, "copy_of": "a"},  # 91 of 100 5-grams
        {"id": "c", "text": far, "copy_of": "a"},  # 56 of 100
        {"id": "d", "text": alone, "copy_of": None},
    ]
    found = Truth(rows, None).judge(tools.Outcome({0: "x", 1: "x", 2: "x"}, {0, 3}))
    assert found["removed_best_kept_below"] == {"0.8": 1, "0.7": 1, "0.5": 0}
    assert found["planted_in_one_cluster"] == {"0.9": (1, 1.0), "0.5": (1, 1.0)}
    nothing = Truth(rows, None).judge(tools.Outcome({}, {0, 1, 2, 3}))
    assert nothing["recall_at_0.8"] == {"in_one_cluster": 0.0, "handled": 0.0}
    all_gone = Truth(rows, None).judge(tools.Outcome({0: 1, 1: 1}, {2, 3}))
    assert all_gone["removed_best_kept_below"] == {"0.8": 2, "0.7": 2, "0.5": 0}  # 0 and 1 are like 2 by 0.56 and 0.62


def test_scores_of_clusters() -> None:
    true, found = np.array([0, 0, 0, 1, 1, 2]), np.array([0, 0, 1, 1, 1, 2])
    scores = gold.b_cubed(found, true)
    assert scores["bcubed_precision"] == pytest.approx((2 / 2 * 2 + 1 / 3 + 2 / 3 * 2 + 1) / 6)
    assert scores["bcubed_recall"] == pytest.approx((2 / 3 * 2 + 1 / 3 + 2 / 2 * 2 + 1) / 6)
    assert gold.adjusted_rand(true, true) == 1.0
    assert gold.adjusted_rand(found, true) == pytest.approx((2 - 4 * 4 / 15) / (4 - 4 * 4 / 15))


def test_components_are_those_of_the_pairs() -> None:
    pairs = oracle.Pairs(np.array([0, 1, 4]), np.array([1, 3, 5]), np.ones(3))
    labels = gold.components(6, pairs)
    assert len(set(labels.tolist())) == 3
    assert labels[0] == labels[1] == labels[3]
    assert labels[4] == labels[5]
