"""What other projects' vocabulary files say: tiktoken ranks, js-tiktoken's modules, tekken.json. Nothing is downloaded."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from tokenizer_training.config import TokenizerError
from tokenizer_training.vocabulary.patterns import GPT2, LLAMA3, O200K

# SHA-256 of the files as OpenAI publishes them (tiktoken, tiktoken_ext/openai_public.py), and the pattern of each.
KNOWN_RANKS = {
    "306cd27f03c1a714eca7108e03d66b7dc042abe8c258b44c199a7ed9838dd930": ("r50k_base", GPT2),
    "94b5ca7dff4d00767bc256fdd1b27e5b17361d7b8a5f968547f9f23eb70d2069": ("p50k_base", GPT2),
    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7": ("cl100k_base", LLAMA3),
    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d": ("o200k_base", O200K),
}
KNOWN_NAMES = {"gpt2": GPT2, "r50k": GPT2, "p50k": GPT2, "cl100k": LLAMA3, "o200k": O200K}
_PACKED = re.compile(r"^\s*(?:export default|module\.exports\s*=)\s*(\{.*\})\s*;?\s*$", re.DOTALL)


class Ranks(NamedTuple):
    """A byte-level BPE as tiktoken takes it: a pattern, the id of each token's bytes, special tokens."""

    name: str
    pattern: str
    ranks: dict[bytes, int]
    specials: dict[str, int]


def read_ranks(path: Path, pattern: str | None) -> Ranks:
    """A `.tiktoken` file: base64 of the bytes, a space, the rank, a line each. Raises `TokenizerError` for any other content.

    The pattern is the given one, else that of a file that is known by its SHA-256 or was exported here, else by its name.
    """
    raw = path.read_bytes()
    digest = hashlib.sha256(raw).hexdigest()
    known = KNOWN_RANKS.get(digest)
    by_name = next((p for name, p in KNOWN_NAMES.items() if path.name.startswith(name)), None)
    found = pattern or (known[1] if known else _exported_pattern(path, digest) or by_name)
    if found is None:
        raise TokenizerError(
            f"{path}: ranks without a known split pattern; give --pattern NAME ({', '.join(KNOWN_NAMES)}) or a regular expression"
        )
    ranks = {}
    for number, line in enumerate(raw.splitlines(), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise TokenizerError(f"{path}: line {number} is not base64 and a rank") from None
    return Ranks(known[0] if known else path.stem, found, _checked(ranks, path), {})


def _exported_pattern(path: Path, digest: str) -> str | None:
    """The pattern that `export --format tiktoken` wrote beside these ranks, if it did."""
    try:
        facts = json.loads((path.parent / "encoding.json").read_text("utf-8"))
        return str(facts["pat_str"]) if facts["sha256"] == digest else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_js(path: Path) -> Ranks:
    """A module of js-tiktoken (`dist/ranks/*.js`): JSON with pat_str, special_tokens and packed bpe_ranks."""
    match = _PACKED.match(path.read_text(encoding="utf-8"))
    try:
        content: Any = json.loads(match.group(1)) if match else None
        ranks = {}
        for line in content["bpe_ranks"].split("\n"):
            _, offset, *tokens = line.split(" ")
            ranks.update({base64.b64decode(token): int(offset) + at for at, token in enumerate(tokens)})
        return Ranks(path.stem, content["pat_str"], _checked(ranks, path), dict(content["special_tokens"]))
    except (TypeError, KeyError, ValueError, AttributeError):
        raise TokenizerError(
            f"{path}: not a module of ranks of js-tiktoken (dist/ranks/*.js: `export default` and an object of pat_str, bpe_ranks)"
        ) from None


def read_tekken(path: Path) -> Ranks:
    """Mistral's tekken.json: special tokens have the first ids, ranks follow, cut at the default vocabulary."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        config = content["config"]
        special = int(config["default_num_special_tokens"])
        keep = int(config["default_vocab_size"]) - special
        ranks = {base64.b64decode(token["token_bytes"]): token["rank"] + special for token in content["vocab"][:keep]}
        names = content.get("special_tokens") or []
        specials = {entry["token_str"]: int(entry["rank"]) for entry in names}
    except (KeyError, TypeError, ValueError) as error:
        raise TokenizerError(f"{path}: not a tekken.json ({type(error).__name__}: {error})") from None
    specials |= {f"<SPECIAL_{number}>": number for number in range(len(specials), special)}
    return Ranks(path.stem, str(config["pattern"]), _checked(ranks, path), specials)


def _checked(ranks: dict[bytes, int], path: Path) -> dict[bytes, int]:
    missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if missing:
        raise TokenizerError(f"{path}: {len(missing)} of the 256 bytes have no rank, so not every text can be encoded")
    return ranks
