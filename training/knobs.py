"""The knobs that every training run has, pretraining or fine-tuning: batches, optimizer, schedule, device, checkpoints.

A config is resolved once: afterwards every value is concrete. This file imports no torch, so that a config can be checked
where torch is not installed.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

C = TypeVar("C", bound=BaseModel)


class TrainingError(ValueError):
    """A mistake of the user's, or a run that cannot go on; the message says where, what was expected, what to do."""


def knob(default: Any, doc: str, source: str = "", **constraints: Any) -> Any:
    """A config field: default, meaning, and the paper or system its value comes from. `constraints` are pydantic's."""
    return Field(default, description=doc, json_schema_extra={"source": source}, **constraints)


RUNTIME_KNOBS = (
    "micro_batch_rows",
    "recompute",
    "recompute_every",
    "device",
    "threads",
    "parallel",
    "reshard",
    "process_timeout",
    "save_every",
    "keep_checkpoints",
    "keep_every",
    "log_every",
    "tracker",
)

MEANT_FOR: dict[str, tuple[str, tuple[Any, ...]]] = {
    "min_lr_ratio": ("schedule", ("cosine", "linear", "wsd")),
    "decay_ratio": ("schedule", ("wsd",)),
    "decay_shape": ("schedule", ("wsd",)),
    "muon_learning_rate": ("optimizer", ("muon",)),
    "muon_momentum": ("optimizer", ("muon",)),
    "recompute_every": ("recompute", ("full", "selective")),
    "reshard": ("parallel", ("auto", "fsdp2")),
}


class TrainerConfig(BaseModel):
    """What pretraining and every kind of fine-tuning have in common; they subclass it, and may have other defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # knobs that a resumed run may change: they move work about, or only say how often something is written
    runtime_knobs: ClassVar[tuple[str, ...]] = RUNTIME_KNOBS
    # knobs that another one must have a certain value for; set without it they would be ignored, so they are refused
    meant_for: ClassVar[dict[str, tuple[str, tuple[Any, ...]]]] = MEANT_FOR

    batch_rows: int = knob(2, "rows in one optimizer step, over all processes", ge=1)
    micro_batch_rows: int = knob(2, "rows in one forward pass of one process; only memory and speed depend on it", ge=1)
    learning_rate: float = knob(4e-3, "peak learning rate", gt=0)
    schedule: Literal["cosine", "linear", "wsd", "constant"] = knob(
        "cosine", "of the learning rate after the warm-up; wsd: stable, then a decay at the end", "Hu et al. 2024 (wsd)"
    )
    min_lr_ratio: float = knob(0.1, "floor of the schedule, as a share of the peak", "Hoffmann et al. 2022", ge=0, le=1)
    warmup_ratio: float = knob(0.05, "share of the steps in which the learning rate rises from 0", ge=0, lt=1)
    decay_ratio: float = knob(0.2, "wsd: share of the steps in which it falls", "Hägele et al. 2024", gt=0, le=1)
    decay_shape: Literal["linear", "1-sqrt"] = knob("1-sqrt", "wsd: how it falls", "Hägele et al. 2024")
    optimizer: Literal["adamw", "muon"] = knob(
        "adamw", "muon: for matrices between embedding and output, the rest by AdamW", "Jordan et al. 2024"
    )
    weight_decay: float = knob(
        0.1, "decoupled decay of matrices and embeddings, not of norms and biases", "Brown et al. 2020", ge=0
    )
    decay_embeddings: bool = knob(True, "embeddings decay too; OLMo 2 (arXiv 2501.00656) spares them", "transformers")
    embedding_learning_rate: float | None = knob(None, "peak for embeddings; by default learning_rate", gt=0)
    head_learning_rate: float | None = knob(None, "peak for an untied output projection; likewise", gt=0)
    muon_learning_rate: float | None = knob(
        None, "muon: peak for its matrices; by default learning_rate, which fits AdamW and it", "Liu et al. 2025", gt=0
    )
    muon_momentum: float = knob(0.95, "muon: share of the old momentum that is kept", "Jordan et al. 2024", ge=0, lt=1)
    beta1: float = knob(0.9, "AdamW: decay of the mean of gradients", "Brown et al. 2020", ge=0, lt=1)
    beta2: float = knob(0.95, "AdamW: decay of the mean of squared gradients", "Brown et al. 2020", ge=0, lt=1)
    grad_clip: float = knob(1.0, "largest norm of the gradient; 0 turns clipping off", "Brown et al. 2020", ge=0)
    seed: int = knob(0, "of the initial weights and of the order of rows", ge=0, lt=2**63)
    device: Literal["auto", "cpu", "cuda"] = knob("auto", "auto takes CUDA where there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = knob(
        "auto", "of activations and matrix products; weights stay float32; auto takes bfloat16 where it is native"
    )
    tf32: bool = knob(False, "CUDA: float32 products with 10 bits of mantissa, several times faster")
    float8: bool = knob(
        False, "CUDA from H100 on: products of the layers in 8 bits, scaled by matrix", "Micikevicius et al. 2022"
    )
    recompute: Literal["none", "full", "selective"] = knob(
        "none",
        "what layers compute again in the backward pass to save memory; selective: all but products and attention",
        "Chen et al. 2016",
    )
    recompute_every: int = knob(1, "recompute: in every n-th layer only", ge=1)
    threads: int | None = knob(None, "CPU threads of one process; by default all that this process may use", ge=1)
    parallel: Literal["auto", "ddp", "fsdp2"] = knob(
        "auto",
        "how several processes share a model: ddp (each holds all) or fsdp2 (each holds a part); auto: fsdp2 where the "
        "training state would fill more than half of a GPU, else ddp",
    )
    reshard: bool = knob(
        True, "fsdp2: free the gathered weights of a layer between its forward and backward pass", "Zhao et al. 2023"
    )
    process_timeout: float = knob(
        600.0, "seconds that a process waits for the others before it counts one as lost", gt=0
    )
    eval_every: int = knob(125, "steps between validations; the last step is always followed by one", ge=1)
    eval_rows: int = knob(64, "the first rows of the validation split, at most this many", ge=1)
    save_every: int = knob(125, "steps between checkpoints to resume from; the last step is always saved", ge=1)
    keep_checkpoints: int = knob(2, "newest checkpoints to keep", ge=1)
    keep_every: int | None = knob(None, "steps; a checkpoint of a multiple of this is kept for good", ge=1)
    log_every: int = knob(25, "steps between printed lines; metrics.jsonl has every step", ge=1)
    tracker: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = knob(
        (), "where metrics go beside metrics.jsonl (extra `trackers`)"
    )

    @model_validator(mode="after")
    def _mean_something(self) -> Any:
        for key, (other, values) in self.meant_for.items():
            if getattr(self, key) != type(self).model_fields[key].default and getattr(self, other) not in values:
                needed = " or ".join(str(value).lower() for value in values)
                raise ValueError(f"{key} means something with {other}: {needed} only; leave it out or set that")
        if not self.decay_embeddings and self.weight_decay == 0:
            raise ValueError("decay_embeddings changes nothing with weight_decay: 0; leave it out")
        if self.schedule == "wsd" and self.warmup_ratio + self.decay_ratio > 1:
            raise ValueError(
                f"warmup_ratio + decay_ratio must be at most 1; got {self.warmup_ratio} + {self.decay_ratio}"
            )
        return self

    def identity(self) -> dict[str, Any]:
        """The knobs that decide which model comes out. Two runs may share a checkpoint only if these are equal."""
        return self.model_dump(exclude=set(self.runtime_knobs))

    def fingerprint(self, *parts: str) -> str:
        """SHA-256 over `identity()` and further parts (checksums of the data and the tokenizer)."""
        text = json.dumps([self.identity(), *parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def resolve_as(kind: type[C], values: Mapping[str, Any], where: str) -> C:
    """A config of this kind from a mapping of knobs. Raises `TrainingError` that names each bad key."""
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        raise TrainingError("; ".join(_describe(problem, where, kind) for problem in error.errors())) from None


def _describe(problem: Any, where: str, kind: type[BaseModel]) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, kind.model_fields, 1)
        return f"{where}: unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}.{key}: {message} (got {problem['input']!r})" if key else f"{where}: {message}"


def read_config(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises `TrainingError` if it cannot be read or is something else."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise TrainingError(f"cannot read the config {path}: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise TrainingError(f"{path}: expected a mapping of knobs, such as 'preset: cpu-tiny'")
    return values
