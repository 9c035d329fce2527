"""The folder that is exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tokenizer_training.config import TokenizerError


def tokenizer_file(folder: Path) -> Path:
    """Its tokenizer.json."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        raise TokenizerError(f"{file}: no such file; give the folder of a trained tokenizer")
    return file


def read_settings(folder: Path) -> dict[str, Any]:
    """Its tokenizer_config.json: which special token begins and ends texts, and the chat template."""
    file = folder / "tokenizer_config.json"
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TokenizerError(f"{file}: no such file; it says which special tokens begin and end texts") from None
    except ValueError as error:
        raise TokenizerError(f"{file}: broken JSON ({error})") from None
    if not isinstance(settings, dict):
        raise TokenizerError(f"{file}: expected an object")
    return settings


def special_id(settings: dict[str, Any], key: str, special: dict[str, int], folder: Path) -> int | None:
    """The id of the special token that tokenizer_config.json names under `key`; None if it names none."""
    token = settings.get(key)
    if isinstance(token, dict):  # transformers writes some as objects
        token = token.get("content")
    if token is None:
        return None
    if token not in special:
        raise TokenizerError(
            f"{folder / 'tokenizer_config.json'}: {key} {token!r} is no special token of tokenizer.json"
        )
    return special[token]
