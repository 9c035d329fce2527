"""The knobs of learning from preference pairs. No torch here."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import model_validator

from training.knobs import MEANT_FOR, knob
from training.tuning.config import TuneConfig


class RewardConfig(TuneConfig):
    """A reward model: a score for a whole conversation, learned from which of two answers is better."""

    early_stop_of: ClassVar[tuple[str, Literal["min", "max"]]] = ("validation_loss", "min")

    learning_rate: float = knob(1e-4, "peak learning rate; small models take more", "TRL", gt=0)
    margins: bool = knob(
        True, "a row's `margin` is how far apart its scores should be at least", "Touvron et al. 2023 (Llama 2)"
    )
    centring: float = knob(
        0.0,
        "weight of the squared sum of a pair's scores, which keeps them near 0 (0.01)",
        "Eisenstein et al. 2023",
        ge=0,
    )

    @model_validator(mode="after")
    def _saved_whole(self) -> RewardConfig:
        if self.adapter is not None and not self.merge:
            raise ValueError("a reward model is saved whole, with its head: set merge: true beside adapter")
        return self


class DpoConfig(TuneConfig):
    """Direct preference optimisation."""

    early_stop_of: ClassVar[tuple[str, Literal["min", "max"]]] = ("validation_loss", "min")
    meant_for: ClassVar = {**MEANT_FOR, "label_smoothing": ("loss", ("sigmoid",))}

    learning_rate: float = knob(
        1e-5, "peak learning rate; 5e-7 to 1e-6 for models of billions, more for small ones", gt=0
    )
    loss: Literal["sigmoid", "ipo"] = knob(
        "sigmoid", "sigmoid: DPO; ipo: squared", "Rafailov et al. 2023; Azar et al. 2023"
    )
    beta: float = knob(
        0.1,
        "how strongly the model is held to the reference; of ipo the inverse of twice the target",
        "Rafailov et al. 2023",
        gt=0,
    )
    label_smoothing: float = knob(
        0.0,
        "sigmoid: share of the pairs that are thought to be the wrong way round",
        "Mitchell 2023 (cDPO)",
        ge=0,
        lt=0.5,
    )
    reference: bool = knob(
        True, "measure gains over the model that training starts from; false: log-probabilities alone"
    )
    by_token: bool | None = knob(
        None, "divide log-probabilities by the tokens of the answer; by default with ipo, as its authors do"
    )
    collapse_warning: float = knob(
        1.0, "warn once chosen answers have lost this many nats a token; the loss sees only differences", gt=0
    )

    @property
    def divides(self) -> bool:
        """Whether log-probabilities are by token."""
        return self.loss == "ipo" if self.by_token is None else self.by_token
