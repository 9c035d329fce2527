"""A task of choices, and texts, in several scripts."""

import json
from pathlib import Path

from tests.training_common import texts

CHOICES = [
    {"query": q, "choices": c, "gold": g}
    for q, c, g in [
        ("the miller grinds", ["the corn.", "der Müller mahlt das Korn.", "water"], 0),
        ("der Müller", ["mahlt das Korn.", "x", "porte la farine… the old mill"], 0),
        ("мельник мелет", ["🌾", "зерно.", "the corn."], 1),
        ("a river carries ", ["stones;", "water\nto the wheel."], 1),
        ("la meunière porte la farine… the old mill turns", ["stones;", "das Korn.", "麦を。", "to"], 0),
        ("粉屋 挽く", ["flour 🥖", "麦を。"], 1),
        ("the old mill", ["keeps", "k", "keeps the corn. a river turns stones;"], 0),
    ]
]


def write_choices(path: Path) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in CHOICES))
    return path


def long_texts(count: int = 9) -> list[str]:
    """Of very different length, several windows of 64 tokens long."""
    corpus = texts(60, seed=3)
    return [" ".join(corpus[i : i + 1 + 6 * (i % 3)]) for i in range(count)] + ["x", "粉屋 🌾"]
