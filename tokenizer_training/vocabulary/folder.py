"""The tokenizer's folder: tokenizer.json, tokenizer_config.json for transformers, and training.json, which says how it was made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers

from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset.layout import atomic, sha256_of, write_json
from tokenizer_training.vocabulary.bpe import token_bytes
from tokenizer_training.vocabulary.byte_level import CHARACTER_OF_BYTE
from tokenizer_training.vocabulary.chunks import chunk_rules
from tokenizer_training.vocabulary.config import TokenizerConfig
from tokenizer_training.vocabulary.pretokenize import library_pre_tokenizer
from tokenizer_training.vocabulary.special import CHAT_TEMPLATE, END_OF_DOCUMENT, padding_tokens

TRAINING = "training.json"


def new_tokenizer(config: TokenizerConfig, model: Any = None) -> Tokenizer:
    """A tokenizer with the config's normalisation and pre-tokenizer, untrained unless given a model."""
    tokenizer = Tokenizer(models.BPE() if model is None else model)
    if config.normalization == "nfc":
        tokenizer.normalizer = normalizers.NFC()
    rules = config.rules() if config.superword is None else chunk_rules(config.rules(), config.superword.words)
    tokenizer.pre_tokenizer = library_pre_tokenizer(rules)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def bpe_tokenizer(config: TokenizerConfig, merges: np.ndarray) -> Tokenizer:
    """The tokenizer of a config and its merges (int32[M, 2])."""
    special = config.leading_special()
    tokens = token_bytes(merges, special)
    names = special + ["".join([CHARACTER_OF_BYTE[byte] for byte in token]) for token in tokens[len(special) :]]
    assert len(set(names)) == len(names)  # a token has one way to be made: see `merges_hold` in superword.py
    pairs = [(names[left], names[right]) for left, right in merges.tolist()]
    padding = padding_tokens(len(names), config.pad_to_multiple)
    vocabulary = {name: number for number, name in enumerate([*names, *padding])}
    tokenizer = new_tokenizer(config, models.BPE(vocab=vocabulary, merges=pairs))
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in [*special, *padding]])
    return tokenizer


def save(tokenizer: Tokenizer, config: TokenizerConfig, facts: dict[str, Any], out: Path) -> dict[str, Any]:
    """Write the folder, tokenizer.json last; each file appears whole or not at all. Returns the facts with its hash."""
    out.mkdir(parents=True, exist_ok=True)
    special = [token.content for _, token in sorted(tokenizer.get_added_tokens_decoder().items())]
    write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": int(1e30),  # transformers' sentinel for "no limit"
            "bos_token": END_OF_DOCUMENT,
            "eos_token": END_OF_DOCUMENT,
            "pad_token": END_OF_DOCUMENT,
            "additional_special_tokens": [token for token in special if token != END_OF_DOCUMENT],
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    content = _indented(tokenizer, config) + "\n"
    write_json(out / TRAINING, {"config": config.model_dump(mode="json", exclude_defaults=True), "facts": facts})
    with atomic(out / "tokenizer.json") as temporary:
        temporary.write_text(content, "utf-8")
    return {**facts, "sha256": sha256_of(out / "tokenizer.json")}


def _indented(tokenizer: Tokenizer, config: TokenizerConfig) -> str:
    """A tokenizer.json as Python's `json` writes it with an indent of one space."""
    if config.algorithm != "bpe":  # scores: the library writes a number otherwise than Python does
        return json.dumps(json.loads(tokenizer.to_str()), indent=1, ensure_ascii=False)
    content = tokenizer.to_str(pretty=True)  # two spaces; lines do not end within strings
    for depth in range(8, 0, -1):
        content = content.replace("\n" + "  " * depth, "\n" + "\t" * depth)
    return content.replace("\t", " ")


def read_training(folder: Path) -> tuple[TokenizerConfig, dict[str, Any]]:
    """The config and facts of a tokenizer that was trained here."""
    file = folder / TRAINING
    try:
        content = json.loads(file.read_text("utf-8"))
        return TokenizerConfig.model_validate(content["config"]), content["facts"]
    except FileNotFoundError:
        raise TokenizerError(f"{file}: no such file; expected the folder of a tokenizer trained here") from None
    except (ValueError, KeyError, TypeError, ValidationError) as error:
        raise TokenizerError(f"{file}: not what `train` writes ({error}); train again") from None


def read_merges(folder: Path) -> np.ndarray:
    """The merges (int32[M, 2]) of a BPE tokenizer.json."""
    file = folder / "tokenizer.json"
    try:
        model = json.loads(file.read_text("utf-8"))["model"]
        vocabulary = model["vocab"]
        pairs = [(vocabulary[left], vocabulary[right]) for left, right in model["merges"]]
    except FileNotFoundError:
        raise TokenizerError(f"{file}: no such file; give the folder of a trained tokenizer") from None
    except (ValueError, KeyError, TypeError) as error:
        raise TokenizerError(f"{file}: not a BPE tokenizer ({error!r})") from None
    return np.array(pairs, np.int32).reshape(-1, 2)


def truncate(tokenizer_dir: str | Path, vocab_size: int, out_dir: str | Path) -> dict[str, Any]:
    """Write the smaller tokenizer that training with `vocab_size` would have given, as merges nest. Returns its facts.

    Raises `TokenizerError` where they do not: other algorithms, a second stage that begins at a share of the vocabulary
    or after `vocab_size` tokens, a parity-aware part that is a share, or a `vocab_size` that is larger.
    """
    folder = Path(tokenizer_dir)
    config, facts = read_training(folder)
    if config.algorithm != "bpe" or config.engine != "gristmill":
        raise TokenizerError(
            f"{folder}: {config.algorithm} by {config.engine}; smaller vocabularies nest in our own bpe only"
        )
    if vocab_size > config.vocab_size:
        raise TokenizerError(f"{folder}: trained for {config.vocab_size} tokens, {vocab_size} are more; train again")
    check_nests(config)
    try:
        smaller = TokenizerConfig.model_validate({**config.model_dump(), "vocab_size": vocab_size})
    except ValidationError as error:
        raise TokenizerError(f"vocab_size {vocab_size}: {error.errors()[0]['msg']}") from None
    merges = read_merges(folder)[: vocab_size - config.smallest]
    tokenizer = bpe_tokenizer(smaller, merges)
    return save(tokenizer, smaller, facts | sizes(smaller, tokenizer), Path(out_dir))


def check_nests(config: TokenizerConfig) -> None:
    """Raise `TokenizerError` if a smaller vocabulary is not the beginning of the config's."""
    if config.superword is not None and config.superword.start <= 1:
        raise TokenizerError(
            "superword.start is a share, so every size has another first stage; give a number of tokens"
        )
    if config.parity is not None and config.parity.share < 1:
        raise TokenizerError("parity.share below 1: every size has another first part, so smaller sizes do not nest")


def sizes(config: TokenizerConfig, tokenizer: Tokenizer) -> dict[str, int]:
    """Tokens wanted and reached, padding included in both."""
    wanted = config.vocab_size + len(padding_tokens(config.vocab_size, config.pad_to_multiple))
    return {"vocab_size_wanted": wanted, "vocab_size": tokenizer.get_vocab_size()}
