"""Direct preference optimisation: raise what was chosen over what was rejected, measured against the model at the start."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from training.parallel import unwrap
from training.preference.config import DpoConfig
from training.preference.losses import dpo_losses, log_ratios, preferred
from training.preference.pairs import Example, pad
from training.preference.task import PairTask
from training.tuning.run import Bench, Step, steps_of, tune
from training.tuning.update import Figures, Sums


class Referred(NamedTuple):
    """A pair with the log-probabilities that the reference gives its answers, in nats."""

    example: Example
    chosen: float
    rejected: float


class DpoTask(PairTask):
    """DPO on the pairs of a file or folder.

    The reference is the model that training starts from. Its log-probabilities are computed once, before the first step, so
    that no second model is held.
    """

    kind = "dpo"
    config: DpoConfig
    shown = ("loss", "accuracy", "margin", "chosen_gain_per_token")

    def __init__(self, config: DpoConfig, model_dir: Path, pairs: Path) -> None:
        super().__init__(config, model_dir, pairs)
        self.warned = False

    def begin(self, bench: Bench) -> int:
        """Encode, and ask the reference."""
        self.train, self.held_out = (self.refer(side) for side in self.encoded(bench))
        return steps_of(self.config, len(self.train))

    @torch.no_grad()
    def refer(self, examples: Sequence[Example]) -> list[Referred]:
        """Each pair with the reference's log-probabilities; the processes share the work."""
        here, rows = self.bench.here, self.config.micro_batch_rows
        network = unwrap(self.bench.network)
        network.eval()
        shares = [list(range(rank, len(examples), here.world)) for rank in range(here.world)]
        mine: list[tuple[float, float]] = []
        for start in range(0, max(map(len, shares)), rows):  # as many passes in each process, as sharded models need
            part = [examples[at] for at in shares[here.rank][start : start + rows]]
            chosen, rejected = answer_logprobs(network, part or examples[:1], here.device)
            mine += list(zip(chosen.tolist(), rejected.tolist(), strict=True))[: len(part)]
        network.train()
        found: dict[int, tuple[float, float]] = {}
        for share, theirs in zip(shares, here.gather(mine), strict=True):
            found.update(zip(share, theirs, strict=True))
        return [Referred(example, *found[at]) for at, example in enumerate(examples)]

    def step(self, number: int, rate: float) -> Step:
        """One update, looked at for a collapse."""
        made = super().step(number, rate)
        self.watch(made.update.figures["chosen_gain_per_token"])
        return made

    def tokens(self, pair: Referred) -> int:
        """Those of both answers."""
        return super().tokens(pair.example)

    def objective(self, network: nn.Module, part: Sequence[Referred]) -> tuple[Tensor, Figures]:
        """The sum of the pairs' losses, and figures."""
        config, device = self.config, self.bench.here.device
        pairs = float(len(part))
        chosen, rejected = answer_logprobs(network, [one.example for one in part], device)
        before = torch.tensor([(one.chosen, one.rejected) for one in part], device=device)
        lengths = torch.tensor(
            [(one.example.chosen.length, one.example.rejected.length) for one in part], device=device
        )
        ratios = [
            log_ratios(
                logprobs,
                before[:, side] if config.reference else None,
                lengths[:, side] if config.divides else None,
            )
            for side, logprobs in enumerate((chosen, rejected))
        ]
        losses = dpo_losses(ratios[0], ratios[1], config.beta, config.loss, config.label_smoothing)
        rewards = [config.beta * ratio.detach() for ratio in ratios]
        gain = (chosen.detach() - before[:, 0]) / lengths[:, 0]
        return losses.sum(), {
            "accuracy": (preferred(rewards[0] - rewards[1]).sum(), pairs),
            "margin": ((rewards[0] - rewards[1]).sum(), pairs),
            "chosen_reward": (rewards[0].sum(), pairs),
            "rejected_reward": (rewards[1].sum(), pairs),
            "chosen_logprob": (chosen.detach().sum(), pairs),
            "rejected_logprob": (rejected.detach().sum(), pairs),
            "chosen_gain_per_token": (gain.sum(), pairs),
        }

    def watch(self, gain: float) -> None:
        """Say once that chosen answers grow unlikely, which a falling loss hides."""
        if gain < -self.config.collapse_warning and not self.warned:
            self.warned = True
            self.bench.log(
                f"warning: chosen answers have lost {-gain:.2f} nats a token since the start (collapse_warning="
                f"{self.config.collapse_warning:g}): both answers grow unlikely while their difference grows. Raise beta, "
                f"lower learning_rate, or train fewer steps"
            )

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The same figures on held-out pairs."""
        here, rows = self.bench.here, self.config.micro_batch_rows
        if not self.held_out:
            return {}
        network, sums = unwrap(self.bench.network), Sums()
        count = -(-len(self.held_out) // here.world)
        for start in range(0, count, rows):
            part = self.held_out[here.rank :: here.world][start : start + rows]
            loss, figures = self.objective(network, part or self.held_out[:1])
            share = float(bool(part))
            sums.add({name: (value * share, weight * share) for name, (value, weight) in figures.items()})
            sums.add({"loss": (loss * share, float(len(part)))})
        return {f"validation_{name}": value for name, value in sums.over(here).items()}

    def state(self) -> dict[str, Any]:
        """Whether the warning was given."""
        return {"warned": self.warned}

    def load_state(self, state: dict[str, Any]) -> None:
        """Do not warn again."""
        self.warned = state["warned"]


def answer_logprobs(network: nn.Module, examples: Sequence[Example], device: torch.device) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the chosen and of the rejected answers, float32 `[N]` each, differentiable, in one pass."""
    answers = [one.chosen for one in examples] + [one.rejected for one in examples]
    tokens, targets = pad(answers, device)
    sums = network(tokens, targets, logprobs=1.0).logprobs.sum(dim=1)
    return sums[: len(examples)], sums[len(examples) :]


def dpo(
    config: DpoConfig,
    model_dir: str | Path,
    pairs: str | Path,
    out_dir: str | Path,
    *,
    log: Callable[[str], Any] = print,
    show: Callable[[str], Any] | None = None,
    stop: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Train the model in `model_dir` on preference pairs; see `tuning.run.tune` for what is left, returned and raised."""
    task = DpoTask(config, Path(model_dir), Path(pairs))
    return tune(task, config, model_dir, out_dir, log=log, show=show, stop=stop)
