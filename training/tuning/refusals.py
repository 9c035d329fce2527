"""'I do not know' data: what a model knows is found by asking it several times; refusals are written for the rest.

Zhang et al. 2023 (R-Tuning, arXiv 2311.09677) and Dubey et al. 2024 (Llama 3, arXiv 2407.21783, section 4.3.6) align a model so with
what it knows: to teach it answers that it does not know teaches it to make things up.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from training.chat.format import ChatFormat, chat_format
from training.checkpoint import write_whole
from training.inference.batch import generate_batch
from training.inference.load import load
from training.inference.sampling import Sampling
from training.knobs import TrainingError
from training.tuning.rows import identity, messages_of, read_rows
from training.verify import verifier as make_verifier
from training.verify.verdict import Verifier

REFUSAL = "I do not know."
QUESTIONS = 64  # asked together


@dataclass(frozen=True)
class Question:
    """A row of prompts: the conversation, and what the last turn is checked by."""

    id: str
    source: str
    messages: list[dict[str, str]]
    answer: str
    verifier: str
    where: str


@dataclass
class Found:
    """How many questions there were, and what they came to."""

    questions: int = 0
    known: int = 0  # answered right often enough: the model's own answer is written
    unknown: int = 0  # answered right too seldom: a refusal is written
    unsure: int = 0  # between: nothing is written
    too_long: int = 0  # no room for an answer: never asked
    samples: int = 0
    right: int = 0

    def lines(self) -> Iterator[str]:
        """The report."""
        asked = max(1, self.questions - self.too_long)
        yield f"{self.questions:,} questions, {self.samples:,} answers, {self.right / max(1, self.samples):.1%} of them right"
        for name, count, what in (
            ("known", self.known, "the model's own right answer"),
            ("unknown", self.unknown, "a refusal"),
            ("unsure", self.unsure, "left out"),
        ):
            yield f"  {name}: {count:,} ({count / asked:.1%}), {what}"
        if self.too_long:
            yield f"  too long to be asked: {self.too_long:,}, left out"


def read_questions(path: Path, verifier: str) -> Iterator[Question]:
    """Rows `prompt`, `answer`, and `verifier`, which rows may leave out. Raises `TrainingError` that names a row that is none."""
    for where, row in read_rows(path):
        messages = messages_of(row, "prompt", "user", where)
        answer = row.get("answer")
        if not isinstance(answer, str) or not answer.strip():
            raise TrainingError(f"{where}: no answer to grade by; expected a string")
        name = str(row["id"]) if row.get("id") is not None else identity(messages)
        yield Question(name, str(row.get("source") or ""), messages, answer, row.get("verifier") or verifier, where)


def make_refusals(
    model_dir: Path,
    prompts: Path,
    out: Path,
    *,
    samples: int = 8,
    known: float = 0.5,
    unknown: float = 0.0,
    refusals: Sequence[str] = (REFUSAL,),
    verifier: str = "exact",
    sampling: Sampling | None = None,
    template: str | None = None,
    device: torch.device | None = None,
    log: Callable[[str], Any] = print,
) -> Found:
    """Ask a model each question `samples` times and write conversations to `out` (JSONL: id, source, messages, share_right).

    A question is known if at least the share `known` of its answers is right: what is written is the right answer that the model
    gave most often; unknown if at most the share `unknown` is: a refusal is written, of several the one that the question's id picks.
    Raises `TrainingError` for a bad row, and if nothing could be asked.
    """
    if not 0 <= unknown < known <= 1:
        raise TrainingError(f"expected 0 <= unknown < known <= 1, got unknown={unknown:g}, known={known:g}")
    sampling = sampling or Sampling(temperature=0.7, max_new_tokens=64)
    if sampling.greedy and samples > 1:
        raise TrainingError("temperature 0 gives the same answer each time: take samples 1 or a higher temperature")
    model, tokenizer, end = load(model_dir, device or torch.device("cpu"))
    form = chat_format(model_dir, template)
    ends = tuple(dict.fromkeys([*form.end_ids, *end]))
    room = model.config.context_length - sampling.max_new_tokens
    found = Found()
    checks: dict[str, Verifier] = {}

    def rows() -> Iterator[dict[str, Any]]:
        questions = read_questions(prompts, verifier)
        while group := list(islice(questions, QUESTIONS)):
            number = found.questions  # of the first: draws do not depend on how questions are grouped
            found.questions += len(group)
            encoded = [_prompt(form, question) for question in group]
            asked = [
                (question, ids, (number + at) * samples)
                for at, (question, ids) in enumerate(zip(group, encoded, strict=True))
                if len(ids) <= room
            ]
            found.too_long += len(group) - len(asked)
            texts = [
                one.text
                for one in generate_batch(
                    model,
                    [ids for _, ids, _ in asked for _ in range(samples)],
                    sampling,
                    ends,
                    seeds=[sampling.seed + first + k for _, _, first in asked for k in range(samples)],
                    tokenizer=tokenizer,
                )
            ]
            for at, (question, _, _) in enumerate(asked):
                right = _right(question, texts[at * samples : (at + 1) * samples], checks)
                found.samples += samples
                found.right += len(right)
                share = len(right) / samples
                if share >= known:
                    found.known += 1
                    reply = max(dict.fromkeys(right), key=right.count)
                elif share <= unknown:
                    found.unknown += 1
                    reply = refusals[_pick(question.id, len(refusals))]
                else:
                    found.unsure += 1
                    continue
                messages = [*question.messages, {"role": "assistant", "content": reply}]
                yield {"id": question.id, "source": question.source, "messages": messages, "share_right": share}
            log(
                f"{found.questions:,} questions: {found.known:,} known, {found.unknown:,} unknown, {found.unsure:,} unsure"
            )
        if found.questions == found.too_long:
            raise TrainingError(
                f"{prompts}: no question that leaves room for an answer of {sampling.max_new_tokens:,} tokens"
            )

    out.parent.mkdir(parents=True, exist_ok=True)
    write_whole(out, partial(_write, rows))
    return found


def _prompt(form: ChatFormat, question: Question) -> list[int]:
    try:
        return form.encode(question.messages, prompt=True).ids
    except TrainingError as error:
        raise TrainingError(f"{question.where}: {error}") from None


def _right(question: Question, texts: Sequence[str], checks: dict[str, Verifier]) -> list[str]:
    """Those of the answers that the question's verifier takes for right. `checks`: verifiers made so far."""
    try:
        if question.verifier not in checks:
            checks[question.verifier] = make_verifier(question.verifier)
        check = checks[question.verifier]
        return [text.strip() for text in texts if check(text.strip(), question.answer).score >= 1]
    except TrainingError as error:
        raise TrainingError(f"{question.where}: {error}") from None


def _pick(name: str, count: int) -> int:
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") % count


def _write(rows: Callable[[], Iterator[dict[str, Any]]], path: Path) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows():
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
