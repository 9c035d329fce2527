"""Likelihoods of continuations under a decoder, in batches of similar length."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from training.knobs import TrainingError
from training.loss import IGNORED
from training.model import Decoder

LOGITS = 2**27  # values of one batch's logits that are held at a time: 512 MB in float32


class Request(NamedTuple):
    """Token ids to be scored, and those before them. The context holds at least one token."""

    context: Sequence[int]
    continuation: Sequence[int]


class Scored(NamedTuple):
    """Of each token of a continuation: negative log-likelihood in nats (float64), and whether it is the likeliest."""

    nll: np.ndarray
    likeliest: np.ndarray | None

    @property
    def loglikelihood(self) -> float:
        """Of the whole continuation, in nats."""
        return -float(self.nll.sum())

    @property
    def greedy(self) -> bool:
        """Whether always taking the likeliest token gives the continuation."""
        assert self.likeliest is not None
        return bool(self.likeliest.all())


@torch.no_grad()
def score(
    model: Decoder,
    requests: Sequence[Request],
    batch_tokens: int,
    *,
    likeliest: bool = False,
    done: Callable[[int], object] = lambda count: None,
) -> list[Scored]:
    """Score continuations, in the order of the requests.

    What does not fit the model's context loses tokens from the left, as in lm-evaluation-harness. A continuation longer
    than the context, and a token that the model does not have, are a `TrainingError`. `done` hears how many are scored.
    """
    limit, vocabulary = model.config.context_length, model.config.vocab_size
    rows = [_row(request, limit, vocabulary) for request in requests]
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), rows[i]))
    found: list[Scored | None] = [None] * len(rows)
    largest = min(batch_tokens, LOGITS // vocabulary) if likeliest else batch_tokens
    at = 0
    while at < len(order):
        count = max(1, largest // len(rows[order[at]]))
        part = order[at : at + count]
        sizes = [len(requests[i].continuation) for i in part]
        for i, one in zip(part, _batch(model, [rows[i] for i in part], sizes, likeliest), strict=True):
            found[i] = one
        at += len(part)
        done(len(part))
    return [one for one in found if one is not None]


def _row(request: Request, limit: int, vocabulary: int) -> list[int]:
    """Context and continuation in one, cut from the left to the context and the one token behind it."""
    if not request.context or not request.continuation:
        raise TrainingError("a likelihood needs at least one token before the text and one of it; one of both is empty")
    if len(request.continuation) > limit:
        raise TrainingError(
            f"a text of {len(request.continuation)} tokens cannot be scored at once: the model's context is {limit}"
        )
    row = [*request.context, *request.continuation][-(limit + 1) :]
    if max(row) >= vocabulary:
        raise TrainingError(f"the text has token {max(row)}, the model only {vocabulary}: is it of another tokenizer?")
    return row


def _batch(model: Decoder, rows: list[list[int]], sizes: list[int], likeliest: bool) -> list[Scored]:
    """Padding stands on the right, where no earlier position sees it."""
    length = len(rows[0]) - 1
    device = next(model.parameters()).device
    tokens = torch.zeros(len(rows), length, dtype=torch.int64)
    targets = torch.full((len(rows), length), IGNORED)
    for i, (row, size) in enumerate(zip(rows, sizes, strict=True)):
        tokens[i, : len(row) - 1] = torch.tensor(row[:-1])
        targets[i, len(row) - 1 - size : len(row) - 1] = torch.tensor(row[-size:])
    tokens, targets = tokens.to(device), targets.to(device)
    hits: np.ndarray | None = None
    if likeliest:
        logits = model(tokens)
        wanted = targets.clamp(min=0)
        nll = logits.logsumexp(dim=-1) - logits.gather(-1, wanted[..., None])[..., 0]
        hits = (logits.argmax(dim=-1) == wanted).cpu().numpy()
    else:
        nll = model(tokens, targets).nll
    values = nll.double().cpu().numpy()
    out = []
    for i, (row, size) in enumerate(zip(rows, sizes, strict=True)):
        place = slice(len(row) - 1 - size, len(row) - 1)
        out.append(Scored(values[i, place], None if hits is None else hits[i, place]))
    return out


def mean_and_error(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean, and its standard error from the sample's deviation (None of fewer than two values)."""
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return mean, None
    return mean, math.sqrt(sum((value - mean) ** 2 for value in values) / (count - 1) / count)
