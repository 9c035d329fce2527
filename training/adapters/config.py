"""What an adapter is made of: every knob with its default, meaning and source. No torch here."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from training.knobs import knob

# our names of the linear maps in a layer; gpt2 has no gate_proj, of mixtral only those of attention can have an adapter
LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

LOW_RANK = ("lora", "qlora")
# knobs that mean something for some kinds only; given for another one they would be ignored, so they are refused
MEANT_FOR: dict[str, tuple[str, ...]] = {
    "rank": LOW_RANK,
    "alpha": LOW_RANK,
    "dropout": LOW_RANK,
    "target_modules": LOW_RANK,
    "rslora": LOW_RANK,
    "init": LOW_RANK,
    "double_quantisation": ("qlora",),
    "virtual_tokens": ("prompt",),
    "prompt_init": ("prompt",),
    "prompt_text": ("prompt",),
}


class AdapterConfig(BaseModel):
    """What is trained while the model itself stays as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["lora", "qlora", "prompt"] = knob(
        "lora",
        "lora: a product of two thin matrices beside each chosen one; qlora: the same beside weights in 4 bits (extra "
        "`qlora`); prompt: embeddings in front of each document",
        "Hu et al. 2021, Dettmers et al. 2023, Lester et al. 2021",
    )
    rank: int = knob(16, "lora, qlora: columns of the thin matrices", "Hu et al. 2021", ge=1)
    alpha: float = knob(32.0, "lora, qlora: the product is multiplied by alpha / rank", "Hu et al. 2021", gt=0)
    dropout: float = knob(0.0, "lora, qlora: share of the product's inputs that a training step drops", ge=0, lt=1)
    target_modules: tuple[str, ...] = knob(
        ("all-linear",),
        f"lora, qlora: which linear maps of each layer: all-linear, or some of {', '.join(LINEAR)}; of mixtral those of attention only",
        "Dettmers et al. 2023",
    )
    rslora: bool = knob(
        False, "lora, qlora: multiply by alpha / sqrt(rank) instead", "Kalajdzievski 2023, arXiv 2312.03732"
    )
    init: Literal["kaiming", "gaussian"] = knob(
        "kaiming",
        "lora, qlora: how the first matrix begins, uniform up to 1 / sqrt(inputs) or normal with deviation 1 / rank; the "
        "second begins with 0",
        "peft",
    )
    double_quantisation: bool = knob(
        True, "qlora: keep the scales of the 4-bit blocks in 8 bits", "Dettmers et al. 2023"
    )
    virtual_tokens: int = knob(16, "prompt: embeddings in front of each document", "Lester et al. 2021", ge=1)
    prompt_init: Literal["vocabulary", "random", "text"] = knob(
        "vocabulary",
        "prompt: embeddings of tokens drawn by lot, normal numbers of their deviation, or embeddings of `prompt_text`",
        "Lester et al. 2021",
    )
    prompt_text: str | None = knob(
        None, "prompt_init text: what the virtual tokens say at first, repeated or cut to their number", min_length=1
    )

    @field_validator("target_modules", mode="before")
    @classmethod
    def _one_name(cls, given: Any) -> Any:
        return (given,) if isinstance(given, str) else given

    @model_validator(mode="after")
    def _fit_together(self) -> AdapterConfig:
        for key, kinds in MEANT_FOR.items():
            if key in self.model_fields_set and self.kind not in kinds and getattr(self, key) != _default(key):
                raise ValueError(
                    f"{key} means something with kind: {' or '.join(kinds)} only; leave it out or set that"
                )
        if (self.prompt_init == "text") != (self.prompt_text is not None):
            raise ValueError("prompt_text and prompt_init: text need each other; give both or neither")
        if self.target_modules != ("all-linear",):
            if not self.target_modules or len(set(self.target_modules)) < len(self.target_modules):
                raise ValueError(f"target_modules: expected all-linear, or some of {', '.join(LINEAR)}, each once")
            if odd := [name for name in self.target_modules if name not in LINEAR]:
                raise ValueError(_bad_target(odd[0]))
        return self

    @property
    def scale(self) -> float:
        """What the product of the two matrices is multiplied by."""
        return scale(self.alpha, self.rank, self.rslora)


def scale(alpha: float, rank: int, rslora: bool) -> float:
    """alpha / rank (Hu et al. 2021), or alpha / sqrt(rank), which keeps the size of updates equal over ranks."""
    return alpha / (rank**0.5 if rslora else rank)


def _default(key: str) -> Any:
    return AdapterConfig.model_fields[key].default


def _bad_target(name: str) -> str:
    why = ""
    if name in ("embed_tokens", "lm_head", "wte", "embed_in", "embed_out"):
        # transformers #45127, peft #2018: with tied embeddings a merged adapter of one changes the other on reload
        why = ": an adapter of an embedding that is tied to the output would change both; neither can have one here"
    elif name in ("gate", "experts", "w1", "w2", "w3"):
        why = ": transformers keeps the experts of a layer in one tensor, so their adapters could not be saved"
    return f"target_modules: {name!r} cannot have an adapter{why}; choose of {', '.join(LINEAR)}"
