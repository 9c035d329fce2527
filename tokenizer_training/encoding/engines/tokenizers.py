"""Hugging Face tokenizers: the reference. It reads tokenizer.json itself, whatever that says."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer

from tokenizer_training.corpus.pieces import LONGEST_PIECE, cut_long
from tokenizer_training.encoding.texts import Texts

# Bytes handed over at once. The answer takes some 100 bytes a token until it is turned into an array.
BATCH_BYTES = 2_000_000


class TokenizersEngine:
    """`encode_batch_fast`, with special tokens spelled in texts as text.

    Where `cut_safely`, long texts are handed over in pieces: that is for patterns that have a boundary at every cut of `pieces.py`.
    """

    name = "tokenizers"

    def __init__(self, tokenizer: Tokenizer, cut_safely: bool) -> None:
        self.tokenizer = tokenizer
        self.longest = LONGEST_PIECE if cut_safely else None

    def normal(self, text: str) -> str:
        """The text as the tokenizer's normalizer changes it."""
        normalizer = self.tokenizer.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))

    def encode(self, texts: Texts) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts (int32) and offsets (int64[n + 1])."""
        offsets = np.zeros(len(texts) + 1, np.int64)
        parts = [np.zeros(0, np.int32)]
        batch: list[str] = []
        rows: list[int] = []
        size = 0
        for row, text in enumerate(texts):
            cut = [text] if self.longest is None or len(text) <= self.longest else cut_long(text, self.longest)
            for piece in cut:
                batch.append(piece)
                rows.append(row)
                size += len(piece)
                if size >= BATCH_BYTES:
                    self._encode(batch, rows, parts, offsets)
                    batch, rows, size = [], [], 0
        self._encode(batch, rows, parts, offsets)
        np.cumsum(offsets, out=offsets)
        return np.concatenate(parts), offsets

    def _encode(self, batch: list[str], rows: list[int], parts: list[np.ndarray], offsets: np.ndarray) -> None:
        for row, encoding in zip(rows, self.tokenizer.encode_batch_fast(batch, add_special_tokens=False), strict=True):
            parts.append(np.array(encoding.ids, np.int32))
            offsets[row + 1] += len(parts[-1])
