"""Completions of many prompts at once, for whoever wants all of them and no stream: samples, evaluation, RL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tokenizers import Tokenizer

from training.inference.engine import Engine
from training.inference.fused import fused
from training.inference.sampling import Sampling
from training.knobs import TrainingError
from training.model import Decoder


@dataclass(frozen=True)
class Completion:
    """What a model said behind a prompt."""

    tokens: list[int]  # with the end token, which the model chose too, if it came
    logprobs: list[float]  # of these under softmax(logits / temperature), untruncated; temperature 1 where greedy
    finish: Literal["stop", "length"]  # an end token or stop string came, or max_new_tokens or the context is full
    text: str = ""  # without end token and stop string; "" if no tokenizer was given


def generate_batch(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    end: Sequence[int],
    *,
    seeds: Sequence[int] | None = None,
    max_rows: int = 64,
    tokenizer: Tokenizer | None = None,
    special: bool = False,
) -> list[Completion]:
    """One completion of each prompt, in order; repeat a prompt for several, it is prefilled once.

    Prompt i draws with `seeds[i]`, by default `sampling.seed + i`: what it says does not depend on the batch. end: ids that
    end a completion. A completion that would leave the context ends there. max_rows: that decode side by side. A tokenizer
    is needed for `sampling.stop` alone, and gives texts, `special` with special tokens in them. The model's training mode is left as it was. Raises
    `TrainingError` for a prompt that is empty, has ids that the model lacks, or fills the context.
    """
    if seeds is not None and len(seeds) != len(prompts):
        raise TrainingError(f"{len(prompts)} prompts need as many seeds, got {len(seeds)}")
    if not prompts:
        return []
    longest = max(map(len, prompts)) + sampling.max_new_tokens
    was_training = model.training
    model.eval()
    try:
        engine = Engine(
            fused(model), end, tokenizer, max_rows=min(max_rows, len(prompts)), positions=longest, special=special
        )
        # the longest first, so that prompts of about equal length are prefilled together; equal ones are neighbours
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), tuple(prompts[i]), i))
        for i in order:
            engine.add(prompts[i], sampling, seeds=[sampling.seed + i if seeds is None else seeds[i]])
        tokens: list[list[int]] = [[] for _ in prompts]
        logprobs: list[list[float]] = [[] for _ in prompts]
        pieces: list[list[str]] = [[] for _ in prompts]
        finish: list[Literal["stop", "length"]] = ["length"] * len(prompts)
        while engine.busy:
            for event in engine.step():
                i = order[event.request]
                tokens[i].append(event.token)
                logprobs[i].append(event.logprob)
                pieces[i].append(event.text)
                finish[i] = event.finish or finish[i]
    finally:
        model.train(was_training)
    texts = ["".join(parts) for parts in pieces]
    return [Completion(*each) for each in zip(tokens, logprobs, finish, texts, strict=True)]
