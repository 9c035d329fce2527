"""A back-off n-gram model in arrays: the log probability of every word of many texts at once.

An n-gram is a row of the order's table, found by its key: the row of its first n - 1 words in the order below, and its last word. So a
whole batch is looked up with one binary search an order, and the probability of a word is that of the longest n-gram that ends at it,
with the back-off weights of the longer contexts that were seen (Katz 1987; ARPA files mean the same).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Tokens = Literal["words", "whitespace"]

UNKNOWN, BEGIN, END = "<unk>", "<s>", "</s>"
_WORD = re.compile(r"\w+|[^\w\s]")
_DIGITS = re.compile(r"\d")


def sentences(text: str, tokens: Tokens, max_characters: int | None = None) -> list[list[str]]:
    """The text's non-blank lines as lists of tokens.

    `words`: lower-case runs of letters and digits, every other mark on its own, digits as 0, as CCNet's models read text before they cut it
    (Wenzek et al. 2020). `whitespace`: what stands between white space, as it is. The special words are never yielded.
    """
    found = []
    for line in (text if max_characters is None else text[:max_characters]).split("\n"):
        if tokens == "words":
            line = line.lower()
            words = _WORD.findall(_DIGITS.sub("0", line))
        else:
            words = [word for word in line.split() if word not in (UNKNOWN, BEGIN, END)]
        if words:
            found.append(
                [word.encode("utf-8", "replace").decode("utf-8") for word in words] if not line.isascii() else words
            )
    return found


@dataclass(frozen=True)
class Model:
    """Words by id (0 `<unk>`, 1 `<s>`, 2 `</s>`), and for each order, from 1: keys in order, log10 probabilities, log10 back-off weights.

    The highest order has no back-off weights (zeros). The key of a unigram is its word.
    """

    words: dict[str, int]
    keys: tuple[Ints, ...]
    probability: tuple[Floats, ...]
    backoff: tuple[Floats, ...]

    @property
    def order(self) -> int:
        """The longest n-gram's length."""
        return len(self.keys)

    def ids(self, sentence: Sequence[str]) -> list[int]:
        """`<s>`, the words, `</s>` as ids."""
        known = self.words
        return [1, *(known.get(word, 0) for word in sentence), 2]

    def log_probabilities(self, stream: Ints) -> Floats:
        """log10 probability of each word of sentences end to end, given those before it in its sentence; 0 for `<s>`.

        `stream` holds ids, each sentence beginning with `<s>`. A word's result depends on its sentence alone.
        """
        rows = stream.copy()  # of the n-gram that ends here, -1 where there is none
        result = self.probability[0][stream]
        size = len(self.words)
        begin = stream == 1
        for order in range(1, self.order):
            context = np.concatenate([[-1], rows[:-1]])
            seen = (context >= 0) & ~begin
            wanted = np.where(seen, context * size + stream, -1)
            rows = find(self.keys[order], wanted)
            weight = np.where(seen, self.backoff[order - 1][np.maximum(context, 0)], 0.0)
            result = np.where(rows >= 0, self.probability[order][np.maximum(rows, 0)], result + weight)
        result[begin] = 0.0
        return result

    def score(self, texts: Sequence[list[list[str]]]) -> tuple[Floats, Ints, Ints]:
        """Of each text (its sentences): the sum of log10 probabilities, the words that this is of (with one end a sentence), unknown ones."""
        rows: list[int] = []
        stream: list[int] = []
        for row, lines in enumerate(texts):
            for line in lines:
                ids = self.ids(line)
                stream += ids
                rows += [row] * len(ids)
        place, ids_ = np.array(rows, dtype=np.int64), np.array(stream, dtype=np.int64)
        values = self.log_probabilities(ids_) if len(ids_) else np.zeros(0)
        # bincount adds in order, one row at a time: a sum does not depend on the other rows
        total = np.bincount(place, weights=values, minlength=len(texts)).astype(np.float64)
        count = np.bincount(place[ids_ != 1], minlength=len(texts))
        unknown = np.bincount(place[ids_ == 0], minlength=len(texts))
        return total, count.astype(np.int64), unknown.astype(np.int64)


def find(keys: Ints, wanted: Ints) -> Ints:
    """The row of each wanted key among sorted ones; -1 where there is none, and for negative keys."""
    if not len(keys):
        return np.full(len(wanted), -1, dtype=np.int64)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, place, -1)
