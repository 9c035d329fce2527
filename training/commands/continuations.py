"""How continuations of several prompts appear: as text that grows, or as lines of JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:  # it needs torch
    from training.inference.engine import Event

Given = str | list[dict[str, Any]]  # a text to go on from, or the messages of a conversation to answer


class Prompt(NamedTuple):
    """What was given, how it looks on the terminal, and its ids."""

    given: Given
    text: str
    ids: list[int]


class Texts:
    """Texts on the terminal: one grows visibly, those behind it wait until it is whole."""

    def __init__(self, prompts: list[Prompt], samples: int) -> None:
        self.prompts, self.samples = prompts, samples
        self.waiting: dict[tuple[int, int], str] = {}
        self.ended: set[tuple[int, int]] = set()
        self.now = (0, 0)
        print(prompts[0].text, end="", flush=True)

    def add(self, events: Iterable[Event]) -> None:
        """Take events in, of any prompts and samples."""
        for event in events:
            key = (event.request, event.sample)
            self.waiting[key] = self.waiting.get(key, "") + event.text
            if event.finish:
                self.ended.add(key)
        while self.now in self.waiting:
            print(self.waiting.pop(self.now), end="", flush=True)
            if self.now not in self.ended:
                return
            print()
            request, sample = self.now
            self.now = (request, sample + 1) if sample + 1 < self.samples else (request + 1, 0)
            if self.now[0] == len(self.prompts):
                return
            print("-" * 20)
            print(self.prompts[self.now[0]].text, end="", flush=True)


class Lines:
    """A JSON object per continuation, when it is whole."""

    def __init__(self, prompts: list[Prompt], tokenizer: Any) -> None:
        self.prompts, self.tokenizer = prompts, tokenizer
        self.events: dict[tuple[int, int], list[Event]] = {}

    def add(self, events: Iterable[Event]) -> None:
        """Take events in, of any prompts and samples."""
        for event in events:
            mine = self.events.setdefault((event.request, event.sample), [])
            mine.append(event)
            if event.finish:
                sys.stdout.write(json.dumps(self._line(mine), ensure_ascii=False) + "\n")
                sys.stdout.flush()
                del self.events[event.request, event.sample]

    def _line(self, events: list[Event]) -> dict[str, Any]:
        last = events[-1]
        line: dict[str, Any] = {
            "prompt": self.prompts[last.request].given,
            "sample": last.sample,
            "text": "".join(event.text for event in events),
            "finish": last.finish,
            "tokens": [event.token for event in events],
            "logprobs": [round(event.logprob, 6) for event in events],
        }
        if last.top:
            line["top_logprobs"] = [
                [{"token": token, "text": self._token(token), "logprob": round(score, 6)} for token, score in event.top]
                for event in events
            ]
        return line

    def _token(self, token: int) -> str:
        return self.tokenizer.decode([token], skip_special_tokens=False)
