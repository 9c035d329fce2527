"""Continuations of many prompts at once, through the key/value cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from training.generate import Sampler, greedy
from training.knobs import TrainingError
from training.model import Decoder, KeyValueCache


@torch.no_grad()
def continue_all(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    new_tokens: int,
    end: Sequence[int] = (),
    *,
    sampler: Sampler = greedy,
    rows: int = 32,
    stop: Callable[[list[int]], bool] | None = None,
) -> list[list[int]]:
    """At most `new_tokens` ids behind each prompt, in the prompts' order; each ends before the first id in `end`.

    Prompts of equal length share a batch of at most `rows`, so that none needs padding. `stop` is asked of a row's new
    ids after each. Raises `TrainingError` for an empty prompt, one that leaves no room, and ids that the model lacks.
    """
    limit, vocabulary = model.config.context_length, model.config.vocab_size
    by_length: dict[int, list[int]] = {}
    for number, prompt in enumerate(prompts):
        if not prompt:
            raise TrainingError("a prompt is empty: the model predicts a text's tokens from those before, give one")
        if len(prompt) + new_tokens > limit:
            raise TrainingError(
                f"a prompt of {len(prompt)} tokens and {new_tokens} new ones are more than the model's context of {limit}"
            )
        if max(prompt) >= vocabulary:
            raise TrainingError(f"a prompt has token {max(prompt)}, the model only {vocabulary}: wrong tokenizer?")
        by_length.setdefault(len(prompt), []).append(number)
    out: list[list[int]] = [[] for _ in prompts]
    for length in sorted(by_length):
        same = by_length[length]
        for at in range(0, len(same), rows):
            part = same[at : at + rows]
            found = _continue(model, [list(prompts[i]) for i in part], new_tokens, set(end), sampler, stop)
            for number, new in zip(part, found, strict=True):
                out[number] = new
    return out


def _continue(
    model: Decoder,
    prompts: list[list[int]],
    new_tokens: int,
    end: set[int],
    sampler: Sampler,
    stop: Callable[[list[int]], bool] | None,
) -> list[list[int]]:
    device = next(model.parameters()).device
    cache = KeyValueCache(model.config, len(prompts), len(prompts[0]) + new_tokens, device, model.dtype)
    tokens: Tensor = torch.tensor(prompts, device=device)
    out: list[list[int]] = [[] for _ in prompts]
    running = set(range(len(prompts)))
    for _ in range(new_tokens):
        chosen = sampler(model(tokens, cache=cache)[:, -1])
        for row, token in enumerate(chosen.tolist()):
            if row not in running:
                continue
            if token in end:
                running.discard(row)
                continue
            out[row].append(token)
            if stop is not None and stop(out[row]):
                running.discard(row)
        if not running:
            break
        tokens = chosen[:, None].to(device)
    return out
