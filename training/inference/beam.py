"""Beam search: the likeliest continuations that can be found with `beams` of them kept at each step.

Scores, stopping and ties of candidates are those of transformers' `generate(num_beams=)`, with which it is tested equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from training.inference.cache import KeyValueCache
from training.inference.engine import check_prompt
from training.knobs import TrainingError
from training.model import Decoder

NEVER = -1.0e9  # the score of what must not be chosen; finite, so that it can be added


@dataclass(frozen=True)
class Beam:
    """A continuation, with its end token if it has one."""

    tokens: list[int]
    score: float  # sum of log-probabilities / length ** length_penalty


@torch.no_grad()
def beam_search(
    model: Decoder,
    prompt: Sequence[int],
    end: Sequence[int],
    *,
    beams: int,
    max_new_tokens: int,
    length_penalty: float = 1.0,
    early_stopping: bool | Literal["never"] = False,
    count: int = 1,
) -> list[Beam]:
    """The `count` best continuations, best first.

    length_penalty: exponent of the length; above 0 longer ones gain. early_stopping: True ends when `beams` are complete;
    False when no running one could beat them at its present length; "never" when it could not at the greatest length either.
    Raises `TrainingError` for a bad prompt, fewer than `count` beams, or so many that the vocabulary has no choice left.
    """
    check_prompt(prompt, model.config.context_length, model.config.vocab_size)
    keep = max(2, 1 + len(end)) * beams  # so that enough go on even if the best all end
    if not 1 <= count <= beams or keep > model.config.vocab_size:
        raise TrainingError(
            f"{beams} beams: expected at least as many as are returned ({count}), and {keep} candidates in the "
            f"vocabulary of {model.config.vocab_size}"
        )
    limit = min(max_new_tokens, model.config.context_length - len(prompt))
    if not abs(length_penalty) * math.log(max(2, limit)) < 700:  # length ** length_penalty must be a number
        raise TrainingError(f"length_penalty={length_penalty}: too far from 0 for {limit} tokens")
    device = next(model.parameters()).device
    cache = KeyValueCache(model.config, beams, len(prompt) + limit, device, model.dtype)
    first = cache.part(0, 1)
    at = torch.tensor([len(prompt) - 1], device=device)
    logits: Tensor = model(torch.tensor([list(prompt)], device=device), cache=first, at=at).expand(beams, -1)
    for row in range(1, beams):
        cache.copy_row(0, row)

    running: list[list[int]] = [[] for _ in range(beams)]
    scores = torch.full((beams,), NEVER, device=device)
    scores[0] = 0.0  # all beams are one at first
    best: list[Beam] = []
    improvable = True
    while True:
        length = len(running[0]) + 1
        sums = (logits.log_softmax(dim=-1) + scores[:, None]).flatten()
        values, places = (found.tolist() for found in sums.topk(keep))
        owners = [place // logits.shape[-1] for place in places]
        tokens = [place % logits.shape[-1] for place in places]
        ends = [token in end or length == limit for token in tokens]
        if improvable and not (early_stopping is True and len(best) == beams):
            complete = [
                Beam([*running[owners[i]], tokens[i]], values[i] / length**length_penalty)
                for i in range(beams)
                if ends[i] and values[i] > NEVER / 2
            ]
            best = sorted(best + complete, key=lambda beam: -beam.score)[:beams]
        going = [i for i in range(keep) if not ends[i]][:beams]
        if len(going) < beams:
            break
        running = [[*running[owners[i]], tokens[i]] for i in going]
        scores = torch.tensor([values[i] for i in going], device=device)
        longest = limit if early_stopping == "never" and length_penalty > 0 else length
        worst = best[-1].score if len(best) == beams else NEVER
        improvable = improvable and values[going[0]] / longest**length_penalty > worst
        if not improvable or (early_stopping is True and len(best) == beams):
            break
        cache.reorder([owners[i] for i in going])
        logits = model(torch.tensor([row[-1:] for row in running], device=device), cache=cache)[:, 0]
    return best[:count]
