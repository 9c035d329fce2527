"""A model folder made ready to generate: weights in the dtype of the products, since nothing is trained any more."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer
from torch import nn

from training.checkpoint import load_model
from training.inference.fused import fused
from training.model import Decoder
from training.vocabulary import load_tokenizer


class Loaded(NamedTuple):
    """A decoder with its tokenizer and the ids that end a text."""

    model: Decoder
    tokenizer: Tokenizer
    end: list[int]


def load(folder: Path, device: torch.device, dtype: torch.dtype = torch.float32, *, plain: bool = False) -> Loaded:
    """Read a model folder; `plain` leaves its matrices as they are in it. Raises `TrainingError` if it is none."""
    model, end = load_model(folder, device, dtype) if plain else load_decoder(folder, device, dtype)
    return Loaded(model, load_tokenizer(folder), end)


def load_decoder(folder: Path, device: torch.device, dtype: torch.dtype) -> tuple[Decoder, list[int]]:
    """The decoder alone, rearranged for generation, with its end ids."""
    model, end = load_model(folder, device, dtype)
    return cast_weights(fused(model)), end


def cast_weights(model: Decoder) -> Decoder:
    """Turn the matrices of the products into the model's dtype, in place: what they are cast to at each use otherwise.

    Embeddings of positions and norms stay float32. Not for a model that is still trained.
    """
    if model.dtype != torch.float32:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                module.to(model.dtype)
        if model.config.tie_embeddings:
            model.model.embed_tokens.weight = model.lm_head.weight
    return model.requires_grad_(False)
