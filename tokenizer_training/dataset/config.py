"""The knobs of the `pack` section."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from tokenizer_training.config import knob


class PackConfig(BaseModel):
    """How encoded documents become a token dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sequence_length: int = knob(2048, "tokens of one training row", ge=2, le=2**24)
    strategy: Literal["best_fit", "concat", "bucketed", "document"] = knob(
        "best_fit",
        "best_fit: whole documents are placed where they fit tightest, longer ones are split, what is left of a row is padded; "
        "concat: rows are cut from one stream, most documents at a row's edge are cut too; bucketed: best_fit, but a row holds only "
        "documents whose lengths round up to the same power of two; document: each document has a row to itself",
        "Ding et al. 2024, Fewer Truncations Improve Language Modeling (arXiv 2404.10830)",
    )
    window: int = knob(10_000, "all but concat: documents considered together", ge=1, le=1_000_000)
    split: Literal["sentence", "anywhere"] = knob(
        "sentence",
        "all but concat: where documents longer than a row are split. sentence: behind the end of a sentence or line within the last "
        "quarter of a row, conversations before a turn of the user; anywhere: into full rows and a rest",
    )
    longer: Literal["split", "drop"] = knob(
        "split", "all but concat: documents longer than a row are split into several, or left out and counted"
    )
    interleave: Literal["none", "source", "group"] = knob(
        "none",
        "source, group: rows hold documents of one source (or group of the mix) each, and follow each other so that every prefix "
        "of a phase holds the proportions of the whole within one row",
        "Megatron-LM's rule for blends: next comes who is furthest behind its share",
    )
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
        1000,
        "every so many documents are encoded by tokenizers too, and compared; 0: only a sample at the beginning",
        ge=0,
    )
    memory: int = knob(
        2**30,
        "bytes of memory that a unit of encoding or shuffling may take for tokens, besides some 200 MB for code and a batch of texts; "
        "a single longer document takes more. Output does not depend on it",
        ge=2**20,
        le=2**40,
    )

    @model_validator(mode="after")
    def _concat_drops_nothing(self) -> PackConfig:
        if self.strategy == "concat" and self.longer == "drop":
            raise ValueError("longer: drop needs another strategy than concat, which cuts at every row's edge")
        return self
