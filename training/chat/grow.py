"""New special tokens for a model that was trained without them: rows for its embeddings, entries in its tokenizer's files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import nn

from training.chat.folder import add_special
from training.checkpoint import write_json, write_whole
from training.knobs import TrainingError
from training.model import Decoder, Linear


def grow_vocabulary(model: Decoder, size: int, seed: int) -> int:
    """Give the model logits for `size` ids, where it has fewer; returns how many came new.

    New rows are the mean of the old ones, each with a little noise of its own (a hundredth of their spread), so that their logits
    begin at what an average token's are (Hewitt 2021, "Initializing New Word Embeddings for Pretrained Language Models").
    """
    old = model.config.vocab_size
    if size <= old:
        return 0
    generator = torch.Generator().manual_seed(seed)
    rows = max(size, model.config.embedding_rows)

    def grown(matrix: torch.Tensor) -> nn.Parameter:
        known = matrix.detach()[:old]
        noise = torch.randn(size - old, known.shape[1], generator=generator) * 0.01
        fresh = known.mean(dim=0) + noise * known.std(dim=0)
        made = torch.zeros(rows, known.shape[1])
        made[:size] = torch.cat([known, fresh])
        return nn.Parameter(made)

    width = model.config.width
    embedding, head = nn.Embedding(rows, width), Linear(width, rows)
    embedding.weight = grown(model.model.embed_tokens.weight)
    head.weight = embedding.weight if model.config.tie_embeddings else grown(model.lm_head.weight)
    model.model.embed_tokens, model.lm_head = embedding, head
    model.config = replace(model.config, vocab_size=size, padded_vocab_size=rows if rows > size else None)
    return size - old


def write_chat_tokenizer(source: Path, folder: Path, tokens: Sequence[str], template: str | None) -> None:
    """Put into `folder`, where the files of `source` were copied to, the tokens that are new, and a template if it is another."""
    if tokens:
        tokenizer = Tokenizer.from_file(str(source / "tokenizer.json"))
        add_special(tokenizer, tokens)
        text = tokenizer.to_str(pretty=True) + "\n"
        write_whole(folder / "tokenizer.json", partial(_write, text))
        path = folder / "tokenizer_config.json"
        if path.exists():
            settings = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(listed := settings.get("additional_special_tokens"), list):
                settings["additional_special_tokens"] = [*listed, *(one for one in tokens if one not in listed)]
                write_json(path, settings)
    if template is not None:
        write_whole(folder / "chat_template.jinja", partial(_write, template))


def _write(text: str, path: Path) -> None:
    path.write_text(text, encoding="utf-8")


def check_rows(model: Decoder, size: int, folder: Path) -> None:
    """Raise `TrainingError` if the tokenizer has ids that the model has no rows for."""
    if size > model.config.vocab_size:
        raise TrainingError(
            f"{folder}: the tokenizer has {size:,} tokens, the model rows for {model.config.vocab_size:,}: they do not belong together"
        )
