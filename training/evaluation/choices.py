"""Tasks whose answers are chosen by likelihood: accuracy, its error, and what is left above guessing (CORE)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tokenizers import Tokenizer

from training.evaluation.items import Item, Task
from training.evaluation.scoring import Request, Scored, mean_and_error, score
from training.knobs import TrainingError
from training.model import Decoder
from training.vocabulary import encode_text

BETWEEN = "\n\n"  # between solved examples and the question
# How the likelihoods of choices of different length are compared: what each is divided by, or less what
RULES = ("raw", "per_character", "per_byte", "per_token", "pmi")


def encode_pair(tokenizer: Tokenizer, context: str, continuation: str, end: int) -> Request:
    """A context and what follows it as lm-evaluation-harness splits them: tokens of both together, cut behind the context's.

    Spaces that end the context move to the continuation. Without a context, what stands before is the end token.
    """
    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    if not stripped:
        return Request([end], encode_text(tokenizer, continuation))
    before = encode_text(tokenizer, stripped)
    whole = encode_text(tokenizer, stripped + continuation)
    if len(whole) <= len(before):
        raise TrainingError(f"the answer {continuation!r} adds no token to what stands before it; it cannot be scored")
    return Request(whole[: len(before)], whole[len(before) :])


def run_task(
    model: Decoder,
    tokenizer: Tokenizer,
    task: Task,
    *,
    end: int,
    seed: int,
    batch_tokens: int,
    limit: int | None = None,
    done: Callable[[int], object] = lambda count: None,
) -> dict[str, Any]:
    """Accuracy on a task. `accuracy` is CORE's: the choice with the least loss a token, or a completion that is exactly the likeliest.

    `accuracy_<rule>` compares choices by log-likelihood: raw (lm-evaluation-harness's acc), per character (its acc_norm),
    per byte (acc_bytes), per token, and less the likelihood without the context (acc_mutual_info; Brown et al. 2020).
    `centred` is (accuracy - chance) / (1 - chance).
    """
    items = task.items[:limit]
    prompts = [_prompts(task, number, item, seed) for number, item in enumerate(items)]
    requests = [
        encode_pair(tokenizer, context, task.delimiter + answer, end)
        for contexts, item in zip(prompts, items, strict=True)
        for context, answer in zip(contexts, item.answers, strict=True)
    ]
    completion = task.kind == "language_modeling"
    scored = score(model, requests, batch_tokens, likeliest=completion, done=done)
    out: dict[str, Any] = {"kind": task.kind, "items": len(items), "shots": task.shots}
    if completion:
        right = {"accuracy": [float(one.greedy) for one in scored]}
        out["nats_per_token"] = sum(float(one.nll.sum()) for one in scored) / sum(len(one.nll) for one in scored)
    else:
        alone: list[Scored] | None = None
        if task.kind == "multiple_choice":  # a schema's answers are all the same text
            free = [
                encode_pair(tokenizer, task.unconditional, task.delimiter + answer, end)
                for item in items
                for answer in item.answers
            ]
            alone = score(model, free, batch_tokens)
        right = _by_rule(items, scored, alone)
    for name, values in right.items():
        out[name], out[f"{name}_stderr"] = mean_and_error(values)
    out["chance"] = task.guessing(len(items))
    out["centred"] = (out["accuracy"] - out["chance"]) / (1 - out["chance"])
    return out


def _prompts(task: Task, number: int, item: Item, seed: int) -> list[str]:
    shown = "".join(example.solved(task.delimiter) + BETWEEN for example in task.examples(number, seed))
    return [shown + context for context in item.contexts]


def _by_rule(items: Sequence[Item], scored: list[Scored], alone: list[Scored] | None) -> dict[str, list[float]]:
    """1 or 0 of each item by each rule; the first of equal choices counts as chosen."""
    right: dict[str, list[float]] = {"accuracy": []}
    at = 0
    for item in items:
        part = range(at, at + len(item.answers))
        at = part.stop
        sums = [scored[i].loglikelihood for i in part]
        values = {
            "raw": sums,
            "per_character": [x / len(answer) for x, answer in zip(sums, item.answers, strict=True)],
            "per_byte": [x / len(answer.encode()) for x, answer in zip(sums, item.answers, strict=True)],
            "per_token": [x / len(scored[i].nll) for i, x in zip(part, sums, strict=True)],
        }
        if alone is not None:
            values["pmi"] = [x - alone[i].loglikelihood for i, x in zip(part, sums, strict=True)]
        for rule in RULES:
            if rule in values:
                best = max(range(len(item.answers)), key=values[rule].__getitem__)
                right.setdefault(f"accuracy_{rule}", []).append(float(best == item.gold))
        right["accuracy"].append(right["accuracy_per_token"][-1])
    return right
