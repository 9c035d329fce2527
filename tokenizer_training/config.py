"""The knobs of the `tokenizer` and `pack` sections, and the one error of this package."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from tokenizer_training.patterns import PATTERNS
from tokenizer_training.special import SPECIAL_TOKENS

SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)  # every byte, and the special tokens


class TokenizerError(ValueError):
    """A mistake in the user's input or files: the message names the file or key, what was expected, and what to do."""


def knob(default: Any, doc: str, source: str = "", **constraints: Any) -> Any:
    """A config field: default, meaning, and the paper or system its value comes from. `constraints` are pydantic's."""
    return Field(default, description=doc, json_schema_extra={"source": source}, **constraints)


class TokenizerConfig(BaseModel):
    """How a byte-level BPE tokenizer is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = knob(
        32768,
        f"tokens wanted, the {len(SPECIAL_TOKENS)} special tokens and 256 bytes included; fewer if the corpus gives fewer",
        ge=SMALLEST_VOCABULARY,
        le=1_000_000,
    )
    pattern: Literal["gpt2", "llama3", "cl100k", "qwen2", "o200k"] = knob(
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


class PackConfig(BaseModel):
    """How encoded documents become a token dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequence_length: int = knob(2048, "tokens of one training row", ge=2, le=2**24)
    strategy: Literal["best_fit", "concat"] = knob(
        "best_fit",
        "best_fit: whole documents are placed where they fit tightest, longer ones are split, what is left of a row is padded; "
        "concat: rows are cut from one stream, most documents at a row's edge are cut too. Neither loses a token",
        "Ding et al. 2024, Fewer Truncations Improve Language Modeling (arXiv 2404.10830)",
    )
    window: int = knob(10_000, "best_fit only: documents considered together", ge=1, le=1_000_000)
    validation: float = knob(
        0.01, "share of the duplicate clusters (else documents) held out as validation", ge=0, le=0.5
    )
    seed: int = knob(0, "of the order of documents and rows", ge=0, lt=2**63)
    shard_tokens: int = knob(
        100_000_000,
        "most tokens of one .bin file, unless one document has more",
        "nanoGPT's and llm.c's usual shard",
        ge=1,
        le=10**9,
    )


assert set(TokenizerConfig.model_fields["pattern"].annotation.__args__) == set(PATTERNS)  # type: ignore[union-attr]
