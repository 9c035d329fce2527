"""Rows of conversations, instructions or plain text as tokens with a mask: encoded once, too long ones by a stated policy, packed.

In memory an example takes 5 bytes a token and 16 more. Every token is accounted for: read = kept + cut + dropped.
"""

from __future__ import annotations

import json
import re
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from training.chat.format import ChatFormat, Encoded, chat_format
from training.data import Batch
from training.knobs import TrainingError
from training.loss import IGNORED
from training.tuning.packing import best_fit
from training.tuning.rows import identity, read_rows
from training.tuning.run import held_out
from training.vocabulary import encode_text, load_tokenizer


class RowEncoder:
    """From a row to tokens: `messages`, or `instruction` (with `input`) and `output`, or `text`.

    The chat template is looked for when the first conversation comes, so plain text needs none. `end`: closes a plain text.
    """

    def __init__(self, folder: Path, template: str | None, add_tokens: bool, end: int) -> None:
        self.folder, self.template, self.add_tokens, self.end = folder, template, add_tokens, end

    @cached_property
    def form(self) -> ChatFormat:
        """How conversations are written."""
        return chat_format(self.folder, self.template, self.add_tokens)

    @cached_property
    def tokenizer(self) -> Any:
        """What encodes plain text."""
        return load_tokenizer(self.folder)

    def __call__(self, row: dict[str, Any]) -> tuple[str, Encoded]:
        """(kind, tokens) of a row. Raises `TrainingError` if it is none of the three, or nothing of it would be trained."""
        if row.get("messages") is not None:
            return "chat", self.form.encode(_list(row, "messages"), tools=_tools(row))
        if row.get("instruction") is not None:
            return "instruction", self.form.encode(instruction_messages(row))
        if isinstance(text := row.get("text"), str):
            if not text.strip():
                raise TrainingError("'text' is empty")
            if self.end < 0:
                raise TrainingError(f"{self.folder} names no eos_token, which ends a plain text")
            ids = [*encode_text(self.tokenizer, text), self.end]
            return "text", Encoded(ids, [True] * len(ids))
        keys = ", ".join(key for key, value in row.items() if value is not None) or "nothing"
        raise TrainingError(f"it has {keys}; expected messages, or instruction and output, or text")


def end_of_text(folder: Path) -> int:
    """The id that ends a plain text by the eos_token of tokenizer_config.json; of a folder that names none, -1."""
    try:
        named = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("eos_token")
    except (OSError, ValueError):
        return -1
    name = named["content"] if isinstance(named, dict) else named
    found = load_tokenizer(folder).token_to_id(name) if name else None
    return -1 if found is None else found


def instruction_messages(row: dict[str, Any]) -> list[dict[str, str]]:
    """An instruction row as a conversation: `input` stands below the instruction, `system` before it."""
    if not isinstance(row.get("output"), str):
        raise TrainingError("an instruction without 'output'; expected a string")
    parts = [row["instruction"], row.get("input") or ""]
    if not all(isinstance(part, str) for part in parts):
        raise TrainingError("'instruction' and 'input' must be strings")
    system = [{"role": "system", "content": row["system"]}] if row.get("system") else []
    asked = {"role": "user", "content": "\n\n".join(part for part in parts if part)}
    return [*system, asked, {"role": "assistant", "content": row["output"]}]


def _list(row: dict[str, Any], key: str) -> list[dict[str, Any]]:
    if not isinstance(row[key], list):
        raise TrainingError(f"{key!r} is a {type(row[key]).__name__}; expected a list of role and content")
    return row[key]


def _tools(row: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The schemas of tools that a row names, as a list or as JSON text, which is how Parquet files hold them."""
    tools = row.get("tools")
    if isinstance(tools, str):
        try:
            tools = json.loads(tools) if tools.strip() else None
        except ValueError as error:
            raise TrainingError(f"'tools' is no JSON: {error}") from None
    if tools is not None and not isinstance(tools, list):
        raise TrainingError(f"'tools' is a {type(tools).__name__}; expected a list of JSON schemas")
    return tools or None


@dataclass
class Accounts:
    """What became of rows and tokens; `tokens_read == tokens_kept + tokens_cut + tokens_dropped`, always."""

    rows: Counter[str] = field(default_factory=Counter)  # by kind, of those that are examples
    bad: Counter[str] = field(default_factory=Counter)  # left out before there were tokens, by reason
    rows_cut: int = 0
    rows_split: int = 0
    rows_dropped: int = 0
    pieces: int = 0  # kept
    held_out: int = 0  # of these
    tokens_read: int = 0
    tokens_kept: int = 0
    tokens_cut: int = 0
    tokens_dropped: int = 0
    tokens_trained: int = 0

    def values(self) -> dict[str, Any]:
        """As training.json holds it."""
        return {**vars(self), "rows": dict(self.rows), "bad": dict(self.bad)}

    def lines(self) -> Iterator[str]:
        """The report."""
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.rows.items()))
        yield f"data: {sum(self.rows.values()):,} rows ({kinds}), {self.pieces:,} examples kept, {self.held_out:,} held out"
        yield (
            f"data: {self.tokens_read:,} tokens = {self.tokens_kept:,} kept + {self.tokens_cut:,} cut from "
            f"{self.rows_cut:,} rows + {self.tokens_dropped:,} dropped with {self.rows_dropped:,} rows or pieces; "
            f"{self.tokens_trained / max(1, self.tokens_kept):.1%} of those kept are trained"
        )
        if self.rows_split:
            yield f"data: {self.rows_split:,} rows were split"
        for reason, count in self.bad.most_common(5):
            yield f"data: {count:,} rows left out: {reason}"


class Examples:
    """Tokens with masks, packed into rows; a batch is a pure function of the numbers of its rows."""

    def __init__(
        self, tokens: np.ndarray, trained: np.ndarray, starts: np.ndarray, capacity: int, packing: bool, padding: int
    ) -> None:
        """tokens int32 `[T]`, trained bool `[T]`; example i is `starts[i]` to `starts[i + 1]` (int64 `[N + 1]`)."""
        self.tokens, self.trained, self.starts, self.padding = tokens, trained, starts, padding
        lengths = np.diff(starts)
        self.rows = best_fit(lengths, capacity) if packing else [[number] for number in range(len(lengths))]

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, rows: Sequence[int]) -> Batch:
        """Rows as tensors, as long as the longest of them: documents are numbered 0, 1, 2... in each, -1 where padded.

        A position's target is the next token if that is trained and of the same example.
        """
        spans = [[(int(self.starts[n]), int(self.starts[n + 1])) for n in self.rows[row]] for row in rows]
        length = max(2, *(sum(stop - start for start, stop in row) for row in spans))
        tokens = np.full((len(rows), length), self.padding, np.int64)
        documents = np.full((len(rows), length), -1, np.int64)
        targets = np.full((len(rows), length), IGNORED, np.int64)
        for row, found in enumerate(spans):
            at = 0
            for number, (start, stop) in enumerate(found):
                end = at + stop - start
                tokens[row, at:end] = self.tokens[start:stop]
                documents[row, at:end] = number
                following = np.where(self.trained[start + 1 : stop], self.tokens[start + 1 : stop], IGNORED)
                targets[row, at : end - 1] = following
                at = end
        return Batch(torch.from_numpy(tokens), torch.from_numpy(targets), torch.from_numpy(documents), list(rows))


def read_examples(
    path: Path,
    encode: Callable[[dict[str, Any]], tuple[str, Encoded]],
    capacity: int,
    *,
    too_long: str,
    bad_rows: str,
    validation: float,
    packing: bool,
    padding: int,
) -> tuple[Examples, Examples, Accounts]:
    """(training, held-out) examples of a file or folder, and what became of everything.

    A row is held out by the hash of its `id`, or of its content if it has none, whole. The first token of an example is never
    trained: nothing stands before it. Raises `TrainingError` that names a bad row (unless `bad_rows` is drop), and if nothing is
    left to train on.
    """
    accounts = Accounts()
    sides = (_Store(), _Store())
    for where, row in read_rows(path):
        name = str(row["id"]) if row.get("id") is not None else ""
        try:
            kind, (ids, trained) = encode(row)
            trained = [False, *trained[1:]]
            if not any(trained):
                raise TrainingError("it has no token to train on")
        except TrainingError as error:
            if bad_rows == "error":
                named = f"{where} (id {name})" if name else where
                raise TrainingError(f"{named}: {error}; put the row right, or leave such out: bad_rows: drop") from None
            accounts.bad[re.sub(r"[0-9]+", "N", " ".join(str(error).split()))[:200]] += 1
            continue
        accounts.rows[kind] += 1
        accounts.tokens_read += len(ids)
        pieces = [(ids, trained)]
        if len(ids) > capacity:
            if too_long == "drop":
                pieces = []
                accounts.rows_dropped += 1
                accounts.tokens_dropped += len(ids)
            elif too_long == "truncate":
                pieces = [(ids[:capacity], trained[:capacity])]
                if any(trained[:capacity]):
                    accounts.rows_cut += 1
                    accounts.tokens_cut += len(ids) - capacity
                else:  # nothing to train on is left: all of the row is dropped
                    accounts.tokens_dropped += len(ids) - capacity
            else:
                cuts = range(0, len(ids), capacity)
                pieces = [(ids[at : at + capacity], [False, *trained[at + 1 : at + capacity]]) for at in cuts]
                accounts.rows_split += 1
        side = held_out([name or identity(row)], validation)[0]
        for piece, mask in pieces:
            if not any(mask):
                accounts.rows_dropped += 1
                accounts.tokens_dropped += len(piece)
                continue
            sides[side].add(piece, mask)
            accounts.pieces += 1
            accounts.held_out += side
            accounts.tokens_kept += len(piece)
            accounts.tokens_trained += sum(mask)
    if not len(sides[False]):
        bad = f"; {sum(accounts.bad.values()):,} rows were left out as bad" if accounts.bad else ""
        raise TrainingError(
            f"{path}: nothing to train on: {sum(accounts.rows.values()):,} rows, {accounts.rows_dropped:,} of them dropped as longer "
            f"than {capacity:,} tokens, {accounts.held_out:,} held out{bad}"
        )
    train, held = (store.examples(capacity, packing, padding) for store in sides)
    return train, held, accounts


class _Store:
    """Examples while they come in."""

    def __init__(self) -> None:
        self.tokens, self.trained, self.starts = array("i"), bytearray(), array("q", [0])

    def __len__(self) -> int:
        return len(self.starts) - 1

    def add(self, ids: list[int], trained: list[bool]) -> None:
        self.tokens.extend(ids)
        self.trained.extend(trained)
        self.starts.append(len(self.tokens))

    def examples(self, capacity: int, packing: bool, padding: int) -> Examples:
        if not len(self):
            return Examples(
                np.empty(0, np.int32), np.empty(0, np.bool_), np.zeros(1, np.int64), capacity, packing, padding
            )
        tokens, starts = np.frombuffer(self.tokens, np.int32), np.frombuffer(self.starts, np.int64)
        return Examples(tokens, np.frombuffer(self.trained, np.bool_), starts, capacity, packing, padding)
