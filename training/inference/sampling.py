"""How the next token is chosen: pure functions of logits `[B, V]`, each row by its own settings.

A setting is a number for all rows or a tensor `[B, 1]`, so that one batch holds rows that are sampled in different ways. The rules
and their order are those of transformers (`generation/logits_process.py`, tested equal): penalties, temperature, top-k, top-p,
min-p, typical. Ruled-out tokens have the logit -inf.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from training.knobs import TrainingError

NUCLEUS = 256  # tokens among which top-p looks first; sorting a whole vocabulary takes several times as long


COLDEST = 1e-5  # temperature below which the likeliest token is as good as sure, and logits would leave float32


@dataclass(frozen=True)
class Sampling:
    """How one completion is drawn. `None` and the neutral values leave a rule out.

    Raises `TrainingError` for a value that no rule can have.
    """

    temperature: float = 1.0  # 0, or less than float32 can divide by: always the likeliest token
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float = 1.0  # of tokens in prompt or completion
    frequency_penalty: float = 0.0  # times how often a token stands in the completion
    presence_penalty: float = 0.0  # once for each token of the completion
    max_new_tokens: int = 128
    stop: tuple[str, ...] = ()  # the completion ends before the first of these in its text
    seed: int = 0

    def __post_init__(self) -> None:
        finite = -1e6 < self.frequency_penalty < 1e6 and -1e6 < self.presence_penalty < 1e6
        for right, expected in (
            (0 <= self.temperature < 1e6, "temperature must be 0 (always the likeliest token) or above"),
            (self.top_k is None or self.top_k >= 1, "top_k must be at least 1"),
            (self.top_p is None or 0 < self.top_p <= 1, "top_p must be above 0 and at most 1"),
            (self.min_p is None or 0 <= self.min_p <= 1, "min_p must be from 0 to 1"),
            (self.typical_p is None or 0 < self.typical_p <= 1, "typical_p must be above 0 and at most 1"),
            (1e-3 <= self.repetition_penalty <= 1e3, "repetition_penalty must be from 0.001 to 1000"),
            (finite, "frequency_penalty and presence_penalty must be finite"),
            (self.max_new_tokens >= 1, "max_new_tokens must be at least 1"),
            (all(isinstance(text, str) and text for text in self.stop), "stop must be texts that are not empty"),
        ):
            if not right:
                name = expected.split()[0]
                raise TrainingError(f"sampling: {expected}, got {getattr(self, name)!r}")

    @property
    def greedy(self) -> bool:
        """Whether nothing is left to chance."""
        return self.temperature < COLDEST

    @property
    def penalises(self) -> bool:
        """Whether tokens so far change what is likely."""
        return (self.repetition_penalty, self.frequency_penalty, self.presence_penalty) != (1.0, 0.0, 0.0)


# The rules


def with_repetition_penalty(logits: Tensor, seen: Tensor, penalty: float | Tensor) -> Tensor:
    """Make tokens that are `seen` (bool `[B, V]`) less likely: divide positive logits, multiply negative ones.

    Keskar et al. 2019 (CTRL, arXiv 1909.05858, section 4.1).
    """
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def with_count_penalties(logits: Tensor, counts: Tensor, frequency: float | Tensor, presence: float | Tensor) -> Tensor:
    """Subtract `frequency` for each time that a token stands in the completion and `presence` once (OpenAI's API).

    counts: float `[B, V]`, of the completion alone, as in vLLM.
    """
    return logits - counts * frequency - (counts > 0) * presence


def with_temperature(logits: Tensor, temperature: float | Tensor) -> Tensor:
    """Divide: below 1 the distribution gets sharper, above 1 flatter."""
    return logits / temperature


def with_top_k(logits: Tensor, k: int | Tensor) -> Tensor:
    """Rule out all but the k likeliest tokens of each row (Fan et al. 2018); those equal to the k-th stay."""
    size = logits.shape[-1]
    if isinstance(k, int):
        least = logits.topk(min(k, size), dim=-1).values[..., -1:]
    else:
        k = k.clamp(max=size)
        least = logits.topk(int(k.max()), dim=-1).values.gather(-1, k - 1)
    return logits.masked_fill(logits < least, -torch.inf)


def with_top_p(logits: Tensor, p: float | Tensor) -> Tensor:
    """Rule out all but the smallest set of likeliest tokens whose probability reaches p (Holtzman et al. 2020)."""
    size = logits.shape[-1]
    chances = logits.softmax(dim=-1)
    for count in (NUCLEUS, size) if size > 4 * NUCLEUS else (size,):
        ordered, order = logits.topk(count, dim=-1) if count < size else logits.sort(dim=-1, descending=True)
        probabilities = chances.gather(-1, order)
        cumulative = probabilities.cumsum(dim=-1)
        if bool((cumulative[..., -1:] >= p).all()):
            break
    # of p = 1 nothing is left out, whatever the sum rounds to
    out = (cumulative - probabilities >= p) & torch.ones_like(ordered).mul(p).lt(1)
    out[..., 0] = False
    return torch.full_like(logits, -torch.inf).scatter(-1, order, ordered.masked_fill(out, -torch.inf))


def with_min_p(logits: Tensor, p: float | Tensor) -> Tensor:
    """Rule out tokens less likely than p times the likeliest (Nguyen et al. 2024, arXiv 2407.01082)."""
    probabilities = logits.softmax(dim=-1)
    largest = probabilities.amax(dim=-1, keepdim=True)
    return logits.masked_fill((probabilities < largest * p) & (probabilities < largest), -torch.inf)


def with_typical(logits: Tensor, mass: float | Tensor) -> Tensor:
    """Keep the tokens whose surprise is nearest to the expected one, until their probability reaches `mass`.

    Meister et al. 2022 (arXiv 2202.00666). Of mass 1 nothing is left out.
    """
    scores = logits.log_softmax(dim=-1)
    entropy = -(scores * scores.exp()).nansum(dim=-1, keepdim=True)
    distance = (-scores - entropy).abs()
    ordered, order = distance.sort(dim=-1)
    cumulative = logits.gather(-1, order).softmax(dim=-1).cumsum(dim=-1)
    last = (cumulative < mass).sum(dim=-1, keepdim=True).clamp(max=logits.shape[-1] - 1)
    out = (ordered > ordered.gather(-1, last)) & torch.ones_like(ordered).mul(mass).lt(1)
    out[..., 0] = False
    return logits.masked_fill(torch.zeros_like(out).scatter(-1, order, out), -torch.inf)


# Many rows at once


class Settings(NamedTuple):
    """The settings of the rows of a batch as tensors `[B, 1]`; None where no row has any."""

    temperature: Tensor | None  # 1 where greedy; None if it is 1 in all
    greedy: Tensor | None  # bool [B]
    top_k: Tensor | None
    top_p: Tensor | None
    min_p: Tensor | None
    typical_p: Tensor | None
    repetition_penalty: Tensor | None
    frequency_penalty: Tensor | None
    presence_penalty: Tensor | None
    all_greedy: bool

    @property
    def counts(self) -> bool:
        """Whether a rule needs to know the tokens so far."""
        return self.repetition_penalty is not None or self.frequency_penalty is not None


def settings_of(rows: Sequence[Sampling], vocabulary: int, device: torch.device) -> Settings:
    """The settings of a batch's rows, on the device where the logits are."""

    def column(name: str, neutral: float, kind: torch.dtype = torch.float32) -> Tensor | None:
        found = [getattr(row, name) for row in rows]
        if name == "temperature":
            found = [1.0 if row.greedy else row.temperature for row in rows]
        if name == "top_k":
            found = [None if value is None else min(value, vocabulary) for value in found]
        if all(value is None or value == neutral for value in found):
            return None
        return torch.tensor([[neutral if value is None else value] for value in found], dtype=kind, device=device)

    greedy = [row.greedy for row in rows]
    frequency, presence = column("frequency_penalty", 0.0), column("presence_penalty", 0.0)
    if frequency is not None or presence is not None:  # one rule, so both or none
        frequency = torch.zeros(len(rows), 1, device=device) if frequency is None else frequency
        presence = torch.zeros(len(rows), 1, device=device) if presence is None else presence
    return Settings(
        temperature=column("temperature", 1.0),
        greedy=torch.tensor(greedy, device=device) if any(greedy) else None,
        top_k=column("top_k", vocabulary, torch.int64),
        top_p=column("top_p", 1.0),
        min_p=column("min_p", 0.0),
        typical_p=column("typical_p", 1.0),
        repetition_penalty=column("repetition_penalty", 1.0),
        frequency_penalty=frequency,
        presence_penalty=presence,
        all_greedy=all(greedy),
    )


def penalised(logits: Tensor, settings: Settings, seen: Tensor | None, counts: Tensor | None) -> Tensor:
    """Logits behind the penalties. seen: bool `[B, V]`, in prompt or completion; counts: float `[B, V]`, in the completion."""
    if settings.repetition_penalty is not None and seen is not None:
        logits = with_repetition_penalty(logits, seen, settings.repetition_penalty)
    if settings.frequency_penalty is not None and settings.presence_penalty is not None and counts is not None:
        logits = with_count_penalties(logits, counts, settings.frequency_penalty, settings.presence_penalty)
    return logits


def truncated(logits: Tensor, settings: Settings) -> Tensor:
    """Logits behind temperature and the rules that leave tokens out."""
    if settings.temperature is not None:
        logits = with_temperature(logits, settings.temperature)
    if settings.top_k is not None:
        logits = with_top_k(logits, settings.top_k)
    if settings.top_p is not None:
        logits = with_top_p(logits, settings.top_p)
    if settings.min_p is not None:
        logits = with_min_p(logits, settings.min_p)
    if settings.typical_p is not None:
        logits = with_typical(logits, settings.typical_p)
    return logits


def draw(logits: Tensor, uniforms: Tensor) -> Tensor:
    """A token of each row's softmax, by inversion: int64 `[B]`. uniforms: float64 `[B]` in [0, 1).

    One number decides a row, so that what it draws depends on its own numbers alone. In float64, or the sum over a large
    vocabulary would lose the rarest tokens. A token of probability 0 is never drawn.
    """
    cumulative = logits.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    wanted = (uniforms[:, None] * total).minimum(torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, wanted, right=True)[:, 0]


def choose(
    logits: Tensor,
    settings: Settings,
    uniforms: Tensor | None,
    seen: Tensor | None = None,
    counts: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The next token of each row, int64 `[B]`, and its log-probability, float32 `[B]`, from logits float32 `[B, V]`.

    The log-probability is that of softmax(logits / temperature) without penalties and truncation (temperature 1 where greedy).
    uniforms: float64 `[B]`, a number in [0, 1) for each row; unused where greedy, None if all are.
    """
    scores = penalised(logits, settings, seen, counts) if settings.counts else logits
    if settings.all_greedy or uniforms is None:
        tokens = likeliest(scores)
    else:
        tokens = draw(truncated(scores, settings), uniforms)
        if settings.greedy is not None:
            tokens = torch.where(settings.greedy, likeliest(scores), tokens)
    return tokens, log_probabilities(logits, settings.temperature, tokens)


def likeliest(logits: Tensor) -> Tensor:
    """The likeliest token of each row, int64 `[B]`; the first of equal ones on a CPU."""
    if logits.is_cuda:
        return logits.argmax(dim=-1)
    return torch.from_numpy(logits.detach().numpy().argmax(-1))  # torch takes 10 to 25 times as long there


def log_probabilities(logits: Tensor, temperature: float | Tensor | None, tokens: Tensor) -> Tensor:
    """Of tokens `[B]` under softmax(logits / temperature), None is 1: float32 `[B]`."""
    if temperature is not None:
        logits = with_temperature(logits, temperature)
    # not logsumexp, whose exponential takes 40 times as long on a CPU where it underflows
    return logits.log_softmax(dim=-1).gather(-1, tokens[:, None])[:, 0]
