"""Text from a checkpoint: a key/value cache, samplers as pure functions of logits, and the loop that uses them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from training.checkpoint import load_model
from training.knobs import TrainingError
from training.model import Decoder, KeyValueCache
from training.vocabulary import encode_text, load_tokenizer

Sampler = Callable[[Tensor], Tensor]  # logits float32 [B, V] -> token ids int64 [B]


def with_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide logits `[B, V]`: below 1 the distribution gets sharper, above 1 flatter."""
    return logits / temperature


def with_top_k(logits: Tensor, k: int) -> Tensor:
    """Rule out all but the k likeliest tokens of each row (Fan et al. 2018); those equal to the k-th stay."""
    least = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < least, -torch.inf)


def with_top_p(logits: Tensor, p: float) -> Tensor:
    """Rule out all but the smallest set of likeliest tokens whose probability reaches p (Holtzman et al. 2020)."""
    ordered, order = logits.sort(dim=-1, descending=True)
    probabilities = ordered.softmax(dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    out = before >= p
    out[..., 0] = False
    return logits.masked_fill(torch.zeros_like(out).scatter(-1, order, out), -torch.inf)


def greedy(logits: Tensor) -> Tensor:
    """The likeliest token of each row `[B]`."""
    return logits.argmax(dim=-1)


def random_sampler(
    seed: int, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Sampler:
    """Draw from the distribution after temperature, top-k and top-p, in this order, with a private generator."""
    if temperature <= 0:
        raise TrainingError(f"temperature must be above 0, got {temperature}; for the likeliest token use --greedy")
    if top_k is not None and top_k < 1:
        raise TrainingError(f"top-k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise TrainingError(f"top-p must be above 0 and at most 1, got {top_p}")
    generator = torch.Generator().manual_seed(seed)

    def sample(logits: Tensor) -> Tensor:
        logits = with_temperature(logits, temperature)
        if top_k is not None:
            logits = with_top_k(logits, top_k)
        if top_p is not None:
            logits = with_top_p(logits, top_p)
        return torch.multinomial(logits.softmax(dim=-1).cpu(), 1, generator=generator)[:, 0]

    return sample


@torch.no_grad()
def generate_tokens(
    model: Decoder, prompt: list[int], sampler: Sampler, max_new_tokens: int, end: list[int], samples: int = 1
) -> list[list[int]]:
    """Continue a prompt `samples` times. Each continuation ends before the first id in `end`, or after `max_new_tokens`.

    Raises `TrainingError` if the prompt is empty or does not fit the context with what is asked for.
    """
    if not prompt:
        raise TrainingError(
            "the prompt is empty: the model predicts a document's tokens from those before, give it a first one"
        )
    if len(prompt) + max_new_tokens > model.config.context_length:
        raise TrainingError(
            f"the prompt's {len(prompt)} tokens and {max_new_tokens} new ones are more than the context of "
            f"{model.config.context_length} that the model was trained on"
        )
    if max(prompt) >= model.config.vocab_size:
        raise TrainingError(
            f"the prompt has token {max(prompt)}, the model only {model.config.vocab_size}: wrong tokenizer?"
        )
    device = next(model.parameters()).device
    cache = KeyValueCache(model.config, samples, len(prompt) + max_new_tokens, device, model.dtype)
    tokens = torch.tensor([prompt] * samples, device=device)
    out: list[list[int]] = [[] for _ in range(samples)]
    running = set(range(samples))
    for _ in range(max_new_tokens):
        chosen = sampler(model(tokens, cache=cache)[:, -1])
        for row, token in enumerate(chosen.tolist()):
            if token in end:
                running.discard(row)
            elif row in running:
                out[row].append(token)
        if not running:
            break
        tokens = chosen[:, None].to(device)
    return out


def generate(
    model_dir: str | Path,
    prompt: str,
    *,
    max_new_tokens: int = 128,
    samples: int = 1,
    sampler: Sampler = greedy,
    device: torch.device | None = None,
) -> list[str]:
    """Continuations of a prompt as text, without the prompt. Text that spells a special token stays text.

    `max_new_tokens` is cut to what the context has room for. Raises `TrainingError` for a folder that is no model and a
    prompt that is empty, too long, or not valid Unicode.
    """
    folder = Path(model_dir)
    model, end = load_model(folder, device or torch.device("cpu"))
    tokenizer = load_tokenizer(folder)
    ids = encode_text(tokenizer, prompt)
    room = model.config.context_length - len(ids)
    if room < 1:
        raise TrainingError(f"the prompt has {len(ids)} tokens, the model's context only {model.config.context_length}")
    found = generate_tokens(model, ids, sampler, min(max_new_tokens, room), end, samples)
    # decoding prompt and continuation together: a character may be cut between them
    whole = [tokenizer.decode(ids + new, skip_special_tokens=False) for new in found]
    start = tokenizer.decode(ids, skip_special_tokens=False)
    return [text[len(start) :] for text in whole]
