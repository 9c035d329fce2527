"""The knobs of the `pack` section."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from tokenizer_training.config import knob


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
    encoder: Literal["auto", "gristmill", "gigatoken", "tiktoken", "tokenizers"] = knob(
        "auto",
        "what turns text into ids; auto: the fastest that is installed and gives the ids of tokenizers for this tokenizer. "
        "A document on which it fails or differs is encoded by tokenizers and counted",
    )
    verify_every: int = knob(
        1000, "every so many documents are encoded by tokenizers too, and compared; 0: only a sample at the beginning", ge=0
    )
