"""Text as it grows, token by token: never half a character, and never what may be the beginning of a stop string."""

from __future__ import annotations

from collections.abc import Sequence

from tokenizers import Tokenizer

HALF = "\ufffd"  # what decoders write for bytes that are no whole character
_BYTE_LEVEL, _FALLBACK = "\u00ef\u00bf\u00bd", "<0xEF><0xBF><0xBD>"  # U+FFFD in the tokens of vocabularies of bytes
CONTEXT = 8  # tokens before the new ones that are decoded with them, for decoders that look back


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of the stop strings begins in a text; None if none is in it."""
    found = [at for at in (text.find(stop) for stop in stops) if at >= 0]
    return min(found) if found else None


def held_back(text: str, stops: Sequence[str]) -> int:
    """How many characters at the end of a text, which has no stop string in it, may be the beginning of one.

    Every ending is tried, not only where the last match failed: in "aaab" the stop string "aab" begins at the second a.
    """
    longest = 0
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:length]):
                longest = length
                break
    return longest


class TextStream:
    """The text of one completion. What `add` and `end` give back, one after the other, is the whole text.

    `stopped` says that a stop string has come; the text ends before it.
    """

    def __init__(
        self, tokenizer: Tokenizer, prompt: Sequence[int], stops: Sequence[str] = (), special: bool = False
    ) -> None:
        """prompt: the ids before the completion. special: show special tokens, too."""
        self.tokenizer, self.stops, self.skip = tokenizer, stops, not special
        self.ids = list(prompt[-CONTEXT:])
        self.told = len(self.ids)  # ids before this have become text
        self.before = self._decode(self.ids)
        if self.before.endswith(HALF) and not self._is_replacement():
            # the character that the prompt breaks off in is told when it is whole
            self.before = self.before.rstrip(HALF)
        self.held = ""  # text that waits, since a stop string may have begun in it
        self.stopped = False

    def _is_replacement(self) -> bool:
        """Whether the prompt ends with U+FFFD itself, as texts that were read wrongly do."""
        end = "".join(self.tokenizer.id_to_token(token) or "" for token in self.ids)
        return end.endswith((HALF, _BYTE_LEVEL, _FALLBACK))

    def _decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=self.skip)

    def add(self, token: int) -> str:
        """The text that is certain now and was not before."""
        self.ids.append(token)
        return self._release(self._new_text(whole=True), last=False)

    def end(self) -> str:
        """The rest, when no token follows: half a character, and what was held back."""
        return "" if self.stopped else self._release(self._new_text(whole=False), last=True)

    def _new_text(self, whole: bool) -> str:
        text = self._decode(self.ids)
        if len(text) <= len(self.before) or (whole and text.endswith(HALF)):
            return ""
        new = text[len(self.before) :]
        # from here on only the latest ids are decoded again
        self.ids = self.ids[self.told :][-CONTEXT:] if len(self.ids) > self.told else self.ids
        self.told = len(self.ids)
        self.before = self._decode(self.ids)
        return new

    def _release(self, new: str, last: bool) -> str:
        text = self.held + new
        if not self.stops:
            return text
        at = first_stop(text, self.stops)
        if at is not None:
            self.held, self.stopped = "", True
            return text[:at]
        keep = 0 if last else held_back(text, self.stops)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep]
