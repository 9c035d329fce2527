"""`dedup.semantic`: speed on vectors made here; and, with a model and near-duplicates at hand, what a threshold finds.

GRISTMILL_EMBEDDER: folder of a model. GRISTMILL_NEARDUP: folder with docs.jsonl.xz (id, page, text) and pairs.jsonl.xz (a, b,
jaccard_w5, same_page); every fourth page of it is embedded.
"""

from __future__ import annotations

import json
import lzma
import os
import time
from pathlib import Path
from typing import Any

import numpy as np

from stages.dedup import embedding
from stages.dedup.unit_vectors import fit_centroids, nearest, quantised, stars

ROWS, NUMBERS, CLUSTERS, SAMPLE = 60_000, 256, 14, 8192


def main() -> None:
    """Print rates in documents a second of processor time (start with OPENBLAS_NUM_THREADS=1), then what thresholds find."""
    speed()
    if os.environ.get("GRISTMILL_EMBEDDER") and os.environ.get("GRISTMILL_NEARDUP"):
        quality(Path(os.environ["GRISTMILL_EMBEDDER"]), Path(os.environ["GRISTMILL_NEARDUP"]))


def speed() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(300, NUMBERS))[rng.integers(0, 300, ROWS)] + 0.8 * rng.normal(size=(ROWS, NUMBERS))
    copies = rng.permutation(ROWS)[: ROWS // 10]
    vectors[copies] = vectors[rng.integers(0, ROWS, len(copies))] + 0.05 * rng.normal(size=(len(copies), NUMBERS))
    began = time.process_time()
    whole, _ = quantised(vectors)
    rounded = time.process_time()
    centroids = fit_centroids(whole[:SAMPLE], CLUSTERS, 20)
    fitted = time.process_time()
    labels, _ = nearest(whole, centroids)
    assigned = time.process_time()
    removed = 0
    for label in range(len(centroids)):
        mine = np.flatnonzero(labels == label)
        removed += int((stars(whole[mine], np.arange(len(mine)), 0.95)[0] != np.arange(len(mine))).sum())
    compared = time.process_time()
    print(
        f"{ROWS:,} vectors of {NUMBERS}, {CLUSTERS} clusters, {removed:,} removed: rounded {ROWS / (rounded - began):,.0f}/s, "
        f"fitted in {fitted - rounded:.1f} s, assigned {ROWS / (assigned - fitted):,.0f}/s, compared {ROWS / (compared - assigned):,.0f}/s"
    )


def quality(model: Path, folder: Path) -> None:
    documents: list[dict[str, Any]] = _rows(folder / "docs.jsonl.xz")
    pages = set(sorted({document["page"] for document in documents})[::4])
    documents = [document for document in documents if document["page"] in pages]
    place = {document["id"]: row for row, document in enumerate(documents)}
    began = time.process_time()
    vectors = embedding.load(model, None, 2048, "cpu")([document["text"][:10_000] for document in documents])
    print(f"{len(documents)} documents embedded, {len(documents) / (time.process_time() - began):.1f}/s")
    same, jaccard = np.zeros((len(documents),) * 2, bool), np.zeros((len(documents),) * 2)
    for pair in _rows(folder / "pairs.jsonl.xz"):
        if pair["a"] in place and pair["b"] in place:
            a, b = sorted((place[pair["a"]], place[pair["b"]]))
            same[a, b], jaccard[a, b] = pair["same_page"], pair["jaccard_w5"]
    whole, _ = quantised(vectors)
    products = whole.astype(np.int64) @ whole.astype(np.int64).T
    lengths = np.sqrt(np.diag(products))
    mixed = np.random.default_rng(0).permutation(len(whole))  # the stage draws them by hash
    upper = np.triu(np.ones_like(same), 1)
    for threshold in (0.99, 0.97, 0.95, 0.9, 0.85):
        found = (products / np.outer(lengths, lengths) >= threshold) & upper
        apart = []
        for clusters in (9, 20):
            labels, _ = nearest(whole, fit_centroids(whole[mixed], clusters, 20))
            apart.append((found & (labels[:, None] == labels)).sum() / max(1, found.sum()))
        print(
            f"{threshold}: {found.sum()} pairs, of them the same page {(found & same).sum() / max(1, found.sum()):.3f}, Jaccard under 0.5 "
            f"{(found & (jaccard < 0.5)).sum() / max(1, found.sum()):.3f}; of all pairs of the same page {(found & same).sum() / same.sum():.3f}, "
            f"of Jaccard 0.8 or more {(found & (jaccard >= 0.8)).sum() / (jaccard >= 0.8).sum():.3f}; in one cluster of 9 {apart[0]:.4f}, of 20 {apart[1]:.4f}"
        )


def _rows(path: Path) -> list[dict[str, Any]]:
    with lzma.open(path, "rt") as file:
        return [json.loads(line) for line in file]
