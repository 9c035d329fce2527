"""The shapes and recipes that have a name, the single knob `depth`, and what a family fixes. Imports no torch.

Values that a config leaves open are filled in this order: what the user gave, `depth`, the preset, the family.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

CHINCHILLA = 20  # tokens a parameter (Hoffmann et al. 2022, arXiv 2203.15556)

# Parameter counts are of the vocabulary named beside them. Where nothing else is said, learning rate and batch are those of
# Brown et al. 2020 (GPT-3), table 2.1, for the nearest size, in rows of 1,024 tokens, and the budget is 20 tokens a parameter.
PRESETS: dict[str, dict[str, Any]] = {
    # 1.8 million (8,192). 2 CPU cores, two minutes: docs/training.md has the measurements that chose these values
    "cpu-tiny": {
        "layers": 4,
        "width": 128,
        "heads": 4,
        "kv_heads": 2,
        "mlp_width": 384,
        "steps": 500,
        "learning_rate": 4e-3,
    },
    # 13 million (8,192). One CPU socket or a small GPU, tens of minutes
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
    # 2.0 million (8,192). GPT-2 with every part to be changed: positions, norm
    "teaching": {
        "architecture": "gpt2",
        "layers": 4,
        "width": 128,
        "heads": 4,
        "steps": 500,
        "batch_rows": 8,
        "micro_batch_rows": 8,
        "learning_rate": 2e-3,
    },
}


def _recipe(shape: str, tokens: int, batch_rows: int, learning_rate: float, **more: Any) -> dict[str, Any]:
    """shape: layers x width, heads / kv_heads, mlp_width."""
    size, heads, mlp_width = shape.split(", ")
    layers, width = size.split(" x ")
    heads, kv_heads = heads.split(" / ")
    values = {"layers": layers, "width": width, "heads": heads, "kv_heads": kv_heads, "mlp_width": mlp_width}
    return {
        **{name: int(value) for name, value in values.items()},
        "steps": None,
        "tokens": tokens,
        "batch_rows": batch_rows,
        "micro_batch_rows": min(batch_rows, 16),
        "learning_rate": learning_rate,
        "warmup_ratio": 0.02,
        "eval_every": 500,
        "eval_rows": 1_024,
        "save_every": 500,
        **more,
    }


_LLAMA_3_1B = _recipe("16 x 2048, 32 / 8, 8192", 25_000_000_000, 512, 3e-4, micro_batch_rows=4, rope_theta=5e5)
PRESETS |= {
    # 1.1 million (8,192)
    "1M": _recipe("3 x 96, 3 / 3, 256", 22_000_000, 16, 4e-3),
    # 5.1 million (8,192)
    "5M": _recipe("8 x 192, 6 / 6, 512", 100_000_000, 32, 2e-3),
    # 15 million (32,000): the shape of llama2.c's stories15M
    "15M": _recipe("6 x 288, 6 / 6, 768", 300_000_000, 64, 1e-3),
    # 55 million (32,000)
    "50M": _recipe("12 x 512, 8 / 8, 1408", 1_100_000_000, 256, 1e-3),
    # 124 million (50,257, the rows padded to 50,304): GPT-2 small as build-nanogpt trains it, rows of 1,024
    "124M": _recipe(
        "12 x 768, 12 / 12, 3072", 10_000_000_000, 512, 6e-4,
        architecture="gpt2", micro_batch_rows=64, warmup_ratio=0.0375, pad_vocabulary=64,
    ),
    # 124 million (50,304): the same width and depth with Llama's parts
    "small": _recipe("12 x 768, 12 / 12, 2048", 10_000_000_000, 512, 6e-4, micro_batch_rows=32, eval_rows=2_048,
                     save_every=1_000),
    # 355 million (50,304): GPT-3 medium's shape with Llama's parts
    "350M": _recipe("24 x 1024, 16 / 16, 2752", 7_000_000_000, 512, 3e-4),
    # 1.2 billion (128,256): Llama 3.2 1B (its published config.json)
    "1B": _LLAMA_3_1B,
    "1b": _LLAMA_3_1B,
    # 3.2 billion (128,256): Llama 3.2 3B (its published config.json)
    "3B": _recipe("28 x 3072, 24 / 8, 8192", 64_000_000_000, 1_024, 1.6e-4, micro_batch_rows=2, rope_theta=5e5),
    # 6.7 billion (32,000): Llama 2 7B; learning rate and batch of Touvron et al. 2023 (arXiv 2307.09288), in rows of 4,096
    "7B": _recipe(
        "32 x 4096, 32 / 32, 11008", 135_000_000_000, 1_024, 3e-4, micro_batch_rows=1, tie_embeddings=False
    ),
}  # fmt: skip

ARCHITECTURES = ("gpt2", "llama", "qwen3", "mistral", "mixtral")

# What a family has where nothing else is said, beside the widths that `_fit_family` computes.
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {"positions": "learned"},
    "llama": {},
    "qwen3": {"rope_theta": 1e6},  # Qwen3's published configs
    "mistral": {"sliding_window": 4_096},  # Mistral 7B v0.1
    "mixtral": {"rope_theta": 1e6, "experts": 8, "experts_per_token": 2, "balance_coefficient": 0.02},  # Mixtral 8x7B
}
# Knobs of a preset that belong to its family: another architecture does not inherit them
OF_A_FAMILY = ("kv_heads", "mlp_width", "head_width", "rope_theta", "positions", "sliding_window", "experts")


class RopeScaling(BaseModel):
    """How rotary angles are stretched so that a model reads further than it was trained for; names as in transformers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rope_type: Literal["linear", "yarn", "llama3"]
    factor: float = Field(ge=1)  # new context over the original one
    original_max_position_embeddings: int | None = Field(None, ge=1)  # by default the model's context
    low_freq_factor: float = Field(1.0, gt=0)  # llama3: turns over the original context below which a pair is slow
    high_freq_factor: float = Field(4.0, gt=0)  # llama3: turns above which it is fast
    beta_fast: float = Field(32.0, gt=0)  # yarn: the same as turns, above and below
    beta_slow: float = Field(1.0, gt=0)
    truncate: bool = True  # yarn: whether these bounds are whole pairs
    attention_factor: float | None = Field(None, gt=0)  # yarn: on cosines and sines; by default from `factor`
    mscale: float | None = None  # yarn, as DeepSeek has it
    mscale_all_dim: float | None = None

    @model_validator(mode="after")
    def _needs_both(self) -> RopeScaling:
        if self.rope_type == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            raise ValueError("high_freq_factor must be above low_freq_factor")
        of_type = {
            "linear": set(),
            "llama3": {"low_freq_factor", "high_freq_factor"},
            "yarn": {"beta_fast", "beta_slow", "truncate", "attention_factor", "mscale", "mscale_all_dim"},
        }
        others = set().union(*of_type.values()) - of_type[self.rope_type]
        unused = [name for name in sorted(others) if getattr(self, name) != RopeScaling.model_fields[name].default]
        if unused:
            raise ValueError(f"{self.rope_type} scaling has no {', '.join(unused)}; leave it out")
        return self


def fill(given: Mapping[str, Any]) -> dict[str, Any]:
    """All values of a config but those with plain defaults. Raises `ValueError` for an unknown preset or a depth without
    what it needs."""
    name = given.get("preset", "cpu-tiny")
    if not isinstance(name, str) or name not in PRESETS:
        near = difflib.get_close_matches(str(name), PRESETS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"preset: there is no {name!r}, choose one of {', '.join(PRESETS)}{hint}")
    values = dict(PRESETS[name])
    usual = values.get("architecture", "llama")
    architecture = given.get("architecture", usual)
    if architecture != usual:
        values = {key: value for key, value in values.items() if key not in OF_A_FAMILY}
    if given.get("depth") is not None:
        values |= of_depth(given)
    values |= given
    # a budget given in one unit replaces the preset's in the other
    if given.get("tokens") is not None and given.get("steps") is None:
        values["steps"] = None
    if given.get("steps") is not None and given.get("tokens") is None:
        values["tokens"] = None
    if architecture in FAMILIES:
        values = {**FAMILIES[architecture], **values}
        _fit_family(values, architecture)
    return values


def _fit_family(values: dict[str, Any], architecture: str) -> None:
    heads, width = values.get("heads"), values.get("width")
    values.setdefault("kv_heads", heads)
    if isinstance(width, int):
        values.setdefault("mlp_width", 4 * width if architecture == "gpt2" else gated_width(width))


def gated_width(width: int) -> int:
    """The inner width of a gated MLP with as many weights as a plain one of 4 widths (Shazeer 2020): 8/3, in steps of 32."""
    return -(-8 * width // 3 // 32) * 32


def of_depth(given: Mapping[str, Any]) -> dict[str, Any]:
    """Shape, batch, learning rate and budget of a model with `depth` layers; `given` is the rest of the config.

    - width 64 a layer: GPT-2 small has 12 x 768; loss hardly depends on the ratio around there (Kaplan et al. 2020, arXiv
      2001.08361, figure 5). nanochat has the same rule.
    - heads of 64 (GPT-2, GPT-3 small, Llama 3.2 1B), so as many as layers; MLP as `gated_width`.
    - tokens: 20 for each of the 12 * depth * width^2 weights in the layers (Hoffmann et al. 2022).
    - batch and learning rate: Bi et al. 2024 (DeepSeek LLM, arXiv 2401.02954, equation 1), of the compute C = 6 * weights *
      tokens: 0.2920 * C^0.3271 tokens, and 0.3118 * C^-0.1250. Fitted between 1e17 and 2e19 FLOPs, used beyond.
    """
    depth, length = given["depth"], given.get("sequence_length")
    if not isinstance(depth, int) or isinstance(depth, bool) or depth < 1:
        raise ValueError(f"depth: expected a whole number from 1, got {depth!r}")
    if length is None and given.get("batch_rows") is None:
        raise ValueError("depth: sizes the batch in rows, so give sequence_length too (or batch_rows)")
    width = 64 * depth
    weights = 12 * depth * width**2
    tokens = CHINCHILLA * weights
    compute = 6.0 * weights * tokens
    values: dict[str, Any] = {
        "layers": depth,
        "width": width,
        "heads": depth,
        "kv_heads": depth,
        "mlp_width": 4 * width if given.get("architecture") == "gpt2" else gated_width(width),
        "steps": None,
        "tokens": tokens,
        "learning_rate": float(f"{0.3118 * compute**-0.1250:.2e}"),
    }
    if isinstance(length, int) and length > 0:
        rows = 0.2920 * compute**0.3271 / length
        values["batch_rows"] = (
            max(1, round(rows)) if rows < 8 else 8 * round(rows / 8)
        )  # shared evenly by up to 8 processes
    batch_rows = given.get("batch_rows") or values["batch_rows"]
    if isinstance(batch_rows, int) and batch_rows > 0:
        # activations of about 2^24 numbers a layer; only memory and speed depend on it
        values["micro_batch_rows"] = min(
            batch_rows, max(1, 2 ** math.floor(math.log2(2**24 / (width * (length or 1_024)))))
        )
    return values
