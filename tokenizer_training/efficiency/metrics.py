"""The metrics as pure functions of counts; formulas and caveats in definitions.py.

Empty input gives None where there is nothing to divide by.
"""

from __future__ import annotations

import numpy as np

RENYI_ALPHA = 2.5  # Zouhar et al. 2023, Tokenization and the Noiseless Channel
PAGE_BYTES = 3000  # of text on a page


def ratio(a: float, b: float) -> float | None:
    """a / b, None for b = 0."""
    return float(a / b) if b else None


def probabilities(counts: np.ndarray) -> np.ndarray:
    """Shares (float64) of the tokens seen, from how often each was (int64[V])."""
    seen = counts[counts > 0].astype(np.float64)
    return seen / seen.sum() if len(seen) else seen


def entropy(counts: np.ndarray) -> float:
    """Bits per token of the unigram distribution."""
    p = probabilities(counts)
    return float(-(p * np.log2(p)).sum()) + 0.0


def unigram_bits_per_byte(counts: np.ndarray, text_bytes: int) -> float | None:
    """Entropy in bits per byte of text."""
    return ratio(entropy(counts) * float(counts.sum()), text_bytes)


def renyi_efficiency(counts: np.ndarray, vocabulary: int, alpha: float = RENYI_ALPHA) -> float | None:
    """Rényi entropy of order alpha (not 1) over log2 of a vocabulary's size."""
    p = probabilities(counts)
    if not len(p) or vocabulary < 2:
        return None
    return float(np.log2((p**alpha).sum()) / (1 - alpha) / np.log2(vocabulary)) + 0.0


def bits_per_byte(nats: float, target_bytes: int) -> float | None:
    """Bits per byte of a model whose losses sum to `nats` over targets of that many bytes."""
    return ratio(nats / np.log(2), target_bytes)


def target_bytes(targets: np.ndarray, token_bytes: np.ndarray) -> int:
    """UTF-8 bytes of predicted tokens; `token_bytes` int[V], 0 for special ones (see `peers.Peer.lengths`)."""
    return int(token_bytes[targets].sum())


def fertility(cuts: np.ndarray, counts: np.ndarray) -> float | None:
    """Tokens per word: `cuts` tokens of each distinct word, `counts` how often it stands there."""
    return ratio(int((cuts * counts).sum()), int(counts.sum()))


def continued_word_share(cuts: np.ndarray, counts: np.ndarray) -> float | None:
    """Share of words that are two tokens or more."""
    return ratio(int(counts[cuts >= 2].sum()), int(counts.sum()))


def single_token_retention_rate(cuts: np.ndarray, counts: np.ndarray) -> float | None:
    """Share of words that are one token."""
    return ratio(int(counts[cuts == 1].sum()), int(counts.sum()))


def gini(costs: np.ndarray) -> float | None:
    """Gini coefficient of costs >= 0: 0 where all are equal. O(n log n) form of the double sum."""
    n, total = len(costs), float(np.sum(costs))
    if n == 0 or total == 0:
        return None
    ordered = np.sort(costs.astype(np.float64))
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * total))


def used_share(counts: np.ndarray, ordinary: int) -> float | None:
    """Share of `ordinary` tokens that were seen."""
    return ratio(int((counts > 0).sum()), ordinary)


def dead_tail_share(counts: np.ndarray, ordinary: int, below: int) -> float | None:
    """Share of `ordinary` tokens seen fewer than `below` times."""
    return ratio(ordinary - int((counts >= below).sum()), ordinary)


def byte_fallback_rate(counts: np.ndarray, partial: np.ndarray) -> float | None:
    """Share of the tokens of a text whose bytes are no whole UTF-8 (`partial`: bool[V])."""
    return ratio(int(counts[partial].sum()), int(counts.sum()))


def flops_per_byte(
    parameters: float, width: int, layers: int, context: int, vocabulary: np.ndarray, tokens_per_byte: np.ndarray
) -> np.ndarray:
    """Training FLOPs for a byte of text, for each vocabulary; `parameters` without embeddings."""
    per_token = 6 * parameters + 6 * vocabulary.astype(np.float64) * width + 12 * layers * width * context
    return per_token * tokens_per_byte


def context_pages(context: int, bytes_per_token: float) -> float:
    """Pages of 3,000 bytes in a context of so many tokens."""
    return context * bytes_per_token / PAGE_BYTES
