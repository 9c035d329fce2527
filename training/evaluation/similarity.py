"""BERTScore (Zhang et al. 2020, arXiv 1904.09675) by an encoder in a local folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.knobs import TrainingError

BATCH = 32  # texts of one forward pass


class Encoder(NamedTuple):
    """An encoder of transformers, its tokenizer, and the layer whose states are compared."""

    model: Any
    tokenizer: Any
    layer: int


def load_encoder(folder: Path, layer: int | None) -> Encoder:
    """The encoder in a folder. `layer`: from 1; None takes the last, where bert-score has a table by the model's name.

    Raises `TrainingError` for a folder that transformers does not load, and for a layer that is not there.
    """
    try:
        from transformers import AutoModel, AutoTokenizer
    except ModuleNotFoundError:
        raise TrainingError("transformers is not installed; pip install 'gristmill[eval]'") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        model = AutoModel.from_pretrained(str(folder), local_files_only=True, dtype=torch.float32).eval()
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(
            f"evaluate.bertscore: {folder} is no encoder that transformers loads: {' '.join(str(error).split())[:300]}"
        ) from None
    model = getattr(model, "encoder", model) if hasattr(model, "decoder") else model
    layers = model.config.num_hidden_layers
    if layer is not None and layer > layers:
        raise TrainingError(f"evaluate.bertscore_layer: {folder} has {layers} layers, not {layer}")
    return Encoder(model, tokenizer, layer or layers)


def bertscore(encoder: Encoder, answers: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """F of each answer and its nearest reference: greedy cosine matching, without idf and without rescaling.

    An empty answer or reference scores 0, as in bert-score. Texts are cut to what the encoder takes.
    """
    texts = list(dict.fromkeys([*answers, *(one for wanted in references for one in wanted)]))
    states = dict(zip(texts, _states(encoder, texts), strict=True))
    return [
        max(_match(states[answer], states[one]) for one in wanted)
        for answer, wanted in zip(answers, references, strict=True)
    ]


@torch.no_grad()
def _states(encoder: Encoder, texts: list[str]) -> list[tuple[Tensor, Tensor]]:
    """Of each text unit vectors `[L, W]` of all its tokens, and 1 for each that is a word's `[L]`, 0 for added ones."""
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    found: list[tuple[Tensor, Tensor] | None] = [None] * len(texts)
    device = next(encoder.model.parameters()).device
    limit = encoder.tokenizer.model_max_length
    if limit > 1_000_000:  # transformers' way to say that the folder names none; RoBERTa's positions start at 2
        limit = getattr(encoder.model.config, "max_position_embeddings", 514) - 2
    for at in range(0, len(order), BATCH):
        part = order[at : at + BATCH]
        batch = encoder.tokenizer(
            [texts[i].strip() for i in part],
            padding=True,
            truncation=True,
            max_length=limit,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        added = batch.pop("special_tokens_mask")
        hidden = encoder.model(**batch.to(device), output_hidden_states=True).hidden_states[encoder.layer]
        hidden = torch.nn.functional.normalize(hidden.float(), dim=-1).cpu()
        for row, number in enumerate(part):
            real = batch["attention_mask"][row].cpu().bool()
            found[number] = hidden[row, real], (1 - added[row])[real].float()
    return [one for one in found if one is not None]


def _match(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> float:
    """Added tokens (such as [CLS]) weigh nothing but may be matched, as in bert-score."""
    (ours, our_weight), (theirs, their_weight) = found, wanted
    if not our_weight.any() or not their_weight.any():
        return 0.0
    similarity = ours @ theirs.T
    precision = (similarity.amax(dim=1) * our_weight).sum() / our_weight.sum()
    recall = (similarity.amax(dim=0) * their_weight).sum() / their_weight.sum()
    return float(2 * precision * recall / (precision + recall))
