"""Texts on which rules differ: prose, lists, repetition, citations, bullets, ellipses; the same on every machine.

`python tests/peer_texts.py OUT.json`, with a Python that has datatrove 0.10.1 and spaCy 3.8, records its verdicts for test_quality_peers.py.
"""

from __future__ import annotations

import json
import random
import sys

WORDS = [
    "the",
    "of",
    "and",
    "to",
    "that",
    "with",
    "have",
    "be",
    "committee",
    "river",
    "stone",
    "market",
    "early",
    "morning",
    "letter",
    "number",
    "of",
    "report",
    "water",
    "small",
    "house",
    "she",
    "he",
    "they",
    "said",
    "went",
    "found",
    "makes",
    "takes",
    "about",
    "under",
    "over",
    "between",
    "because",
    "while",
    "never",
    "always",
    "people",
    "city",
    "year",
]
ODD = [
    "[1]",
    "[citation needed]",
    "#",
    "...",
    "…",
    "{",
    "3.14",
    "12",
    "lorem ipsum",
    "use cookies",
    "JavaScript",
    "e.g.",
    "well-known",
    "A.B.",
    "x" * 40,
    "–",
    "« »",
]
BULLETS = ["- ", "• ", "* ", ""]


def texts(count: int = 240) -> list[str]:
    """Texts of every kind, in a fixed order."""
    return [_text(random.Random(number)) for number in range(count)]


def _text(draw: random.Random) -> str:
    odd, repeat, bullet = (
        draw.choice((0.0, 0.02, 0.1, 0.4)),
        draw.choice((0.0, 0.1, 0.5)),
        draw.choice((0.0, 0.0, 0.3, 1.0)),
    )
    lines: list[str] = []
    for _ in range(draw.choice((1, 3, 8, 20, 40))):
        if lines and draw.random() < repeat:
            lines.append(draw.choice(lines))
            continue
        size = draw.choice((1, 2, 4, 9, 25))
        words = [draw.choice(ODD) if draw.random() < odd else draw.choice(WORDS) for _ in range(size)]
        if draw.random() < repeat:
            words += words[: draw.randrange(1, 8)] * draw.randrange(1, 4)
        line = " ".join(words).capitalize() + draw.choice((".", ".", ".", "", "!", "?", '."', "...", ";"))
        head = draw.choice(BULLETS) if draw.random() < bullet else ""
        lines.append(draw.choice(("", "", "  ")) + head + line)
    return draw.choice(("\n", "\n", "\n\n", "\n \n")).join(lines) + draw.choice(("", "\n"))


def record(path: str) -> None:
    """Write datatrove's verdict of each filter on each text: null where it keeps it, else its reason."""
    from datatrove.data import Document
    from datatrove.pipeline.filters import (
        C4QualityFilter,
        FineWebQualityFilter,
        GopherQualityFilter,
        GopherRepetitionFilter,
    )

    filters = [
        GopherRepetitionFilter(),
        GopherQualityFilter(),
        C4QualityFilter(filter_no_terminal_punct=False),
        C4QualityFilter(),
        FineWebQualityFilter(),
    ]
    rows = []
    for text in texts():
        found = []
        for one in filters:
            document = Document(text=text, id="0")
            verdict = one.filter(document)
            kept = document.text if isinstance(one, C4QualityFilter) and verdict is True else None
            found.append([None if verdict is True else verdict[1], kept])
        rows.append(found)
    with open(path, "w") as file:
        json.dump(rows, file, ensure_ascii=False, indent=0)


if __name__ == "__main__":
    record(sys.argv[1])
