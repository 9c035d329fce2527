"""The languages inside a text: its lines grouped into paragraphs, each with a label, and how much of the text each language has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

READ = 300  # characters of a paragraph that are read: a longer one is in the language it begins in


class Span(NamedTuple):
    """Code points [start, end) of a text, in one language."""

    start: int
    end: int
    language: str


def paragraphs(text: str, length: int) -> list[tuple[int, int]]:
    """The text cut at line ends into [start, end), without gaps.

    A line of at least `length` characters is a paragraph; shorter lines that follow each other make one together as soon as
    they are that long. What is left of short lines before a long one, or at the end, is a paragraph shorter than `length`.
    """
    found: list[tuple[int, int]] = []
    start = position = 0  # of the group of short lines that is being collected
    collected = 0
    for line in text.split("\n"):
        end = min(position + len(line) + 1, len(text))
        size = len(line.strip())
        if size >= length and start < position:
            found.append((start, position))
            start, collected = position, 0
        collected += size
        if collected >= length:
            found.append((start, end))
            start, collected = end, 0
        position = end
    if start < len(text):
        found.append((start, len(text)))
    return found


def language_spans(
    text: str, main: str, length: int, min_score: float, best: Callable[[str], tuple[str, float]]
) -> list[Span]:
    """The text as runs of paragraphs in one language: in order, without gaps; empty for an empty text.

    `best` labels a paragraph. One that is shorter than `length`, or whose score is under `min_score`, takes the label of its
    neighbours: the text's own (`main`) if either of them has it, else that of the one before it. Without any
    paragraph that is long and sure enough, the text is in `main`.
    """
    cuts = paragraphs(text, length)
    labels: list[str | None] = []
    for start, end in cuts:
        content = text[start:end].strip()
        label, score = best(content[:READ]) if len(content) >= length else (main, 0.0)
        labels.append(label if score >= min_score and len(content) >= length else None)
    spans: list[Span] = []
    for (start, end), label in zip(cuts, _inherited(labels, main), strict=True):
        if spans and spans[-1].language == label:
            spans[-1] = Span(spans[-1].start, end, label)
        else:
            spans.append(Span(start, end, label))
    return spans


def _inherited(labels: Sequence[str | None], main: str) -> list[str]:
    """Every paragraph's label, those without one after the nearest ones that have."""
    after: list[str | None] = [None] * len(labels)
    following: str | None = None
    for index in range(len(labels) - 1, -1, -1):
        after[index] = following
        following = labels[index] or following
    out: list[str] = []
    before: str | None = None
    for label, following in zip(labels, after, strict=True):
        if label is None:
            near = [one for one in (before, following) if one is not None]
            out.append(main if main in near or not near else near[0])
        else:
            out.append(label)
            before = label
    return out


def language_shares(spans: Sequence[Span]) -> list[tuple[str, float]]:
    """The share of the characters in each language, largest first, equal ones by label."""
    characters: Counter[str] = Counter()
    for span in spans:
        characters[span.language] += span.end - span.start
    total = characters.total()
    return [(label, n / total) for label, n in sorted(characters.items(), key=lambda pair: (-pair[1], pair[0])) if n]
