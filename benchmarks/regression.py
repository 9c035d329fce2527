"""`quality.regression` beside transformers' own pipeline, on a model of MiniLM's shape (6 layers of 384) with random weights.

What is compared is speed and agreement, not quality: no trained model is bundled. GRISTMILL_GOLD: see benchmarks/classifier.py.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from tokenizers import BertWordPieceTokenizer
from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast, pipeline

from benchmarks.classifier import page_texts
from benchmarks.prose_corpora import corpora
from stages.batch import Batch
from stages.quality.regression import Regression, RegressionConfig

TEXTS = 24
ROUNDS = 3


def main() -> None:
    """Print documents a second of wall clock on one thread, and the largest difference."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    texts = [text for text, _ in page_texts(Path(os.environ.get("GRISTMILL_GOLD", "")))][:TEXTS]
    texts = texts or [text for _, _, text in corpora()][:TEXTS]
    with tempfile.TemporaryDirectory() as folder:
        learner = BertWordPieceTokenizer(lowercase=True)
        learner.train_from_iterator(texts, vocab_size=8000, show_progress=False)
        learner.save_model(folder)
        BertTokenizerFast(vocab=f"{folder}/vocab.txt", vocab_file=f"{folder}/vocab.txt").save_pretrained(folder)
        BertForSequenceClassification(
            BertConfig(
                num_labels=1, hidden_size=384, num_hidden_layers=6, intermediate_size=1536, initializer_range=0.1
            )
        ).save_pretrained(folder)
        stage = Regression(RegressionConfig(model=folder, device="cpu"))
        stage.setup({"model": Path(folder)})
        theirs = pipeline("text-classification", model=folder, function_to_apply="none", device="cpu")
        table = pa.table({"text": texts})
        cut = [text[:10_000] for text in texts]  # both read as much
        ways = {
            "quality.regression": lambda: stage.measure(Batch(table)).column(0).to_pylist(),
            "pipeline, one by one": lambda: [
                row["score"] for row in theirs(cut, truncation=True, max_length=512, batch_size=1)
            ],
            "pipeline, batches of 16": lambda: [
                row["score"] for row in theirs(cut, truncation=True, max_length=512, batch_size=16)
            ],
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        scores = {}
        for _ in range(ROUNDS):
            for way, call in ways.items():
                before = time.process_time()
                scores[way] = np.array(call())
                seconds[way].append(time.process_time() - before)
        for way, some in seconds.items():
            apart = float(np.abs(scores[way] - scores["quality.regression"]).max())
            print(
                f"{way}: {len(texts) / statistics.median(some):.2f} documents/CPU-s, largest difference to ours {apart:.1e}"
            )


if __name__ == "__main__":
    main()
