"""Conversations as a run's chat/ folder holds them, and a token dataset made of them."""

import random

import pyarrow as pa
import pyarrow.parquet as pq

from tests.tokens_corpus import identity
from tests.tokens_dataset import CONFIG, build

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
WORDS = [
    "the",
    "mill",
    "grinds",
    "corn",
    "and",
    "water",
    "turns",
    "a",
    "wheel",
    "of",
    "stone.",
    "Who",
    "asks",
    "<|end|>",
    "why?\nNobody",
    "knows",
    "it",
    "yet.",
]


def conversations(count=60, seed=3):
    """Rows of id, source, messages: one to six turns of each side, some with system and tool turns, every tenth without an answer."""
    draw = random.Random(seed)
    say = lambda most: " ".join(draw.choice(WORDS) for _ in range(draw.randint(0, most)))  # noqa: E731
    rows = []
    for number in range(count):
        messages = [{"role": "system", "content": say(8)}] if number % 4 == 0 else []
        for _ in range(draw.randint(1, 6)):
            messages.append({"role": "user", "content": say(30)})
            if number % 10:
                messages.append({"role": "assistant", "content": say(40)})
            if number % 7 == 1:
                messages += [{"role": "tool", "content": say(9)}, {"role": "assistant", "content": say(9)}]
        rows.append({"id": identity(number), "source": f"talk{number % 2}", "messages": messages})
    return rows


def write_chat(file, rows):
    file.parent.mkdir(parents=True, exist_ok=True)
    columns = {name: [row[name] for row in rows] for name in ("id", "source", "messages")}
    pq.write_table(pa.table({**columns, "messages": pa.array(columns["messages"], MESSAGES)}), file)
    return file


def chat_dataset(folder, tokenizer, rows=None, **knobs):
    file = write_chat(folder / "chat" / "part-00000.parquet", rows or conversations())
    return build(folder / "tokens", tokenizer, [file], CONFIG.model_copy(update={"validation": 0.1, **knobs}))
