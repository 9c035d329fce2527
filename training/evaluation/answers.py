"""Scores of written answers against references: pure functions, and the field's libraries where one defines the score."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

from training.knobs import TrainingError

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = str.maketrans("", "", string.punctuation)
ROUGE = ("rouge1", "rouge2", "rougeL")
CORPUS = ("bleu", "chrf")  # of all answers together: such a score has no mean over items


def normalise(text: str) -> str:
    """Lower case, without ASCII punctuation, English articles and extra spaces (Rajpurkar et al. 2016, SQuAD v1.1)."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 if the answer is one of the references after `normalise`, else 0."""
    return float(normalise(answer) in {normalise(one) for one in references})


def token_f1(answer: str, references: Sequence[str]) -> float:
    """Harmonic mean of precision and recall over words after `normalise`, of the nearest reference (SQuAD v1.1).

    Two texts without a word are equal (1); one without against one with shares nothing (0), as in SQuAD v2.0.
    """
    return max(_f1(normalise(answer).split(), normalise(one).split()) for one in references)


def _f1(found: list[str], wanted: list[str]) -> float:
    if not found or not wanted:
        return float(found == wanted)
    shared = sum((Counter(found) & Counter(wanted)).values())
    return 2 * shared / (len(found) + len(wanted))


def pass_at_k(samples: int, right: int, k: int) -> float:
    """The chance that one of k answers is right, without bias, from `samples` of which `right` are (Chen et al. 2021).

    1 - C(samples - right, k) / C(samples, k), as a product, since the binomials overflow. Raises ValueError for k of no sense.
    """
    if not 1 <= k <= samples or not 0 <= right <= samples:
        raise ValueError(f"k={k} of {samples} samples, {right} of them right")
    wrong = 1.0
    for i in range(samples - right + 1, samples + 1):
        wrong *= 1 - k / i
    return 1 - wrong


def rouge(answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, list[float]]:
    """F-measures rouge1, rouge2 and rougeL (Lin 2004) of each answer, stemmed, of the nearest reference, by rouge-score.

    Its words are runs of a-z and 0-9: answers in other scripts have none, and score 0.
    """
    scorer = _library("rouge_score.rouge_scorer").RougeScorer(list(ROUGE), use_stemmer=True)
    found = [scorer.score_multi(list(wanted), answer) for answer, wanted in zip(answers, references, strict=True)]
    return {name: [one[name].fmeasure for one in found] for name in ROUGE}


def bleu(answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:
    """`score` (0 to 1) of all answers together and sacrebleu's `signature` (Papineni et al. 2002; Post 2018)."""
    return _corpus("BLEU", answers, references)


def chrf(answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:
    """`score` (0 to 1) of all answers together and sacrebleu's `signature` (Popović 2015)."""
    return _corpus("CHRF", answers, references)


def _corpus(name: str, answers: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:
    metric = getattr(_library("sacrebleu"), name)()
    most = max(len(wanted) for wanted in references)
    # a stream a reference; sacrebleu takes None where an answer has fewer
    streams = [[wanted[i] if i < len(wanted) else None for wanted in references] for i in range(most)]
    found = metric.corpus_score(list(answers), streams)
    return {"score": found.score / 100, "signature": str(metric.get_signature())}


def _library(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise TrainingError(f"{error.name} is not installed; pip install 'gristmill[eval]'") from None
