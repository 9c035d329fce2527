"""GRPO and its kin: completions of one prompt are held against each other, so that no value model is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.reinforcement.advantages import group_advantages, leave_one_out, undecided
from training.reinforcement.config import GrpoConfig
from training.reinforcement.losses import (
    Counts,
    action_weights,
    clipped,
    kl_estimates,
    overlong_penalty,
    policy_losses,
    sequence_losses,
)
from training.reinforcement.rewards import Rewards
from training.reinforcement.rollouts import Rollout, Rows, row_seed
from training.reinforcement.task import RolloutTask
from training.tools.loop import ToolLimits
from training.tools.registry import Toolbox, toolbox
from training.tuning.run import tune
from training.tuning.update import Figures


class GrpoTask(RolloutTask):
    """Groups of completions, advantages within each; see `GrpoConfig` for GRPO, Dr. GRPO, DAPO and RLOO."""

    kind = "grpo"
    config: GrpoConfig

    def prompts_a_step(self) -> int:
        """One for each group."""
        return self.config.batch_rows // self.config.group

    def needs_reference(self) -> bool:
        """For the divergence's weight too."""
        return self.config.kl > 0 or super().needs_reference()

    def tools(self) -> tuple[Toolbox | None, ToolLimits | None, list[dict[str, Any]] | None]:
        """Those of the knobs."""
        config = self.config
        if not config.tools:
            return None, None, None
        limits = ToolLimits(calls=config.tool_calls, response_characters=config.tool_characters)
        box = toolbox(config.tools, config.tool_index, config.allow_unsandboxed)
        return box, limits, box.schemas if config.list_tools else None

    def collect(self, number: int) -> list[Rollout]:
        """Groups that stand together; in place of those with equal rewards new ones are sampled, `dynamic_rounds` times at most."""
        config, wanted = self.config, self.prompts_a_step()
        decided: list[list[Rollout]] = []
        even: list[list[Rollout]] = []
        tried = 0
        for _ in range(config.dynamic_rounds + 1):
            missing = wanted - len(decided)
            prompts = [prompt for prompt in self.next_prompts(missing) for _ in range(config.group)]
            seeds = [row_seed(config.seed, number, tried * config.group + at) for at in range(len(prompts))]
            tried += missing
            found = self.roll_out(prompts, seeds)
            for one in found:
                one.reward -= overlong_penalty(len(one.actions), config.max_new_tokens, config.overlong_tokens)
            groups = [found[at : at + config.group] for at in range(0, len(found), config.group)]
            differs = undecided(torch.tensor([one.reward for one in found]), config.group).tolist()
            decided += [group for group, counts in zip(groups, differs, strict=True) if counts]
            even += [group for group, counts in zip(groups, differs, strict=True) if not counts]
            if len(decided) == wanted:
                break
        self.tried, self.even = tried, len(even)
        chosen = [*decided, *even[: wanted - len(decided)]]
        return [one for group in chosen for one in group]

    def credit(self, rollouts: list[Rollout], number: int) -> None:
        """One advantage for all tokens of a completion."""
        config = self.config
        rewards = torch.tensor([one.reward for one in rollouts], dtype=torch.float64)
        if config.kl and config.kl_in == "reward":
            rewards -= config.kl * torch.tensor([self.divergence(one) for one in rollouts], dtype=torch.float64)
        if config.baseline == "rloo":
            advantages = leave_one_out(rewards, config.group)
        else:
            advantages = group_advantages(rewards, config.group, config.scale)
        for one, advantage in zip(rollouts, advantages.tolist(), strict=True):
            one.advantages = np.full(len(one.tokens), advantage, np.float32)
            one.masked = config.truncated == "mask" and not one.ended

    def divergence(self, one: Rollout) -> float:
        """The whole completion's, by the estimator."""
        estimates = kl_estimates(torch.from_numpy(one.old), torch.from_numpy(one.reference), self.config.kl_estimator)
        return float(estimates.sum())

    def describe(self, rollouts: list[Rollout]) -> dict[str, float]:
        """The share of the groups sampled in which no completion beat another."""
        return {"equal_groups": self.even / self.tried}

    def objective(self, network: nn.Module, rows: Rows, counts: Counts, number: int) -> tuple[Tensor, Figures]:
        """The clipped loss, the divergence, and the entropy bonus."""
        config = self.config
        scores = network(rows.tokens, rows.targets, logprobs=config.temperature)
        low, high = config.clip_low, config.clip_high
        kind = "grpo" if config.loss == "sequence" else config.loss
        weights = action_weights(rows.mask, kind, counts, config.max_new_tokens)
        if config.loss == "sequence":
            counted = rows.mask.any(dim=1)
            whole = rows.advantages.amax(dim=1) + rows.advantages.amin(dim=1)  # one number and zeros beside it
            losses = sequence_losses(scores.logprobs, rows.old, rows.mask, whole, low, high)
            loss = (losses * counted).sum() / counts.sequences
        else:
            losses = policy_losses(scores.logprobs, rows.old, rows.advantages, low, high, config.clip_ratio)
            loss = (losses * weights).sum()
        if config.kl and config.kl_in == "loss":
            loss = (
                loss + config.kl * (kl_estimates(scores.logprobs, rows.reference, config.kl_estimator) * weights).sum()
            )
        if config.entropy_bonus:
            loss = loss - config.entropy_bonus * (scores.entropies * rows.mask).sum() / max(counts.actions, 1)
        cut = clipped(scores.logprobs.detach(), rows.old, rows.advantages, low, high)
        return loss, {"clipped": ((cut & rows.mask).sum(), rows.mask.sum())}


def grpo(
    config: GrpoConfig,
    model_dir: str | Path,
    prompts: str | Path,
    out_dir: str | Path,
    *,
    reward_models: Sequence[str | Path] = (),
    judge: str | Path | None = None,
    log: Callable[[str], Any] = print,
    show: Callable[[str], Any] | None = None,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Train the model in `model_dir` on its own completions of the prompts; rewards are the prompts' verifiers and the
    reward models' scores, added up. The judge, another reward model, is only watched.

    See `tuning.run.tune` for what is left, returned and raised.
    """
    rewards = Rewards([Path(one) for one in reward_models], Path(judge) if judge else None, config.verifier_options)
    task = GrpoTask(config, Path(model_dir), Path(prompts), rewards)
    return tune(task, config, model_dir, out_dir, log=log, show=show, stop=stop)
