"""What is wrong with a conversation: its roles and their order, turns that are empty or cut, markup that does not belong."""

from __future__ import annotations

import re
from collections.abc import Sequence

from stages.conversation import ROLES, Message
from stages.template_tokens import TOKEN

# In the order in which they are looked for: the first that is among the stage's `drop` is the row's rule.
FAULTS = (
    "no_conversation",
    "unknown_role",
    "empty_turn",
    "order",
    "no_answer",
    "same_answers",
    "template_tokens",
    "role_spoof",
    "open_fence",
    "truncated",
    "repeated_answer",
)

_ASKER = re.compile(r"^[ \t]*(?:#{2,3}[ \t]*)?(?:\*\*)?(?:Human|User|Instruction)(?:\*\*)?:", re.M)
_ANSWERER = re.compile(r"^[ \t]*(?:#{2,3}[ \t]*)?(?:\*\*)?(?:Assistant|AI|Response|Chatbot|ChatGPT)(?:\*\*)?:", re.M)
_FENCE = re.compile(r"^[ \t]*(`{3,}|~{3,})([^\n]*)$", re.M)


def order_fault(messages: Sequence[Message], start: str, ends: tuple[str, ...]) -> bool:
    """Whether turns do not take turns: at most one system turn, in front; then `start`; user and assistant alternate; tools answer
    assistants; the last turn is one of `ends`.
    """
    before = ""
    for number, message in enumerate(messages):
        role = message["role"]
        allowed = {
            "": {start, "system"} if number == 0 else {start},
            "system": {start},
            "user": {"assistant"},
            "assistant": {"user", "tool"},
            "tool": {"tool", "assistant"},
        }[before]
        if role not in allowed:
            return True
        before = role
    return before not in ends


def unknown_roles(messages: Sequence[Message]) -> bool:
    """Whether a role is none of ours."""
    return any(message["role"] not in ROLES for message in messages)


def has_template_tokens(content: str) -> bool:
    """Whether a content holds tokens of a chat template."""
    return ("<" in content or "[" in content) and TOKEN.search(content) is not None


def speaks_for_others(content: str) -> bool:
    """Whether an answer goes on as the user and answers again: an asker's name begins a line, later an answerer's does."""
    asker = _ASKER.search(content) if ":" in content else None
    return asker is not None and _ANSWERER.search(content, asker.end()) is not None


def fence_open(content: str) -> bool:
    """Whether a code fence is never closed: Markdown's rules on fence characters, lengths and info strings, at any indent."""
    mark = ""
    for found in _FENCE.finditer(content):
        fence, rest = found.group(1), found.group(2).strip()
        if not mark:
            if not (fence[0] == "`" and "`" in rest):
                mark = fence
        elif fence[0] == mark[0] and len(fence) >= len(mark) and not rest:
            mark = ""
    return bool(mark)


# Words that never end an English sentence, and hardly one of a language that shares them.
_DANGLING_WORDS = (
    "a an the and or but nor of to in on at by for with from into onto upon as than that which who whose whom because"
    " although though if when while where whether is are was were be been being am has have had do does did will would"
    " can could shall should may might must my your his her its our their this these those such very not"
)
_DANGLING = frozenset(_DANGLING_WORDS.split())
_LIST = re.compile(r"\s*(?:[-*+•>|#]|\d+[.)]|[a-z][.)]|[A-Za-z_][\w .'-]{0,30}:)\s")
_SENTENCE = re.compile(r"[.!?…。！？]['\"”’)\]*_]*(?:\s+|$)")
_CODE = re.compile(r"[{}();=<>\[\]\\/#_`]|^\s{4}|::|->")
_SIGNED = re.compile(
    r"\W*(?:yours?|sincerely|respectfully|faithfully|best|kind|warm|love|regards|cheers|with (?:best|kind|warm|love|respect|hope|gratitude))\b",
    re.I,
)
PROSE_WORDS = 12  # of an answer, below which its end tells nothing


def is_truncated(content: str) -> bool:
    """Whether an answer seems to stop inside a sentence.

    Of answers that have ended a sentence before: what stands behind the last one ends in a comma, in a word that ends no
    sentence, or after at least 4 words in bare letters. Lists, headings, signatures, names, code and short answers may end as
    they like.
    """
    text = content.rstrip()
    if not text or not (text[-1].isalpha() or text[-1] == ","):
        return False
    last = text[text.rfind("\n") + 1 :]
    if _CODE.search(last) or _LIST.match(last) or len(text.split(None, PROSE_WORDS)) < PROSE_WORDS:
        return False
    ends = [found.end() for found in _SENTENCE.finditer(text)]
    if not ends:
        return False
    tail = text[ends[-1] :]
    words = tail.split()
    if "\n" in tail or "://" in tail or _SIGNED.match(tail) or not words:
        return False
    if 2 * sum(word[0].isupper() for word in words) > len(words):
        return False
    return text[-1] == "," or words[-1] in _DANGLING or len(words) >= 4
