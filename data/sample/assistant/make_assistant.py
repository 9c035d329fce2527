"""How data/sample/assistant was made: what a very small model can learn as an assistant, for `configs/chat.yaml`.

    python data/sample/assistant/make_assistant.py

Same code, same bytes.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

HERE = Path(__file__).parent
SUMS = 6  # numbers below this are added
ASKED = 26  # of the sums are asked in reinforcement learning, the others in the test
WAYS = ("{}", "It is {}.", "{}, I think.")  # of saying a sum


def sums() -> list[tuple[str, int]]:
    """Every sum of two numbers, in an order without a pattern."""
    pairs = [(a, b) for a in range(SUMS) for b in range(SUMS)]
    random.Random(0).shuffle(pairs)
    return [(f"What is {a} + {b}?", a + b) for a, b in pairs]


def arithmetic() -> list[dict[str, str]]:
    """Every sum, said in every way, for SFT: a model that has learned them says the bare number one time in three."""
    return [{"instruction": question, "output": way.format(total)} for question, total in sums() for way in WAYS]


def arithmetic_prompts() -> list[dict[str, str]]:
    """Sums that count as answered by the bare number alone, for reinforcement learning."""
    return [{"question": question, "answer": f"{total}"} for question, total in sums()[:ASKED]]


def arithmetic_test() -> list[dict[str, str]]:
    """The others, likewise, for the evaluation."""
    return [{"prompt": question, "answer": f"{total}", "verifier": "exact"} for question, total in sums()[ASKED:]]


def manners() -> list[dict[str, str]]:
    """Pairs of right answers: a polite one, and one given grudgingly. Which is better does not depend on the sum."""
    draw = random.Random(1)
    polite = ["Gladly: {}.", "That makes {}, you are welcome.", "It is {}, with pleasure."]
    rude = ["{}, obviously.", "{}. Count yourself next time.", "Who cares? {}."]
    return [
        {"prompt": question, "chosen": draw.choice(polite).format(total), "rejected": draw.choice(rude).format(total)}
        for question, total in sums()
        for _ in range(9)
    ]


def main() -> None:
    """Write the files."""
    for make in (arithmetic, arithmetic_prompts, arithmetic_test, manners):
        lines = [json.dumps(row) + "\n" for row in make()]
        (HERE / f"{make.__name__}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
