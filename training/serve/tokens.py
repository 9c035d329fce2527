"""Tokens as OpenAI's API shows them: text and bytes."""

from __future__ import annotations

from typing import Any

from tokenizers import Tokenizer

from training.inference.engine import Event
from training.vocabulary import byte_alphabet


class TokenTexts:
    """Bytes and text of single tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._added = {number: one.content for number, one in tokenizer.get_added_tokens_decoder().items()}
        self._byte = {character: number for number, character in enumerate(byte_alphabet())}

    def bytes(self, token: int) -> bytes:
        """What a token stands for; half a character is half a character here."""
        if token in self._added:
            return self._added[token].encode()
        piece = self.tokenizer.id_to_token(token)
        if piece is None:  # an id that only pads the vocabulary
            return b""
        try:
            return bytes(self._byte[character] for character in piece)
        except KeyError:  # not a byte-level vocabulary
            return self.tokenizer.decode([token], skip_special_tokens=False).encode()

    def text(self, token: int) -> str:
        """The same as text."""
        return self.bytes(token).decode("utf-8", errors="replace")

    def chat_logprob(self, event: Event) -> dict[str, Any]:
        """A token's entry in `logprobs.content` of a chat."""
        entry = self._entry(event.token, event.logprob)
        entry["top_logprobs"] = [self._entry(token, value) for token, value in event.top]
        return entry

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        found = self.bytes(token)
        return {
            "token": found.decode("utf-8", errors="replace"),
            "logprob": max(logprob, -9999.0),
            "bytes": list(found),
        }

    def completion_logprobs(self, events: list[Event], offset: int) -> dict[str, Any]:
        """`logprobs` of a completion; offset: characters before the first token."""
        texts = [self.text(event.token) for event in events]
        offsets = []
        for text in texts:
            offsets.append(offset)
            offset += len(text)
        return {
            "tokens": texts,
            "token_logprobs": [max(event.logprob, -9999.0) for event in events],
            "top_logprobs": [{self.text(token): max(value, -9999.0) for token, value in event.top} for event in events],
            "text_offset": offsets,
        }
