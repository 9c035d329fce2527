"""How data/sample/assistant was made: what a very small model can learn as an assistant, for `configs/chat.yaml`.

    python data/sample/assistant/make_assistant.py

Same code, same bytes.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

HERE = Path(__file__).parent
SUMS = 20  # numbers below this are added
SHOWN, ASKED = (
    160,
    320,
)  # sums before the first are shown with their answers, before the second asked in RL, the rest in the test


def sums() -> list[tuple[str, int]]:
    """Every sum of two numbers, in an order without a pattern."""
    pairs = [(a, b) for a in range(SUMS) for b in range(SUMS)]
    random.Random(0).shuffle(pairs)
    return [(f"What is {a} + {b}?", a + b) for a, b in pairs]


def arithmetic() -> list[dict[str, str]]:
    """Sums with their answers, for SFT."""
    return [{"instruction": question, "output": f"{total}"} for question, total in sums()[:SHOWN]]


def arithmetic_prompts() -> list[dict[str, str]]:
    """Other sums, whose answers a verifier checks."""
    return [{"question": question, "answer": f"{total}"} for question, total in sums()[SHOWN:ASKED]]


def arithmetic_test() -> list[dict[str, str]]:
    """Sums that no model is trained on."""
    return [{"prompt": question, "answer": f"{total}", "verifier": "integer"} for question, total in sums()[ASKED:]]


def manners() -> list[dict[str, str]]:
    """Pairs of right answers: a polite one, and one given grudgingly. Which is better does not depend on the sum."""
    draw = random.Random(1)
    polite = ["It is {}, I think.", "Gladly: {}.", "That makes {}, you are welcome."]
    rude = ["{}, obviously.", "{}. Count yourself next time.", "Who cares? {}."]
    return [
        {"prompt": question, "chosen": draw.choice(polite).format(total), "rejected": draw.choice(rude).format(total)}
        for question, total in sums()[:ASKED]
    ]


def main() -> None:
    """Write the files."""
    for make in (arithmetic, arithmetic_prompts, arithmetic_test, manners):
        lines = [json.dumps(row) + "\n" for row in make()]
        (HERE / f"{make.__name__}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
