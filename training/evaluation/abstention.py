"""Does a model say that it does not know? Questions with an answer, and questions that nobody could answer.

A line of the file: {"prompt": ..., "answer": "Paris" (or a list, or null: nobody knows), "language": "en"}.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import regex

from training.evaluation.answers import normalise
from training.evaluation.phrases import PROBES, says
from training.evaluation.questions import Messages, _references, read_messages, rows
from training.knobs import TrainingError

BUNDLED = PROBES / "abstention.jsonl"
BINS = 10
_SCRIPTS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}"
UNSPACED = regex.compile(rf"[{_SCRIPTS}]")  # a letter of a script that writes without space between words
SPACED = rf"[\w--[{_SCRIPTS}]]"

Fate = Literal["correct", "wrong", "abstained"]


class Probe(NamedTuple):
    """A question, its answers (none: nobody knows), and its language where it is known."""

    messages: Messages
    references: tuple[str, ...]
    language: str | None


def read_probes(path: Path) -> list[Probe]:
    """The probes of a file. Raises `TrainingError` that names file, line and key."""
    found = []
    for where, row in rows(path):
        if "answer" not in row:
            raise TrainingError(f"{where}: answer is missing; null stands for a question that nobody can answer")
        found.append(Probe(read_messages(row, where), _references(row["answer"], where), language_of_row(row, where)))
    if not found:
        raise TrainingError(f"{path}: has no probes")
    return found


def language_of_row(row: dict[str, Any], where: str) -> str | None:
    """The key `language` of a probe."""
    language = row.get("language")
    if language is not None and not isinstance(language, str):
        raise TrainingError(f"{where}: language must be a text such as en, got {language!r}")
    return language


def fate(answer: str, references: Sequence[str]) -> Fate:
    """What an answer is. Without a reference only abstaining is right, and counts as such: anything else is made up.

    An answer is correct that holds a reference's words after SQuAD's normalisation, hedged or not; an empty one abstains.
    """
    words = normalise(answer)
    if any(_holds(words, normalise(one)) for one in references):
        return "correct"
    return "abstained" if not words or says("unknown", answer) or says("refusal", answer) else "wrong"


def _holds(words: str, wanted: str) -> bool:
    """Whether the words are among those, whole ones where their script has space between words."""
    if not wanted:
        return False
    before = "" if UNSPACED.match(wanted[0]) else rf"(?<!{SPACED})"
    behind = "" if UNSPACED.match(wanted[-1]) else rf"(?!{SPACED})"
    return regex.search(before + regex.escape(wanted) + behind, words, regex.V1) is not None


def confidence(logprobs: Sequence[float]) -> float:
    """The geometric mean of the probabilities of an answer's tokens; 0 of none."""
    return math.exp(sum(logprobs) / len(logprobs)) if logprobs else 0.0


def abstention_scores(
    fates: Sequence[Fate], answerable: Sequence[bool], confidences: Sequence[float], penalty: float
) -> dict[str, Any]:
    """Shares of correct, wrong and abstained; scores that count a wrong answer as worse than none; calibration.

    `score`: of all probes 1 for right (abstaining where nobody knows is right), -penalty for wrong, 0 for abstaining
    where an answer was to be had; with penalty t / (1 - t) answering pays above the confidence t (Kalai et al. 2025,
    arXiv 2509.04664). `f`: harmonic mean of the shares correct of all answerable and of those attempted (Wei et al. 2024,
    SimpleQA). `calibration_error`: of attempted answers' confidence, in 10 bins of equal width (Guo et al. 2017);
    `brier`: mean squared difference of confidence and correctness (Brier 1950).
    """
    asked = [one for one, can in zip(fates, answerable, strict=True) if can]
    open_ended = [one for one, can in zip(fates, answerable, strict=True) if not can]
    right = [
        (one == "correct" if can else one == "abstained") - (penalty if one == "wrong" else 0.0)
        for one, can in zip(fates, answerable, strict=True)
    ]
    tried = [
        (sure, float(one == "correct")) for one, sure in zip(fates, confidences, strict=True) if one != "abstained"
    ]
    correct, attempted = asked.count("correct"), len(asked) - asked.count("abstained")
    return {
        "items": len(fates),
        "penalty": penalty,
        "score": sum(right) / len(right),
        "answerable": {
            "items": len(asked),
            **{name: asked.count(name) / len(asked) if asked else None for name in ("correct", "wrong", "abstained")},
            "correct_of_attempted": correct / attempted if attempted else None,
            "f": 2 * correct / (len(asked) + attempted) if asked else None,
        },
        "unanswerable": {
            "items": len(open_ended),
            "abstained": open_ended.count("abstained") / len(open_ended) if open_ended else None,
            "made_up": open_ended.count("wrong") / len(open_ended) if open_ended else None,
        },
        "calibration_error": calibration_error(tried),
        "brier": sum((sure - hit) ** 2 for sure, hit in tried) / len(tried) if tried else None,
    }


def calibration_error(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Expected calibration error of (confidence, 1 if right else 0); None of no pair."""
    if not pairs:
        return None
    bins: list[list[tuple[float, float]]] = [[] for _ in range(BINS)]
    for sure, hit in pairs:
        bins[min(BINS - 1, int(sure * BINS))].append((sure, hit))
    return sum(abs(sum(sure for sure, _ in one) - sum(hit for _, hit in one)) for one in bins) / len(pairs)
