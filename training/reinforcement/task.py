"""What PPO and GRPO share: a step samples completions, rewards them, credits their tokens, and updates the model."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
from torch import Tensor, nn

from tokenizer_training.dataset.loader import sample_rows
from training.adapters.adapter import has_adapter, without_adapter
from training.chat.format import chat_format
from training.device import Place
from training.knobs import TrainingError
from training.model import Decoder
from training.parallel import choose_parallel
from training.reinforcement.best_of_n import best_of_n
from training.reinforcement.config import RolloutConfig
from training.reinforcement.losses import Counts
from training.reinforcement.prompts import Prompt, encode_prompts, prompts_identity, read_prompts
from training.reinforcement.rewards import Rewards
from training.reinforcement.rollouts import (
    Rollout,
    Rows,
    by_length,
    collate,
    described,
    gathered,
    roll_out,
    row_seed,
    sampling_of,
)
from training.reinforcement.watch import Watch
from training.tools.loop import ToolLimits
from training.tools.registry import Toolbox
from training.tuning.run import Bench, Step, Task
from training.tuning.update import Figures, Update, update

EVALUATION = -1  # in place of a step in the seeds of held-out completions, so that each validation draws alike


class RolloutTask(Task):
    """Reinforcement learning from sampled completions; PPO and GRPO say how they are credited and what is minimised."""

    shown = ("reward", "judge", "length", "kl", "entropy", "loss")

    def __init__(self, config: RolloutConfig, model_dir: Path, prompts: Path, rewards: Rewards) -> None:
        self.config, self.model_dir, self.path, self.rewards = config, model_dir, prompts, rewards
        self.watch = Watch(config)
        self.position = 0  # prompts taken so far
        self.reference: Decoder | None = None
        self.bare = False

    # what the loop calls

    def inputs(self) -> list[str]:
        """The checksums of prompts and reward models."""
        self.rows = read_prompts(self.path, self.config.verifier)
        self.rewards.check(self.rows)
        return [prompts_identity(self.rows), *self.rewards.inputs()]

    def prepare(self, model: Decoder, here: Place) -> nn.Module:
        """The model. Raises `TrainingError` where it would be sharded: processes sample for different numbers of passes."""
        if choose_parallel(self.config, model, here) == "fsdp2":
            raise TrainingError(
                f"{self.kind} samples from the model, which fsdp2 shards: processes would wait for each other; use parallel=ddp"
            )
        shares = here.world * self.config.minibatches
        if self.config.batch_rows % shares:
            raise TrainingError(
                f"batch_rows={self.config.batch_rows} must be a multiple of {here.world} processes x "
                f"minibatches={self.config.minibatches}"
            )
        return model

    def begin(self, bench: Bench) -> int:
        """Encode the prompts, load reward models, keep the reference."""
        self.bench, config = bench, self.config
        self.form = chat_format(self.model_dir)
        self.box, self.tool_limits, listed = self.tools()
        context = bench.model.config.context_length
        limit = min(config.sequence_length or context, context)
        self.train, held_out = encode_prompts(
            self.rows, self.form, limit, config.max_new_tokens, config.validation, bench.log,
            listed,
        )  # fmt: skip
        self.held_out = held_out[: config.eval_rows]
        self.rewards.load(bench.here, config.micro_batch_rows)
        self.bare = (
            has_adapter(bench.model) and self.needs_reference()
        )  # the model without its adapter is the reference
        if self.needs_reference() and not self.bare:
            self.reference = copy.deepcopy(bench.model).eval().requires_grad_(False)
        if config.steps is not None:
            return config.steps
        return max(1, round(config.epochs * len(self.train) / self.prompts_a_step()))

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on in the stream of prompts."""
        self.position, self.good_step, self.stop_reason = state["position"], state["good_step"], state["stop_reason"]
        self.watch.load_state(state["watch"])

    def step(self, number: int, rate: float) -> Step:
        """Sample, credit, update."""
        rollouts = self.annotate(self.collect(number))
        self.credit(rollouts, number)
        figures = {**described(rollouts), **self.describe(rollouts)}
        updates = []
        for visit in range(self.config.passes):
            order = list(range(len(rollouts)))
            Random(f"{self.config.seed}:{number}:{visit}").shuffle(order)
            size = len(order) // self.config.minibatches
            for start in range(0, len(order), size):
                updates.append(
                    self.update([rollouts[at] for at in order[start : start + size]], rollouts, number, rate)
                )
        self.after(rollouts)
        self.stop_reason = self.watch.look(figures)
        self.calm, self.done = self.watch.calm(figures), number + 1
        tokens = sum(len(one.prompt) + len(one.tokens) for one in rollouts)
        return Step(Update(_mean(updates, "grad_norm"), {**figures, **_means(updates)}), tokens)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Rewards on held-out prompts: of the likeliest completion, of drawn ones, and of the best of these."""
        config, count = self.config, self.config.eval_samples
        if not self.held_out:
            return {}
        greedy = self.roll_out(self.held_out, [0] * len(self.held_out), 0.0)
        found = {
            "validation_reward": sum(one.score for one in greedy) / len(greedy),
            "validation_length": sum(len(one.actions) for one in greedy) / len(greedy),
        }
        if greedy[0].judge is not None:
            found["validation_judge"] = sum(one.judge or 0.0 for one in greedy) / len(greedy)
        if count:
            prompts = [prompt for prompt in self.held_out for _ in range(count)]
            seeds = [row_seed(config.seed, EVALUATION, at) for at in range(len(prompts))]
            drawn = self.roll_out(prompts, seeds)
            groups = [drawn[at : at + count] for at in range(0, len(drawn), count)]
            found["validation_sampled_reward"] = sum(one.score for one in drawn) / len(drawn)
            best = [best_of_n([one.score for one in group], count) for group in groups]
            found[f"validation_best_of_{count}"] = sum(best) / len(best)
        return found

    def state(self) -> dict[str, Any]:
        """Where the run stands in its prompts, and what the watch remembers."""
        if self.calm and self.stop_reason is None:
            self.good_step = self.done
        return {
            "position": self.position,
            "good_step": self.good_step,
            "stop_reason": self.stop_reason,
            "watch": self.watch.state(),
        }

    # what a kind says

    def prompts_a_step(self) -> int:
        """How many prompts a step takes, if none is taken in vain."""
        raise NotImplementedError

    def needs_reference(self) -> bool:
        """Whether the model at the start must be kept."""
        return bool(self.config.watch_kl or self.config.stop_kl)

    def tools(self) -> tuple[Toolbox | None, ToolLimits | None, list[dict[str, Any]] | None]:
        """What the model may call while it completes a prompt, how often, and the schemas that its prompt lists."""
        return None, None, None

    def collect(self, number: int) -> list[Rollout]:
        """`batch_rows` rewarded completions."""
        raise NotImplementedError

    def credit(self, rollouts: list[Rollout], number: int) -> None:
        """Set the advantages, in every process alike."""
        raise NotImplementedError

    def describe(self, rollouts: list[Rollout]) -> dict[str, float]:
        """More figures of a step's completions."""
        return {}

    def objective(self, network: nn.Module, rows: Rows, counts: Counts, number: int) -> tuple[Tensor, Figures]:
        """What is minimised over some rows, already divided by the counts of the whole update, and figures."""
        raise NotImplementedError

    def after(self, rollouts: list[Rollout]) -> None:
        """At the end of a step."""

    # the parts of a step

    def roll_out(
        self, prompts: Sequence[Prompt], seeds: Sequence[int], temperature: float | None = None
    ) -> list[Rollout]:
        """One completion of each prompt, over all processes, in order."""
        sampling = sampling_of(self.config, temperature)
        return roll_out(
            self.bench.model, prompts, seeds, sampling, self.form, self.rewards, self.config, self.bench.here,
            box=self.box, tool_limits=self.tool_limits,
        )  # fmt: skip

    def next_prompts(self, count: int) -> list[Prompt]:
        """The next prompts of the stream: all of them in an order of their own, again and again."""
        rows = sample_rows(self.position, count, len(self.train), self.config.seed)
        self.position += count
        return [self.train[row] for row in rows]

    @torch.no_grad()
    def annotate(self, rollouts: list[Rollout]) -> list[Rollout]:
        """Give each its log-probabilities and entropies now, and those of the reference; the processes share the work."""
        here, temperature = self.bench.here, self.config.temperature
        mine = rollouts[here.rank :: here.world]
        self.bench.model.eval()
        for part in by_length(mine, self.config.micro_batch_rows):
            rows = collate(part, here.device)
            scores = self.bench.model(rows.tokens, rows.targets, logprobs=temperature)
            _give(part, "old", scores.logprobs)
            _give(part, "entropies", scores.entropies)
            if self.bare:
                with without_adapter(self.bench.model):
                    scores = self.bench.model(rows.tokens, rows.targets, logprobs=temperature)
                _give(part, "reference", scores.logprobs)
            elif self.reference is not None:
                _give(part, "reference", self.reference(rows.tokens, rows.targets, logprobs=temperature).logprobs)
            self.annotate_more(part, rows)
        self.bench.model.train()
        return gathered(rollouts, mine, here)

    def annotate_more(self, part: Sequence[Rollout], rows: Rows) -> None:
        """What a kind must know beside."""

    def update(self, some: list[Rollout], rollouts: list[Rollout], number: int, rate: float) -> Update:
        """One update from a minibatch, of which each process takes its share."""
        here = self.bench.here
        counts = Counts(
            len(some),
            sum(len(one.actions) for one in some if not one.masked),
            sum(len(one.actions) for one in rollouts if not one.masked) / self.config.minibatches,
        )
        parts = by_length(some[here.rank :: here.world], self.config.micro_batch_rows)

        def objective(network: nn.Module, part: list[Rollout]) -> tuple[Tensor, Figures]:
            return self.objective(network, collate(part, here.device), counts, number)

        return update(self.bench.network, self.bench.optimizer, parts, objective, 1.0, self.config, here, rate)


def _give(part: Sequence[Rollout], name: str, numbers: Tensor) -> None:
    """Hand each rollout its tokens' numbers out of `[B, L]`."""
    held = numbers.float().cpu().numpy()
    for row, one in enumerate(part):
        first = len(one.prompt) - 1
        setattr(one, name, held[row, first : first + len(one.tokens)].copy())


def _mean(updates: Sequence[Update], name: str) -> float:
    return float(sum(getattr(one, name) for one in updates) / len(updates))


def _means(updates: Sequence[Update]) -> dict[str, float]:
    return {name: sum(one.figures[name] for one in updates) / len(updates) for name in updates[0].figures}


Log = Callable[[str], Any]
