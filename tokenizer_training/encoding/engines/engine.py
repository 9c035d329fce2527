"""What an engine is."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from tokenizer_training.config import TokenizerError
from tokenizer_training.encoding.texts import Texts


class Unavailable(TokenizerError):
    """The engine is not installed, or not for this tokenizer; the message says why."""


class Engine(Protocol):
    """Turns texts into ids, or raises; what it raises may be no Exception (see tiktoken)."""

    name: str

    def encode(self, texts: Texts) -> tuple[np.ndarray, np.ndarray]:
        """Ids of all texts one after the other (int32) and where each text's begin (int64[n + 1])."""
        ...
