"""The watch over reward hacking: what a reward does not see, and when to end a run that has learned to please it alone.

Each figure is one that gives way when a policy exploits its reward: it moves far from the reference (KL), says the same always
(entropy), repeats itself, grows long, or does better by the reward while a judge that is not trained on finds it worse (Gao et al. 2022,
Scaling Laws for Reward Model Overoptimization, arXiv 2210.10760).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from training.reinforcement.config import RolloutConfig

GRAM = 4  # tokens of a stretch whose second occurrence is a repetition


def repetition_share(tokens: Sequence[int], gram: int = GRAM) -> float:
    """The share of a completion's stretches of `gram` tokens that stood in it before; 0 if it has none."""
    stretches = [tuple(tokens[at : at + gram]) for at in range(len(tokens) - gram + 1)]
    return 1 - len(set(stretches)) / len(stretches) if stretches else 0.0


class Watch:
    """Means of the newest steps, held against the limits of the config; only limits that are set are watched."""

    def __init__(self, config: RolloutConfig) -> None:
        self.config = config
        self.recent: dict[str, list[float]] = {}
        self.best_judge: float | None = None  # of the means of whole windows
        self.reward_then: float | None = None  # when the judge was at its best

    def look(self, figures: Mapping[str, float]) -> str | None:
        """After a step: why to end the run, or None. The rules speak of means over `watch_window` steps."""
        window = self.config.watch_window
        for name in ("kl", "entropy", "repetition", "length", "reward", "judge"):
            if name in figures:
                self.recent[name] = [*self.recent.get(name, []), figures[name]][-window:]
        means = {name: sum(values) / window for name, values in self.recent.items() if len(values) == window}
        return self._exceeded(means) or self._judged(means)

    def calm(self, figures: Mapping[str, float]) -> bool:
        """Whether this step alone gives no reason: checkpoints of such steps are the ones to fall back to."""
        return self._exceeded(figures) is None and (self.best_judge is None or self._drop(figures) is None)

    def _exceeded(self, means: Mapping[str, float]) -> str | None:
        config = self.config
        for name, limit, sign, meaning in (
            ("kl", config.stop_kl, 1, "nats a completion from the reference"),
            ("repetition", config.stop_repetition, 1, "of the completions' 4-grams are repeated"),
            ("length", config.stop_length, 1, "tokens a completion"),
            ("entropy", config.stop_entropy, -1, "nats of entropy a token"),
        ):
            if limit is not None and name in means and sign * (means[name] - limit) > 0:
                word = "over" if sign > 0 else "under"
                return f"{name} {means[name]:.3g} {meaning} is {word} stop_{name}={limit:g}"
        return None

    def _judged(self, means: Mapping[str, float]) -> str | None:
        if "judge" not in means:
            return None
        if self.best_judge is None or means["judge"] > self.best_judge:
            self.best_judge, self.reward_then = means["judge"], means["reward"]
            return None
        return self._drop(means)

    def _drop(self, figures: Mapping[str, float]) -> str | None:
        limit, best, then = self.config.stop_judge, self.best_judge, self.reward_then
        if limit is None or best is None or then is None or "judge" not in figures:
            return None
        if best - figures["judge"] > limit and figures["reward"] >= then:
            return (
                f"the judge's score fell from {best:.3g} to {figures['judge']:.3g}, by more than stop_judge={limit:g}, while "
                f"the reward did not ({then:.3g} to {figures['reward']:.3g})"
            )
        return None

    def state(self) -> dict[str, Any]:
        """What `load_state` takes, as JSON."""
        return {"recent": self.recent, "best_judge": self.best_judge, "reward_then": self.reward_then}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on watching."""
        self.recent, self.best_judge = dict(state["recent"]), state["best_judge"]
        self.reward_then = state["reward_then"]
