"""Byte-level BPE trained on documents with `tokenizers`, written as a folder that transformers loads."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from tokenizer_training.config import TokenizerError
from tokenizer_training.corpus.documents import hash64, read_documents, text_bytes
from tokenizer_training.corpus.files import find_documents
from tokenizer_training.corpus.pieces import cut
from tokenizer_training.dataset.layout import atomic, sha256_of, write_json
from tokenizer_training.encoding.encoder import clean
from tokenizer_training.vocabulary.config import TokenizerConfig
from tokenizer_training.vocabulary.patterns import PATTERNS
from tokenizer_training.vocabulary.special import CHAT_TEMPLATE, END_OF_DOCUMENT, RESERVED, SPECIAL_TOKENS

COUNTER_LIMIT = 2**31 - 1  # the trainer's pair counts are 32-bit and overflow silently (tokenizers 0.23)

Progress = Callable[[int, int], None]  # documents and bytes of text fed so far


def new_tokenizer(config: TokenizerConfig) -> Tokenizer:
    """An untrained tokenizer with the config's normalisation and pre-tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    if config.normalization == "nfc":
        tokenizer.normalizer = normalizers.NFC()
    if config.pattern == "gpt2":  # the expression built into ByteLevel, which other tools recognise as GPT-2's
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    else:
        split = pre_tokenizers.Split(Regex(PATTERNS[config.pattern]), behavior="isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def train_tokenizer(
    documents: Sequence[str | Path],
    config: TokenizerConfig,
    out_dir: str | Path,
    *,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train on the `text` of Parquet files (or folders of them) and write the tokenizer's folder.

    The result depends on the set of documents only, not on their order or how they are cut into files. Texts are read
    in batches; the trainer keeps a count for each distinct pre-token. Each document counts once, whatever its `repeat`.

    Returns vocabulary wanted and reached, documents and bytes seen and used, and the SHA-256 of tokenizer.json.
    Raises `TokenizerError` if there is no text to train on.
    """
    files = find_documents(documents)
    total = sum(text_bytes(path) for path in files)
    if total == 0:
        raise TokenizerError(f"{', '.join(map(str, documents))}: no text to train a tokenizer on")
    share = min(1.0, config.max_bytes / total)
    seen = {"documents": 0, "documents_used": 0, "bytes_used": 0}

    def texts() -> Iterator[list[str]]:
        for path in files:
            for batch in read_documents(path):
                used = [
                    clean(text)
                    for identity, text in zip(batch.ids, batch.texts, strict=True)
                    if share == 1.0 or hash64("tokenizer", identity) < share * 2**64
                ]
                seen["documents"] += len(batch.ids)
                seen["documents_used"] += len(used)
                seen["bytes_used"] += sum(len(text.encode("utf-8")) for text in used)
                if seen["bytes_used"] > COUNTER_LIMIT:
                    raise TokenizerError(f"the sample for max_bytes={config.max_bytes} exceeds 2 GiB: lower max_bytes")
                yield [piece for text in used for piece in cut(text)]
                if progress is not None:
                    progress(seen["documents_used"], seen["bytes_used"])

    tokenizer = new_tokenizer(config)
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        # the trainer compares with `<`; ours is the longest that may be
        max_token_length=None if config.max_token_length is None else config.max_token_length + 1,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(), trainer)
    if seen["bytes_used"] == 0:
        raise TokenizerError(
            f"max_bytes={config.max_bytes} of {total} bytes left no text after sampling whole documents: raise max_bytes"
        )
    out = Path(out_dir)
    save(tokenizer, out)
    return {
        "vocab_size_wanted": config.vocab_size,
        "vocab_size": tokenizer.get_vocab_size(),
        **seen,
        "bytes": total,
        "sha256": sha256_of(out / "tokenizer.json"),
    }


def save(tokenizer: Tokenizer, out: Path) -> None:
    """Write tokenizer_config.json and, last, tokenizer.json; each appears whole or not at all."""
    out.mkdir(parents=True, exist_ok=True)
    write_json(
        out / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "model_max_length": int(1e30),  # transformers' sentinel for "no limit"
            "bos_token": END_OF_DOCUMENT,
            "eos_token": END_OF_DOCUMENT,
            "pad_token": END_OF_DOCUMENT,
            "additional_special_tokens": [token for token in SPECIAL_TOKENS if token != END_OF_DOCUMENT],
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    with atomic(out / "tokenizer.json") as temporary:
        temporary.write_text(json.dumps(json.loads(tokenizer.to_str()), indent=1, ensure_ascii=False) + "\n", "utf-8")


assert len(RESERVED) == 64  # ids of trained tokens start at 70 in every tokenizer of ours
