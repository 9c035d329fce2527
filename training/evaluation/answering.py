"""A model's answers to messages, by its chat template or as plain text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from tokenizers import Tokenizer

from training.chat.format import ChatFormat, chat_format, own_template
from training.evaluation.answers_config import Form
from training.evaluation.questions import Messages
from training.evaluation.subject import Subject
from training.inference.batch import generate_batch
from training.inference.sampling import Sampling
from training.knobs import TrainingError
from training.vocabulary import encode_text

ROWS = 64  # answers written side by side


class Answer(NamedTuple):
    """What a model wrote, with the log-probabilities of its tokens, and how it ended."""

    text: str
    logprobs: list[float]
    finish: Literal["stop", "length", "too_long"]


def form_of(folder: Path, form: Form) -> Literal["chat", "text"]:
    """`auto` decided: chat where the folder has a template."""
    if form != "auto":
        return form
    return "text" if own_template(folder) is None else "chat"


def encode_prompts(
    folder: Path, tokenizer: Tokenizer, prompts: Sequence[Messages], form: Form
) -> tuple[list[list[int]], ChatFormat | None]:
    """The ids that each prompt is for the model of a folder, and its chat format if that is used.

    Raises `TrainingError` for a prompt without a token, or one that the chat template does not take.
    """
    chat = chat_format(folder) if form_of(folder, form) == "chat" else None
    encoded: list[list[int]] = []
    for messages in prompts:
        if chat:
            encoded.append(chat.encode([dict(message) for message in messages], prompt=True).ids)
        else:
            encoded.append(encode_text(tokenizer, "\n\n".join(message["content"] for message in messages)))
        if not encoded[-1]:
            raise TrainingError(f"{folder}: a prompt has no token: {messages!r}")
    return encoded, chat


def answer_all(
    subject: Subject,
    prompts: Sequence[Messages],
    sampling: Sampling,
    form: Form,
    *,
    samples: int = 1,
    done: Callable[[int], object] = lambda count: None,
) -> list[list[Answer]]:
    """`samples` answers to each prompt. Sample j of prompt i draws from the seed, i and j alone.

    A prompt that fills the context is not put; its answers are empty, `too_long`.
    """
    encoded, chat = encode_prompts(subject.folder, subject.tokenizer, prompts, form)
    end: Sequence[int] = chat.end_ids if chat else subject.end
    room = subject.model.config.context_length
    found: list[list[Answer]] = [[Answer("", [], "too_long")] * samples for _ in prompts]
    fitting = [i for i, ids in enumerate(encoded) if len(ids) < room]
    step = max(1, 4 * ROWS // samples)  # so that progress is seen
    for at in range(0, len(fitting), step):
        part = fitting[at : at + step]
        completions = generate_batch(
            subject.model,
            [encoded[i] for i in part for _ in range(samples)],
            sampling,
            end,
            seeds=[sampling.seed + i * samples + j for i in part for j in range(samples)],
            max_rows=ROWS,
            tokenizer=subject.tokenizer,
        )
        for number, i in enumerate(part):
            mine = completions[number * samples : (number + 1) * samples]
            found[i] = [Answer(one.text, one.logprobs, one.finish) for one in mine]
        done(len(part))
    return found
