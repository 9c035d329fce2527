"""The knobs of the `tokenizer` section."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from tokenizer_training.config import knob
from tokenizer_training.vocabulary.patterns import PATTERNS
from tokenizer_training.vocabulary.special import SPECIAL_TOKENS

SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)  # every byte, and the special tokens


class TokenizerConfig(BaseModel):
    """How a byte-level BPE tokenizer is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = knob(
        32768,
        f"tokens wanted, the {len(SPECIAL_TOKENS)} special tokens and 256 bytes included; fewer if the corpus gives fewer",
        ge=SMALLEST_VOCABULARY,
        le=1_000_000,
    )
    pattern: Literal["gpt2", "llama3", "cl100k", "qwen2", "qwen3.5", "o200k", "tekken", "nanochat"] = knob(
        "llama3", "how text is cut into pre-tokens before merging; cl100k is llama3's under its older name", "Llama 3"
    )
    min_frequency: int = knob(2, "a pair seen less often than this is never merged", "tokenizers' BpeTrainer", ge=1)
    max_token_length: int | None = knob(None, "longest token, in bytes; null: no limit", ge=1)
    normalization: Literal["none", "nfc"] = knob(
        "none",
        "nfc: texts are brought to NFC before encoding, so decoding gives NFC; none: decoding gives back every byte",
    )
    max_bytes: int = knob(
        1_000_000_000,
        "train on about this many bytes of text; a larger corpus is sampled by document id. The trainer counts pairs in 32 bits",
        "huggingface/tokenizers issue 2058",
        ge=1,
        le=2_000_000_000,
    )


assert set(TokenizerConfig.model_fields["pattern"].annotation.__args__) == set(PATTERNS)  # type: ignore[union-attr]
