"""Messages to token ids and the positions to train on, as transformers' `apply_chat_template` gives them, but safely.

Contents never yield a special token. Before a template is rendered, a mark breaks every special spelling in what the user
gave, so that the spellings found in the rendered text are the template's own; what lies between them is encoded as plain
text, without the marks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from tokenizers import Tokenizer

from training.chat.folder import chat_tokenizers, generation_ends, needed_tokens, own_template, read_json, token_text
from training.chat.templates import BREAK, CLOSE, OPEN, TEMPLATES, compile_template, marks_generation
from training.knobs import TrainingError

ROLES = ("system", "user", "assistant", "tool")
_NONCHARACTERS = [chr(code) for code in range(0xFDD0, 0xFDF0)]
_TOKEN_VARIABLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")

Message = Mapping[str, Any]


class Encoded(NamedTuple):
    """A conversation as tokens: its ids, and whether each is one to train on (an assistant's, the end of its turn included)."""

    ids: list[int]
    trained: list[bool]


class MaskError(TrainingError):
    """A conversation with nothing to train on, or nothing else: its mask is all false, or all true."""


class _Special(NamedTuple):
    id: int
    lstrip: bool  # it takes the whitespace before it, or behind it, along
    rstrip: bool


class _Piece(NamedTuple):
    """A stretch of the rendered text: a special token, or plain text; `start` counts characters without marks."""

    text: str
    start: int
    special: _Special | None


@dataclass(frozen=True)
class ChatFormat:
    """A tokenizer and its chat template.

    `end_ids`: the ids that end an assistant's turn, first the one that the template writes. `name`: where the template is from.
    """

    tokenizer: Tokenizer
    template: str
    name: str
    end_ids: tuple[int, ...]
    _variables: Mapping[str, Any]
    _specials: Mapping[str, _Special]
    _inner: Tokenizer  # for stretches that do not begin the text: no space is put before their first word

    def encode(
        self, messages: Sequence[Message], *, prompt: bool = False, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> Encoded:
        """The tokens of a conversation; with `prompt` those up to where the assistant's next turn begins.

        messages: `role` (system, user, assistant, tool) and `content`, and on an assistant's `tool_calls`; tools: JSON schemas.
        Raises `TrainingError` for other messages, and what the template does not know; `MaskError` if, without `prompt`, no
        token or every token would be trained.
        """
        text, spans = self._render(messages, prompt, tools)
        if not marks_generation(self.template) and not prompt:
            spans = self._spans_by_prefixes(messages, tools, text)
        ids, trained = self._tokens(text, spans)
        if not prompt and not any(trained):
            raise MaskError("no token of it is the assistant's, so there is nothing to train on")
        if not prompt and all(trained):
            raise MaskError(f"{self.name} marks every token as the assistant's, also those of others")
        return Encoded(ids, trained)

    def text(
        self, messages: Sequence[Message], *, prompt: bool = False, tools: Sequence[Mapping[str, Any]] | None = None
    ) -> str:
        """The conversation as the template writes it, for people to read: its ids say more."""
        text, _ = self._render(messages, prompt, tools)
        return "".join(piece.text for piece in text)

    @cached_property
    def _whole(self) -> re.Pattern[str]:
        """Any special spelling, of several at one place the longest."""
        return re.compile("|".join(map(re.escape, sorted(self._specials, key=len, reverse=True))))

    @cached_property
    def _cuts(self) -> re.Pattern[str]:
        """A mark, or a special spelling."""
        marks = f"[{OPEN}{CLOSE}{BREAK}]"
        return re.compile(f"{marks}|{self._whole.pattern}" if self._specials else marks)

    @cached_property
    def _parts(self) -> tuple[frozenset[str], frozenset[str]]:
        """The beginnings and the ends of special spellings."""
        cuts = [(one, at) for one in self._specials for at in range(1, len(one))]
        return frozenset(one[:at] for one, at in cuts), frozenset(one[at:] for one, at in cuts)

    def _render(
        self, messages: Sequence[Message], prompt: bool, tools: Sequence[Mapping[str, Any]] | None
    ) -> tuple[list[_Piece], list[tuple[int, int]]]:
        """The rendered text in pieces, and the character spans of generation blocks."""
        _check(messages)
        strings = "".join(_strings([messages, tools]))
        try:
            strings.encode()
        except UnicodeEncodeError:
            raise TrainingError("the conversation is not valid Unicode: it holds a lone surrogate") from None
        # in what was given: our marks, and special spellings of one character, which no mark can break
        foreign = sorted({OPEN, CLOSE, BREAK, *(one for one in self._specials if len(one) == 1)}.intersection(strings))
        spare = [mark for mark in _NONCHARACTERS if mark not in strings and mark not in (OPEN, CLOSE, BREAK)]
        if len(spare) < len(foreign):
            raise TrainingError("a conversation holds all of Unicode's noncharacters U+FDD0 to U+FDEF")
        away = str.maketrans(dict(zip(foreign, spare, strict=False)))
        back = str.maketrans(dict(zip(spare, foreign, strict=False)))
        safe = self._safe({"messages": _present(messages), "tools": list(tools) if tools else None}, away)
        rendered = self._call({**safe, "add_generation_prompt": prompt})
        if tools and self._call({**safe, "tools": None, "add_generation_prompt": prompt}) == rendered:
            raise TrainingError(f"{self.name} leaves tools out; choose another chat template, such as gristmill")
        for message in safe["messages"]:
            if message.get("tool_calls"):
                without = [{**one, "tool_calls": None} if one is message else one for one in safe["messages"]]
                if self._call({**safe, "messages": _present(without), "add_generation_prompt": prompt}) == rendered:
                    raise TrainingError(f"{self.name} leaves tool_calls out; choose another, such as gristmill")
        return self._pieces(rendered, back)

    def _call(self, values: Mapping[str, Any]) -> str:
        """Run the template."""
        try:
            return compile_template(self.template).render({**self._variables, **values})
        except Exception as error:  # it is a foreign program, and may fail in any way
            why = " ".join(str(error).split()) or type(error).__name__
            raise TrainingError(f"{self.name} refuses the conversation: {why}") from None

    def _safe(self, value: Any, away: dict[int, Any], edges: bool = True) -> Any:
        """A JSON value whose strings, keys included, spell no special token; templates get nothing that is not JSON."""
        if isinstance(value, str):
            return self._break(str(value).translate(away), edges)
        if isinstance(value, Mapping):
            return {
                self._safe(key, away, False): self._safe(one, away, edges and key != "role")
                for key, one in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._safe(one, away) for one in value]
        if value is None or isinstance(value, bool | int | float):
            return value
        raise TrainingError(f"a message or tool holds {type(value).__name__}; expected JSON values")

    def _break(self, text: str, edges: bool) -> str:
        """Put a mark into every special spelling; `edges`: also where one could come about with what stands beside the text."""
        if not self._specials:
            return text
        parts, at = [], 0
        while found := self._whole.search(text, at):
            parts.append(text[at : found.start() + 1])
            at = found.start() + 1
        text = BREAK.join([*parts, text[at:]])
        if edges and text:
            prefixes, suffixes = self._parts
            sizes = range(1, min(len(text), max(map(len, self._specials))) + 1)
            if not text[0].isspace() and any(text[:size] in suffixes for size in sizes):
                text = BREAK + text
            if not text[-1].isspace() and any(text[-size:] in prefixes for size in sizes):
                text += BREAK
        return text

    def _pieces(self, rendered: str, back: dict[int, Any]) -> tuple[list[_Piece], list[tuple[int, int]]]:
        """Cut the rendered text at the template's own special tokens and take the marks out."""
        pieces: list[_Piece] = []
        spans: list[tuple[int, int]] = []
        opened: list[int] = []
        at, plain, done = 0, "", 0
        for found in [*self._cuts.finditer(rendered), None]:
            stretch = rendered[done : found.start() if found else len(rendered)].translate(back)
            plain += stretch
            at += len(stretch)
            mark = found[0] if found else ""
            done = found.end() if found else len(rendered)
            if mark == OPEN:
                opened.append(at)
            elif mark == CLOSE:
                start = opened.pop() if opened else at
                if not opened and at > start:  # of blocks in each other the outermost
                    spans.append((start, at))
            elif mark != BREAK:
                if plain:
                    pieces.append(_Piece(plain, at - len(plain), None))
                if mark:
                    pieces.append(_Piece(mark, at, self._specials[mark]))
                    at += len(mark)
                plain = ""
        return pieces, spans

    def _tokens(self, pieces: list[_Piece], spans: list[tuple[int, int]]) -> tuple[list[int], list[bool]]:
        """Encode the pieces; a token is trained if it lies between the first and the last that touch a span."""
        ids: list[int] = []
        places: list[tuple[int, int]] = []
        for number, (text, start, special) in enumerate(pieces):
            if special is not None:
                ids.append(special.id)
                places.append((start, start + len(text)))
                continue
            before = pieces[number - 1].special if number else None
            after = pieces[number + 1].special if number + 1 < len(pieces) else None
            if before is not None and before.rstrip:
                start, text = start + len(text) - len(text.lstrip()), text.lstrip()
            if after is not None and after.lstrip:
                text = text.rstrip()
            if not text:
                continue
            encoding = (self._inner if number else self.tokenizer).encode(text, add_special_tokens=False)
            ids += encoding.ids
            places += [(start + begin, start + end) for begin, end in encoding.offsets]
        unknown = {self._variables.get("unk_token"), getattr(self.tokenizer.model, "unk_token", None)}
        known = {special.id for text, special in self._specials.items() if text not in unknown}
        if sum(number in known for number in ids) > sum(piece.special is not None for piece in pieces):
            raise TrainingError("this tokenizer turns ordinary text into special tokens; it cannot be used safely")
        trained = [False] * len(ids)
        at = 0
        for begin, end in spans:
            while at < len(places) and places[at][1] <= begin:
                at += 1
            last = at
            for number in range(at, len(places)):
                if places[number][0] >= end:
                    break
                if places[number][1] > begin:
                    last = number + 1
            trained[at:last] = [True] * (last - at)
        return ids, trained

    def _spans_by_prefixes(
        self, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] | None, whole: list[_Piece]
    ) -> list[tuple[int, int]]:
        """Where the assistant writes, of a template that does not mark it: what a turn adds to its prompt.

        Exact or refused: the prompt before the turn must begin the conversation up to the turn, and that, up to the token which
        ends the turn, the whole conversation.
        """
        spans: list[tuple[int, int]] = []
        for number, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            unclear = TrainingError(
                f"{self.name} has no {{% generation %}} blocks, and what the assistant writes in message {number + 1} cannot be "
                f"told from its prompt; add the blocks, or choose a template: {', '.join(TEMPLATES)}"
            )
            if number == 0:
                raise unclear
            before, _ = self._render(messages[:number], True, tools)
            until, _ = self._render(messages[: number + 1], False, tools)
            start = before[-1].start + len(before[-1].text) if before else 0
            ends = [piece.start + len(piece.text) for piece in until if piece.special and piece.start >= start]
            if not ends:
                raise unclear
            plain, full = ("".join(piece.text for piece in pieces) for pieces in (until, whole))
            prompt = "".join(piece.text for piece in before)
            same = [piece for piece in until if piece.start < ends[-1]]
            if not plain.startswith(prompt) or not full.startswith(plain[: ends[-1]]) or same != whole[: len(same)]:
                raise unclear
            spans.append((start, ends[-1]))
        return spans


def chat_format(folder: Path, template: str | None = None, add_tokens: bool = False) -> ChatFormat:
    """The chat format of a tokenizer's or model's folder: its own chat template, or the one of ours that `template` names.

    `add_tokens`: special tokens that a named template needs get the next free ids where the tokenizer lacks them.

    Raises `TrainingError` if there is no tokenizer or no template, the template is broken, the tokenizer lacks the special tokens of
    the named one, or its blocks leave out the token that ends a turn, so that a model would never learn to stop.
    """
    tokenizer, inner = chat_tokenizers(folder, needed_tokens(template) if add_tokens else ())
    settings = read_json(folder / "tokenizer_config.json")
    added = tokenizer.get_added_tokens_decoder()
    specials = {one.content: _Special(number, one.lstrip, one.rstrip) for number, one in added.items() if one.special}
    variables = {key: token_text(settings[key]) for key in _TOKEN_VARIABLES if settings.get(key) is not None}
    if template is None:
        text, name = own_template(folder), f"the chat template of {folder}"
        if text is None:
            raise TrainingError(f"{folder} has no chat template; choose one by name: {', '.join(TEMPLATES)}")
    elif template in TEMPLATES:
        text, name = TEMPLATES[template].text, f"the chat template {template}"
        if missing := [token for token in needed_tokens(template) if token not in specials]:
            raise TrainingError(
                f"{name} needs the special tokens {', '.join(missing)}, which the tokenizer of {folder} has not; choose "
                f"another template, or let training add them (add_tokens: true)"
            )
        if "eos_token" in text and variables.get("eos_token") not in specials:
            raise TrainingError(f"{name} ends turns with eos_token, which {folder}/tokenizer_config.json does not name")
    else:
        raise TrainingError(f"no chat template is called {template!r}; there are {', '.join(TEMPLATES)}")
    try:
        compile_template(text)
    except jinja2.TemplateSyntaxError as error:
        raise TrainingError(f"{name} is not Jinja: line {error.lineno}: {error.message}") from None
    eos = specials.get(variables.get("eos_token", ""))
    stops = [*generation_ends(folder), *([eos.id] if eos else [])]
    found = ChatFormat(tokenizer, text, name, tuple(stops), variables, specials, inner)
    probe = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    try:
        pieces, spans = found._render(probe, False, None)
        spans = spans if marks_generation(text) else found._spans_by_prefixes(probe, None, pieces)
    except TrainingError:
        return found  # whoever trains with it meets the reason
    ends = [
        piece.special.id for piece in pieces for begin, end in spans if piece.special and begin <= piece.start < end
    ]
    if spans and not ends:
        raise TrainingError(
            f"the {{% generation %}} blocks of {name} leave out the special token that ends a turn: a model would never learn to "
            f"stop; put it inside, or choose a template: {', '.join(TEMPLATES)}"
        )
    return ChatFormat(tokenizer, text, name, tuple(dict.fromkeys([*ends[-1:], *stops])), variables, specials, inner)


def _check(messages: Sequence[Message]) -> None:
    """Raise `TrainingError` for what is no conversation."""
    if not messages:
        raise TrainingError("a conversation has no messages")
    for number, message in enumerate(messages, 1):
        where = f"message {number} of {len(messages)}"
        if not isinstance(message, Mapping):
            raise TrainingError(f"{where} is {type(message).__name__}; expected a mapping of role and content")
        if (role := message.get("role")) not in ROLES:
            raise TrainingError(f"{where} has the role {role!r}; expected {', '.join(ROLES)}")
        content = message.get("content")
        if content is None and not (role == "assistant" and message.get("tool_calls")):
            raise TrainingError(f"{where} has no content")
        if content is not None and not isinstance(content, str):
            raise TrainingError(f"{where}: its content is {type(content).__name__}; expected a string")


def _present(value: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages without the keys whose value is None: templates handle a missing key better."""
    return [{key: one for key, one in message.items() if one is not None} for message in value]


def _strings(value: Any) -> Iterable[str]:
    """Every string in a JSON value, keys included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        yield from _strings([*value.keys(), *value.values()])
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _strings(one)
