"""Preference pairs as tokens: a prompt with a better and a worse answer, of which the answers' own tokens count."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from training.chat.format import ChatFormat
from training.knobs import TrainingError
from training.loss import IGNORED
from training.tuning.rows import Message, identity, messages_of, read_rows
from training.tuning.run import held_out


class Pair(NamedTuple):
    """A row: the conversation so far, what was answered, and by how much the one is better, if the row says."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    margin: float | None
    where: str


@dataclass(frozen=True)
class Answer:
    """A whole conversation, and which of its tokens are the answer's."""

    ids: list[int]
    wanted: list[bool]

    @property
    def length(self) -> int:
        """Tokens of the answer."""
        return sum(self.wanted)


@dataclass(frozen=True)
class Example:
    """A pair as tokens."""

    chosen: Answer
    rejected: Answer
    margin: float


def read_pairs(path: Path) -> list[Pair]:
    """All pairs of a file or folder. Raises `TrainingError` that names the row that is none, or if there is no row."""
    pairs = []
    for where, row in read_rows(path):
        prompt = messages_of(row, "prompt", "user", where)
        chosen, rejected = (messages_of(row, key, "assistant", where) for key in ("chosen", "rejected"))
        for key, answer in (("chosen", chosen), ("rejected", rejected)):
            if answer[-1]["role"] != "assistant":
                raise TrainingError(
                    f"{where}: {key!r} ends with {answer[-1]['role']!r}; expected the assistant's answer"
                )
        margin = row.get("margin")
        if margin is not None and (not isinstance(margin, int | float) or not math.isfinite(margin)):
            raise TrainingError(f"{where}: margin is {margin!r}; expected a number")
        pairs.append(Pair(prompt, chosen, rejected, margin, where))
    if not pairs:
        raise TrainingError(f"{path}: no preference pair in it")
    return pairs


def pairs_identity(pairs: Sequence[Pair]) -> str:
    """A checksum of what is learned from."""
    return identity([pair[:4] for pair in pairs])


def encode_pairs(
    pairs: Sequence[Pair], form: ChatFormat, limit: int, validation: float, log: Callable[[str], Any]
) -> tuple[list[Example], list[Example]]:
    """(training, held-out) pairs. All pairs of one prompt go to the same side.

    A pair with an answer that makes the conversation longer than `limit` tokens is left out, and so is one whose answers
    are the same tokens; both are counted in the log. Raises `TrainingError` if none is left to train on.
    """
    apart = held_out([identity(pair.prompt) for pair in pairs], validation)
    sides: tuple[list[Example], list[Example]] = ([], [])
    long = same = 0
    for pair, is_held_out in zip(pairs, apart, strict=True):
        chosen, rejected = (
            encode_answer(pair.prompt, answer, form, pair.where) for answer in (pair.chosen, pair.rejected)
        )
        if max(len(chosen.ids), len(rejected.ids)) > limit:
            long += 1
        elif chosen.ids == rejected.ids:
            same += 1
        else:
            sides[is_held_out].append(Example(chosen, rejected, pair.margin or 0.0))
    log(
        f"{len(sides[0]):,} pairs to train on, {len(sides[1]):,} held out; left out: {long:,} of more than {limit:,} tokens, "
        f"{same:,} with equal answers"
    )
    if not sides[0]:
        raise TrainingError(
            f"no pair is left to train on: {long:,} of {len(pairs):,} have more than {limit:,} tokens (sequence_length), "
            f"{same:,} have equal answers, {len(sides[1]):,} are held out (validation)"
        )
    return sides


def encode_answer(prompt: list[Message], answer: list[Message], form: ChatFormat, where: str) -> Answer:
    """A prompt with an answer: the answer's own tokens are those that the assistant wrote behind the prompt."""
    try:
        before, whole = form.encode(prompt, prompt=True).ids, form.encode([*prompt, *answer])
    except TrainingError as error:
        raise TrainingError(f"{where}: {error}") from None
    if whole.ids[: len(before)] != before:
        raise TrainingError(f"{where}: the chat template writes the prompt otherwise once an answer follows it")
    wanted = [trained and at >= len(before) for at, trained in enumerate(whole.trained)]
    if not any(wanted):
        raise TrainingError(f"{where}: the chat template marks no token of the answer as the assistant's")
    return Answer(whole.ids, wanted)


def pad(answers: Sequence[Answer], device: torch.device) -> tuple[Tensor, Tensor]:
    """(tokens, targets), int64 `[B, L]` each: what follows each position where it is the answer's, else `IGNORED`.

    Padding stands on the right, where causal attention never sees it.
    """
    length = max(len(answer.ids) for answer in answers)
    tokens = torch.zeros(len(answers), length, dtype=torch.int64)
    targets = torch.full_like(tokens, IGNORED)
    for row, answer in enumerate(answers):
        ids = torch.tensor(answer.ids)
        tokens[row, : len(ids)] = ids
        targets[row, : len(ids) - 1] = ids[1:].where(torch.tensor(answer.wanted[1:]), IGNORED)
    return tokens.to(device), targets.to(device)


def last_positions(answers: Sequence[Answer], device: torch.device) -> Tensor:
    """Where each conversation's last token stands in `pad`'s rows: int64 `[B]`."""
    return torch.tensor([len(answer.ids) - 1 for answer in answers], device=device)
