"""What a tokenizer's or model's folder says of conversations: its chat template, its tokenizer, what ends a text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from training.chat.templates import TEMPLATES
from training.knobs import TrainingError
from training.vocabulary import tokenizer_sha256


def needed_tokens(template: str | None) -> tuple[str, ...]:
    """The special tokens that a named template writes, the tokenizer's own eos_token aside; none of a folder's own template."""
    return TEMPLATES[template].special if template in TEMPLATES else ()


def add_special(tokenizer: Tokenizer, tokens: Sequence[str]) -> None:
    """Make texts special tokens: one that is in the vocabulary keeps its id, others get the next ones."""
    have = {one.content for one in tokenizer.get_added_tokens_decoder().values() if one.special}
    tokenizer.add_special_tokens([AddedToken(one, special=True, normalized=False) for one in tokens if one not in have])


def own_template(folder: Path) -> str | None:
    """A folder's chat template: chat_template.jinja, or the entry of tokenizer_config.json, of several the `default`."""
    file = folder / "chat_template.jinja"
    try:
        if file.exists():
            return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(f"cannot read {file}: {error}") from None
    found = read_json(folder / "tokenizer_config.json").get("chat_template")
    if isinstance(found, list):
        named = {one["name"]: one["template"] for one in found}
        if "default" not in named:
            raise TrainingError(f"{folder} has the chat templates {', '.join(named)}, and none called default")
        found = named["default"]
    return found


def chat_tokenizers(folder: Path, new: Sequence[str]) -> tuple[Tokenizer, Tokenizer]:
    """The folder's tokenizer, and the same for text that something stands before; neither turns text into special tokens.

    Without post-processing, which adds special tokens that a template writes itself, and takes whitespace off tokens' places.
    """
    tokenizer_sha256(folder)  # says what is missing
    path = folder / "tokenizer.json"
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
        described |= {"post_processor": None, "truncation": None, "padding": None}
        text = json.dumps(described, ensure_ascii=False)
        later = text.replace('"prepend_scheme": "first"', '"prepend_scheme": "never"')
        first = Tokenizer.from_str(text)
        inner = first if later == text else Tokenizer.from_str(later)
    except Exception as error:  # the library raises bare Exception
        raise TrainingError(f"{path} is no tokenizer: {error}") from None
    for tokenizer in {id(one): one for one in (first, inner)}.values():
        add_special(tokenizer, new)
    first.encode_special_tokens = inner.encode_special_tokens = True
    return first, inner


def generation_ends(folder: Path) -> list[int]:
    """What ends a text by the folder's generation_config.json."""
    ids = read_json(folder / "generation_config.json").get("eos_token_id")
    return [] if ids is None else [ids] if isinstance(ids, int) else list(ids)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file, empty if there is no file. Raises `TrainingError` for anything else."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TrainingError(f"cannot read {path}: {error}") from None
    if not isinstance(found, dict):
        raise TrainingError(f"{path} does not hold a JSON object")
    return found


def token_text(token: Any) -> str:
    """The text of a special token as tokenizer_config.json names it."""
    return token["content"] if isinstance(token, dict) else str(token)
