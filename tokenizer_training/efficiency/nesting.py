"""Every smaller vocabulary from one: merges nest, so undoing the last ones gives the tokens of a smaller tokenizer.

Encoding applies merges in the order of their rank (a merge makes pairs of higher rank only). So the tokens of the first k
merges are the tokens of all merges with those from k on undone, and each undone merge adds one token.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tokenizer_training.efficiency.metrics import flops_per_byte

LADDER = 24  # points of a curve


def tokens_by_merges(counts: np.ndarray, merges: np.ndarray) -> np.ndarray:
    """int64[M + 1]: how many tokens a text has with the first k merges, for every k from 0 to M.

    `counts` int64[V]: the tokens of the text under all merges; `merges` int64[M, 3]: the ids of the left and the right part
    and of what merge m makes of them, which no other merge makes.
    """
    uses = counts.tolist()  # how often each token is made, a part of longer ones included
    pairs = merges.tolist()
    for m in range(len(pairs) - 1, -1, -1):
        left, right, made = pairs[m]
        n = uses[made]
        if n:
            uses[left] += n
            uses[right] += n
    undone = np.array(uses, np.int64)[merges[:, 2]]
    return int(counts.sum()) + np.concatenate([undone[::-1].cumsum()[::-1], [0]]).astype(np.int64)


def ladder(first: int, last: int, points: int = LADDER) -> np.ndarray:
    """Vocabulary sizes (int64) from `first` to `last`, evenly spaced in their logarithm, without repeats."""
    spaced = np.unique(np.geomspace(max(first, 2), max(last, 2), points).round().astype(np.int64))
    return np.unique(np.concatenate([spaced[(spaced >= first) & (spaced <= last)], [last]]))


def size_curve(counts: np.ndarray, merges: np.ndarray, text_bytes: int) -> list[dict[str, Any]]:
    """Tokens and bytes per token for a ladder of vocabularies up to this one."""
    tokens = tokens_by_merges(counts, merges)
    first = len(counts) - len(merges)
    return [
        {"vocab_size": v, "tokens": int(tokens[v - first]), "bytes_per_token": text_bytes / int(tokens[v - first])}
        for v in ladder(first, len(counts)).tolist()
        if tokens[v - first]
    ]


def cost_curve(curve: list[dict[str, Any]], shape: dict[str, Any]) -> dict[str, Any]:
    """Training FLOPs per byte along a size curve for a model's shape, and the vocabulary where they are least.

    `shape`: parameters (without embeddings), width, layers, context. `at_end` says that the least is the largest vocabulary
    measured, so that a larger one may be cheaper still.
    """
    sizes = np.array([point["vocab_size"] for point in curve], np.int64)
    per_byte = np.array([1 / point["bytes_per_token"] for point in curve])
    flops = flops_per_byte(shape["parameters"], shape["width"], shape["layers"], shape["context"], sizes, per_byte)
    best = int(flops.argmin())
    return {
        **shape,
        "points": [{"vocab_size": int(v), "flops_per_byte": float(f)} for v, f in zip(sizes, flops, strict=True)],
        "best_vocab_size": int(sizes[best]),
        "best_flops_per_byte": float(flops[best]),
        "at_end": best == len(sizes) - 1,
    }
