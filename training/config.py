"""What a pretraining run is made of: every knob with its default, meaning and source, and the presets.

A config is a preset plus overrides, resolved once: afterwards every value is concrete and nothing depends on the
preset's name. This file imports no torch, so that a config can be checked where torch is not installed.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator


class TrainingError(ValueError):
    """A mistake of the user's, or a run that cannot go on; the message says where, what was expected, what to do."""


def knob(default: Any, doc: str, source: str = "", **constraints: Any) -> Any:
    """A config field: default, meaning, and the paper or system its value comes from. `constraints` are pydantic's."""
    return Field(default, description=doc, json_schema_extra={"source": source}, **constraints)


PRESETS: dict[str, dict[str, Any]] = {
    # 2 CPU cores, two minutes: see docs/training.md for the measurements that chose these values
    "cpu-tiny": {},
    # one CPU socket or a small GPU, tens of minutes
    "tiny": {
        "layers": 8,
        "width": 320,
        "heads": 5,
        "kv_heads": 5,
        "mlp_width": 896,
        "steps": 5_000,
        "batch_rows": 64,
        "micro_batch_rows": 16,
        "learning_rate": 1e-3,
        "eval_every": 250,
        "eval_rows": 512,
        "save_every": 500,
    },
    # the shape of GPT-2 small with Llama's parts (GPT-3 paper, table 2.1, for batch and learning rate)
    "small": {
        "layers": 12,
        "width": 768,
        "heads": 12,
        "kv_heads": 12,
        "mlp_width": 2_048,
        "steps": None,
        "tokens": 10_000_000_000,
        "batch_rows": 512,
        "micro_batch_rows": 32,
        "learning_rate": 6e-4,
        "warmup_ratio": 0.02,
        "eval_every": 500,
        "eval_rows": 2_048,
        "save_every": 1_000,
    },
    # the shape of Llama 3.2 1B (its published config.json), 20 tokens a parameter (Hoffmann et al. 2022)
    "1b": {
        "layers": 16,
        "width": 2_048,
        "heads": 32,
        "kv_heads": 8,
        "mlp_width": 8_192,
        "rope_theta": 500_000.0,
        "steps": None,
        "tokens": 25_000_000_000,
        "batch_rows": 512,
        "micro_batch_rows": 4,
        "learning_rate": 3e-4,
        "warmup_ratio": 0.02,
        "eval_every": 500,
        "eval_rows": 1_024,
        "save_every": 500,
    },
}

# knobs that a resumed run may change: they move work about, or only say how often something is written
RUNTIME_KNOBS = (
    "preset",
    "micro_batch_rows",
    "device",
    "threads",
    "memory_check",
    "compile",
    "parallel",
    "reshard",
    "process_timeout",
    "loader_threads",
    "prefetch",
    "max_rollbacks",
    "save_every",
    "keep_checkpoints",
    "keep_every",
    "export_kept",
    "log_every",
    "sample_prompts",
    "sample_every",
    "sample_tokens",
    "sample_temperature",
    "tracker",
    "peak_flops",
)

# knobs that another one must have a certain value for; set without it they would be ignored, so they are refused
MEANT_FOR: dict[str, tuple[str, Any]] = {
    "decay_ratio": ("schedule", "wsd"),
    "decay_shape": ("schedule", "wsd"),
    "muon_learning_rate": ("optimizer", "muon"),
    "muon_momentum": ("optimizer", "muon"),
    "head_learning_rate": ("tie_embeddings", False),
}


class PretrainConfig(BaseModel):
    """One pretraining run. The defaults are the preset `cpu-tiny`; another `preset` replaces some of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str = knob("cpu-tiny", f"values to start from: {', '.join(PRESETS)}")

    layers: int = knob(4, "decoder layers", ge=1)
    width: int = knob(128, "width of the residual stream", ge=2)
    heads: int = knob(4, "query heads; width / heads must be even", ge=1)
    kv_heads: int = knob(2, "key and value heads; heads must be a multiple", "Ainslie et al. 2023", ge=1)
    mlp_width: int = knob(384, "inner width of the gated MLP, about 8/3 of the width", "Shazeer 2020", ge=1)
    rope_theta: float = knob(10_000.0, "base of the rotary angles", "Su et al. 2021", gt=1)
    tie_embeddings: bool = knob(True, "one matrix for input embedding and output projection", "Press and Wolf 2017")

    sequence_length: int | None = knob(
        None, "tokens in a row; by default the only length the tokens are packed for", ge=2
    )
    document_mask: bool = knob(True, "documents in one row do not see each other", "Llama 3, arXiv 2407.21783")
    shuffle: bool = knob(True, "read rows in a new order each epoch; otherwise in the order of the pack index")

    steps: int | None = knob(500, "optimizer steps; give either this or tokens", ge=1)
    tokens: int | None = knob(
        None, "budget in tokens: steps are this by batch_rows * sequence_length, rounded up", ge=1
    )
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
    z_loss: float = knob(
        0.0, "weight of the squared log of the softmax's denominator; PaLM: 1e-4", "Chowdhery et al. 2022", ge=0
    )
    seed: int = knob(0, "of the initial weights and of the order of rows", ge=0, lt=2**63)

    device: Literal["auto", "cpu", "cuda"] = knob("auto", "auto takes CUDA where there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = knob(
        "auto", "of activations and matrix products; weights stay float32; auto takes bfloat16 where it is native"
    )
    threads: int | None = knob(None, "CPU threads of one process; by default all that this process may use", ge=1)
    memory_check: bool = knob(True, "refuse to start where the estimated memory is more than the device has")
    compile: bool = knob(False, "torch.compile: starts a minute later, needs a C++ compiler on the CPU")

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
    loader_threads: int = knob(1, "threads that read batches ahead; 0: the loop reads them itself", ge=0)
    prefetch: int = knob(2, "batches read ahead", ge=1)

    spike_factor: float | None = knob(
        None,
        "refuse a step whose gradient norm is over this many times the median of the last `spike_window` steps",
        "Chowdhery et al. 2022, section 5.1",
        gt=1,
    )
    spike_window: int = knob(64, "accepted steps whose median a gradient norm is held against", ge=2)
    max_rollbacks: int = knob(3, "batches that may be skipped as bad before the run ends with an error", ge=0)

    eval_every: int = knob(125, "steps between validations; the last step is always followed by one", ge=1)
    eval_rows: int = knob(64, "the first rows of the validation split, at most this many", ge=1)
    save_every: int = knob(125, "steps between checkpoints to resume from; the last step is always saved", ge=1)
    keep_checkpoints: int = knob(2, "newest checkpoints to keep", ge=1)
    keep_every: int | None = knob(None, "steps; a checkpoint of a multiple of this is kept for good", ge=1)
    export_kept: bool = knob(False, "write a Hugging Face folder step-NNNNNNNN/ beside each checkpoint of `keep_every`")
    log_every: int = knob(25, "steps between printed lines; metrics.jsonl has every step", ge=1)
    sample_prompts: tuple[str, ...] = knob(("The",), "texts that the model continues during the run; [] for none")
    sample_every: int | None = knob(None, "steps between samples; by default with each validation", ge=1)
    sample_tokens: int = knob(48, "tokens of a sample, at most; the row length is a limit too", ge=1)
    sample_temperature: float = knob(0.8, "of samples; 0 takes the likeliest token always", ge=0)
    tracker: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = knob(
        (), "where metrics go beside metrics.jsonl (extra `trackers`)"
    )
    peak_flops: float | None = knob(
        None, "peak FLOP/s of one device, for MFU; by default from a table of GPUs, on the CPU measured", gt=0
    )

    @model_validator(mode="before")
    @classmethod
    def _fill_from_preset(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            raise ValueError("expected a mapping of knobs, such as {preset: cpu-tiny}")
        name = given.get("preset", "cpu-tiny")
        if not isinstance(name, str) or name not in PRESETS:
            near = difflib.get_close_matches(str(name), PRESETS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"preset: there is no {name!r}, choose one of {', '.join(PRESETS)}{hint}")
        values = {**PRESETS[name], **given}
        # a budget given in one unit replaces the preset's in the other
        if given.get("tokens") is not None and given.get("steps") is None:
            values["steps"] = None
        if given.get("steps") is not None and given.get("tokens") is None:
            values["tokens"] = None
        return values

    @model_validator(mode="after")
    def _fit_together(self) -> PretrainConfig:
        if (self.steps is None) == (self.tokens is None):
            raise ValueError("give either steps or tokens, not both and not neither")
        if self.width % self.heads or (self.width // self.heads) % 2:
            raise ValueError(
                f"width / heads must be an even whole number for rotary positions; got {self.width} / {self.heads}"
            )
        if self.export_kept and self.keep_every is None:
            raise ValueError("export_kept needs keep_every: it says which checkpoints are kept for good")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads must be a multiple of kv_heads; got heads={self.heads}, kv_heads={self.kv_heads}")
        for key, (other, value) in MEANT_FOR.items():
            if getattr(self, key) != type(self).model_fields[key].default and getattr(self, other) != value:
                raise ValueError(
                    f"{key} means something with {other}: {str(value).lower()} only; leave it out or set that"
                )
        if self.schedule == "wsd" and self.warmup_ratio + self.decay_ratio > 1:
            raise ValueError(
                f"warmup_ratio + decay_ratio must be at most 1; got {self.warmup_ratio} + {self.decay_ratio}"
            )
        return self

    def total_steps(self, sequence_length: int) -> int:
        """Optimizer steps of the whole run."""
        if self.steps is not None:
            return self.steps
        assert self.tokens is not None
        return -(-self.tokens // (self.batch_rows * sequence_length))

    def identity(self) -> dict[str, Any]:
        """The knobs that decide which model comes out. Two runs may share a checkpoint only if these are equal."""
        return self.model_dump(exclude=set(RUNTIME_KNOBS))

    def fingerprint(self, *parts: str) -> str:
        """SHA-256 over `identity()` and further parts (checksums of the data and the tokenizer)."""
        text = json.dumps([self.identity(), *parts], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def resolve(values: Mapping[str, Any], where: str = "pretrain") -> PretrainConfig:
    """A config from a mapping of preset and overrides. Raises `TrainingError` that names each bad key."""
    try:
        return PretrainConfig.model_validate(dict(values))
    except ValidationError as error:
        raise TrainingError("; ".join(_describe(problem, where) for problem in error.errors())) from None


def _describe(problem: Any, where: str) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, PretrainConfig.model_fields, 1)
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
