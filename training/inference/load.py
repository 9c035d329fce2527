"""A model folder made ready to generate."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer

from training.checkpoint import load_model
from training.model import Decoder
from training.vocabulary import load_tokenizer


class Loaded(NamedTuple):
    """A decoder with its tokenizer and the ids that end a text."""

    model: Decoder
    tokenizer: Tokenizer
    end: list[int]


def load(folder: Path, device: torch.device, dtype: torch.dtype = torch.float32) -> Loaded:
    """Read a model folder. Raises `TrainingError` if it is none."""
    model, end = load_model(folder, device, dtype)
    return Loaded(model, load_tokenizer(folder), end)
