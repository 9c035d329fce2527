"""A model that is evaluated."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tokenizers import Tokenizer

from training.knobs import TrainingError
from training.model import Decoder


class Subject(NamedTuple):
    """A model, its tokenizer and its end-of-text ids."""

    folder: Path
    model: Decoder
    tokenizer: Tokenizer
    end: list[int]

    def start(self) -> int:
        """The token before a text. Raises `TrainingError` if the model names none."""
        if not self.end:
            raise TrainingError(
                f"{self.folder / 'config.json'} names no eos_token_id, which stands before a text that is scored; "
                "add it, or set first_token=skipped for the perplexity alone"
            )
        return self.end[0]
