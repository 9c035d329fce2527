"""The knobs that every kind of fine-tuning has. No torch here."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from training.adapters.config import AdapterConfig
from training.knobs import RUNTIME_KNOBS, TrainerConfig, knob


class TuneConfig(TrainerConfig):
    """A model trained further; each kind subclasses this and adds its own knobs."""

    runtime_knobs: ClassVar[tuple[str, ...]] = (*RUNTIME_KNOBS, "model")  # a run knows its model by the checksums
    early_stop_of: ClassVar[tuple[str, Literal["min", "max"]]] = ("validation_loss", "min")  # of `evaluate`'s figures

    model: str | None = knob(
        None, "model folder to start from; by default that of the section before, or of the command's `--model`"
    )
    epochs: float = knob(1.0, "how often the examples are gone through; `steps` wins", gt=0)
    steps: int | None = knob(None, "optimizer steps; by default those of `epochs`", ge=1)
    batch_rows: int = knob(8, "examples in one optimizer step, over all processes", ge=1)
    micro_batch_rows: int = knob(
        8, "examples in one forward pass of one process; only memory and speed depend on it", ge=1
    )
    sequence_length: int | None = knob(None, "most tokens of an example; by default the model's context", ge=2)
    learning_rate: float = knob(
        1e-4, "peak learning rate; an adapter takes some ten times that of all weights", "Schulman et al. 2025", gt=0
    )
    weight_decay: float = knob(0.0, "decoupled decay of matrices and embeddings, not of norms and biases", ge=0)
    beta2: float = knob(0.999, "AdamW: decay of the mean of squared gradients", "Kingma and Ba 2015", ge=0, lt=1)
    validation: float = knob(0.05, "share of the examples held out, chosen by the hash of their ids", ge=0, lt=1)
    eval_every: int = knob(50, "steps between validations; the last step is always followed by one", ge=1)
    eval_rows: int = knob(128, "examples of a validation, at most", ge=1)
    early_stop: int | None = knob(
        None, "validations without a better figure after which training ends; the best checkpoint is kept", ge=1
    )
    adapter: AdapterConfig | None = knob(
        None, "train a few parameters beside the frozen model, such as {kind: lora, rank: 16} (docs/adapters.md)"
    )
    merge: bool = knob(False, "leave a whole model, the adapter merged into it, instead of an adapter folder")
    save_every: int = knob(50, "steps between checkpoints to resume from; the last step is always saved", ge=1)
    log_every: int = knob(10, "steps between printed lines; metrics.jsonl has every step", ge=1)

    @model_validator(mode="after")
    def _adapter_fits(self) -> Any:
        kind = None if self.adapter is None else self.adapter.kind
        if self.merge and kind not in ("lora", "qlora"):
            raise ValueError("merge needs adapter: {kind: lora} or qlora: nothing else can be merged")
        if self.float8 and kind == "qlora":
            raise ValueError("float8 and adapter.kind: qlora exclude each other: both say how the weights multiply")
        return self

    @model_validator(mode="after")
    def _early_stop_has_something_to_watch(self) -> Any:
        if self.early_stop is not None and not self.validation:
            raise ValueError("early_stop needs validation > 0: it watches held-out examples")
        return self
