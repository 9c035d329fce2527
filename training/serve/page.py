"""The chat page: one file of HTML with its style and script inside."""

from __future__ import annotations

import json
from pathlib import Path

HERE = Path(__file__).parent


def page(model: str, chat: bool, key: bool, nonce: str) -> str:
    """The page for a model. chat: it has a chat template; else the page continues texts. key: the server wants a key."""
    settings = json.dumps({"model": model, "chat": chat, "key": key}).replace("<", "\\u003c")
    text = (HERE / "page.html").read_text(encoding="utf-8")
    for mark, value in (
        ("/*STYLE*/", (HERE / "page.css").read_text(encoding="utf-8")),
        ("/*SCRIPT*/", (HERE / "page.js").read_text(encoding="utf-8")),
        ("NONCE", nonce),
        ("SETTINGS", settings),
    ):
        text = text.replace(mark, value)
    return text
