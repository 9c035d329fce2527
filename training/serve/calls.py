"""Calls of tools in what a model writes: <tool_call>{"name": ..., "arguments": {...}}</tool_call>."""

from __future__ import annotations

import json
import uuid
from typing import Any

from training.inference.stop import held_back
from training.tools.calls import CALL as OPEN
from training.tools.calls import CALL_END as CLOSE
from training.tools.calls import CallError, parse_call


class CallReader:
    """Takes a text in pieces and gives back what is for the user, and the calls that are complete."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self._text = ""
        self._inside = False

    def add(self, piece: str, last: bool = False) -> tuple[str, list[dict[str, Any]]]:
        """(text, calls) that are certain now. A call that is broken, or never closed, is text."""
        self._text += piece
        out, calls = "", []
        while True:
            if not self._inside:
                at = self._text.find(OPEN)
                if at < 0:
                    keep = 0 if last else held_back(self._text, (OPEN,))
                    out += self._text[: len(self._text) - keep]
                    self._text = self._text[len(self._text) - keep :]
                    break
                out += self._text[:at]
                self._text = self._text[at + len(OPEN) :]
                self._inside = True
            at = self._text.find(CLOSE)
            if at < 0:
                if last:
                    out += OPEN + self._text
                    self._text, self._inside = "", False
                break
            body, self._text = self._text[:at], self._text[at + len(CLOSE) :]
            self._inside = False
            call = _call(body, len(self.calls))
            if call is None:
                out += OPEN + body + CLOSE
            else:
                self.calls.append(call)
                calls.append(call)
        return out, calls


def _call(body: str, index: int) -> dict[str, Any] | None:
    try:
        found = parse_call(body)
    except CallError:
        return None
    return {
        "index": index,
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": found.name, "arguments": json.dumps(found.arguments, ensure_ascii=False)},
    }
