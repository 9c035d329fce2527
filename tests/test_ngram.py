"""N-gram models: Kneser-Ney against a slow reference, probabilities that sum to one, ARPA files there and back, and the stage."""

from __future__ import annotations

import gzip
import json
import math
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml

from pipeline.cli import main
from stages.ngram.arpa import read_arpa, write_arpa
from stages.ngram.kneser_ney import FALLBACK, train
from stages.ngram.model import Model, sentences
from stages.quality.perplexity import Perplexity, PerplexityConfig
from stages.stage import StageError
from tests.support import tree
from tests.web_stages import ready, run

WORDS = ["a", "b", "c", "d", "e", "f"]


def some(count: int, seed: int = 1) -> list[list[str]]:
    rng = random.Random(seed)
    return [rng.choices(WORDS, weights=[9, 6, 4, 2, 1, 1], k=rng.randint(1, 9)) for _ in range(count)]


class Slow:
    """Interpolated modified Kneser-Ney straight from its formulas, over dictionaries of tuples."""

    def __init__(self, text: list[list[str]], order: int) -> None:
        padded = [["<s>", *line, "</s>"] for line in text]
        self.order = order
        raw = [
            Counter(tuple(line[i : i + n]) for line in padded for i in range(len(line) - n + 1))
            for n in range(1, order + 1)
        ]
        self.counts: list[dict[tuple[str, ...], int]] = []
        for n in range(1, order + 1):
            if n == order:
                self.counts.append(dict(raw[n - 1]))
                continue
            before = Counter(gram[1:] for gram in raw[n])
            self.counts.append({gram: before[gram] if before[gram] else count for gram, count in raw[n - 1].items()})
        self.counts[0].pop(("<s>",), None)
        self.vocabulary = [*sorted({gram[0] for gram in raw[0]} - {"<s>"}), "<unk>"]
        self.discounts = [self._discounts(list(some.values())) for some in self.counts]

    @staticmethod
    def _discounts(counts: list[int]) -> tuple[float, ...]:
        n = [sum(count == k for count in counts) for k in (1, 2, 3, 4)]
        if all(n[:3]):
            y = n[0] / (n[0] + 2 * n[1])
            found = tuple(k - (k + 1) * y * n[k] / n[k - 1] for k in (1, 2, 3))
            if all(0 <= d <= k for k, d in enumerate(found, 1)):
                return found
        return FALLBACK

    def probability(self, context: tuple[str, ...], word: str) -> float:
        context = context[-(self.order - 1) :] if self.order > 1 else ()
        if not context:
            return self._interpolate((), word, 1 / len(self.vocabulary))
        return self._interpolate(context, word, self.probability(context[1:], word))

    def _interpolate(self, context: tuple[str, ...], word: str, below: float) -> float:
        n = len(context)
        children = {gram: count for gram, count in self.counts[n].items() if gram[:-1] == context}
        if not children:
            return below
        total = sum(children.values())
        discount = {gram: self.discounts[n][min(count, 3) - 1] for gram, count in children.items()}
        mine = (*context, word)
        given = children[mine] - discount[mine] if mine in children else 0.0
        return given / total + sum(discount.values()) / total * below


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_kneser_ney_against_its_formulas(order: int) -> None:
    text = some(60)
    model, slow = train(iter(text), order), Slow(text, order)
    for line in [*some(20, seed=2), ["a", "zzz", "b"], ["zzz"], ["f", "f", "f", "f"]]:
        ids = np.array(model.ids(line))
        words = ["<s>", *(word if word in model.words else "<unk>" for word in line), "</s>"]
        expected = [math.log10(slow.probability(tuple(words[:i]), words[i])) for i in range(1, len(words))]
        assert model.log_probabilities(ids)[1:] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("prune", [(), (0, 0, 1), (0, 1), (0, 0, 2)])
def test_probabilities_sum_to_one_after_any_context(prune: tuple[int, ...]) -> None:
    model = train(iter(some(80)), 4, min_count=3, prune=prune)
    for context in ([], ["a"], ["a", "b"], ["b", "a", "c"], ["nothing", "a"], ["f", "e", "d"]):
        whole = 0.0
        for word in model.words.keys() - {"<s>"}:
            ids = [1, *(model.words.get(one, 0) for one in context), model.words[word]]
            whole += 10 ** float(model.log_probabilities(np.array(ids))[-1])
        assert whole == pytest.approx(1.0, abs=1e-6), context


def test_pruning_and_rare_words() -> None:
    text = some(80)
    whole, pruned = train(iter(text), 3), train(iter(text), 3, prune=(0, 0, 1))
    assert len(pruned.keys[2]) < len(whole.keys[2]) and len(pruned.keys[1]) == len(whole.keys[1])
    rare = train(iter([*text, ["once", "a"]]), 2, min_count=2)
    assert "once" not in rare.words and rare.probability[0][0] > train(iter(text), 2).probability[0][0]
    for bad in ((1,), (0, 2, 1)):
        with pytest.raises(ValueError, match="never fall"):
            train(iter(text), 3, prune=bad)
    with pytest.raises(ValueError, match="no word"):
        train(iter([]), 3)


def test_arpa_there_and_back(tmp_path: Path) -> None:
    text = some(60)
    model = train(iter(text), 3)
    for name in ("model.arpa", "model.arpa.gz"):
        write_arpa(model, tmp_path / name)
        again = read_arpa(tmp_path / name)
        assert again.words == model.words and again.order == 3
        assert all((a == b).all() for a, b in zip(again.keys, model.keys, strict=True))
        texts = [[line] for line in some(30, seed=3)]
        assert again.score(texts)[0] == pytest.approx(model.score(texts)[0], rel=1e-5)
    write_arpa(train(iter(reversed(text)), 3), tmp_path / "other.arpa.gz")
    assert (tmp_path / "other.arpa.gz").read_bytes() == (tmp_path / "model.arpa.gz").read_bytes()


ARPA = """\\data\\
ngram 1=5
ngram 2=3

\\1-grams:
-1.0 <unk>
-99 <s> -0.5
-1.2 </s>
-0.7 the -0.3
-0.9 cat

\\2-grams:
-0.2 <s> the
-0.4 the cat
-0.1 cat </s>

\\end\\
"""


def test_scores_of_a_file_written_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "by-hand.arpa"
    path.write_text(ARPA)
    model = read_arpa(path)
    total, count, unknown = model.score([[["the", "cat"]], [["cat", "dog"], ["the"]], []])
    by_hand = [-0.2 - 0.4 - 0.1, (-0.5 - 0.9) + -1.0 + -1.2 + -0.2 + (-0.3 - 1.2), 0.0]
    assert total == pytest.approx(by_hand)
    assert count.tolist() == [3, 5, 0] and unknown.tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("\\data\\", "data"), "no ARPA file"),
        (("ngram 2=3", "ngram 2=4"), "2-gram 4 of 4 has 0 fields"),
        (("-0.4 the cat", "-0.4 the dog"), "'dog', which is no unigram"),
        (("-0.4 the cat", "x the cat"), "no number"),
        (("\\end\\", ""), "ends too early"),
        (("\\2-grams:", "\\3-grams:"), "expected"),
        (("ngram 2=3", "ngram 3=3"), "expected `ngram 2=COUNT`"),
    ],
)
def test_broken_files_say_where(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    path = tmp_path / "broken.arpa"
    path.write_text(ARPA.replace(*change))
    with pytest.raises(ValueError, match=message):
        read_arpa(path)
    with pytest.raises(StageError, match=f"quality.perplexity: the model .*{message}.*; give `model` an ARPA file"):
        ready(Perplexity(PerplexityConfig(model=str(path))))


def test_files_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "model.arpa"
    path.write_bytes(b"mmap lm http://kheafield.com/code format version 5\n\x00\xff\xfe")
    with pytest.raises(ValueError, match="KenLM's binary files are not read"):
        read_arpa(path)
    path.write_bytes(gzip.compress(ARPA.encode())[:-20])
    with pytest.raises(ValueError, match="cannot be read"):
        read_arpa(path)


def test_sentences() -> None:
    text = "The Cat's 12.\n\n  \n<s> x </s> <unk>\n"
    assert sentences(text, "words") == [
        ["the", "cat", "'", "s", "00", "."],
        ["<", "s", ">", "x", "<", "/", "s", ">", "<", "unk", ">"],
    ]
    assert sentences(text, "whitespace") == [["The", "Cat's", "12."], ["x"]]
    assert sentences("ab cd", "words", 3) == [["ab"]] and sentences("", "words") == []


def test_the_stage_drops_what_surprises_and_bad_input_never_raises(tmp_path: Path) -> None:
    good = ["the cat sat on the mat and looked at the dog .", "the dog looked at the cat and sat on the mat ."] * 20
    write_arpa(train((line for text in good for line in sentences(text, "words")), 3), tmp_path / "model.arpa")
    knobs = {"model": str(tmp_path / "model.arpa"), "max_perplexity": 10, "max_unknown": 0.5}
    texts = [
        "The cat looked at the mat.",
        "mat the the at dog cat on dog",
        "quantum flux",
        None,
        "",
        " \n",
        "\0\0",
        "🙂" * 9,
    ]
    texts += ["the cat " * 100_000, "a" * 1_000_000]
    values, decision = run(ready(Perplexity(PerplexityConfig(**knobs))), text=pa.array(texts, pa.string()))
    found = values.column("quality_perplexity").to_pylist()
    assert found[0] < 10 < found[1] and found[3:6] == [None] * 3
    assert decision.rule[0] is None and decision.rule[1] == "max_perplexity" and decision.rule[3:6] == [None] * 3
    assert decision.rule[2] in ("max_perplexity", "max_unknown")
    assert values.column("quality_perplexity_unknown").to_pylist()[2] == 1.0
    assert decision.skipped == {"max_perplexity": 3, "max_unknown": 3}
    _, decision = run(
        ready(Perplexity(PerplexityConfig(**knobs, min_perplexity=99))), text=["the cat sat on the mat ."]
    )
    assert decision.rule == ["min_perplexity"]


def config(folder: Path, texts: list[str], **knobs: object) -> Path:
    (folder / "good.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    path = folder / "config.yaml"
    content = {"name": "toy", "good": {"paths": [str(folder / "good.jsonl")]}, "order": 3, "held_out": 0.2, **knobs}
    path.write_text(yaml.safe_dump(content))
    return path


def test_training_by_command_gives_the_same_bytes_again(tmp_path: Path) -> None:
    texts = [" ".join(line) for line in some(200)]
    path = config(tmp_path, [*texts, "", "\0"])
    for name in ("a", "b"):
        assert main(["train-perplexity", str(path), "--output", str(tmp_path / name)]) == 0
    assert tree(tmp_path / "a", ".") == tree(tmp_path / "b", ".")
    config(tmp_path, [*texts[::-1], "\0"])
    assert main(["train-perplexity", str(path), "--output", str(tmp_path / "c")]) == 0
    assert (tmp_path / "c/model.arpa.gz").read_bytes() == (tmp_path / "a/model.arpa.gz").read_bytes()
    report = json.loads((tmp_path / "a/report.json").read_text())
    assert 2 < report["held_out"]["perplexity"] < 9 and report["documents"]["held_out"] > 10
    assert report["corpora"][0]["files"][0]["sha256"] in (tmp_path / "a/README.md").read_text()
    assert read_arpa(tmp_path / "a/model.arpa.gz").order == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prune": [1]}, "prune: must begin with 0"),
        ({"order": 0}, "order: expected at least 1"),
        ({"min_count": 10_000}, "no word to train on"),
        ({"held_out": 1e-9}, "no held-out document"),
    ],
)
def test_mistakes_of_a_training(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], message: str
) -> None:
    path = config(tmp_path, [" ".join(line) for line in some(40)], **change)
    assert main(["train-perplexity", str(path), "--output", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_a_word_does_not_depend_on_other_sentences() -> None:
    model: Model = train(iter(some(60)), 4)
    lines = some(10, seed=4)
    together = model.log_probabilities(np.array([one for line in lines for one in model.ids(line)]))
    alone = np.concatenate([model.log_probabilities(np.array(model.ids(line))) for line in lines])
    assert (together == alone).all()
    assert int((together == 0.0).sum()) == 10  # <s> alone has no probability
