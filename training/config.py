"""What a pretraining run is made of: every knob with its default, meaning and source.

A config is a preset plus overrides, resolved once: afterwards every value is concrete and nothing depends on the
preset's name. This file imports no torch, so that a config can be checked where torch is not installed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Literal

from pydantic import model_validator

from training import knobs
from training.knobs import TrainerConfig, knob, resolve_as
from training.presets import PRESETS, RopeScaling, fill

SAMPLE_KNOBS = ("sample_every", "sample_tokens", "sample_temperature")
# of pretraining, beside those of every training run
RUNTIME_KNOBS = (
    *knobs.RUNTIME_KNOBS,
    "preset",
    "depth",
    "memory_check",
    "compile",
    "loader_threads",
    "prefetch",
    "max_rollbacks",
    "export_kept",
    "sample_prompts",
    *SAMPLE_KNOBS,
    "peak_flops",
)


class PretrainConfig(TrainerConfig):
    """One pretraining run. The defaults are the preset `cpu-tiny`; another `preset` replaces some of them."""

    runtime_knobs: ClassVar[tuple[str, ...]] = RUNTIME_KNOBS
    meant_for: ClassVar[dict[str, tuple[str, tuple[Any, ...]]]] = {
        **knobs.MEANT_FOR,
        "head_learning_rate": ("tie_embeddings", (False,)),
        "rope_theta": ("positions", ("rotary",)),
    }

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
    z_loss: float = knob(
        0.0, "weight of the squared log of the softmax's denominator; PaLM: 1e-4", "Chowdhery et al. 2022", ge=0
    )
    memory_check: bool = knob(True, "refuse to start where the estimated memory is more than the device has")
    compile: bool = knob(
        False, "torch.compile of a layer and of the loss: starts half a minute later, needs a C++ compiler on the CPU"
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
    export_kept: bool = knob(False, "write a Hugging Face folder step-NNNNNNNN/ beside each checkpoint of `keep_every`")
    sample_prompts: tuple[str, ...] = knob(("The",), "texts that the model continues during the run; [] for none")
    sample_every: int | None = knob(None, "steps between samples; by default with each validation", ge=1)
    sample_tokens: int = knob(48, "tokens of a sample, at most; the row length is a limit too", ge=1)
    sample_temperature: float = knob(0.8, "of samples; 0 takes the likeliest token always", ge=0)
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
        for key, without in (
            ("prefetch", self.loader_threads == 0 and "loader_threads: 0"),
            ("spike_window", self.spike_factor is None and "no spike_factor"),
            *((key, not self.sample_prompts and "no sample_prompts") for key in SAMPLE_KNOBS),
            ("experts_per_token", self.architecture != "mixtral" and f"architecture: {self.architecture}"),
        ):
            if without and getattr(self, key) != type(self).model_fields[key].default:
                raise ValueError(f"{key} changes nothing with {without}; leave it out")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads must be a multiple of kv_heads; got heads={self.heads}, kv_heads={self.kv_heads}")
        for rule in family_mistakes(self):
            raise ValueError(rule)
        return self

    def total_steps(self, sequence_length: int) -> int:
        """Optimizer steps of the whole run."""
        if self.steps is not None:
            return self.steps
        assert self.tokens is not None
        return -(-self.tokens // (self.batch_rows * sequence_length))


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
    return resolve_as(PretrainConfig, values, where)
