"""A byte-level BPE as tokenizer.json describes it: what the own engine and the exports start from."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tokenizer_training.config import TokenizerError
from tokenizer_training.vocabulary.byte_level import BYTE_OF_CHARACTER
from tokenizer_training.vocabulary.patterns import GPT2, PATTERNS, Rules, split_rules


class NotByteLevel(TokenizerError):
    """The tokenizer is not a byte-level BPE of the kind described here; the message says what is in the way."""


@dataclass(frozen=True)
class BytePairs:
    """A byte-level BPE: ids by token, merges in order of rank, and how text is cut into pre-tokens before."""

    pattern: str  # regular expression, as Oniguruma reads it
    nfc: bool  # texts are brought to NFC first
    tokens: dict[bytes, int]  # ordinary tokens, special ones not among them
    merges: list[tuple[int, int, int]]  # left, right and merged id; the earlier, the sooner merged
    ignore_merges: bool  # a pre-token that is a token is that token, whatever merging would make of it
    special: dict[str, int]
    content: dict[str, Any]  # tokenizer.json itself

    @property
    def rules(self) -> Rules | None:
        """The named pattern that cuts text like this one, with its group of digits; None if there is none."""
        return named_rules(self.pattern)

    @property
    def byte_ids(self) -> list[int]:
        """The id of each of the 256 bytes."""
        return [self.tokens[bytes([byte])] for byte in range(256)]


@cache
def named_rules(expression: str) -> Rules | None:
    """The named pattern, and its group of digits, that an expression is."""
    for digits in (None, 1, 2, 3):  # first the patterns as they are
        for name in PATTERNS:
            rules = split_rules(name, digits)
            if rules.regex == expression:
                return rules
    return None


def token_bytes(token: str) -> bytes | None:
    """The bytes of a token as the vocabulary spells it; None if it has a character that stands for no byte."""
    try:
        return bytes(BYTE_OF_CHARACTER[character] for character in token)
    except KeyError:
        return None


def read_byte_pairs(file: Path) -> BytePairs:
    """Read tokenizer.json. Raises `NotByteLevel` with the reason where it describes something else."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise TokenizerError(f"{file}: not readable as JSON ({error})") from None
    model = content["model"]

    def refuse(reason: str) -> NotByteLevel:
        return NotByteLevel(f"{file}: {reason}")

    if model.get("type", "BPE") != "BPE" or "merges" not in model:
        raise refuse(f"its model is {model.get('type')}, not BPE")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(name):
            raise refuse(f"its model has {name}: {model[name]!r}")
    special = {token["content"]: token["id"] for token in content.get("added_tokens", []) if token["special"]}
    ordinary = [token["content"] for token in content.get("added_tokens", []) if not token["special"]]
    if ordinary:
        raise refuse(f"it has added tokens that are not special, such as {ordinary[0]!r}")
    vocabulary: dict[str, int] = model["vocab"]
    tokens = {
        spelled: number
        for token, number in vocabulary.items()
        if token not in special and (spelled := token_bytes(token))
    }
    missing = [byte for byte in range(256) if bytes([byte]) not in tokens]
    if missing:
        raise refuse(f"it has no token for {len(missing)} of the 256 bytes, the first 0x{missing[0]:02x}")
    merges = []
    for merge in model["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        merges.append((vocabulary[left], vocabulary[right], vocabulary[left + right]))
    if any(number >= 2**31 for number in vocabulary.values()):
        raise refuse("it has ids of more than 31 bits")
    return BytePairs(
        pattern=_pattern(content.get("pre_tokenizer"), refuse),
        nfc=_nfc(content.get("normalizer"), refuse),
        tokens=tokens,
        merges=merges,
        ignore_merges=bool(model.get("ignore_merges")),
        special=special,
        content=content,
    )


def _steps(part: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    if part is None:
        return []
    return [step for inner in part[key] for step in _steps(inner, key)] if part["type"] == "Sequence" else [part]


def _nfc(normalizer: dict[str, Any] | None, refuse: Any) -> bool:
    steps = _steps(normalizer, "normalizers")
    if any(step["type"] != "NFC" for step in steps):
        raise refuse(f"its normalizer is {'+'.join(step['type'] for step in steps)}, expected NFC or none")
    return bool(steps)


def _pattern(pre_tokenizer: dict[str, Any] | None, refuse: Any) -> str:
    steps = _steps(pre_tokenizer, "pretokenizers")
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1].get("add_prefix_space"):
        raise refuse("its pre-tokenizer does not end with ByteLevel without a prefix space")
    if steps[-1].get("use_regex", True):
        if len(steps) > 1:
            raise refuse("its pre-tokenizer cuts twice: by an expression of its own, then by GPT-2's")
        return GPT2
    if len(steps) != 2 or steps[0]["type"] != "Split" or "Regex" not in steps[0]["pattern"]:
        raise refuse(
            f"its pre-tokenizer is {'+'.join(step['type'] for step in steps)}, expected one Split and ByteLevel"
        )
    if steps[0]["behavior"] != "Isolated" or steps[0].get("invert"):
        raise refuse(f"its Split is {steps[0]['behavior']}, expected Isolated")
    return str(steps[0]["pattern"]["Regex"])
