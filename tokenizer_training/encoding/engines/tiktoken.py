"""tiktoken: byte-pair merging by ranks of tokens; for patterns that the faster engines do not know."""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenizer_training.encoding.bpe_file import BytePairs
from tokenizer_training.encoding.engines.engine import Unavailable
from tokenizer_training.encoding.texts import Texts


class TiktokenEngine:
    """tiktoken, on the calling thread. Its PanicException is no Exception; whoever calls `encode` must catch it."""

    name = "tiktoken"

    def __init__(self, model: BytePairs) -> None:
        from tokenizer_training.vocabulary.ranks import rank_differences

        try:
            import tiktoken
        except ImportError:
            raise Unavailable("tiktoken is not installed: pip install 'gristmill[fast]'") from None
        if model.nfc:
            raise Unavailable("tiktoken cannot bring texts to NFC")
        if differences := rank_differences(model):
            raise Unavailable(
                f"tiktoken merges by the rank of tokens, which here differs from the merges: {differences[0]}"
            )
        try:
            self.encoding: Any = tiktoken.Encoding(
                "gristmill", pat_str=model.pattern, mergeable_ranks=model.tokens, special_tokens={}
            )
        except Exception as error:  # ValueError for a pattern it cannot compile
            raise Unavailable(f"tiktoken does not take this tokenizer: {error}") from None

    def encode(self, texts: Texts) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts (int32) and offsets (int64[n + 1])."""
        parts = [np.array(self.encoding.encode_ordinary(text), np.int32) for text in texts]
        offsets = np.zeros(len(texts) + 1, np.int64)
        np.cumsum([len(part) for part in parts], out=offsets[1:])
        return (np.concatenate(parts) if parts else np.zeros(0, np.int32)), offsets
