"""How a call is written: JSON `{"name": ..., "arguments": {...}}` between the special tokens `<tool_call>` and `</tool_call>`.

The names of the tokens, and the JSON between them, are those of Hermes and Qwen; chat templates (training/chat) write the same.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer

from tokenizer_training.vocabulary.special import TOOLS
from training.knobs import TrainingError

CALL, CALL_END = TOOLS[:2]
MAX_CHARACTERS = 8000  # of one call


class CallError(ValueError):
    """A call that cannot be carried out; the message is for the model."""


@dataclass(frozen=True)
class Call:
    """What a model asks for."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


def call_ids(tokenizer: Tokenizer) -> tuple[int, int]:
    """The ids of `<tool_call>` and `</tool_call>`. Raises `TrainingError` for a tokenizer without them."""
    added = {token.content: number for number, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    missing = [token for token in (CALL, CALL_END) if token not in added]
    if missing:
        raise TrainingError(
            f"tools need the special tokens {CALL} and {CALL_END}, and the tokenizer has no {' and no '.join(missing)}: train it with "
            "`tools: true`"
        )
    return added[CALL], added[CALL_END]


def written_call(tokens: Sequence[int], tokenizer: Tokenizer, ids: tuple[int, int]) -> str:
    """The text of the call that `tokens` end on, the closing token included. Raises `CallError`."""
    opening, closing = ids
    inside: list[int] = []
    for token in reversed(tokens[:-1]):
        if token == opening:
            return str(tokenizer.decode(inside[::-1], skip_special_tokens=False))
        if token == closing:
            break
        inside.append(token)
    raise CallError(f"{CALL_END} without {CALL}")


def parse_call(text: str) -> Call:
    """The call that a text is. Raises `CallError` that says what is expected."""
    if len(text) > MAX_CHARACTERS:
        raise CallError(f"the call is longer than {MAX_CHARACTERS:,} characters")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CallError(f"the call is not JSON: {str(error)[:100]}") from None
    if not isinstance(found, dict) or not isinstance(found.get("name"), str):
        raise CallError('the call is not {"name": ..., "arguments": {...}}')
    arguments = found.get("arguments", {})
    if isinstance(arguments, str):  # as OpenAI's API has them
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            raise CallError("the arguments are not JSON") from None
    if not isinstance(arguments, dict):
        raise CallError("the arguments are not an object")
    return Call(found["name"], arguments)
