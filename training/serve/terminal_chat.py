"""A talk with a model on the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, TextIO

from training.chat.format import ChatFormat
from training.inference.engine import Engine
from training.inference.sampling import Sampling
from training.knobs import TrainingError

HELP = "Enter sends. /new starts anew, /quit ends. Ctrl-C stops an answer."


def talk(
    engine: Engine,
    form: ChatFormat,
    sampling: Sampling,
    system: str | None,
    ask: Callable[[], str | None],
    out: TextIO,
) -> None:
    """Answer what `ask` gives until it gives None. Each turn draws from the next seed.

    Where the talk is too long for the context with room for an answer behind it, the oldest turns are forgotten, aloud.
    """
    first: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    turns: list[dict[str, Any]] = []
    number = 0
    while (text := ask()) is not None:
        text = text.strip()
        if text == "/quit":
            return
        if text == "/new":
            turns = []
            continue
        if not text:
            continue
        turns.append({"role": "user", "content": text})
        try:
            prompt, dropped = fitting(form, first, turns, engine.positions, sampling.max_new_tokens)
        except TrainingError as error:
            out.write(f"({error})\n")
            turns.pop()
            continue
        if dropped:
            out.write(f"(the first {dropped} messages no longer fit the context and are forgotten)\n")
        answer = ""
        try:
            for piece in stream(engine, prompt, replace(sampling, seed=sampling.seed + number)):
                out.write(piece)
                out.flush()
                answer += piece
        except KeyboardInterrupt:
            out.write(" (stopped)")
        out.write("\n")
        out.flush()
        number += 1
        turns = [*turns[dropped:], {"role": "assistant", "content": answer}]


def fitting(
    form: ChatFormat, first: list[dict[str, Any]], turns: list[dict[str, Any]], context: int, new: int
) -> tuple[list[int], int]:
    """The prompt's ids, and how many of the oldest turns had to go. Raises `TrainingError` if the last alone is too long.

    An answer shall have room for `new` tokens, or for a quarter of the context where that is less: the memory of a model with
    a short context would otherwise be none.
    """
    new = min(new, context // 4)
    dropped = 0
    while True:
        prompt = form.encode([*first, *turns[dropped:]], prompt=True).ids
        room = context - len(prompt)
        if room >= new or (room > 0 and dropped == len(turns) - 1):
            return prompt, dropped
        if dropped == len(turns) - 1:
            raise TrainingError(f"the message has {len(prompt)} tokens and leaves no room in the context of {context}")
        dropped = min(dropped + 2, len(turns) - 1)  # a question with its answer


def stream(engine: Engine, prompt: list[int], sampling: Sampling) -> Iterator[str]:
    """The pieces of one answer. After a `KeyboardInterrupt` the engine is free again."""
    request = engine.add(prompt, sampling)
    try:
        while engine.busy:
            for event in engine.step():
                yield event.text
    finally:
        engine.cancel(request)
