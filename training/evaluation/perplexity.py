"""How well a model predicts documents: nats, bits per byte and perplexity, as lm-evaluation-harness defines them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from training.evaluation.scoring import Request, score
from training.evaluation.texts import Document
from training.evaluation.windows import rolling_windows
from training.model import Decoder

TOGETHER = 256  # windows that are sorted by length and scored together


@dataclass
class Tally:
    """Sums over documents. Nats are of text alone: special tokens cost nothing, as they stand for no byte."""

    documents: int = 0
    tokens: int = 0
    bytes: int = 0
    words: int = 0
    nats: float = 0.0
    squares: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])  # nats^2, nats * bytes, bytes^2

    def add(self, nats: float, tokens: int, size: int, words: int) -> None:
        """One more document."""
        self.documents += 1
        self.tokens += tokens
        self.bytes += size
        self.words += words
        self.nats += nats
        for i, product in enumerate((nats * nats, nats * size, size * size)):
            self.squares[i] += product

    def figures(self) -> dict[str, Any]:
        """What is reported. None where there is nothing to divide by.

        The error of bits per byte is that of a ratio of sums over independent documents (Cochran 1977, section 6.4).
        """
        out: dict[str, Any] = {"documents": self.documents, "tokens": self.tokens, "bytes": self.bytes}
        out["nats"] = self.nats
        if not self.bytes:
            return {**out, "bits_per_byte": None}
        ratio = self.nats / self.bytes
        out["bits_per_byte"] = ratio / math.log(2)
        if self.documents > 1:
            nats2, both, bytes2 = self.squares
            residual = max(0.0, nats2 - 2 * ratio * both + ratio**2 * bytes2)
            error = math.sqrt(residual * self.documents / (self.documents - 1)) / self.bytes
            out["bits_per_byte_stderr"] = error / math.log(2)
        out["byte_perplexity"] = math.exp(ratio)
        out["word_perplexity"] = _exp(self.nats / self.words)
        out["token_perplexity"] = _exp(self.nats / self.tokens)
        out["bytes_per_token"] = self.bytes / self.tokens
        return out


def _exp(value: float) -> float | None:
    """e^value; None where that is beyond a float (a text without white space is one word)."""
    return math.exp(value) if value < 700 else None


def perplexity(
    model: Decoder,
    documents: Iterable[Document],
    *,
    end: int | None,
    lengths: np.ndarray | None,
    context: int,
    stride: int,
    batch_tokens: int,
    done: Callable[[int], object] = lambda count: None,
) -> dict[str, Any]:
    """Figures over all documents, and `by_source`, `by_language` where documents have one.

    Each document is scored by itself. end: the token from which its first is predicted; None leaves the first token out.
    lengths: bytes of each token id (None: no token is special, and `end` must be given). Empty documents are counted only.
    """
    total, by = Tally(), {"source": dict[str, Tally](), "language": dict[str, Tally]()}
    empty = 0
    for batch in _batches(documents, stride):
        requests: list[Request] = []
        owners: list[int] = []
        for number, document in enumerate(batch):
            tokens = document.tokens if end is not None else document.tokens[1:]
            before = end if end is not None else (document.tokens or [0])[0]
            for request in rolling_windows(tokens, before, context, stride):
                requests.append(request)
                owners.append(number)
        nats = [0.0] * len(batch)
        for number, request, one in zip(owners, requests, score(model, requests, batch_tokens), strict=True):
            text = one.nll if lengths is None else one.nll[lengths[np.asarray(request.continuation)] > 0]
            nats[number] += float(text.sum())
        for document, cost in zip(batch, nats, strict=True):
            predicted = document.tokens if end is not None else document.tokens[1:]
            skipped = 0 if end is not None or lengths is None else int(lengths[document.tokens[:1]].sum())
            text_tokens = len(predicted) if lengths is None else int((lengths[predicted] > 0).sum())
            if not text_tokens:
                empty += 1
                continue
            tallies = [total, *(by[key].setdefault(name, Tally()) for key, name in document.groups.items())]
            for tally in tallies:
                tally.add(cost, text_tokens, document.bytes - skipped, document.words)
        done(len(batch))
    out = {**total.figures(), "empty_documents": empty, "context": context, "stride": stride}
    for key, groups in by.items():
        if groups:
            out[f"by_{key}"] = {name: groups[name].figures() for name in sorted(groups)}
    return out


def _batches(documents: Iterable[Document], stride: int) -> Iterator[list[Document]]:
    """Documents of about `TOGETHER` windows."""
    batch: list[Document] = []
    windows = 0
    for document in documents:
        batch.append(document)
        windows += 1 + len(document.tokens) // stride
        if windows >= TOGETHER:
            yield batch
            batch, windows = [], 0
    if batch:
        yield batch


def first(documents: Iterable[Document], limit: int | None) -> Iterator[Document]:
    """At most `limit` of them."""
    return islice(documents, limit)
