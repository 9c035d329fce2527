"""gigatoken: SIMD pre-tokenizers for the patterns it knows, and a cache of words."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tokenizer_training.encoding.bpe_file import BytePairs
from tokenizer_training.encoding.engines.engine import Unavailable
from tokenizer_training.encoding.texts import Texts


class GigatokenEngine:
    """gigatoken, on the calling thread.

    It reads special tokens out of texts, so it is given the tokenizer without them. It refuses patterns it does not know.
    """

    name = "gigatoken"

    def __init__(self, model: BytePairs) -> None:
        try:
            import awkward
            import gigatoken
        except ImportError:
            raise Unavailable("gigatoken is not installed: pip install 'gristmill[fast]'") from None
        self._awkward: Any = awkward
        content = {**model.content, "added_tokens": [], "post_processor": None}
        try:
            self.tokenizer: Any = gigatoken.Tokenizer.from_json(json.dumps(content))
        except Exception as error:  # its own RuntimeError
            raise Unavailable(f"gigatoken does not take this tokenizer: {str(error).splitlines()[0]}") from None

    def encode(self, texts: Texts) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts (int32) and offsets (int64[n + 1])."""
        if len(texts) == 0:
            return np.zeros(0, np.int32), np.zeros(1, np.int64)
        contents = self._awkward.contents
        characters = contents.NumpyArray(texts.data, parameters={"__array__": "byte"})
        index = self._awkward.index.Index64(texts.offsets)
        layout = contents.ListOffsetArray(index, characters, parameters={"__array__": "bytestring"})
        made = self.tokenizer.encode_batch(self._awkward.Array(layout), parallel=False).layout
        offsets = np.asarray(made.offsets.data, np.int64)
        return np.asarray(made.content.data, np.uint32).view(np.int32)[offsets[0] : offsets[-1]], offsets - offsets[0]
