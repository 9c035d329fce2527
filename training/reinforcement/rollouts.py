"""Completions sampled from the model that learns, and what is known of each: its tokens, reward and log-probabilities.

Every process samples and scores its share; then all have all of them, so that baselines and whitening see the whole step in
any number of processes. A completion is decided by the weights, and by seed, step and its number in the step: a resumed run
draws the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from training.chat.format import ChatFormat
from training.device import Place
from training.inference.batch import Completion, generate_batch
from training.inference.sampling import Sampling
from training.loss import IGNORED
from training.model import Decoder
from training.reinforcement.config import RolloutConfig
from training.reinforcement.prompts import Prompt
from training.reinforcement.rewards import Rewards
from training.reinforcement.watch import repetition_share
from training.tools.loop import ToolLimits, ToolRollout, tool_rollouts
from training.tools.registry import Toolbox


def _none() -> np.ndarray:
    return np.zeros(0, np.float32)


@dataclass
class Rollout:
    """A completion of a prompt. Arrays are float32, one number for each of its tokens, unless said otherwise."""

    prompt: tuple[int, ...]
    tokens: list[int]  # with the end token, which is an action too
    sampled: np.ndarray  # log-probabilities, as the sampler saw them
    ended: bool  # with an end token
    text: str
    score: float  # what rewards give
    reward: float  # with penalties: what is learned from
    judge: float | None = None
    old: np.ndarray = field(default_factory=_none)  # log-probabilities before the step's first update
    reference: np.ndarray = field(default_factory=_none)  # those of the reference
    entropies: np.ndarray = field(default_factory=_none)
    values: np.ndarray = field(default_factory=_none)  # of the states before each token, and of the last state
    advantages: np.ndarray = field(default_factory=_none)
    returns: np.ndarray = field(default_factory=_none)
    masked: bool = False  # nothing is learned from it
    chosen: list[bool] | None = None  # which tokens the model chose, where tools wrote others; None: all

    @property
    def actions(self) -> list[int]:
        """The tokens that the model chose."""
        return (
            self.tokens
            if self.chosen is None
            else [t for t, mine in zip(self.tokens, self.chosen, strict=True) if mine]
        )

    @property
    def kl(self) -> float:
        """The log-ratio to the reference of the whole completion, in nats; 0 without one."""
        return float((self.old - self.reference).sum()) if len(self.reference) else 0.0


def row_seed(*numbers: int) -> int:
    """A seed of 63 bits from seed, step, row: near numbers give seeds that have nothing to do with each other."""
    digest = hashlib.sha256(" ".join(map(str, numbers)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def sampling_of(config: RolloutConfig, temperature: float | None = None) -> Sampling:
    """How completions are drawn; `temperature` in place of the config's, for evaluation."""
    return Sampling(
        temperature=config.temperature if temperature is None else temperature,
        top_k=config.top_k,
        top_p=config.top_p,
        min_p=config.min_p,
        max_new_tokens=config.max_new_tokens,
    )


def roll_out(
    model: Decoder,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    sampling: Sampling,
    form: ChatFormat,
    rewards: Rewards,
    config: RolloutConfig,
    here: Place,
    judged: bool = True,
    box: Toolbox | None = None,
    tool_limits: ToolLimits | None = None,
) -> list[Rollout]:
    """One completion of each prompt, of all processes, in order. All processes call this with the same prompts.

    box: tools that the model may call; then rewards see what it says behind the last response.
    """
    shares = np.array_split(np.arange(len(prompts)), here.world)
    mine = shares[here.rank]
    found: list[Rollout] = []
    if len(mine):
        own = [prompts[at] for at in mine]
        ids, row_seeds, most = [list(prompt.ids) for prompt in own], [seeds[at] for at in mine], config.generation_rows
        completions: Sequence[Completion | ToolRollout]
        if box is None:
            completions = generate_batch(model, ids, sampling, form.end_ids, seeds=row_seeds, max_rows=most)
        else:
            completions = tool_rollouts(model, ids, sampling, form, box, tool_limits, seeds=row_seeds, max_rows=most)
        answers = [one.answer if isinstance(one, ToolRollout) else one.tokens for one in completions]
        texts = [completion_text(form, answer) for answer in answers]
        ends = [completion.finish == "stop" for completion in completions]
        scores = rewards.score(own, texts, ends)
        judges = rewards.judge.score(own, texts, ends) if rewards.judge and judged else [None] * len(own)
        rows = zip(own, completions, texts, ends, scores, judges, strict=True)
        for prompt, completion, text, ended, score, judge in rows:
            found.append(
                Rollout(
                    prompt.ids,
                    completion.tokens,
                    np.array(completion.logprobs, np.float32),
                    ended,
                    text,
                    score,
                    score if ended else score - config.missing_end_penalty,
                    judge,
                    chosen=completion.mask if isinstance(completion, ToolRollout) else None,
                )
            )
    return [one for theirs in here.gather(found) for one in theirs]


def completion_text(form: ChatFormat, tokens: Sequence[int]) -> str:
    """What a completion says, without the end token; other special tokens are shown, not hidden from verifiers."""
    inside = list(tokens[:-1] if tokens and tokens[-1] in form.end_ids else tokens)
    return str(form.tokenizer.decode(inside, skip_special_tokens=False))


def gathered(rollouts: Sequence[Rollout], mine: Sequence[Rollout], here: Place) -> list[Rollout]:
    """All rollouts, after each process has changed its `rank`-th of `world` ones (`mine`)."""
    if here.world == 1:
        return list(rollouts)
    parts = here.gather(list(mine))
    return [parts[at % here.world][at // here.world] for at in range(len(rollouts))]


@dataclass
class Rows:
    """Rollouts as tensors `[B, L]`, padded on the right; numbers stand at the position that predicts their token."""

    tokens: Tensor  # int64
    targets: Tensor  # int64: the completion's tokens, else IGNORED
    mask: Tensor  # bool: actions that are learned from
    old: Tensor
    reference: Tensor
    advantages: Tensor
    returns: Tensor
    values: Tensor
    last: Tensor  # int64 [B]: where the last token stands


def collate(rollouts: Sequence[Rollout], device: torch.device) -> Rows:
    """Rollouts side by side. What a rollout does not know is 0."""
    length = max(len(one.prompt) + len(one.tokens) for one in rollouts)
    tokens = torch.zeros(len(rollouts), length, dtype=torch.int64)
    targets = torch.full_like(tokens, IGNORED)
    mask = torch.zeros(tokens.shape, dtype=torch.bool)
    names = ("old", "reference", "advantages", "returns", "values")
    numbers = {name: torch.zeros(tokens.shape) for name in names}
    for row, one in enumerate(rollouts):
        first, count = len(one.prompt) - 1, len(one.tokens)
        tokens[row, : first + 1 + count] = torch.tensor([*one.prompt, *one.tokens])
        span = slice(first, first + count)
        targets[row, span] = torch.tensor(one.tokens)
        mask[row, span] = not one.masked
        if one.chosen is not None:  # what a tool said is read, not learned
            chosen = torch.tensor(one.chosen)
            targets[row, span] = targets[row, span].where(chosen, IGNORED)
            mask[row, span] &= chosen
        for name in names:
            given = getattr(one, name)
            if len(given):
                numbers[name][row, span] = torch.from_numpy(given[:count])
    last = torch.tensor([len(one.prompt) + len(one.tokens) - 1 for one in rollouts])
    moved = {name: tensor.to(device) for name, tensor in numbers.items()}
    return Rows(tokens.to(device), targets.to(device), mask.to(device), last=last.to(device), **moved)


def by_length(rollouts: Sequence[Rollout], rows: int) -> list[list[Rollout]]:
    """Micro-batches of rollouts of about equal length, so that little is padding."""
    ordered = sorted(rollouts, key=lambda one: len(one.prompt) + len(one.tokens))
    return [ordered[at : at + rows] for at in range(0, len(ordered), rows)]


def described(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Figures of a step's completions for metrics.jsonl and the watch."""
    count = len(rollouts)
    figures = {
        "reward": sum(one.score for one in rollouts) / count,
        "reward_deviation": float(np.std([one.score for one in rollouts])),
        "length": sum(len(one.actions) for one in rollouts) / count,
        "ended": sum(one.ended for one in rollouts) / count,
        "repetition": sum(repetition_share(one.actions) for one in rollouts) / count,
    }
    if rollouts[0].judge is not None:
        figures["judge"] = sum(one.judge or 0.0 for one in rollouts) / count
    if len(rollouts[0].old):
        actions = sum(len(one.actions) for one in rollouts)
        gaps = [np.abs(one.old - one.sampled).sum() for one in rollouts]
        figures["sampler_gap"] = float(sum(gaps)) / actions  # nats a token between sampler and trainer
        figures["entropy"] = float(sum(one.entropies.sum() for one in rollouts)) / actions
    if rollouts[0].chosen is not None:
        figures["called"] = sum(not all(one.chosen or ()) for one in rollouts) / count  # share in which a tool answered
    if len(rollouts[0].reference):
        figures["kl"] = sum(one.kl for one in rollouts) / count
    return figures
