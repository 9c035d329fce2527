"""The one schema of chat, preference pairs and prompts; how such a row reads as text, and how edits of that text come back.

Rows on their way through a run have the columns of `CONVERSATION`. `messages` is the conversation of a chat row, and the
prompt of the other two kinds. Their `text` is `render`ed, so that stages which judge text can judge conversations.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypedDict

import pyarrow as pa

from stages.batch import Batch
from stages.stage import Edit

KINDS = {"chat": "chat", "preference": "preferences", "prompt": "prompts"}  # and the folder that each is written to
ROLES = ("system", "user", "assistant", "tool")

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

CONVERSATION = {
    "kind": pa.string(),  # null for rows of text
    "messages": MESSAGES,
    "chosen": MESSAGES,
    "rejected": MESSAGES,
    "answer": pa.string(),
    "verifier": pa.string(),
}
LISTS = ("messages", "chosen", "rejected")  # in the order in which they are rendered

SEPARATOR = "\n\n"  # between contents in a rendering

ALIASES = {  # the names that ShareGPT, OpenAssistant, Llama, OpenAI and their like give the four roles, in lower case
    **dict.fromkeys(("human", "user", "prompter", "instruction", "question"), "user"),
    **dict.fromkeys(
        (
            "assistant",
            "gpt",
            "chatgpt",
            "bing",
            "bard",
            "claude",
            "gemini",
            "model",
            "bot",
            "chatbot",
            "ai",
            "response",
        ),
        "assistant",
    ),
    **dict.fromkeys(("system", "developer", "system_prompt"), "system"),
    **dict.fromkeys(("tool", "function", "function_response", "tool_response", "observation", "ipython"), "tool"),
}


class Message(TypedDict):
    """One turn."""

    role: str
    content: str


def role_of(name: str) -> str:
    """One of `ROLES` for a name that is known, else the name as it is."""
    return ALIASES.get(name.strip().lower(), name)


def contents(lists: Iterable[Sequence[Message] | None]) -> list[str]:
    """The contents of message lists, one after the other."""
    return [message["content"] or "" for messages in lists for message in messages or ()]


def render(lists: Iterable[Sequence[Message] | None]) -> str:
    """Conversations as the text that stages judge: every content, an empty line between two; no role names.

    Names of roles would be words of a language, and lines that repeat on every page.
    """
    return SEPARATOR.join(contents(lists))


def transcript(lists: Sequence[Sequence[Message] | None]) -> str:
    """Conversations for people: each content below its role; a preference pair's answers under their names."""
    names = ("", "chosen", "rejected")
    parts = []
    for name, messages in zip(names, lists, strict=False):
        for message in messages or ():
            label = f"{name} {message['role']}".strip()
            parts.append(f"[{label}]\n{message['content'] or ''}")
    return SEPARATOR.join(parts)


def prompt_text(kind: str | None, messages: Sequence[Message] | None) -> str:
    """What was asked: the user's turns of a conversation; of preference pairs and prompts the whole prompt without its system turn."""
    if kind == "chat" or kind is None:
        return SEPARATOR.join(m["content"] or "" for m in messages or () if m["role"] == "user")
    return SEPARATOR.join(m["content"] or "" for m in messages or () if m["role"] != "system")


def prompts(batch: Batch) -> list[str]:
    """`prompt_text` of each row; rows of text give their text."""
    return batch.derived(
        "prompts",
        lambda: [
            text if messages is None else prompt_text(kind, messages)
            for text, kind, messages in zip(batch.texts(), batch.values("kind"), batch.values("messages"), strict=True)
        ],
    )


def edited(lists: Sequence[list[Message] | None], edits: Sequence[Edit]) -> list[list[Message] | None]:
    """The message lists with edits of their rendering carried out.

    An edit that reaches over the end of a message is carried out in the first one that it touches; the others lose their part.
    """
    out: list[list[Message] | None] = []
    start = 0
    used: set[int] = set()  # edits whose replacement has been put in
    first = 0  # edits before this one end before the content at hand
    for messages in lists:
        if messages is None:
            out.append(None)
            continue
        new: list[Message] = []
        for message in messages:
            content = message["content"] or ""
            end = start + len(content)
            while first < len(edits) and edits[first].end < start:
                first += 1
            parts, position = [], 0
            for number in range(first, len(edits)):
                edit = edits[number]
                if edit.start > end:
                    break
                if edit.end <= start and edit.start < start:  # it ended in the separator before
                    continue
                low, high = max(edit.start, start) - start, min(edit.end, end) - start
                parts.append(content[position:low])
                if number not in used:
                    parts.append(edit.replacement)
                    used.add(number)
                position = max(position, high)
            new.append({"role": message["role"], "content": "".join([*parts, content[position:]])})
            start = end + len(SEPARATOR)
        out.append(new)
    return out


def with_edits(
    batch: Batch, edits: dict[int, list[Edit]]
) -> tuple[dict[str, pa.Array | pa.ChunkedArray], dict[int, str]]:
    """The conversation columns of a batch after edits of its rows' texts, and those rows' renderings; rows of text are left out."""
    if not edits or not batch.has("messages"):
        return {}, {}
    columns: dict[str, list[Any]] = {name: batch.values(name) for name in LISTS}
    texts: dict[int, str] = {}
    for row in edits:
        if columns["messages"][row] is None:
            continue
        new = edited([columns[name][row] for name in LISTS], edits[row])
        texts[row] = render(new)
        for name, messages in zip(LISTS, new, strict=True):
            columns[name][row] = messages
    return ({name: pa.array(values, MESSAGES) for name, values in columns.items()} if texts else {}), texts
