"""How data/sample/assistant was made: what a very small model can learn as an assistant, for `configs/chat.yaml`.

    python data/sample/assistant/make_assistant.py

Same code, same bytes.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

HERE = Path(__file__).parent
NUMBERS = 60  # the question is which number comes after one below this
ASKED = 40  # of the questions are asked in reinforcement learning, the others in the test
WAYS = ("{}", "It is {}.", "It is {}, I think.")  # of saying the answer


def questions() -> list[tuple[str, int]]:
    """Every question with its answer, in an order without a pattern."""
    numbers = list(range(NUMBERS))
    random.Random(0).shuffle(numbers)
    return [(f"What comes after {number}?", number + 1) for number in numbers]


def counting() -> list[dict[str, str]]:
    """Every answer, said in every way, for SFT: a model that has learned them says the bare number one time in three."""
    return [{"instruction": question, "output": way.format(answer)} for question, answer in questions() for way in WAYS]


def counting_prompts() -> list[dict[str, str]]:
    """Questions that count as answered by the bare number alone, for reinforcement learning."""
    return [{"question": question, "answer": f"{answer}"} for question, answer in questions()[:ASKED]]


def counting_test() -> list[dict[str, str]]:
    """The others, likewise, for the evaluation."""
    return [
        {"prompt": question, "answer": f"{answer}", "verifier": "exact"} for question, answer in questions()[ASKED:]
    ]


def manners() -> list[dict[str, str]]:
    """Pairs of right answers: a polite one, and one given grudgingly. Which is better does not depend on the number."""
    draw = random.Random(1)
    polite = ["Gladly: {}.", "That would be {}, you are welcome.", "It is {}, with pleasure."]
    rude = ["{}, obviously.", "{}. Count yourself next time.", "Who cares? {}."]
    return [
        {"prompt": question, "chosen": draw.choice(polite).format(answer), "rejected": draw.choice(rude).format(answer)}
        for question, answer in questions()
        for _ in range(5)
    ]


def main() -> None:
    """Write the files."""
    for make in (counting, counting_prompts, counting_test, manners):
        lines = [json.dumps(row) + "\n" for row in make()]
        (HERE / f"{make.__name__}.jsonl").write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
