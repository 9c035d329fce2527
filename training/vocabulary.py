"""What the trainer must know of a byte-level BPE tokenizer: the bytes of each token, its special ids, safe encoding."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from training.knobs import TrainingError


def tokenizer_sha256(folder: Path) -> str:
    """SHA-256 of the folder's tokenizer.json. Raises `TrainingError` if there is none."""
    path = folder / "tokenizer.json"
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise TrainingError(f"{folder} is no tokenizer folder: cannot read {path}: {error.strerror}") from None


def load_tokenizer(folder: Path) -> Tokenizer:
    """The folder's tokenizer.json, set so that text which spells a special token is ordinary text.

    Raises `TrainingError` if it is missing or broken.
    """
    tokenizer_sha256(folder)
    try:
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises bare Exception
        raise TrainingError(f"{folder / 'tokenizer.json'} is no tokenizer: {error}") from None
    tokenizer.encode_special_tokens = True
    return tokenizer


def encode_text(tokenizer: Tokenizer, text: str) -> list[int]:
    """Token ids of a user's text, never a special one. Raises `TrainingError` for text that is not Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise TrainingError(
            "the prompt is not valid Unicode: it holds a lone surrogate (bytes that are not UTF-8)"
        ) from None
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    if special.intersection(ids):
        raise TrainingError("this tokenizer turns the prompt's text into special tokens; it cannot be used safely")
    return ids


def token_bytes(folder: Path, vocab_size: int) -> np.ndarray:
    """How many bytes of text each token id stands for: int64 `[vocab_size]`; special and unused ids are 0.

    Counted from the raw vocabulary, where one character of the byte-level alphabet (Radford et al. 2019) is one byte:
    decoding a token alone would turn half a character into U+FFFD, which is three. Raises `TrainingError` if the
    vocabulary is not byte-level or has ids beyond `vocab_size`.
    """
    tokenizer = load_tokenizer(folder)
    described: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    alphabet = set(byte_alphabet())
    added = tokenizer.get_added_tokens_decoder()
    lengths = np.zeros(vocab_size, dtype=np.int64)
    for token, number in tokenizer.get_vocab(with_added_tokens=True).items():
        if number >= vocab_size:
            raise TrainingError(f"{folder}: token id {number} is beyond the vocabulary of {vocab_size} in dataset.json")
        if number in added:
            lengths[number] = 0 if added[number].special else len(token.encode())
        elif described["model"].get("type") != "BPE" or not alphabet.issuperset(token):
            raise TrainingError(
                f"{folder}: token {token!r} is not of a byte-level BPE vocabulary, so it has no byte count"
            )
        else:
            lengths[number] = len(token)
    return lengths


def byte_alphabet() -> str:
    """The 256 characters by which byte-level BPE writes the bytes 0 to 255: printable Latin-1 as is, the rest from U+0100."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    moved = iter(range(256))
    return "".join(chr(byte) if byte in printable else chr(256 + next(moved)) for byte in range(256))
