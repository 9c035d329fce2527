"""Training: interpolated modified Kneser-Ney smoothing (Chen and Goodman 1998), as lmplz does it (Heafield et al. 2013).

The highest order counts how often an n-gram occurs; lower orders count how many different words stand before it (n-grams that begin with
`<s>`, which have none, how often they occur). Counts are integers and all tables are in the order of their keys, so equal sentences, in
whatever order, give an equal model. Takes about 200 bytes of memory for each word of the text.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from stages.ngram.model import BEGIN, END, UNKNOWN, Floats, Ints, Model

NEVER = -99.0  # log10 probability of <s>, which is never predicted, as ARPA files write it
FALLBACK = (
    0.5,
    1.0,
    1.5,
)  # discounts of the counts 1, 2 and 3 or more where there is too little to estimate them (lmplz's)


class _Order(NamedTuple):
    """The n-grams of one length in the text, sorted by key: (row of the first n - 1 words in the order below, last word)."""

    context: Ints  # row of the first n - 1 words
    shorter: Ints  # row of the last n - 1 words
    word: Ints  # the last word
    counts: Ints  # how often it occurs
    adjusted: Ints  # Kneser-Ney's count


def train(sentences: Iterable[list[str]], order: int, min_count: int = 1, prune: Sequence[int] = ()) -> Model:
    """A model of the sentences. Words that occur less than `min_count` times are `<unk>`.

    n-grams, from n = 2, that occur `prune[n - 1]` times or less are left out, their probability staying with the back-off; the last entry
    is for all longer ones too. Raises `ValueError` if there is no word, or entries of `prune` fall.
    """
    if list(prune) != sorted(prune) or any(prune[:1]):
        raise ValueError("prune must begin with 0 and never fall: an n-gram needs its own beginning in the model")
    counts: Counter[str] = Counter()
    numbers: dict[str, int] = {}  # in the order of appearance
    lines = []
    for sentence in sentences:
        counts.update(sentence)
        lines.append(np.array([numbers.setdefault(word, len(numbers)) for word in sentence], dtype=np.int64))
    kept = sorted(word for word, count in counts.items() if count >= min_count and word not in (UNKNOWN, BEGIN, END))
    if not kept:
        raise ValueError("there is no word to train on")
    words = {word: number for number, word in enumerate((UNKNOWN, BEGIN, END, *kept))}
    final = np.array([words.get(word, 0) for word in numbers], dtype=np.int64)
    stream = np.concatenate([part for line in lines for part in ([1], final[line], [2])]).astype(np.int64)
    orders = _count(stream, len(words), order)
    thresholds = [prune[min(n, len(prune)) - 1] if prune else 0 for n in range(1, order + 1)]
    return _estimate(orders, words, thresholds)


def _count(stream: Ints, size: int, order: int) -> list[_Order]:
    """The n-grams of each length, none across the ends of sentences."""
    starts = np.flatnonzero(stream == 1)
    since = np.arange(len(stream)) - np.repeat(starts, np.diff([*starts, len(stream)]))  # place in the sentence
    places, rows = np.arange(len(stream)), stream  # where the current order's n-grams end, and their rows
    found = []
    for n in range(1, order + 1):
        if n == 1:
            counts = np.bincount(stream, minlength=size).astype(np.int64)
            nothing = np.zeros(size, dtype=np.int64)
            found.append(_Order(nothing, nothing, np.arange(size, dtype=np.int64), counts, counts.copy()))
        else:
            row_at = np.full(len(stream), -1, dtype=np.int64)
            row_at[places] = rows
            places = np.flatnonzero(since >= n - 1)
            keys, first, rows, counts = np.unique(
                row_at[places - 1] * size + stream[places], return_index=True, return_inverse=True, return_counts=True
            )
            at = places[first]
            found.append(
                _Order(keys // size, row_at[at], keys % size, counts.astype(np.int64), counts.astype(np.int64))
            )
            below = found[-2]
            before = np.bincount(found[-1].shorter, minlength=len(below.counts))  # different words that stand before
            found[-2] = below._replace(adjusted=np.where(before > 0, before, below.counts).astype(np.int64))
        if n == 1:
            found[0].adjusted[1] = 0  # <s> is never predicted
    if order > 1:
        found[0].adjusted[1] = 0
    return found


def _estimate(orders: list[_Order], words: dict[str, int], thresholds: Sequence[int]) -> Model:
    """Probabilities and back-off weights of all n-grams, then those that are kept."""
    size = len(words)
    probability: list[Floats] = []
    weights: list[Floats] = []  # of the contexts of each order, rows of the order below
    for n, table in enumerate(orders, start=1):
        given = _discounted(table.adjusted)
        given[table.counts <= thresholds[n - 1]] = 0.0
        contexts = 1 if n == 1 else len(orders[n - 2].counts)
        total = np.bincount(table.context, weights=table.adjusted, minlength=contexts)
        used = np.bincount(table.context, weights=given, minlength=contexts)
        left = np.divide(total - used, total, out=np.ones(contexts), where=total > 0)
        below = np.full(size, 1 / (size - 1)) if n == 1 else probability[-1][table.shorter]
        share = np.divide(given, total[table.context], out=np.zeros(len(given)), where=total[table.context] > 0)
        probability.append(share + left[table.context] * below)
        weights.append(left)
    return _pruned(orders, words, probability, weights, thresholds)


def _discounted(counts: Ints) -> Floats:
    """Counts less their discount: each of 1, 2 and 3 or more has one of its own, from how many n-grams have the counts 1 to 4."""
    ones, twos, threes, fours = (float((counts == number).sum()) for number in (1, 2, 3, 4))
    discounts = FALLBACK
    if ones and twos and threes:
        share = ones / (ones + 2 * twos)
        estimated = (1 - 2 * share * twos / ones, 2 - 3 * share * threes / twos, 3 - 4 * share * fours / threes)
        if all(0 <= value <= number for number, value in enumerate(estimated, start=1)):
            discounts = estimated
    table = np.array([0.0, *discounts])
    return counts - table[np.minimum(counts, 3)]


def _pruned(
    orders: list[_Order],
    words: dict[str, int],
    probability: list[Floats],
    weights: list[Floats],
    thresholds: Sequence[int],
) -> Model:
    """The model of the n-grams that are kept, in logarithms."""
    size = len(words)
    keys: list[Ints] = []
    logs: list[Floats] = []
    backoff: list[Floats] = []
    new = np.zeros(0, dtype=np.int64)  # rows of the order below in the model, -1 for those left out
    for n, table in enumerate(orders, start=1):
        stays: npt.NDArray[np.bool_] = (
            np.ones(size, bool) if n == 1 else (table.counts > thresholds[n - 1]) & (new[table.context] >= 0)
        )
        keys.append(table.word if n == 1 else new[table.context[stays]] * size + table.word[stays])
        value = np.log10(np.maximum(probability[n - 1][stays], 1e-99))
        if n == 1:
            value[1] = NEVER
        logs.append(value)
        longer = weights[n][stays] if n < len(orders) else np.ones(int(stays.sum()))
        backoff.append(np.log10(np.maximum(longer, 1e-99)))
        new = np.where(stays, np.cumsum(stays) - 1, -1)
    return Model(words, tuple(keys), tuple(logs), tuple(backoff))
