"""What can be put right in a conversation without guessing at its meaning."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from stages.conversation import ROLES, SEPARATOR, Message, role_of

MAPPED, TRIMMED, CONTROLS, END_TOKENS, EMPTY_SYSTEM, SYSTEM_FIRST, MERGED = (
    "roles_mapped",
    "trimmed",
    "control_characters",
    "end_tokens",
    "empty_system",
    "system_first",
    "merged",
)

_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# What models end a turn with, left behind at the end of a content by whoever stored raw completions.
_END = re.compile(r"(?:\s*(?:<\|(?:endoftext|im_end|eot_id|end_of_text|end)\|>|</s>|<end_of_turn>|<eos>))+\s*\Z")


def repair(messages: Sequence[Message], roles: Mapping[str, str]) -> tuple[list[Message], set[str]]:
    """The messages put right, and what was done.

    In this order: names of `roles` (lower case) mapped; control characters, end tokens and outer whitespace taken away; empty system turns
    dropped; system turns moved to the front; turns of one role in a row merged (those of tools are left: several may answer).
    """
    done: set[str] = set()
    turns: list[Message] = []
    for message in messages:
        role = message["role"]
        known = roles.get(role.strip().lower(), role_of(role))
        if known != role:
            done.add(MAPPED)
        content = message["content"] or ""
        clean = _CONTROL.sub("", content)
        if clean != content:
            done.add(CONTROLS)
        ended = _END.sub("", clean) if clean.rstrip()[-1:] == ">" else clean
        if ended != clean:
            done.add(END_TOKENS)
        trimmed = _outer(ended)
        if trimmed != ended:
            done.add(TRIMMED)
        if known == "system" and not trimmed:
            done.add(EMPTY_SYSTEM)
            continue
        turns.append({"role": known, "content": trimmed})
    ordered = [m for m in turns if m["role"] == "system"] + [m for m in turns if m["role"] != "system"]
    if ordered != turns:
        done.add(SYSTEM_FIRST)
    merged: list[Message] = []
    for message in ordered:
        if merged and merged[-1]["role"] == message["role"] and message["role"] in ROLES[:3]:
            merged[-1] = {
                "role": message["role"],
                "content": SEPARATOR.join(filter(None, [merged[-1]["content"], message["content"]])),
            }
            done.add(MERGED)
        else:
            merged.append(message)
    return merged, done


def _outer(content: str) -> str:
    """The content without blank lines before it and whitespace behind it; a first line's indent stays, since code has one."""
    text = content.rstrip()
    first = len(text) - len(text.lstrip())
    return text[text.rfind("\n", 0, first) + 1 :] if "\n" in text[:first] else text.lstrip() if first < 2 else text
