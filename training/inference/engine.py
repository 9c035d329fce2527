"""The loop: prompts come, wait for a free row, are prefilled together, and decode side by side until each ends.

Rows join and leave between two steps (continuous batching, Yu et al. 2022, Orca). What a row says depends on its prompt,
settings and seed alone, not on the rows beside it (up to the rounding of matrix products of other sizes).

    engine = Engine(model, end, tokenizer)
    number = engine.add(ids, Sampling(max_new_tokens=50))
    while engine.busy:
        for event in engine.step():
            print(event.text, end="")
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from tokenizers import Tokenizer
from torch import Tensor

from training.inference.cache import KeyValueCache
from training.inference.sampling import Sampling, Settings, choose, settings_of
from training.inference.stop import TextStream
from training.knobs import TrainingError
from training.model import Decoder

Finish = Literal["stop", "length"]
PREFILL_TOKENS = 8192  # in one pass, padding included
FEW_TOKENS = 256  # for which a pass of its own costs more than padding


@dataclass(frozen=True)
class Event:
    """One new token of one sample of a request."""

    request: int
    sample: int
    token: int
    logprob: float  # under softmax(logits / temperature), temperature 1 where greedy
    top: tuple[tuple[int, float], ...]  # the likeliest tokens with theirs, as many as were asked for
    text: str  # that is certain now: whole characters, nothing that may begin a stop string; "" without a tokenizer
    finish: Finish | None  # set on a sample's last event


class Ending:
    """The text of one completion, and when it ends: an end token, a stop string, or as many tokens as there may be."""

    def __init__(
        self,
        end: Collection[int],
        limit: int,
        tokenizer: Tokenizer | None,
        prompt: Sequence[int],
        stops: Sequence[str] = (),
        *,
        special: bool = False,
    ) -> None:
        self.end, self.left = end, limit
        self.text = None if tokenizer is None else TextStream(tokenizer, prompt, stops, special)

    def add(self, token: int) -> tuple[str, Finish | None]:
        """The text that is certain now, and why the completion ends with this token, if it does."""
        self.left -= 1
        ended = token in self.end
        finish: Finish | None = "stop" if ended else None if self.left else "length"
        if self.text is None:
            return "", finish
        piece = "" if ended else self.text.add(token)
        if finish and not self.text.stopped:
            piece += self.text.end()
        return piece, "stop" if self.text.stopped else finish


@dataclass
class _Row:
    """A sample, waiting or in a row of the cache."""

    request: int
    sample: int
    prompt: tuple[int, ...]
    sampling: Sampling
    top: int
    seed: int
    ending: Ending
    random: random.Random | None = None  # made when its turn has come
    last: int = 0  # its newest token, which the model has not read yet


class Engine:
    """A model with a cache of `max_rows` rows. Not for several threads at once."""

    def __init__(
        self,
        model: Decoder,
        end: Sequence[int],
        tokenizer: Tokenizer | None = None,
        *,
        max_rows: int = 32,
        positions: int | None = None,
        special: bool = False,
    ) -> None:
        """end: ids that end a completion. positions: longest prompt with its completion; by default the model's context.

        Without a tokenizer events have no text and stop strings are refused. special: special tokens are shown in texts.
        """
        self.model, self.end, self.tokenizer, self.special = model, frozenset(end), tokenizer, special
        self.max_rows = max_rows
        self.positions = min(positions or model.config.context_length, model.config.context_length)
        self.device = next(model.parameters()).device
        self.cache = KeyValueCache(model.config, max_rows, self.positions, self.device, model.dtype)
        self.waiting: deque[_Row] = deque()
        self.rows: list[_Row] = []  # number i is row i of the cache
        self.requests = 0
        self._settings: Settings | None = None
        self._seen: Tensor | None = None  # bool [rows, V], of prompt and completion
        self._counts: Tensor | None = None  # float [rows, V], of the completion

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self.rows or self.waiting)

    def add(
        self,
        prompt: Sequence[int],
        sampling: Sampling,
        n: int = 1,
        *,
        top: int = 0,
        seeds: Sequence[int] | None = None,
    ) -> int:
        """Queue `n` completions of a prompt; gives the request's number. Sample i draws with `sampling.seed + i` or `seeds[i]`.

        top: how many of the likeliest tokens each event lists. Raises `TrainingError` for a prompt that is empty, has ids
        that the model lacks, or leaves no room in the context.
        """
        self.check(prompt, sampling)
        ids = tuple(prompt)
        limit = min(sampling.max_new_tokens, self.positions - len(ids))
        number, self.requests = self.requests, self.requests + 1
        for sample in range(n):
            ending = Ending(self.end, limit, self.tokenizer, ids, sampling.stop, special=self.special)
            seed = sampling.seed + sample if seeds is None else seeds[sample]
            self.waiting.append(_Row(number, sample, ids, sampling, top, seed, ending))
        return number

    def check(self, prompt: Sequence[int], sampling: Sampling) -> None:
        """Raise the `TrainingError` that `add` would."""
        check_prompt(prompt, self.positions, self.model.config.vocab_size)
        if sampling.stop and self.tokenizer is None:
            raise TrainingError("stop strings are looked for in text: give the tokenizer too")

    def cancel(self, request: int) -> None:
        """Forget a request: no event of it comes any more. One that has ended, or never was, is no error."""
        self.waiting = deque(row for row in self.waiting if row.request != request)
        self._leave([number for number, row in enumerate(self.rows) if row.request == request])

    @torch.no_grad()
    def step(self) -> list[Event]:
        """Let waiting prompts in, then give every row its next token. At least one token for each row, if `busy`."""
        events = self._admit()
        if not self.rows:
            return events
        tokens = torch.tensor([[row.last] for row in self.rows], device=self.device)
        logits = self.model(tokens, cache=self.cache.part(0, len(self.rows)))[:, 0]
        return events + self._next(logits, 0)

    # in and out

    def _admit(self) -> list[Event]:
        """Prefill what fits into the free rows; equal prompts, as those of a request's samples, once."""
        events: list[Event] = []
        while self.waiting and len(self.rows) < self.max_rows:
            first = len(self.rows)
            prompts: dict[tuple[int, ...], int] = {}  # with their numbers
            owners: list[_Row] = []  # the first of each prompt, whose row is prefilled
            copies: list[_Row] = []
            while self.waiting and first + len(owners) + len(copies) < self.max_rows:
                prompt = self.waiting[0].prompt
                if prompt not in prompts:
                    if prompts and not _fits([*prompts, prompt]):
                        break
                    prompts[prompt] = len(prompts)
                    owners.append(self.waiting.popleft())
                else:
                    copies.append(self.waiting.popleft())
            logits = self._prefill(first, list(prompts))
            for number, row in enumerate(copies, first + len(owners)):
                self.cache.copy_row(first + prompts[row.prompt], number)
            joined = owners + copies
            self._join(joined)
            events += self._next(logits[[prompts[row.prompt] for row in joined]], first)
        return events

    def _prefill(self, first: int, prompts: list[tuple[int, ...]]) -> Tensor:
        """Fill rows from `first` on with the prompts, padded on the right; the logits behind each, float32 `[n, V]`."""
        part = self.cache.part(first, first + len(prompts))
        part.lengths.zero_()
        lengths = torch.tensor([len(prompt) for prompt in prompts])
        tokens = torch.zeros(len(prompts), int(lengths.max()), dtype=torch.int64)
        for row, prompt in zip(tokens, prompts, strict=True):
            row[: len(prompt)] = torch.tensor(prompt)
        logits: Tensor = self.model(tokens.to(self.device), cache=part, at=(lengths - 1).to(self.device))
        part.lengths.copy_(lengths)
        return logits

    def _join(self, rows: list[_Row]) -> None:
        for number, row in enumerate(rows, len(self.rows)):
            row.random = random.Random(row.seed)
            if row.sampling.penalises:
                self._start_counting(number, row)
        self.rows += rows
        self._settings = None

    def _leave(self, numbers: list[int]) -> None:
        """Free rows; the last ones move into the gaps, so that the rows in use stay the first ones."""
        for number in sorted(numbers, reverse=True):
            last = len(self.rows) - 1
            if number != last:
                self.cache.copy_row(last, number)
                self.rows[number] = self.rows[last]
                for table in (self._seen, self._counts):
                    if table is not None:
                        table[number] = table[last]
            self.rows.pop()
            self._settings = None

    # the next tokens

    def _next(self, logits: Tensor, first: int) -> list[Event]:
        """Choose a token for each row from `first` on, and free the rows that end with it. logits: `[rows - first, V]`."""
        rows = self.rows[first:]
        settings = self._settings if self._settings is not None and first == 0 else None
        if settings is None:
            settings = settings_of([row.sampling for row in rows], logits.shape[-1], logits.device)
            if first == 0:
                self._settings = settings
        seen = counts = None
        if settings.counts and self._seen is not None and self._counts is not None:
            seen, counts = self._seen[first : len(self.rows)], self._counts[first : len(self.rows)]
        uniforms = None
        if not settings.all_greedy:
            drawn = [row.random.random() if row.random else 0.0 for row in rows]
            uniforms = torch.tensor(drawn, dtype=torch.float64, device=logits.device)
        tokens, logprobs = choose(logits, settings, uniforms, seen, counts)
        tops = self._top(logits, settings, rows)
        events, ended = [], []
        for number, (row, token, logprob) in enumerate(zip(rows, tokens.tolist(), logprobs.tolist(), strict=True)):
            row.last = token
            text, finish = row.ending.add(token)
            events.append(Event(row.request, row.sample, token, logprob, tops[number], text, finish))
            if finish:
                ended.append(first + number)
        if seen is not None and counts is not None:
            where = torch.arange(len(rows), device=logits.device)
            seen[where, tokens] = True
            counts[where, tokens] += 1
        self._leave(ended)
        return events

    def _top(self, logits: Tensor, settings: Settings, rows: list[_Row]) -> list[tuple[tuple[int, float], ...]]:
        most = max(row.top for row in rows)
        if not most:
            return [()] * len(rows)
        scores = logits if settings.temperature is None else logits / settings.temperature
        scores, ids = scores.log_softmax(dim=-1).topk(min(most, logits.shape[-1]), dim=-1)
        return [
            tuple(zip(of_ids[: row.top], of_scores[: row.top], strict=True))
            for row, of_ids, of_scores in zip(rows, ids.tolist(), scores.tolist(), strict=True)
        ]

    def _start_counting(self, number: int, row: _Row) -> None:
        """Clear the row's part of the tables; what rows without penalties have there does not matter."""
        if self._seen is None or self._counts is None:
            shape = (self.max_rows, self.model.config.vocab_size)
            self._seen = torch.zeros(shape, dtype=torch.bool, device=self.device)
            self._counts = torch.zeros(shape, device=self.device)
        self._seen[number], self._counts[number] = False, 0.0
        self._seen[number, list(row.prompt)] = True


def check_prompt(prompt: Sequence[int], positions: int, vocabulary: int) -> None:
    """Raise `TrainingError` for a prompt that is empty, leaves no room, or has ids that the model lacks."""
    if not prompt:
        raise TrainingError("the prompt is empty: the model predicts tokens from those before, give it a first one")
    if len(prompt) >= positions:
        raise TrainingError(f"the prompt has {len(prompt)} tokens and leaves no room in the context of {positions}")
    if max(prompt) >= vocabulary or min(prompt) < 0:
        raise TrainingError(f"the prompt has token {max(prompt)}, the model only {vocabulary}: wrong tokenizer?")


def _fits(prompts: Sequence[Sequence[int]]) -> bool:
    """Whether prompts go through the model together: padded to the longest, they are few or three quarters are real."""
    padded = max(map(len, prompts)) * len(prompts)
    return padded <= FEW_TOKENS or (padded <= PREFILL_TOKENS and 3 * padded <= 4 * sum(map(len, prompts)))
