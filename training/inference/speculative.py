"""Speculative decoding: a small model proposes tokens, the large one judges them all in one pass.

What comes out has exactly the large model's distribution: a token drawn from the draft's q is kept with probability
min(1, p / q), and where it is not, one is drawn from what p has more than q (Leviathan et al. 2023, arXiv 2211.17192, theorem
1; Chen et al. 2023, arXiv 2302.01318).
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from training.inference.cache import KeyValueCache
from training.inference.engine import check_prompt
from training.inference.sampling import Sampling, draw, log_probabilities, settings_of, truncated
from training.knobs import TrainingError
from training.model import Decoder


class Speculation:
    """A model with a draft. `proposed` and `accepted` count tokens over all completions."""

    def __init__(self, model: Decoder, draft: Decoder, tokens: int = 4) -> None:
        """tokens: proposed at a time. Raises `TrainingError` if the two have other vocabularies."""
        if model.config.vocab_size != draft.config.vocab_size:
            raise TrainingError(
                f"the draft has {draft.config.vocab_size} ids, the model {model.config.vocab_size}: they need one tokenizer"
            )
        self.model, self.draft, self.tokens = model, draft, tokens
        self.device = next(model.parameters()).device
        self.context, self.sight = model.config.context_length, draft.config.context_length
        self.proposed = self.accepted = 0

    @property
    def accepted_share(self) -> float:
        """Of the proposed tokens; 0 before any."""
        return self.accepted / max(1, self.proposed)

    @torch.no_grad()
    def complete(self, prompt: Sequence[int], sampling: Sampling, end: Sequence[int]) -> Iterator[tuple[int, float]]:
        """Tokens of one completion with their log-probabilities as in `batch.Completion`, the end token included.

        `sampling.stop` is for whoever has the text. Raises `TrainingError` for a bad prompt, and for penalties, since
        what they leave depends on the tokens that are still judged.
        """
        check_prompt(prompt, self.context, self.model.config.vocab_size)
        if sampling.penalises:
            raise TrainingError("penalties and speculative decoding do not go together: leave one out")
        sequence, chance = list(prompt), random.Random(sampling.seed)
        limit = min(self.context, len(prompt) + sampling.max_new_tokens)
        caches = [
            KeyValueCache(one.config, 1, min(limit, one.config.context_length), self.device, one.dtype)
            for one in (self.model, self.draft)
        ]
        while len(sequence) < limit:
            # what the draft cannot see whole it proposes nothing behind: the model goes on alone
            count = max(0, min(self.tokens, limit - len(sequence) - 1, self.sight - len(sequence) + 1))
            guesses, q = self._propose(caches[1], sequence, count, sampling, chance)
            logits = self._read(self.model, caches[0], sequence + guesses, count + 1)
            p = self._chances(logits, sampling)
            new = self._judge(guesses, p, q, chance)
            self.proposed, self.accepted = self.proposed + count, self.accepted + len(new) - 1
            scores = log_probabilities(
                logits[: len(new)], sampling.temperature or 1.0, torch.tensor(new, device=self.device)
            )
            for token, score in zip(new, scores.tolist(), strict=True):
                sequence.append(token)
                yield token, score
                if token in end:
                    return
            for cache in caches:  # what was refused is forgotten; the last token is still to be read
                cache.lengths.clamp_(max=len(sequence) - 1)

    def _read(self, model: Decoder, cache: KeyValueCache, sequence: list[int], count: int) -> Tensor:
        """Let a model read what its cache lacks; the logits behind the last `count` tokens, `[count, V]`."""
        tokens = torch.tensor([sequence[int(cache.lengths[0]) :]], device=self.device)
        logits: Tensor = model(tokens, cache=cache)[0, -count:]
        return logits

    def _propose(
        self, cache: KeyValueCache, sequence: list[int], count: int, sampling: Sampling, chance: random.Random
    ) -> tuple[list[int], list[Tensor]]:
        guesses: list[int] = []
        q: list[Tensor] = []
        for _ in range(count):
            chances = self._chances(self._read(self.draft, cache, sequence + guesses, 1), sampling)
            guesses.append(_pick(chances, chance))
            q.append(chances[0])
        return guesses, q

    def _chances(self, logits: Tensor, sampling: Sampling) -> Tensor:
        """The distributions that tokens are drawn from: float32 `[N, V]`; where greedy all is on the likeliest."""
        if sampling.greedy:
            return torch.zeros_like(logits).scatter_(-1, logits.argmax(dim=-1, keepdim=True), 1.0)
        settings = settings_of([sampling] * len(logits), logits.shape[-1], logits.device)
        return truncated(logits, settings).softmax(dim=-1)

    def _judge(self, guesses: list[int], p: Tensor, q: list[Tensor], chance: random.Random) -> list[int]:
        """The guesses that are kept, and one token more."""
        for place, guess in enumerate(guesses):
            if chance.random() * float(q[place][guess]) >= float(p[place, guess]):
                rest = (p[place] - q[place]).clamp(min=0)[None]
                return [*guesses[:place], _pick(rest if float(rest.sum()) > 0 else p[place][None], chance)]
        return [*guesses, _pick(p[len(guesses)][None], chance)]


def _pick(weights: Tensor, chance: random.Random) -> int:
    """Draw from weights `[1, V]`, which need not add up to 1."""
    return int(draw(weights.log(), torch.tensor([chance.random()], dtype=torch.float64, device=weights.device)))
