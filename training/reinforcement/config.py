"""The knobs of reinforcement learning. No torch here."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from training.knobs import MEANT_FOR, RUNTIME_KNOBS, knob
from training.tuning.config import TuneConfig


class RolloutConfig(TuneConfig):
    """What PPO and GRPO have in common. A step samples `batch_rows` completions and makes one or more updates from them."""

    early_stop_of: ClassVar[tuple[str, Literal["min", "max"]]] = ("validation_reward", "max")
    runtime_knobs: ClassVar[tuple[str, ...]] = (*RUNTIME_KNOBS, "generation_rows")

    batch_rows: int = knob(64, "completions sampled in one step, over all processes", ge=1)
    micro_batch_rows: int = knob(
        16, "completions in one forward pass of one process; only memory and speed depend on it", ge=1
    )
    generation_rows: int = knob(64, "completions that one process samples side by side", ge=1)
    learning_rate: float = knob(1e-5, "peak learning rate; 1e-6 for models of billions, more for small ones", gt=0)
    schedule: Literal["cosine", "linear", "wsd", "constant"] = knob(
        "constant", "of the learning rate after the warm-up; wsd: stable, then a decay at the end", "DAPO"
    )
    beta2: float = knob(0.99, "AdamW: decay of the mean of squared gradients", "Kingma and Ba 2015", ge=0, lt=1)
    eval_rows: int = knob(64, "held-out prompts of a validation, at most", ge=1)
    eval_samples: int = knob(4, "completions of each held-out prompt, beside the likeliest one", ge=0)
    validation: float = knob(0.05, "share of the prompts held out, chosen by their hash", ge=0, lt=1)

    max_new_tokens: int = knob(128, "tokens of a completion, at most", ge=1)
    temperature: float = knob(1.0, "of sampling, and of the probabilities that are learned", gt=0)
    top_k: int | None = knob(None, "sample from so many likeliest tokens", ge=1)
    top_p: float | None = knob(None, "sample from the likeliest tokens that make up this share", gt=0, le=1)
    min_p: float | None = knob(None, "sample from tokens at least this share as likely as the likeliest", ge=0, le=1)

    verifier: str | None = knob(None, "checks answers of prompts that name no verifier themselves")
    verifier_options: dict[str, dict[str, Any]] = knob(
        {}, "options of each verifier by its name: {number: {marker: boxed}}"
    )
    missing_end_penalty: float = knob(0.0, "taken off the reward of a completion without an end token", "TRL", ge=0)

    minibatches: int = knob(1, "updates of one pass over a step's completions", ge=1)
    passes: int = knob(1, "passes over a step's completions", "Schulman et al. 2017", ge=1)
    clip_low: float = knob(
        0.2, "how far below 1 the ratio of probabilities may fall", "Schulman et al. 2017", gt=0, lt=1
    )
    clip_high: float = knob(
        0.2, "how far above 1 it may rise; 0.28 lets rare tokens grow", "DAPO, arXiv 2503.14476", gt=0
    )
    entropy_bonus: float = knob(0.0, "weight of the mean entropy of a token, which is raised", "Mnih et al. 2016", ge=0)

    watch_kl: bool = knob(True, "keep the reference and measure the divergence even where it has no weight")
    watch_window: int = knob(5, "steps over whose mean the stop rules speak", ge=1)
    stop_kl: float | None = knob(None, "end the run over so many nats a completion from the reference", gt=0)
    stop_entropy: float | None = knob(None, "end the run under so many nats of entropy a token", gt=0)
    stop_repetition: float | None = knob(None, "end the run over this share of repeated 4-grams", gt=0, lt=1)
    stop_length: float | None = knob(None, "end the run over so many tokens a completion", gt=0)
    stop_judge: float | None = knob(
        None,
        "end the run once the judge's score is so far below its best while the reward is not",
        "Gao et al. 2022",
        gt=0,
    )

    @model_validator(mode="after")
    def _shares_are_even(self) -> Any:
        if self.batch_rows % self.minibatches:
            raise ValueError(
                f"batch_rows must be a multiple of minibatches; got {self.batch_rows} and {self.minibatches}"
            )
        return self


class PpoConfig(RolloutConfig):
    """Proximal policy optimisation with a value model."""

    meant_for: ClassVar[dict[str, tuple[str, tuple[Any, ...]]]] = {
        **MEANT_FOR,
        "missing_end_penalty": ("truncated", ("score",)),
    }

    minibatches: int = knob(2, "updates of one pass over a step's completions", ge=1)
    passes: int = knob(2, "passes over a step's completions", "Schulman et al. 2017", ge=1)
    value_from: Literal["auto", "policy", "reward"] = knob(
        "auto",
        "what the value model starts as: the reward model (auto: where there is one), or the policy with a head of zeros",
    )
    value_learning_rate: float | None = knob(None, "peak for the value model; by default learning_rate", gt=0)
    value_coefficient: float = knob(0.5, "weight of its loss, which shares the clipping of gradients", gt=0)
    value_clip: float | None = knob(
        0.2, "how far a value may move before its error counts in full; null: no clip", gt=0
    )
    value_warmup: int = knob(0, "first steps in which the value model learns alone", ge=0)
    discount: float = knob(1.0, "gamma: what a reward one token later is worth", "Schulman et al. 2015", gt=0, le=1)
    gae_decay: float = knob(
        0.95, "lambda: 1 trusts rewards alone, 0 the value model alone", "Schulman et al. 2015", ge=0, le=1
    )
    whiten_advantages: bool = knob(True, "mean 0 and deviation 1 over the actions of a step")
    whiten_rewards: bool = knob(
        False, "deviation 1 over the actions of a step, the mean as it was", "Ziegler et al. 2019"
    )
    truncated: Literal["score", "bootstrap"] = knob(
        "score", "a completion without end token: score it as it is, or go on with the value of its last state instead"
    )
    kl: float = knob(
        0.05, "weight of the divergence from the reference, taken off each token's reward", "Ziegler et al. 2019", ge=0
    )
    kl_estimator: Literal["k1", "k2", "k3"] = knob("k1", "of the divergence in the reward", "Schulman 2020")
    kl_target: float | None = knob(
        None, "nats a completion that the weight is adapted to; null: fixed", "Ziegler et al. 2019", gt=0
    )
    kl_horizon: float = knob(
        10_000.0, "with kl_target: completions in which the weight adapts", "Ziegler et al. 2019", gt=0
    )


class GrpoConfig(RolloutConfig):
    """Group-relative policy optimisation: a completion is as good as it beats the others of its prompt."""

    meant_for: ClassVar[dict[str, tuple[str, tuple[Any, ...]]]] = {
        **MEANT_FOR,
        "scale": ("baseline", ("group",)),
        "clip_ratio": ("loss", ("grpo", "bnpo", "dr_grpo", "dapo")),
    }

    group: int = knob(8, "completions of one prompt", "DeepSeekMath, arXiv 2402.03300", ge=2)
    baseline: Literal["group", "rloo"] = knob(
        "group",
        "what a reward is held against: the mean of its group, or of the others in it",
        "Ahmadian et al. 2024 (RLOO)",
    )
    scale: Literal["group", "batch", "none"] = knob(
        "group", "what divides advantages: deviation of the group, of all, or nothing (Dr. GRPO)", "arXiv 2503.20783"
    )
    loss: Literal["grpo", "bnpo", "dr_grpo", "dapo", "sequence"] = knob(
        "dapo",
        "mean over completions of means over tokens (grpo), over tokens of the update (bnpo) or the step (dapo), over "
        "completions times max_new_tokens (dr_grpo), or one ratio for a whole completion (sequence, as in RLOO)",
    )
    clip_ratio: float | None = knob(
        None, "bound of the ratio where the advantage is negative", "arXiv 1912.09729", gt=1
    )
    kl: float = knob(0.0, "weight of the divergence from the reference", "DAPO does without", ge=0)
    kl_in: Literal["loss", "reward"] = knob("loss", "loss: by token, as GRPO; reward: of the whole completion, as RLOO")
    kl_estimator: Literal["k1", "k2", "k3"] = knob("k3", "of the divergence", "Schulman 2020")
    dynamic_rounds: int = knob(
        0, "times that new prompts are sampled in place of groups with equal rewards", "DAPO (dynamic sampling)", ge=0
    )
    truncated: Literal["score", "mask"] = knob(
        "score",
        "a completion without end token: score it as it is, or learn nothing from it",
        "DAPO (overlong filtering)",
    )
    overlong_tokens: int = knob(
        0,
        "the last tokens before max_new_tokens, in which the reward falls by up to 1",
        "DAPO (soft overlong punishment)",
        ge=0,
    )

    tools: tuple[Literal["calculator", "python", "search"], ...] = knob(
        (), "tools that the model may call; what they say is read, not learned (docs/tools.md)"
    )
    list_tools: bool = knob(True, "the prompt lists the tools; false for a model that was fine-tuned without a list")
    tool_calls: int = knob(4, "calls of one completion that are carried out; the next ends it", ge=1)
    tool_characters: int = knob(2000, "characters of one response, at most", ge=1)
    tool_index: str | None = knob(None, "the index that search looks in: python -m training index")
    allow_unsandboxed: bool = knob(False, "run the tool python with this user's rights where it cannot be walled in")

    @model_validator(mode="after")
    def _tools_have_what_they_need(self) -> Any:
        if len(set(self.tools)) < len(self.tools):
            raise ValueError("tools names a tool twice")
        needs = {
            "list_tools": self.tools,
            "tool_calls": self.tools,
            "tool_characters": self.tools,
            "tool_index": "search" in self.tools,
            "allow_unsandboxed": "python" in self.tools,
        }
        for key, there in needs.items():
            if getattr(self, key) != type(self).model_fields[key].default and not there:
                raise ValueError(f"{key} is for tools that are not there: leave it out, or name the tool in tools")
        if "search" in self.tools and self.tool_index is None:
            raise ValueError("the tool search needs tool_index")
        return self

    @model_validator(mode="after")
    def _groups_are_whole(self) -> Any:
        if self.batch_rows % self.group:
            raise ValueError(f"batch_rows must be a multiple of group; got {self.batch_rows} and {self.group}")
        return self
