"""`quality.perplexity` beside KenLM's own reader of the same file: equal scores, speed; and what perplexity tells apart.

The model is trained on the sentences of the bundled sample (benchmarks/prose_corpora.py). GRISTMILL_GOLD: see benchmarks/classifier.py. GRISTMILL_PEERS
names the Python of a virtual environment with KenLM, which is built from source: pip install kenlm.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.classifier import page_texts, show
from benchmarks.prose_corpora import corpora
from stages.ngram.arpa import read_arpa, write_arpa
from stages.ngram.kneser_ney import train
from stages.ngram.model import sentences

ROUNDS = 5

PEER = """
import json, sys, time
import kenlm
model = kenlm.Model(sys.argv[1])
texts = json.load(sys.stdin)
seconds = []
for _ in range(int(sys.argv[2])):
    before = time.process_time()
    totals = [sum(model.score(line) for line in text) for text in texts]
    seconds.append(time.process_time() - before)
print(json.dumps([totals, seconds]))
"""


def main() -> None:
    """Print all figures."""
    good = [text for _, side, text in corpora() if side]
    pairs = page_texts(Path(os.environ.get("GRISTMILL_GOLD", ""))) or [(text, side) for _, side, text in corpora()]
    texts = [text for text, _ in pairs]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.arpa"
        before = time.process_time()
        made = train((line for text in good for line in sentences(text, "words")), 5, 2, (0, 0, 1))
        words = sum(len(line) for text in good for line in sentences(text, "words"))
        print(f"training: {words / (time.process_time() - before):,.0f} words/CPU-s")
        write_arpa(made, path)
        model = read_arpa(path)
        cutting, scoring = [], []
        for _ in range(ROUNDS):
            before = time.process_time()
            cut = [sentences(text, "words") for text in texts]
            middle = time.process_time()
            total, count, _ = model.score(cut)
            cutting.append(middle - before)
            scoring.append(time.process_time() - middle)
        size = int(count.sum())
        print(f"cutting text into words: {size / statistics.median(cutting):,.0f} words/CPU-s")
        print(
            f"ours, scoring: {size / statistics.median(scoring):,.0f} words/CPU-s ({len(texts)} texts, {size:,} words)"
        )
        if os.environ.get("GRISTMILL_PEERS"):
            lines = json.dumps([[" ".join(line) for line in text] for text in cut])
            done = subprocess.run(
                [os.environ["GRISTMILL_PEERS"], "-c", PEER, str(path), str(ROUNDS)],
                input=lines,
                capture_output=True,
                text=True,
                check=True,
            )
            totals, seconds = json.loads(done.stdout)
            apart = float(np.max(np.abs(np.array(totals) - total) / np.maximum(1.0, np.abs(total))))
            print(
                f"KenLM, scoring: {size / statistics.median(seconds):,.0f} words/CPU-s; largest relative difference {apart:.1e}"
            )
        perplexity = 10 ** (-total / np.maximum(count, 1))
        show(
            "main texts against the rest of their pages, -perplexity",
            (-perplexity).tolist(),
            [side for _, side in pairs],
        )


if __name__ == "__main__":
    main()
