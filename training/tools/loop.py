"""Completions in which the model uses tools: generation stops at a call, the tool runs, its response goes in, generation goes on.

Token in, token out: what the model sampled stays the tokens that it sampled, with their log-probabilities; only what a tool says is
encoded. A call is decoded for the tool's eyes alone. What stands between a call and the next turn is written by the chat
template: the end of the assistant's turn (if the model did not get to sample it), the tool's turn, the opening of the assistant's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol

from training.chat.format import ChatFormat
from training.inference.batch import Completion, generate_batch
from training.inference.sampling import Sampling
from training.knobs import TrainingError
from training.model import Decoder
from training.tools.calls import Call, CallError, call_ids, parse_call, written_call
from training.tools.registry import Response, Toolbox


@dataclass(frozen=True)
class ToolLimits:
    """Of one conversation. calls: that are carried out. seconds: that tools take together. response_characters: of one response."""

    calls: int = 4
    seconds: float = 30.0
    response_characters: int = 2000
    workers: int = 4  # calls of tools that allow it run side by side

    def __post_init__(self) -> None:
        for name in ("calls", "seconds", "response_characters", "workers"):
            if not getattr(self, name) > 0:
                raise TrainingError(f"tools: {name} must be above 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class Used:
    """A call and its response. call: None if it could not be read."""

    call: Call | None
    response: Response


@dataclass
class ToolRollout:
    """What stands behind a prompt: `tokens`, and for each whether the model chose it (`mask`) and its log-probability (else 0).

    finish: "stop" (the model ended its turn), "length" (max_new_tokens or the context is full), "calls" or "seconds" (a limit).
    """

    tokens: list[int] = field(default_factory=list)
    mask: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Literal["stop", "length", "calls", "seconds"] = "length"
    used: list[Used] = field(default_factory=list)

    @property
    def sampled(self) -> int:
        """How many tokens the model chose."""
        return sum(self.mask)

    @property
    def answer(self) -> list[int]:
        """The tokens that the model chose behind the last response: what a verifier reads."""
        at = len(self.mask)
        while at and self.mask[at - 1]:
            at -= 1
        return self.tokens[at:]

    def add(self, completion: Completion) -> None:
        """Put what the model chose behind the rest."""
        self.tokens += completion.tokens
        self.mask += [True] * len(completion.tokens)
        self.logprobs += completion.logprobs

    def insert(self, tokens: Sequence[int]) -> None:
        """Put what the model did not choose behind the rest."""
        self.tokens += tokens
        self.mask += [False] * len(tokens)
        self.logprobs += [0.0] * len(tokens)


class Generate(Protocol):
    """`generate_batch` but for the model."""

    def __call__(
        self, prompts: Sequence[Sequence[int]], sampling: Sampling, end: Sequence[int], *, seeds: Sequence[int]
    ) -> list[Completion]: ...


def tool_rollouts(
    model: Decoder,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    form: ChatFormat,
    box: Toolbox,
    limits: ToolLimits | None = None,
    *,
    seeds: Sequence[int] | None = None,
    max_rows: int = 64,
) -> list[ToolRollout]:
    """One rollout of each prompt, in order; `form.encode(messages, prompt=True, tools=box.schemas).ids` makes a prompt.

    `sampling.max_new_tokens` counts the tokens that the model chooses, of all its turns together. Row i draws with `seeds[i]`, by
    default `sampling.seed + i`, whatever the batch. Raises `TrainingError` as `generate_batch` does, and for a tokenizer without the
    tokens of calls; `SandboxError` if a tool needs a sandbox that cannot be had.
    """

    def generate(
        prompts: Sequence[Sequence[int]], sampling: Sampling, end: Sequence[int], *, seeds: Sequence[int]
    ) -> list[Completion]:
        return generate_batch(
            model,
            prompts,
            sampling,
            end,
            seeds=seeds,
            max_rows=max_rows,
            tokenizer=form.tokenizer if sampling.stop else None,
        )

    seeds = [sampling.seed + number for number in range(len(prompts))] if seeds is None else seeds
    if len(seeds) != len(prompts):
        raise TrainingError(f"{len(prompts)} prompts need as many seeds, got {len(seeds)}")
    return run_loop(generate, prompts, sampling, form, box, limits or ToolLimits(), seeds, model.config.context_length)


def run_loop(
    generate: Generate,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    form: ChatFormat,
    box: Toolbox,
    limits: ToolLimits,
    seeds: Sequence[int],
    context: int,
) -> list[ToolRollout]:
    """`tool_rollouts` over any way to generate. All rows that still run generate together, then all their tools run."""
    ids = call_ids(form.tokenizer)
    end = (*form.end_ids, ids[1])
    rollouts = [ToolRollout() for _ in prompts]
    running = list(range(len(prompts)))
    turn = 0
    while running:
        room = [sampling.max_new_tokens - rollouts[row].sampled for row in running]
        found = generate(
            [[*prompts[row], *rollouts[row].tokens] for row in running],
            replace(sampling, max_new_tokens=max(room)),
            end,
            seeds=[seed_of_turn(seeds[row], turn) for row in running],
        )
        calling = []
        for row, completion, left in zip(running, found, room, strict=True):
            if len(completion.tokens) > left:  # a row's draws do not depend on how far others may go
                completion = Completion(completion.tokens[:left], completion.logprobs[:left], "length")
            rollouts[row].add(completion)
            rollouts[row].finish = completion.finish
            if completion.finish == "stop" and completion.tokens and completion.tokens[-1] == ids[1]:
                calling.append(row)
        going_on = []
        for row, used in zip(calling, _carry_out(calling, rollouts, form, box, limits, ids), strict=True):
            rollout = rollouts[row]
            if used is None:
                rollout.finish = "calls"
                continue
            rollout.used.append(used)
            between = bridge(form, used.response.text)
            if sum(one.response.seconds for one in rollout.used) > limits.seconds:
                rollout.finish = "seconds"
            elif (
                len(prompts[row]) + len(rollout.tokens) + len(between) >= context
                or rollout.sampled >= sampling.max_new_tokens
            ):
                rollout.finish = "length"
            else:
                rollout.insert(between)
                going_on.append(row)
        running = going_on
        turn += 1
    return rollouts


def _carry_out(
    rows: Sequence[int], rollouts: Sequence[ToolRollout], form: ChatFormat, box: Toolbox, limits: ToolLimits, ids: tuple[int, int]
) -> list[Used | None]:  # fmt: skip
    """The calls that the rows' rollouts end on, carried out; None for a row that has had its share."""
    calls: list[Call | CallError | None] = []
    for row in rows:
        if len(rollouts[row].used) >= limits.calls:
            calls.append(None)
            continue
        try:
            calls.append(parse_call(written_call(rollouts[row].tokens, form.tokenizer, ids)))
        except CallError as error:
            calls.append(error)

    def one(call: Call | CallError | None) -> Used | None:
        if call is None:
            return None
        if isinstance(call, CallError):
            return Used(None, Response(f"error: {call}"[: limits.response_characters], True, 0.0))
        return Used(call, box.run(call, limits.response_characters))

    def parallel(call: Call | CallError | None) -> bool:
        return isinstance(call, Call) and call.name in box.tools and box.tools[call.name].parallel

    if limits.workers > 1 and sum(map(parallel, calls)) > 1:
        with ThreadPoolExecutor(limits.workers) as pool:
            waiting = [pool.submit(one, call) if parallel(call) else None for call in calls]
            return [one(call) if later is None else later.result() for call, later in zip(calls, waiting, strict=True)]
    return [one(call) for call in calls]


def bridge(form: ChatFormat, response: str) -> list[int]:
    """The tokens from behind a call to where the model goes on: the end of its turn, the tool's turn, the opening of the next.

    They are read off a conversation that the chat template renders, behind the last token that is the assistant's; the response
    yields no special token. Raises `TrainingError` for a template that does not mark what the assistant writes.
    """
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "tool", "content": response},
    ]
    encoded = form.encode(messages, prompt=True)
    if not any(encoded.trained):
        raise TrainingError(
            f"{form.name} does not mark what the assistant writes ({{% generation %}}), so no tool's turn can follow it"
        )
    last = len(encoded.trained) - encoded.trained[::-1].index(True)
    return [form.end_ids[0], *encoded.ids[last:]]


def seed_of_turn(seed: int, turn: int) -> int:
    """A seed for each turn of a row: the first turn's is the row's own, so that without calls nothing differs."""
    if turn == 0:
        return seed
    return int.from_bytes(hashlib.sha256(f"{seed} {turn}".encode()).digest()[:8], "big") >> 1
