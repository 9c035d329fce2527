"""Replies in OpenAI's shapes, whole or in pieces, from the events of the engine."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from training.inference.engine import Event
from training.serve.calls import CallReader
from training.serve.tokens import TokenTexts
from training.tools.calls import CALL, CALL_END


class Choice:
    """One sample: its text so far, and what its next piece adds."""

    def __init__(self, end: frozenset[int], tags: dict[int, str] | None) -> None:
        """tags: the ids of special tokens that enclose calls of tools, where calls are read."""
        self._end, self._tags = end, tags
        self._calls = CallReader() if tags is not None else None
        self.started = False
        self.text = ""
        self.calls: list[dict[str, Any]] = []
        self.events: list[Event] = []  # without the end token
        self.tokens = 0
        self.offset = 0  # characters of the tokens whose log-probabilities were sent
        self.finish: str | None = None

    def add(self, events: Iterable[Event]) -> tuple[str, list[dict[str, Any]], list[Event]]:
        """Take events in; (text, calls, tokens) that are new."""
        text, calls, shown = "", [], []
        for event in events:
            self.tokens += 1
            piece = event.text
            if self._calls is not None and self._tags is not None:
                piece, new = self._calls.add(piece + self._tags.get(event.token, ""), last=event.finish is not None)
                calls += new
            text += piece
            if event.token not in self._end:
                shown.append(event)
            if event.finish is not None:
                self.finish = "tool_calls" if self.calls or calls else event.finish
        self.text += text
        self.calls += calls
        self.events += shown
        return text, calls, shown


class Reply:
    """The reply to one request. `kind`: chat or completion."""

    def __init__(
        self,
        kind: str,
        model: str,
        choices: int,
        prompt_tokens: int,
        texts: TokenTexts,
        *,
        end: frozenset[int],
        logprobs: bool = False,
        tools: bool = False,
        usage: bool = False,
    ) -> None:
        """usage: a last piece with the tokens used."""
        ids = {tag: texts.tokenizer.token_to_id(tag) for tag in (CALL, CALL_END)}
        added = texts.tokenizer.get_added_tokens_decoder()
        tags = {number: tag for tag, number in ids.items() if number in added and added[number].special}
        self.kind, self.model, self.prompt_tokens, self.texts = kind, model, prompt_tokens, texts
        self.logprobs, self.with_usage = logprobs, usage
        self.id = ("chatcmpl-" if kind == "chat" else "cmpl-") + uuid.uuid4().hex
        self.created = int(time.time())
        self.choices = [Choice(end, tags if tools else None) for _ in range(choices)]

    @property
    def done(self) -> bool:
        """Whether every sample has ended."""
        return all(choice.finish is not None for choice in self.choices)

    @property
    def usage(self) -> dict[str, int]:
        """Tokens of the prompts and of all samples, their end tokens included."""
        written = sum(choice.tokens for choice in self.choices)
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": written,
            "total_tokens": self.prompt_tokens + written,
        }

    def add(self, events: Sequence[tuple[int, Event]]) -> bytes:
        """Take events in; the server-sent events that they make, one for each sample that has something new."""
        by_choice: dict[int, list[Event]] = {}
        for number, event in events:
            by_choice.setdefault(number, []).append(event)
        out = []
        for number, mine in by_choice.items():
            choice = self.choices[number]
            text, calls, shown = choice.add(mine)
            if self.kind == "chat":
                out += self._chat_pieces(number, choice, text, calls, shown)
            elif text or choice.finish or self.logprobs:
                logprobs = None
                if self.logprobs:
                    logprobs = self.texts.completion_logprobs(shown, choice.offset)
                    choice.offset += sum(map(len, logprobs["tokens"]))
                out.append({"index": number, "text": text, "logprobs": logprobs, "finish_reason": choice.finish})
        return b"".join(self._piece([one]) for one in out)

    def _chat_pieces(
        self, number: int, choice: Choice, text: str, calls: list[dict[str, Any]], shown: list[Event]
    ) -> list[dict[str, Any]]:
        out = []

        def put(delta: dict[str, Any], logprobs: Any = None, finish: str | None = None) -> None:
            out.append({"index": number, "delta": delta, "logprobs": logprobs, "finish_reason": finish})

        if not choice.started:
            choice.started = True
            put({"role": "assistant", "content": ""})
        if text or (self.logprobs and shown):
            put({"content": text}, self._content(shown))
        if calls:
            put({"tool_calls": calls})
        if choice.finish is not None:
            put({}, None, choice.finish)
        return out

    def _content(self, events: Sequence[Event]) -> dict[str, Any] | None:
        return {"content": [self.texts.chat_logprob(event) for event in events]} if self.logprobs else None

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}

    def _piece(self, choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> bytes:
        body = self._head("chat.completion.chunk" if self.kind == "chat" else "text_completion") | {"choices": choices}
        if self.with_usage:
            body["usage"] = usage
        return event_of(body)

    def last_pieces(self) -> bytes:
        """What ends a stream."""
        return (self._piece([], self.usage) if self.with_usage else b"") + b"data: [DONE]\n\n"

    def whole(self) -> dict[str, Any]:
        """The reply as one."""
        choices = []
        for number, choice in enumerate(self.choices):
            one: dict[str, Any] = {"index": number, "finish_reason": choice.finish}
            if self.kind == "chat":
                message: dict[str, Any] = {"role": "assistant", "content": choice.text}
                if choice.calls:
                    message["content"] = choice.text or None
                    message["tool_calls"] = [
                        {key: value for key, value in call.items() if key != "index"} for call in choice.calls
                    ]
                one |= {"message": message, "logprobs": self._content(choice.events)}
            else:
                logprobs = self.texts.completion_logprobs(choice.events, 0) if self.logprobs else None
                one |= {"text": choice.text, "logprobs": logprobs}
            choices.append(one)
        kind = "chat.completion" if self.kind == "chat" else "text_completion"
        return self._head(kind) | {"choices": choices, "usage": self.usage}


def event_of(body: dict[str, Any]) -> bytes:
    """A server-sent event."""
    return f"data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()
