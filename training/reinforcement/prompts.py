"""The prompts of reinforcement learning as tokens, with what their answers are checked by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.chat.format import ChatFormat
from training.knobs import TrainingError
from training.tuning.rows import Message, identity, messages_of, read_rows
from training.tuning.run import held_out


@dataclass(frozen=True)
class Prompt:
    """A row: a conversation that the model goes on, and how its answer is checked, if it is. `ids`: with the turn begun."""

    messages: list[Message]
    answer: str | None
    verifier: str | None
    where: str
    ids: tuple[int, ...] = ()


def read_prompts(path: Path, verifier: str | None) -> list[Prompt]:
    """All prompts of a file or folder; `verifier` is that of rows which name none.

    Raises `TrainingError` that names the row that is none, or if there is no row.
    """
    prompts = []
    for where, row in read_rows(path):
        messages = messages_of(row, "prompt", "user", where)
        for key in ("answer", "verifier"):
            if not isinstance(row.get(key), str | None):
                raise TrainingError(f"{where}: {key!r} is a {type(row[key]).__name__}; expected a text or null")
        prompts.append(Prompt(messages, row.get("answer"), row.get("verifier") or verifier, where))
    if not prompts:
        raise TrainingError(f"{path}: no prompt in it")
    return prompts


def prompts_identity(prompts: Sequence[Prompt]) -> str:
    """A checksum of what is learned from."""
    return identity([(prompt.messages, prompt.answer, prompt.verifier) for prompt in prompts])


def encode_prompts(
    prompts: Sequence[Prompt],
    form: ChatFormat,
    limit: int,
    new_tokens: int,
    validation: float,
    log: Callable[[str], Any],
    tools: Sequence[dict[str, Any]] | None = None,
) -> tuple[list[Prompt], list[Prompt]]:
    """(training, held-out) prompts with their tokens; equal prompts go to the same side.

    A prompt that leaves less than `new_tokens` of `limit` tokens is left out and counted in the log. Raises `TrainingError`
    if none is left to train on. tools: schemas that the chat template tells the model of.
    """
    apart = held_out([identity(prompt.messages) for prompt in prompts], validation)
    sides: tuple[list[Prompt], list[Prompt]] = ([], [])
    long = 0
    for prompt, is_held_out in zip(prompts, apart, strict=True):
        try:
            ids = tuple(form.encode(prompt.messages, prompt=True, tools=tools).ids)
        except TrainingError as error:
            raise TrainingError(f"{prompt.where}: {error}") from None
        if len(ids) + new_tokens > limit:
            long += 1
            continue
        sides[is_held_out].append(Prompt(prompt.messages, prompt.answer, prompt.verifier, prompt.where, ids))
    log(
        f"{len(sides[0]):,} prompts to train on, {len(sides[1]):,} held out; left out: {long:,} that leave less than "
        f"max_new_tokens={new_tokens:,} of {limit:,} tokens"
    )
    if not sides[0]:
        raise TrainingError(
            f"no prompt is left to train on: {long:,} of {len(prompts):,} leave less than max_new_tokens={new_tokens:,} of "
            f"{limit:,} tokens, {len(sides[1]):,} are held out (validation)"
        )
    return sides
