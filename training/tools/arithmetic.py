"""A worked example: sums of whole numbers, as conversations in which a calculator is used, and as prompts with answers.

Everything follows from the seed.
"""

from __future__ import annotations

import random
from typing import Any

from training.tools.calculator import calculate

ASKED = ("What is {}?", "Compute {}.", "{} = ?", "Please work out {}.")


def expression(draw: random.Random, digits: int, terms: int) -> str:
    """A sum, difference or product of 2 to `terms` whole numbers of up to `digits` digits."""
    count = draw.randint(2, terms)
    parts = [str(draw.randint(1, 10 ** draw.randint(1, digits) - 1)) for _ in range(count)]
    text = parts[0]
    for part in parts[1:]:
        text += f" {draw.choice('+-*')} {part}"
    return text


def arithmetic_conversations(count: int, seed: int = 0, digits: int = 4, terms: int = 3) -> list[dict[str, Any]]:
    """Rows of kind chat: a question, a call of the calculator, its response, an answer that ends in `#### VALUE`.

    digits: of a number, at most; terms: numbers in a sum, at most.
    """
    rows = []
    draw = random.Random(seed)
    for number in range(count):
        asked = expression(draw, digits, terms)
        value = calculate(asked)
        call = {"function": {"name": "calculator", "arguments": {"expression": asked}}}
        messages: list[dict[str, Any]] = [
            {"role": "user", "content": draw.choice(ASKED).format(asked)},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": value},
            {"role": "assistant", "content": f"{asked} = {value}\n#### {value}"},
        ]
        rows.append({"id": f"arithmetic-{seed}-{number}", "source": "arithmetic", "messages": messages})
    return rows


def arithmetic_prompts(count: int, seed: int = 0, digits: int = 4, terms: int = 3) -> list[dict[str, Any]]:
    """Rows of kind prompt for the same questions, checked by the verifier `number`."""
    rows = []
    for row in arithmetic_conversations(count, seed, digits, terms):
        question, _, response, _ = row["messages"]
        rows.append(
            {
                "id": row["id"],
                "source": row["source"],
                "prompt": [question],
                "answer": response["content"],
                "verifier": "number",
            }
        )
    return rows
