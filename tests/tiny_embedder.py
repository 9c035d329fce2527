"""Folders of models that embed texts, as small as they get: token vectors, and a transformer with random weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from tokenizers import BertWordPieceTokenizer, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.normalizers import Lowercase
from tokenizers.pre_tokenizers import Whitespace
from transformers import BertConfig, BertModel, BertTokenizerFast

WORDS = {  # words of like meaning have like vectors
    "[UNK]": (9, 9, 9),
    "big": (1, 0, 0),
    "large": (1, 0.05, 0),
    "house": (0, 1, 0),
    "home": (0, 1, 0.05),
    "river": (0, 0, 1),
    "stream": (0.05, 0, 1),
}


def save_static(folder: Path, **more: np.ndarray) -> Path:
    """A folder as model2vec writes it; `more` tensors (`weights`, `mapping`, or other `embeddings`) go into its file."""
    folder.mkdir()
    _tokenizer().save(str(folder / "tokenizer.json"))
    save_file({"embeddings": _vectors(), **more}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "model2vec", "normalize": True}))
    return folder


def save_static_module(folder: Path) -> Path:
    """The same vectors as sentence-transformers writes them."""
    inner = folder / "0_StaticEmbedding"
    inner.mkdir(parents=True)
    _tokenizer().save(str(inner / "tokenizer.json"))
    save_file({"embedding.weight": _vectors()}, inner / "model.safetensors")
    _modules(folder, ("StaticEmbedding", "0_StaticEmbedding"), ("Normalize", "1_Normalize"))
    return folder


def _tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = Lowercase(), Whitespace()
    return tokenizer


def _vectors() -> np.ndarray:
    return np.array(list(WORDS.values()), dtype=np.float32)


def save_transformer(folder: Path, pooling: str = "mean", *others: tuple[str, str]) -> Path:
    """A folder as sentence-transformers writes it, of a transformer that reads 64 tokens and says to read 48."""
    folder.mkdir()
    learner = BertWordPieceTokenizer(lowercase=True)
    learner.train_from_iterator(
        ["the quiet river runs to the sea"] * 3, vocab_size=120, min_frequency=1, show_progress=False
    )
    learner.save_model(str(folder))
    BertTokenizerFast(vocab_file=str(folder / "vocab.txt"), vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(5)
    config = BertConfig(
        vocab_size=120,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
        initializer_range=0.5,
    )
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 48, "do_lower_case": False}))
    (folder / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{name}": name == pooling for name in ("cls_token", "mean_tokens", "max_tokens")}
    if pooling in ("mean", "cls", "lasttoken"):
        modes = {"pooling_mode": pooling}  # type: ignore[dict-item]
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({"embedding_dimension": 32, **modes}))
    _modules(folder, ("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize"), *others)
    return folder


def _modules(folder: Path, *modules: tuple[str, str]) -> None:
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
