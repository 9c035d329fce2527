"""A row of chat, preference or prompt data, in the shapes that published data sets have, to the one schema.

Shapes are told apart by their keys, see `docs/chat.md`. Here only the shape changes: known role names become ours, nothing else
is judged or repaired; that is the work of the stage `chat`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.readers.charset import valid
from stages.conversation import LISTS, Message, render, role_of

CONVERSATIONS = ("messages", "conversations", "conversation", "dialogue", "turns")  # keys of lists of turns
ROLE_KEYS = ("role", "from", "speaker")
CONTENT_KEYS = ("content", "value", "text")
ASKED = ("instruction", "prompt", "question", "problem", "query")
ANSWERED = ("output", "response", "completion", "answer")
SOLVED = ("answer", "ground_truth", "solution", "expected", "reference_answer")

FIELDS = (
    *CONVERSATIONS, *ASKED, *ANSWERED, *SOLVED, "input", "context", "system", "system_prompt", "chosen", "rejected", "verifier",
)  # fmt: skip

# A dialogue in one string, as in Anthropic's HH data: turns that begin with "\n\nHuman: " and "\n\nAssistant: ".
_SPEAKER = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):[ \t]*")


@dataclass(frozen=True)
class Conversation:
    """One row of chat, preference or prompt data; `messages` is the prompt of the latter two."""

    kind: str
    messages: list[Message]
    chosen: list[Message] | None = None
    rejected: list[Message] | None = None
    answer: str | None = None
    verifier: str | None = None

    @property
    def text(self) -> str:
        """The rendering that stages judge."""
        return render([getattr(self, name) for name in LISTS])


class BadRow(ValueError):
    """A row that holds no conversation in a shape that is known; the message says what is missing."""


def conversation(row: Mapping[str, Any], kind: str, fields: Mapping[str, str], verifier: str | None) -> Conversation:
    """The row in the one schema. `fields` are the row's own names for known keys. Raises `BadRow`."""
    if fields:
        row = {**row, **{ours: row.get(theirs) for ours, theirs in fields.items()}}
    return {"chat": _chat, "preference": _preference, "prompt": _prompt}[kind](row, verifier)


def guess_kind(names: set[str]) -> str:
    """The kind that a file's columns tell of, where nobody says it."""
    return "preference" if {"chosen", "rejected"} <= names else "chat"


def _chat(row: Mapping[str, Any], verifier: str | None) -> Conversation:
    for key in CONVERSATIONS:
        if isinstance(row.get(key), list):
            return Conversation("chat", [*_system(row), *_messages(row[key], key)])
    asked = _first(row, ASKED)
    if asked is None:
        raise BadRow(
            f"no conversation: expected {_either(CONVERSATIONS)}, or {_either(ASKED)} with {_either(ANSWERED)}"
        )
    answered = _first(row, tuple(key for key in ANSWERED if key != asked))
    if answered is None:
        raise BadRow(f"{asked!r} without an answer: expected {_either(ANSWERED)}")
    answer = row[answered]
    turns = _messages(answer, answered) if isinstance(answer, list) else [_turn("assistant", answer, answered)]
    return Conversation("chat", [*_question(row, asked), *turns])


def _preference(row: Mapping[str, Any], verifier: str | None) -> Conversation:
    for key in ("chosen", "rejected"):
        if not isinstance(row.get(key), str | list):
            raise BadRow(f"no {key!r}: expected a string or a list of messages")
    asked = _first(row, (*ASKED, *CONVERSATIONS))
    sides: list[list[Message]] = []
    whole = asked is None  # dialogues that hold the prompt
    for key in ("chosen", "rejected"):
        value = row[key]
        if isinstance(value, list):
            sides.append(_messages(value, key))
        elif whole:
            sides.append(_dialogue(value, key))
        else:
            sides.append([_turn("assistant", value, key)])
    chosen, rejected = sides
    if asked is None:
        shared = 0
        while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
            shared += 1
        if not shared:
            raise BadRow("chosen and rejected share no first turn, and there is no prompt")
        prompt = chosen[:shared]
    else:
        prompt = _question(row, asked)
        shared = len(prompt)
        # Lists often repeat the prompt, with or without its system turn.
        for start in (0, 1 if prompt[:1] and prompt[0]["role"] == "system" else 0):
            own = prompt[start:]
            if own and chosen[: len(own)] == own and rejected[: len(own)] == own:
                chosen, rejected = chosen[len(own) :], rejected[len(own) :]
                break
        return Conversation("preference", prompt, chosen, rejected)
    return Conversation("preference", prompt, chosen[shared:], rejected[shared:])


def _prompt(row: Mapping[str, Any], verifier: str | None) -> Conversation:
    asked = _first(row, (*CONVERSATIONS, *ASKED))
    if asked is None:
        raise BadRow(f"no prompt: expected {_either((*ASKED, 'messages'))}")
    solved = _first(row, tuple(key for key in SOLVED if key != asked))
    answer = None if solved is None else row[solved]
    if answer is not None and not isinstance(answer, str):
        answer = json.dumps(answer, ensure_ascii=False, sort_keys=True, default=str)  # numbers, test cases
    named = row.get("verifier")
    named = named if isinstance(named, str) and named else verifier
    return Conversation(
        "prompt",
        _question(row, asked),
        answer=None if answer is None else valid(answer),
        verifier=None if named is None else valid(named),
    )


def _question(row: Mapping[str, Any], asked: str) -> list[Message]:
    """The system turn and the prompt: messages, or a string with Alpaca's `input` below it."""
    value = row[asked]
    if isinstance(value, list):
        return [*_system(row), *_messages(value, asked)]
    if not isinstance(value, str):
        raise BadRow(f"{asked!r} is no string but {type(value).__name__}")
    below = [row[key] for key in ("input", "context") if isinstance(row.get(key), str) and row[key].strip()]
    return [*_system(row), {"role": "user", "content": valid("\n\n".join([value, *below]))}]


def _system(row: Mapping[str, Any]) -> list[Message]:
    value = row.get("system") if isinstance(row.get("system"), str) else row.get("system_prompt")
    return [{"role": "system", "content": valid(value)}] if isinstance(value, str) and value.strip() else []


def _dialogue(text: str, key: str) -> list[Message]:
    """Turns of a dialogue in one string."""
    parts = _SPEAKER.split(text)
    if len(parts) < 3 or parts[0].strip():
        raise BadRow(f"{key!r} is a string without a prompt, and no dialogue of Human: and Assistant: turns")
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return [{"role": role_of(name), "content": valid(content.strip())} for name, content in pairs]


def _messages(items: list[Any], key: str) -> list[Message]:
    return [_message(item, f"{key}[{number}]") for number, item in enumerate(items)]


def _message(item: Any, place: str) -> Message:
    if not isinstance(item, Mapping):
        raise BadRow(f"{place} is no message but {type(item).__name__}")
    role_key, content_key = _first(item, ROLE_KEYS), _first(item, CONTENT_KEYS)
    if role_key is None or not isinstance(item[role_key], str):
        raise BadRow(f"{place} has no role: expected {_either(ROLE_KEYS)} as a string")
    if item.get("tool_calls") or item.get("function_call"):
        raise BadRow(f"{place} calls a tool, which messages of role and content cannot hold")
    return _turn(item[role_key], "" if content_key is None else item[content_key], place)


def _turn(role: str, content: Any, place: str) -> Message:
    if isinstance(content, list):  # OpenAI's content parts
        parts = [
            part.get("text") if isinstance(part, Mapping) and part.get("type") == "text" else None for part in content
        ]
        if not all(isinstance(part, str) for part in parts):
            raise BadRow(f"{place} has content that is no text")
        content = "".join(str(part) for part in parts)
    if not isinstance(content, str):
        raise BadRow(f"{place} has no text but {type(content).__name__}")
    return {"role": role_of(valid(role)), "content": valid(content)}


def _first(row: Mapping[str, Any], keys: tuple[str, ...]) -> str | None:
    """The first key whose value is there."""
    return next((key for key in keys if row.get(key) is not None), None)


def _either(keys: tuple[str, ...]) -> str:
    return " | ".join(keys)
