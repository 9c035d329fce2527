"""What a pretraining run is made of: every knob with its default, meaning and source.

A config is a preset plus overrides, resolved once: afterwards every value is concrete and nothing depends on the
preset's name. This file imports no torch, so that a config can be checked where torch is not installed.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from training.presets import PRESETS, RopeScaling, fill


class TrainingError(ValueError):
    """A mistake of the user's, or a run that cannot go on; the message says where, what was expected, what to do."""


def knob(default: Any, doc: str, source: str = "", **constraints: Any) -> Any:
    """A config field: default, meaning, and the paper or system its value comes from. `constraints` are pydantic's."""
    return Field(default, description=doc, json_schema_extra={"source": source}, **constraints)


# knobs that a resumed run may change: they move work about, or only say how often something is written
RUNTIME_KNOBS = (
    "preset",
    "depth",
    "micro_batch_rows",
    "recompute",
    "recompute_every",
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
MEANT_FOR: dict[str, tuple[str, tuple[Any, ...]]] = {
    "decay_ratio": ("schedule", ("wsd",)),
    "decay_shape": ("schedule", ("wsd",)),
    "muon_learning_rate": ("optimizer", ("muon",)),
    "muon_momentum": ("optimizer", ("muon",)),
    "head_learning_rate": ("tie_embeddings", (False,)),
    "recompute_every": ("recompute", ("full", "selective")),
}


class PretrainConfig(BaseModel):
    """One pretraining run. The defaults are the preset `cpu-tiny`; another `preset` replaces some of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str = knob("cpu-tiny", f"values to start from: {', '.join(PRESETS)}")

    depth: int | None = knob(
        None,
        "sizes width, heads, batch, learning rate and budget together; knobs given beside it win",
        "docs/models.md",
    )

    architecture: Literal["gpt2", "llama", "qwen3", "mistral", "mixtral"] = knob(
        "llama", "the family, as in transformers"
    )
    layers: int = knob(4, "decoder layers", ge=1)
    width: int = knob(128, "width of the residual stream", ge=2)
    heads: int = knob(4, "query heads", ge=1)
    kv_heads: int = knob(
        4, "key and value heads; heads must be a multiple; by default heads", "Ainslie et al. 2023", ge=1
    )
    head_width: int | None = knob(None, "width of a head, even if positions are rotary; by default width / heads", ge=1)
    mlp_width: int = knob(
        512, "inner width of the MLP; by default 8/3 of the width, 4 times in gpt2", "Shazeer 2020", ge=1
    )
    positions: Literal["learned", "sinusoidal", "rotary"] = knob(
        "rotary", "by default learned in gpt2; other choices are for gpt2 alone", "Vaswani et al. 2017, Su et al. 2021"
    )
    norm: Literal["pre", "post"] = knob("pre", "before each block, or behind its sum as in GPT (gpt2 alone)")
    rope_theta: float = knob(10_000.0, "base of the rotary angles", "Su et al. 2021", gt=1)
    rope_scaling: RopeScaling | None = knob(
        None, "stretches rotary angles: {rope_type: linear | yarn | llama3, factor: ...} (docs/models.md)"
    )
    sliding_window: int | None = knob(
        None, "positions that a token sees, itself included (mistral: 4096; mixtral)", "Mistral 7B", ge=1
    )
    experts: int = knob(0, "MLPs of which a token uses some (mixtral: 8)", "Mixtral", ge=0)
    experts_per_token: int = knob(2, "how many of them", "Mixtral", ge=1)
    balance_coefficient: float = knob(
        0.0, "weight of the load-balancing loss of the experts (mixtral: 0.02)", "Fedus et al. 2021", ge=0
    )
    tie_embeddings: bool = knob(True, "one matrix for input embedding and output projection", "Press and Wolf 2017")
    vocab_size: int | None = knob(
        None, "ids of the model; by default the tokenizer's, more leaves room for new ones", ge=1
    )
    pad_vocabulary: int = knob(
        1, "embedding rows are a multiple of this; the rows added are never predicted nor saved", "nanoGPT: 64", ge=1
    )

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
        return fill(given)

    @model_validator(mode="after")
    def _fit_together(self) -> PretrainConfig:
        if (self.steps is None) == (self.tokens is None):
            raise ValueError("give either steps or tokens, not both and not neither")
        if self.head_width is None and self.width % self.heads:
            raise ValueError(f"width / heads must be a whole number; got {self.width} / {self.heads}")
        head_width = self.head_width or self.width // self.heads
        if self.positions == "rotary" and head_width % 2:
            raise ValueError(f"the width of a head must be an even whole number for rotary positions; got {head_width}")
        if self.export_kept and self.keep_every is None:
            raise ValueError("export_kept needs keep_every: it says which checkpoints are kept for good")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads must be a multiple of kv_heads; got heads={self.heads}, kv_heads={self.kv_heads}")
        for key, (other, values) in MEANT_FOR.items():
            if getattr(self, key) != type(self).model_fields[key].default and getattr(self, other) not in values:
                needed = " or ".join(str(value).lower() for value in values)
                raise ValueError(f"{key} means something with {other}: {needed} only; leave it out or set that")
        if self.schedule == "wsd" and self.warmup_ratio + self.decay_ratio > 1:
            raise ValueError(
                f"warmup_ratio + decay_ratio must be at most 1; got {self.warmup_ratio} + {self.decay_ratio}"
            )
        for rule in family_mistakes(self):
            raise ValueError(rule)
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


def family_mistakes(config: PretrainConfig) -> Iterator[str]:
    """What an architecture cannot be together with; transformers must know every model that comes out."""
    family, gpt2 = config.architecture, config.architecture == "gpt2"
    if gpt2 and config.kv_heads != config.heads:
        yield f"gpt2 has a key and value head for each query head: leave kv_heads out, or give {config.heads}"
    if gpt2 and config.head_width not in (None, config.width // config.heads):
        yield "gpt2 has heads of width / heads: leave head_width out"
    if not gpt2 and (config.positions, config.norm) != ("rotary", "pre"):
        yield f"{family} has rotary positions and norm: pre; learned and sinusoidal positions and norm: post are for gpt2"
    if gpt2 and (config.positions, config.norm) == ("rotary", "post"):
        yield "transformers knows no architecture with rotary positions and norm: post; choose one of them"
    if gpt2 and config.mlp_width != 4 * config.width and config.norm == "post":
        yield "norm: post is saved as OpenAIGPTLMHeadModel, whose mlp_width is 4 * width: leave mlp_width out"
    if config.positions == "sinusoidal" and config.width % 2:
        yield f"sinusoidal positions need an even width; got {config.width}"
    if config.positions != "rotary" and config.rope_scaling is not None:
        yield f"rope_scaling is for rotary positions, not for {config.positions} ones"
    if config.sliding_window is not None and family not in ("mistral", "mixtral"):
        yield f"sliding_window is for mistral and mixtral, not for {family}"
    if config.experts and family != "mixtral":
        yield f"experts are for mixtral, not for {family}"
    if family == "mixtral" and config.experts < 2:
        yield f"mixtral has at least 2 experts; got {config.experts}"
    if config.experts and config.experts_per_token > config.experts:
        yield f"experts_per_token={config.experts_per_token} is more than the {config.experts} experts"
    if config.balance_coefficient and not config.experts:
        yield f"balance_coefficient is for mixtral, not for {family}"


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
