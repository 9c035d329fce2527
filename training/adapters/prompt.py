"""Prompt tuning: trained embeddings in front of each document, and nothing else (Lester et al. 2021, arXiv 2104.08691).

The model's rows grow by the virtual tokens: those of a document stand before its first token, in the same document, and
positions count them. What the model gives back is that of the real positions alone, so that tokens, targets and losses keep
their places. Shapes: B rows, L positions, W width, N virtual tokens, M positions with them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from training.adapters.config import AdapterConfig
from training.attention import document_starts
from training.knobs import TrainingError
from training.model import Decoder
from training.vocabulary import encode_text, load_tokenizer


class VirtualTokens(nn.Module):
    """Embeddings `[N, W]`, float32, in front of each document."""

    def __init__(self, embeddings: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(embeddings.clone())
        self.enabled = True

    def forward(self, x: Tensor, documents: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor]:
        """Put them in front of the embeddings `x [B, L, W]`: the rows `[B, M, W]`, their documents, and where x went `[B, L]`.

        documents: as `Decoder.forward` takes them, or None: each row is one. Rows with fewer documents than others are filled up
        with zeros of no document.
        """
        rows, length, width = x.shape
        tokens, device = self.weight.shape[0], x.device
        index = torch.arange(length, device=device).expand(rows, length)
        if documents is None:
            places, total = index + tokens, length + tokens
        else:
            count = (document_starts(documents) & (documents >= 0)).cumsum(dim=1)
            places, total = index + tokens * count, length + tokens * int(count[:, -1].max())
        at = torch.arange(total, device=device).expand(rows, total).contiguous()
        after = torch.searchsorted(places.contiguous(), at)  # the first token that is not before this position
        token = after.clamp(max=length - 1)
        gap = places.gather(1, token) - at  # 0 on a token, 1 to N on the virtual ones in front of it
        behind = after == length
        source = torch.where(behind, length + tokens, torch.where(gap == 0, token, length + tokens - gap))
        filled = torch.cat([x, self.weight.expand(rows, -1, -1), x.new_zeros(rows, 1, width)], dim=1)
        grown = filled.gather(1, source[..., None].expand(-1, -1, width))
        if documents is not None:
            documents = documents.gather(1, token).masked_fill(behind, -1)
        return grown, documents, places


def add_prompt(model: Decoder, config: AdapterConfig, seed: int, tokenizer_dir: Path | None) -> None:
    """Put virtual tokens in front, as `prompt_init` says; what is random comes from a private generator."""
    attach(model, first_embeddings(model, config, seed, tokenizer_dir))


def attach(model: Decoder, embeddings: Tensor) -> None:
    """Put embeddings `[N, W]` in front. Raises `TrainingError` if they leave no room in the context."""
    table, count = model.model.embed_tokens.weight, embeddings.shape[0]
    if count >= model.config.context_length:
        raise TrainingError(
            f"virtual_tokens={count} leave no room in the model's context of {model.config.context_length}: take fewer"
        )
    model.prompt = VirtualTokens(embeddings.to(table))
    left = model.config.context_length - count
    model.config = replace(model.config, context_length=left, virtual_tokens=count)


def first_embeddings(model: Decoder, config: AdapterConfig, seed: int, tokenizer_dir: Path | None) -> Tensor:
    """What the virtual tokens begin with: float32 `[virtual_tokens, W]`."""
    table = model.model.embed_tokens.weight.detach()[: model.config.vocab_size].cpu()
    generator = torch.Generator().manual_seed(seed)
    if config.prompt_init == "random":
        return torch.empty(config.virtual_tokens, table.shape[1]).normal_(0.0, float(table.std()), generator=generator)
    if config.prompt_init == "vocabulary":
        return table[torch.randint(len(table), (config.virtual_tokens,), generator=generator)]
    if tokenizer_dir is None:
        raise TrainingError("prompt_init: text needs a tokenizer")
    assert config.prompt_text is not None
    ids = encode_text(load_tokenizer(tokenizer_dir), config.prompt_text)
    if max(ids) >= len(table):
        raise TrainingError(f"prompt_text has token {max(ids)}, the model only {len(table)}: wrong tokenizer?")
    return table[torch.tensor((ids * -(-config.virtual_tokens // len(ids)))[: config.virtual_tokens])]
