"""The knobs of the `tokenizer` section."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from tokenizer_training.config import knob
from tokenizer_training.vocabulary.patterns import CUSTOM, PATTERNS, Rules, split_rules
from tokenizer_training.vocabulary.special import FIM, SPECIAL_TOKENS, TOOLS

SMALLEST_VOCABULARY = 256 + len(SPECIAL_TOKENS)  # every byte, and the special tokens
LIBRARY_BYTES = 1_000_000_000  # what the library's trainers read by default
_RESERVED = re.compile(r"<\|reserved_\d+\|>")


class Superword(BaseModel):
    """A second stage of merges that may cross the spaces between words (SuperBPE)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start: float = knob(
        0.9,
        "when the second stage begins: a share of vocab_size up to 1, or a number of tokens above 1",
        "arXiv 2503.13423: 180k of 200k",
        gt=0,
    )
    words: int = knob(4, "most words in one piece of text that is merged, and so in a token", "SuperBPE", ge=2, le=16)


class Parity(BaseModel):
    """Merges chosen by turns for the language that compresses worst (parity-aware BPE)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    development: str | None = knob(
        None,
        "folder of parallel texts <language>.txt, one sentence a line, on which compression is measured; null: on the counts",
        "arXiv 2508.04796",
    )
    share: float = knob(
        1.0,
        "share of the merges chosen so; those before are chosen by the counts of all languages",
        "arXiv 2508.04796, hybrid variant",
        gt=0,
        le=1,
    )


class TokenizerConfig(BaseModel):
    """How a byte-level tokenizer is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    vocab_size: int = knob(
        32768,
        f"tokens wanted, the special tokens ({len(SPECIAL_TOKENS)} and those added) and 256 bytes included; fewer if the corpus gives fewer",
        ge=SMALLEST_VOCABULARY,
        le=1_000_000,
    )
    algorithm: Literal["bpe", "unigram", "wordpiece"] = knob(
        "bpe", "how the vocabulary is learned; unigram and wordpiece need engine: tokenizers"
    )
    engine: Literal["gristmill", "tokenizers"] = knob(
        "gristmill",
        "gristmill: from counts of all text, exact beyond 2^31; tokenizers: the library's trainer on at most max_bytes of text",
    )
    pattern: Literal["gpt2", "cl100k", "llama3", "o200k", "qwen2", "qwen3.5", "tekken", "nanochat", "custom"] = knob(
        "llama3", "how text is cut into pre-tokens before merging; cl100k is llama3's under its older name", "Llama 3"
    )
    custom_pattern: str | None = knob(None, "the regular expression (Oniguruma, Ruby syntax) for pattern: custom")
    digits: int | None = knob(
        None, "most digits in one pre-token; null: as the pattern has it", "nanochat's ablation", ge=1, le=3
    )
    normalization: Literal["none", "nfc"] = knob(
        "none",
        "nfc: texts are brought to NFC before encoding, so decoding gives NFC; none: decoding gives back every byte",
    )
    min_frequency: int = knob(2, "a pair seen less often than this is never merged", "tokenizers' BpeTrainer", ge=1)
    minimum_count: int = knob(
        1, "pre-tokens seen less often than this are left out of the merged counts, to save memory", ge=1
    )
    max_token_length: int | None = knob(None, "longest token, in bytes; null: no limit", ge=1)
    weights: dict[Literal["source", "language", "domain"], dict[str, float]] = knob(
        {},
        "factors for the counts: {language: {de: 2}, source: {forum: 0.5}}; 0 leaves out, what is not named counts 1",
    )
    domain_field: str | None = knob(None, "column of the documents that `weights.domain` names values of")
    fim: bool = knob(False, f"add the special tokens for filling in the middle: {' '.join(FIM)}")
    tools: bool = knob(False, f"add special tokens for tool calls: {' '.join(TOOLS)}")
    special_tokens: list[str] = knob([], "further special tokens, by name")
    pad_to_multiple: int | None = knob(
        None, "reserved special tokens are added at the end until the vocabulary is a multiple of this", ge=2, le=4096
    )
    superword: Superword | None = knob(None, "a second stage of merges across words", "arXiv 2503.13423")
    parity: Parity | None = knob(None, "merges chosen for the language that compresses worst", "arXiv 2508.04796")
    max_bytes: int | None = knob(
        None,
        f"engine: tokenizers only: train on about this much text ({LIBRARY_BYTES:,} if null), sampled by document id; "
        "the library counts pairs in 32 bits",
        "huggingface/tokenizers issue 2058",
        ge=1,
        le=2_000_000_000,
    )

    @model_validator(mode="after")
    def _consistent(self) -> TokenizerConfig:
        own = self.engine == "gristmill"
        if own and self.algorithm != "bpe":
            raise ValueError(
                f"algorithm: {self.algorithm} with engine: gristmill, which learns bpe only; set engine: tokenizers"
            )
        if own and self.max_bytes is not None:
            raise ValueError(
                "max_bytes with engine: gristmill, which counts all text in 64 bits and needs no sample; "
                "leave max_bytes out, or set engine: tokenizers"
            )
        if not own:
            given = [name for name in ("superword", "parity", "weights", "domain_field") if getattr(self, name)]
            given += ["minimum_count"] if self.minimum_count > 1 else []
            if given:
                raise ValueError(
                    f"{given[0]} with engine: tokenizers, which reads texts, not counts; set engine: gristmill"
                )
        if self.algorithm == "unigram" and self.min_frequency != 2:
            raise ValueError("min_frequency with algorithm: unigram, whose trainer has none; leave min_frequency out")
        if self.algorithm == "wordpiece" and self.max_token_length is not None:
            raise ValueError(
                "max_token_length with algorithm: wordpiece, whose trainer has none; leave max_token_length out"
            )
        if (self.custom_pattern is not None) != (self.pattern == CUSTOM):
            raise ValueError(
                f"pattern: {self.pattern} and custom_pattern: pattern: custom and custom_pattern go together"
            )
        if self.domain_field is None and "domain" in self.weights:
            raise ValueError(
                "weights.domain without domain_field: name the column of the documents that holds the domain"
            )
        for kind, factors in self.weights.items():
            for name, factor in factors.items():
                if not 0 <= factor <= 1e6:
                    raise ValueError(f"weights.{kind}.{name} is {factor}; expected 0 to 1,000,000")
        self._check_stages()
        self._check_special()
        self.rules()  # raises where pattern, custom_pattern and digits do not fit
        return self

    def _check_stages(self) -> None:
        if self.superword is None:
            return
        if self.pattern == CUSTOM:
            raise ValueError(
                "superword with pattern: custom: pieces of several words are known for named patterns only"
            )
        if self.parity is not None:
            raise ValueError("superword and parity: the second stage is not parity-aware; choose one of them")
        if not self.smallest < self.first_stage() <= self.vocab_size:
            raise ValueError(
                f"superword.start: {self.superword.start} gives {self.first_stage()} tokens for the first stage; "
                f"expected more than {self.smallest} (special tokens and bytes) and at most vocab_size: {self.vocab_size}"
            )

    def _check_special(self) -> None:
        names = self.leading_special()
        for name in self.special_tokens:
            if len(name) < 2 or name != name.strip() or not name.isprintable():
                raise ValueError(
                    f"special_tokens: {name!r}; expected at least two printable characters, no space around them"
                )
            if names.count(name) > 1 or _RESERVED.fullmatch(name):
                raise ValueError(f"special_tokens: {name} is there already; the fixed ones are in special.py")
        if self.smallest > self.vocab_size:
            raise ValueError(
                f"vocab_size: {self.vocab_size} is less than the {len(names)} special tokens (special_tokens, fim, tools) "
                f"and the bytes of algorithm: {self.algorithm}; expected at least {self.smallest}"
            )

    def leading_special(self) -> list[str]:
        """The special tokens with the first ids, in their order."""
        return [*SPECIAL_TOKENS, *(FIM if self.fim else ()), *(TOOLS if self.tools else ()), *self.special_tokens]

    @property
    def smallest(self) -> int:
        """Special tokens and bytes (for wordpiece twice: at the beginning of a pre-token and within)."""
        return (512 if self.algorithm == "wordpiece" else 256) + len(self.leading_special())

    def first_stage(self) -> int:
        """Tokens after the first stage; all of them without a second."""
        if self.superword is None:
            return self.vocab_size
        start = self.superword.start
        return int(start * self.vocab_size) if start <= 1 else int(start)

    def rules(self) -> Rules:
        """How text is cut into pre-tokens."""
        return split_rules(self.pattern, self.digits, self.custom_pattern)


assert set(TokenizerConfig.model_fields["pattern"].annotation.__args__) == {*PATTERNS, CUSTOM}  # type: ignore[union-attr]
