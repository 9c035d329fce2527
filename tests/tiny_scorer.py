"""A Hugging Face folder of a sequence classifier with random weights, as small as they get."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

TEXTS = [
    "the river runs to the sea",
    "a " * 300,
    "",
    "mountains and rivers " * 20,
    "x",
    "the sea " * 35,
    "forests, rivers; and the quiet sea. " * 9,
]


def save(folder: Path, outputs: int = 1, positions: int = 128) -> Path:
    folder.mkdir()
    learner = BertWordPieceTokenizer(lowercase=True)
    learner.train_from_iterator(TEXTS, vocab_size=200, min_frequency=1, show_progress=False)
    learner.save_model(str(folder))
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt"), vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=200,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=positions,
        num_labels=outputs,
        initializer_range=0.5,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return folder
