"""`engine: tokenizers`: BPE, Unigram and WordPiece by the library's own trainers, from texts.

All three work on the characters that stand for bytes, and every byte is in the vocabulary, so that every text decodes to
itself. WordPiece marks what continues a pre-token, so each byte is in its vocabulary twice.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from tokenizer_training.config import TokenizerError
from tokenizer_training.corpus.documents import FIELDS, Fields, hash64, read_documents, text_bytes
from tokenizer_training.corpus.files import find_documents
from tokenizer_training.corpus.pieces import cut
from tokenizer_training.encoding.encoder import clean
from tokenizer_training.vocabulary.bpe import BYTES_BY_ID
from tokenizer_training.vocabulary.byte_level import CHARACTER_OF_BYTE
from tokenizer_training.vocabulary.config import LIBRARY_BYTES, TokenizerConfig
from tokenizer_training.vocabulary.folder import new_tokenizer, save, sizes
from tokenizer_training.vocabulary.special import padding_tokens

COUNTER_LIMIT = 2**31 - 1  # the trainer's pair counts are 32-bit and overflow silently (tokenizers 0.23)
MARK = "→"  # before what continues a pre-token in WordPiece; it stands for no byte, as "##" does
LONGEST_PIECE = 16  # of Unigram where there is no max_token_length: the library's default
NEVER = -1e9  # the score of special tokens in Unigram, so that no text is segmented into one

Progress = Callable[[int, int], None]  # documents and bytes of text read so far


def train_by_library(
    documents: Sequence[str | Path],
    config: TokenizerConfig,
    out_dir: str | Path,
    *,
    progress: Progress | None = None,
    fields: Fields = FIELDS,
) -> dict[str, Any]:
    """Train on the `text` of documents with the library and write the tokenizer's folder; facts as `train_tokenizer`.

    Reads about `max_bytes` of text, sampled by document id. Raises `TokenizerError` if there is no text, or a special
    token is a single pre-token, which these trainers could make of text.
    """
    check_special(config)
    files = find_documents(documents)
    total = sum(text_bytes(path, fields) for path in files)
    if total == 0:
        raise TokenizerError(f"{', '.join(map(str, documents))}: no text to train a tokenizer on")
    most = config.max_bytes or LIBRARY_BYTES
    share = min(1.0, most / total)
    seen = {"documents": 0, "documents_used": 0, "bytes_used": 0}

    def texts() -> Iterator[list[str]]:
        for path in files:
            for batch in read_documents(path, fields=fields):
                used = [
                    clean(text)
                    for identity, text in zip(batch.ids, batch.texts, strict=True)
                    if share == 1.0 or hash64("tokenizer", identity) < share * 2**64
                ]
                seen["documents"] += len(batch.ids)
                seen["documents_used"] += len(used)
                seen["bytes_used"] += sum(len(text.encode("utf-8")) for text in used)
                if seen["bytes_used"] > COUNTER_LIMIT:
                    raise TokenizerError(f"the sample for max_bytes={most} exceeds 2 GiB: lower max_bytes")
                yield [piece for text in used for piece in cut(text)]
                if progress is not None:
                    progress(seen["documents_used"], seen["bytes_used"])

    tokenizer = {"bpe": _bpe, "unigram": _unigram, "wordpiece": _wordpiece}[config.algorithm](config, texts())
    if seen["bytes_used"] == 0:
        raise TokenizerError(f"max_bytes={most} of {total} bytes left no text after sampling whole documents: raise it")
    padding = padding_tokens(tokenizer.get_vocab_size(), config.pad_to_multiple)
    tokenizer.add_special_tokens(_special([*config.leading_special(), *padding]))
    return save(tokenizer, config, sizes(config, tokenizer) | seen | {"bytes": total}, Path(out_dir))


def check_special(config: TokenizerConfig) -> None:
    """Raise `TokenizerError` if a special token is one pre-token of text that spells it."""
    split = new_tokenizer(config).pre_tokenizer
    for name in config.leading_special():
        if len(split.pre_tokenize_str(name)) == 1:
            raise TokenizerError(
                f"special token {name} is a single pre-token under pattern: {config.pattern}, so engine: tokenizers could "
                "give it for text that spells it; choose another name, or engine: gristmill"
            )


def _special(names: Sequence[str]) -> list[AddedToken]:
    return [AddedToken(name, special=True, normalized=False) for name in names]


def _bpe(config: TokenizerConfig, texts: Iterator[list[str]]) -> Tokenizer:
    tokenizer = new_tokenizer(config)
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        special_tokens=_special(config.leading_special()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        # the trainer compares with `<`; ours is the longest that may be
        max_token_length=None if config.max_token_length is None else config.max_token_length + 1,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _unigram(config: TokenizerConfig, texts: Iterator[list[str]]) -> Tokenizer:
    tokenizer = new_tokenizer(config, models.Unigram())
    trainer = trainers.UnigramTrainer(
        vocab_size=config.vocab_size,
        special_tokens=_special(config.leading_special()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        max_piece_length=config.max_token_length or LONGEST_PIECE,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    pieces = [(name, score) for name, score in json.loads(tokenizer.to_str())["model"]["vocab"]]
    special = len(config.leading_special())
    model = models.Unigram([(name, NEVER) for name, _ in pieces[:special]] + pieces[special:], None, False)
    return new_tokenizer(config, model)


def _wordpiece(config: TokenizerConfig, texts: Iterator[list[str]]) -> Tokenizer:
    characters = [CHARACTER_OF_BYTE[byte] for byte in BYTES_BY_ID.tolist()]
    marked = [MARK + character for character in characters]
    tokenizer = new_tokenizer(config, models.WordPiece({}, unk_token=config.leading_special()[0]))
    trainer = trainers.WordPieceTrainer(
        vocab_size=config.vocab_size,
        min_frequency=config.min_frequency,
        # With every marked byte every text can be encoded. The trainer numbers those that it meets in the order of a
        # hash table, and ties go by number: given here, they have the same numbers every time.
        special_tokens=[*config.leading_special(), *marked],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        continuing_subword_prefix=MARK,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fixed = [*config.leading_special(), *characters, *marked]
    ids = tokenizer.get_vocab(True)
    trained = sorted(set(ids) - set(fixed), key=lambda name: ids[name])
    model = models.WordPiece(
        {name: number for number, name in enumerate([*fixed, *trained])},
        unk_token=fixed[0],  # never given: every byte is there
        max_input_chars_per_word=1_000_000_000,
        continuing_subword_prefix=MARK,
    )
    tokenizer = new_tokenizer(config, model)
    tokenizer.decoder = decoders.Sequence([decoders.Replace(MARK, ""), decoders.ByteLevel()])
    return tokenizer
