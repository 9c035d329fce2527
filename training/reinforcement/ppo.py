"""Proximal policy optimisation: a value model says what was to be expected of each token, and the policy learns from the rest."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from training.device import Place
from training.knobs import TrainingError
from training.model import Decoder
from training.preference.reward_model import Scorer, load_scorer
from training.reinforcement.advantages import gae, whiten
from training.reinforcement.config import PpoConfig
from training.reinforcement.losses import (
    Counts,
    action_weights,
    clipped,
    kl_estimates,
    next_kl_coefficient,
    policy_losses,
    value_losses,
)
from training.reinforcement.rewards import Rewards
from training.reinforcement.rollouts import Rollout, Rows, row_seed
from training.reinforcement.task import RolloutTask
from training.tuning.run import Bench, tune
from training.tuning.update import Figures


class Judged(NamedTuple):
    """Of each position, float32 `[B, L]`: the target's log-probability, the entropy, and the value of the state before it."""

    logprobs: Tensor
    entropies: Tensor
    values: Tensor


class ActorCritic(nn.Module):
    """The policy and its value model, two decoders, as one module to train, shard and save."""

    def __init__(self, policy: Decoder, critic: Scorer) -> None:
        super().__init__()
        self.policy, self.critic = policy, critic

    def forward(self, tokens: Tensor, targets: Tensor, temperature: float) -> Judged:
        """Both on the same rows: int64 `[B, L]` each."""
        scores = self.policy(tokens, targets, logprobs=temperature)
        return Judged(scores.logprobs, scores.entropies, self.critic(tokens))


class PpoTask(RolloutTask):
    """PPO with a value model of its own."""

    kind = "ppo"
    config: PpoConfig

    def prepare(self, model: Decoder, here: Place) -> nn.Module:
        """The policy with the value model beside it."""
        super().prepare(model, here)
        config = self.config
        folder = self.rewards.folders[0] if self.rewards.folders else None
        if config.value_from == "reward" and folder is None:
            raise TrainingError("value_from=reward, but no reward model is given; use value_from=policy")
        if folder is not None and config.value_from != "policy":
            self.critic = load_scorer(folder, torch.device("cpu"), here.dtype).train()
            theirs = self.critic.decoder.config
            if theirs.vocab_size < model.config.vocab_size or theirs.context_length < model.config.context_length:
                raise TrainingError(
                    f"{folder} cannot be the value model: it has {theirs.vocab_size:,} ids and a context of "
                    f"{theirs.context_length:,}, the policy {model.config.vocab_size:,} and "
                    f"{model.config.context_length:,}; use value_from=policy"
                )
        else:
            self.critic = Scorer(copy.deepcopy(model))
        self.kl = config.kl
        return ActorCritic(model, self.critic)

    def begin(self, bench: Bench) -> int:
        """Give the value model its own learning rate."""
        config = self.config
        if config.value_learning_rate is not None:
            critic = {id(parameter) for parameter in self.critic.parameters()}
            scale = config.value_learning_rate / config.learning_rate
            for part in bench.optimizer.parts:
                for group in list(part.param_groups):
                    theirs = [parameter for parameter in group["params"] if id(parameter) in critic]
                    if theirs:
                        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in critic]
                        part.add_param_group({**group, "params": theirs, "rate_scale": group["rate_scale"] * scale})
        return super().begin(bench)

    def prompts_a_step(self) -> int:
        """One for each completion."""
        return self.config.batch_rows

    def needs_reference(self) -> bool:
        """For the divergence's weight too."""
        return self.config.kl > 0 or super().needs_reference()

    def collect(self, number: int) -> list[Rollout]:
        """One completion of each of the next prompts."""
        seeds = [row_seed(self.config.seed, number, at) for at in range(self.config.batch_rows)]
        return self.roll_out(self.next_prompts(self.config.batch_rows), seeds)

    def annotate_more(self, part: Sequence[Rollout], rows: Rows) -> None:
        """The values of the states before each token, and of the last one."""
        values = self.critic(rows.tokens).cpu().numpy()
        for row, one in enumerate(part):
            first = len(one.prompt) - 1
            one.values = values[row, first : first + len(one.tokens) + 1].copy()

    def credit(self, rollouts: list[Rollout], number: int) -> None:
        """Advantages by GAE. Each process computes those of all completions, so that all whiten alike."""
        config = self.config
        length = max(len(one.tokens) for one in rollouts)
        rewards, values = torch.zeros(len(rollouts), length), torch.zeros(len(rollouts), length)
        mask = torch.zeros(rewards.shape, dtype=torch.bool)
        bootstrap = torch.zeros(len(rollouts))
        for row, one in enumerate(rollouts):
            count = len(one.tokens)
            mask[row, :count] = True
            values[row, :count] = torch.from_numpy(one.values[:count])
            if self.kl:
                old, reference = torch.from_numpy(one.old), torch.from_numpy(one.reference)
                rewards[row, :count] -= self.kl * kl_estimates(old, reference, config.kl_estimator)
            if one.ended or config.truncated == "score":
                rewards[row, count - 1] += one.reward
            else:
                bootstrap[row] = float(one.values[count])
        if config.whiten_rewards:
            rewards = whiten(rewards, mask, _alone, shift=False)
        advantages, returns = gae(rewards, values, mask, bootstrap, config.discount, config.gae_decay)
        spread = returns[mask].var(correction=0)
        self.explained = float(1 - (returns - values)[mask].var(correction=0) / spread) if spread > 0 else 0.0
        if config.whiten_advantages:
            advantages = whiten(advantages, mask, _alone)
        for row, one in enumerate(rollouts):
            one.advantages = advantages[row, : len(one.tokens)].numpy().copy()
            one.returns = returns[row, : len(one.tokens)].numpy().copy()

    def describe(self, rollouts: list[Rollout]) -> dict[str, float]:
        """How much of the returns' variance the value model knew, and the weight of the divergence."""
        mean = float(np.mean([one.values[0] for one in rollouts]))
        return {"explained_variance": self.explained, "first_value": mean, "kl_coefficient": self.kl}

    def objective(self, network: nn.Module, rows: Rows, counts: Counts, number: int) -> tuple[Tensor, Figures]:
        """The policy's clipped loss, the value model's, and the entropy bonus: means over the update's actions."""
        config = self.config
        found = network(rows.tokens, rows.targets, config.temperature)
        weights = action_weights(rows.mask, "bnpo", counts, config.max_new_tokens)
        low, high = config.clip_low, config.clip_high
        policy = (policy_losses(found.logprobs, rows.old, rows.advantages, low, high) * weights).sum()
        policy = policy - config.entropy_bonus * (found.entropies * weights).sum()
        if number < config.value_warmup:
            policy = policy * 0.0
        errors = value_losses(found.values, rows.values, rows.returns, config.value_clip)
        value = (errors * weights).sum()
        cut = clipped(found.logprobs.detach(), rows.old, rows.advantages, low, high)
        actions = rows.mask.sum()
        return policy + config.value_coefficient * value, {
            "value_loss": ((errors * rows.mask).sum(), actions),
            "clipped": ((cut & rows.mask).sum(), actions),
        }

    def after(self, rollouts: list[Rollout]) -> None:
        """Adapt the weight of the divergence."""
        config = self.config
        seen = sum(one.kl for one in rollouts) / len(rollouts)
        self.kl = next_kl_coefficient(self.kl, seen, config.kl_target, config.kl_horizon, len(rollouts))

    def state(self) -> dict[str, Any]:
        """The weight of the divergence too."""
        return {**super().state(), "kl": self.kl}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on with it."""
        super().load_state(state)
        self.kl = state["kl"]


def _alone(values: Tensor) -> Tensor:
    """Sums over what every process has whole."""
    return values


def ppo(
    config: PpoConfig,
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
    """Train the model in `model_dir` by PPO on its own completions of the prompts; rewards as `grpo` takes them.

    See `tuning.run.tune` for what is left, returned and raised.
    """
    rewards = Rewards([Path(one) for one in reward_models], Path(judge) if judge else None, config.verifier_options)
    task = PpoTask(config, Path(model_dir), Path(prompts), rewards)
    return tune(task, config, model_dir, out_dir, log=log, show=show, stop=stop)
