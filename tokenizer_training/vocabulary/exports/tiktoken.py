"""tiktoken: a file of ranks, and a JSON file with what such a file cannot hold."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import numpy as np

from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset.layout import atomic, sha256_of, write_json
from tokenizer_training.encoding.bpe_file import BytePairs, read_byte_pairs
from tokenizer_training.vocabulary.exports.source import tokenizer_file
from tokenizer_training.vocabulary.ranks import rank_differences

RANKS, SETTINGS = "tokenizer.tiktoken", "encoding.json"


def export_tiktoken(folder: Path, out: Path) -> list[Path]:
    """Write `tokenizer.tiktoken` and `encoding.json` to the folder `out`; see docs/encoding.md for the lines that load them.

    Raises `TokenizerError` with the reason where tiktoken would give other ids.
    """
    file = tokenizer_file(folder)
    model = read_byte_pairs(file)
    if model.nfc:
        raise TokenizerError(f"{file}: it brings texts to NFC, and tiktoken normalises nothing")
    if faults := rank_differences(model):
        raise TokenizerError(f"{file}: tiktoken merges by the rank of tokens, which would give other ids: {faults[0]}")
    if model.rules is None:
        _check_custom(file, model)
    out.mkdir(parents=True, exist_ok=True)
    with atomic(out / RANKS) as temporary:
        lines = [b"%s %d\n" % (base64.b64encode(token), number) for token, number in _by_rank(model)]
        temporary.write_bytes(b"".join(lines))
    write_json(
        out / SETTINGS,
        {
            "name": folder.resolve().name,
            "pat_str": model.pattern,
            "special_tokens": model.special,
            "ranks": RANKS,
            "sha256": sha256_of(out / RANKS),
        },
    )
    return [out / RANKS, out / SETTINGS]


def _by_rank(model: BytePairs) -> list[tuple[bytes, int]]:
    return sorted(model.tokens.items(), key=lambda item: item[1])


def _check_custom(file: Path, model: BytePairs) -> None:
    """tiktoken reads expressions by other rules: the named patterns are known to mean the same, a custom one is tried."""
    if re.search(r"\{\d+(,\d*)?\}\+", model.pattern):
        raise TokenizerError(
            f"{file}: its expression has a possessive {{m,n}}+, which tokenizers reads as repeated and tiktoken as possessive"
        )
    from tokenizers import Tokenizer

    from tokenizer_training.encoding.engines.engine import Unavailable
    from tokenizer_training.encoding.engines.tiktoken import TiktokenEngine
    from tokenizer_training.encoding.engines.tokenizers import TokenizersEngine
    from tokenizer_training.encoding.exact import PROBES
    from tokenizer_training.encoding.texts import Texts

    try:
        engine = TiktokenEngine(model)
    except Unavailable as error:
        raise TokenizerError(f"{file}: an expression of its own has to be tried with tiktoken: {error}") from None
    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.encode_special_tokens = True
    probes = Texts.of(PROBES)
    ours, theirs = TokenizersEngine(tokenizer, cut_safely=False).encode(probes), engine.encode(probes)
    for i, text in enumerate(PROBES):
        wanted, given = (ids[offsets[i] : offsets[i + 1]] for ids, offsets in (ours, theirs))
        if not np.array_equal(wanted, given):
            raise TokenizerError(
                f"{file}: tiktoken reads its expression otherwise: it gives other ids for {text[:40]!r}"
            )
