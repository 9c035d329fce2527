"""What an evaluation measures: every knob with its default, meaning and source. Imports no torch."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from training.evaluation.answers_config import AbstentionConfig, JudgeConfig, QuestionsConfig, SafetyConfig
from training.knobs import TrainingError, knob


class TaskConfig(BaseModel):
    """One file of multiple-choice, schema or completion items."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = knob(..., "JSONL of items, or a bundle's YAML with the key icl_tasks (DCLM's core.yaml)")
    name: str | None = knob(None, "name in the results; by default the file's stem")
    shots: int = knob(0, "solved items before each question, drawn from the same file by seed and item", ge=0)
    delimiter: str = knob(" ", "what stands between a question and its answer")
    unconditional: str = knob("", "context of the unconditional likelihood of a choice (`pmi`), such as 'Answer:'")
    chance: float | None = knob(
        None, "accuracy of guessing; by default one over the choices, 0 for completions", ge=0, lt=1
    )


class EvaluateConfig(BaseModel):
    """One evaluation. By default what needs nothing but the model and its token dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    perplexity: tuple[str, ...] = knob(
        ("validation",),
        "splits of the token dataset, and Parquet, JSONL or text files or globs, to take the likelihood of",
    )
    text_field: str = knob("text", "the column of Parquet and JSONL files that holds the text")
    documents: int | None = knob(2000, "the first documents of each, at most this many; null: all", ge=1)
    context: int | None = knob(None, "tokens that a window holds; by default the model's context", ge=2)
    stride: int | None = knob(
        None,
        "new tokens in each window after the first: fewer leave more context to each; by default the window (lm-evaluation-harness)",
        ge=1,
    )
    first_token: Literal["scored", "skipped"] = knob(
        "scored",
        "scored: a document's first token is predicted from the end token, as lm-evaluation-harness does; "
        "skipped: it is nobody's target, as in pretraining with document_mask",
    )

    tasks: tuple[TaskConfig, ...] = knob((), "files of items; a plain path stands for {path: ...}")
    items: int | None = knob(None, "the first items of each task and file of questions, at most this many", ge=1)

    questions: tuple[QuestionsConfig, ...] = knob(
        (), "files of questions that are answered by writing; a plain path stands for {path: ...}"
    )
    bertscore: str | None = knob(None, "folder of the encoder for the metric bertscore (extra eval)")
    bertscore_layer: int | None = knob(None, "whose states are compared, from 1; by default the last", ge=1)
    compared: tuple[str, ...] = knob((), "names of questions that judge and reward model compare; by default all")
    against: str | None = knob(None, "the model, by its name in the table, that others are compared with; the first")
    judge: JudgeConfig | None = knob(None, "win rates by a model behind an endpoint")
    reward_model: str | None = knob(None, "folder of a reward model: win rates by it")
    abstention: AbstentionConfig | None = knob(None, "does the model say so where it does not know? `{}`: yes, ask")
    safety: SafetyConfig | None = knob(None, "does it refuse what it should, and only that? `{}`: yes, ask")
    answers_shown: int = knob(3, "answers of each kind that are kept in the results", ge=0)

    harness: tuple[str, ...] = knob((), "lm-evaluation-harness tasks: names, or YAML files of your own (extra eval)")
    harness_path: str | None = knob(None, "folder of task YAMLs whose names `harness` may use")
    harness_shots: int | None = knob(None, "solved examples before each; by default what the task says", ge=0)
    harness_items: int | None = knob(None, "the first items of each harness task, at most this many", ge=1)
    harness_online: bool = knob(False, "let the harness download its data; otherwise local data only")

    prompts: tuple[str, ...] = knob(("The", "In the year", "Once upon a time"), "texts that the model continues")
    sample_tokens: int = knob(64, "new tokens of a sample, at most", ge=1)
    temperature: float = knob(0.0, "of the samples; 0 takes the likeliest token always", ge=0)

    memorisation: bool = knob(True, "measure how much of the train split is given back word for word")
    memorisation_documents: int = knob(
        256, "train documents asked of each number of repeats, and as many held-out ones", ge=1
    )
    memorisation_prefixes: tuple[int, ...] = knob(
        (8, 16, 32),
        "tokens that the model is shown before what it should not know",
        "Carlini et al. 2022",
        min_length=1,
    )
    memorisation_tokens: int = knob(
        16,
        "tokens that must come back exactly; 50 in the paper, whose models had longer contexts",
        "Carlini et al. 2022",
        ge=1,
    )
    canaries: str | None = knob(None, "JSONL of canaries whose exposure is measured", "Carlini et al. 2019")
    canary_samples: int = knob(
        4096, "alternatives that a canary is ranked among; all of them where there are no more", ge=1
    )

    seed: int = knob(0, "of solved examples, samples and alternatives", ge=0, lt=2**63)
    device: Literal["auto", "cpu", "cuda"] = knob("auto", "auto takes CUDA where there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = knob(
        "float32", "of activations and matrix products; auto takes bfloat16 where it is native"
    )
    threads: int | None = knob(None, "CPU threads; by default all that this process may use", ge=1)
    batch_tokens: int = knob(
        8192, "tokens of one forward pass, padding included; only memory and speed depend on it", ge=1
    )

    @model_validator(mode="before")
    @classmethod
    def _paths_are_tasks(cls, given: Any) -> Any:
        if not isinstance(given, Mapping):
            raise ValueError("expected a mapping of knobs, such as {perplexity: [validation]}")
        lists = {key: given[key] for key in ("tasks", "questions") if isinstance(given.get(key), list | tuple)}
        named = {key: [{"path": one} if isinstance(one, str) else one for one in files] for key, files in lists.items()}
        return {**given, **named}

    @model_validator(mode="after")
    def _fit_together(self) -> EvaluateConfig:
        if self.context is not None and self.stride is not None and self.stride > self.context:
            raise ValueError(f"stride must not be above context; got stride={self.stride}, context={self.context}")
        if any(prefix < 1 for prefix in self.memorisation_prefixes):
            raise ValueError(f"memorisation_prefixes must be from 1; got {list(self.memorisation_prefixes)}")
        if (self.bertscore is None) == any("bertscore" in one.metrics for one in self.questions):
            raise ValueError("the metric bertscore and the folder of its encoder (bertscore) need each other")
        if self.bertscore_layer is not None and self.bertscore is None:
            raise ValueError("bertscore_layer needs bertscore, the encoder's folder")
        comparing = self.judge is not None or self.reward_model is not None
        if comparing and not self.questions:
            raise ValueError("judge and reward_model compare answers: they need questions")
        if not comparing and (self.compared or self.against is not None):
            raise ValueError("compared and against need a judge or a reward_model")
        return self


SECTIONS: dict[str | int, type[BaseModel]] = {
    "tasks": TaskConfig,
    "questions": QuestionsConfig,
    "judge": JudgeConfig,
    "abstention": AbstentionConfig,
    "safety": SafetyConfig,
}
WITHOUT_EFFECT = frozenset({"device", "threads", "batch_tokens"})  # knobs that change no more than the last digits


def resolve(values: Mapping[str, Any], where: str = "evaluate") -> EvaluateConfig:
    """A config from a mapping of knobs. Raises `TrainingError` that names each bad key."""
    try:
        return EvaluateConfig.model_validate(dict(values))
    except ValidationError as error:
        raise TrainingError("; ".join(_describe(problem, where) for problem in error.errors())) from None


def _describe(problem: Any, where: str) -> str:
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = (
            SECTIONS.get(problem["loc"][0], EvaluateConfig) if len(problem["loc"]) > 1 else EvaluateConfig
        ).model_fields
        near = difflib.get_close_matches(str(problem["loc"][-1]), known, 1)
        return f"{where}: unknown key {key!r}" + (f"; did you mean {near[0]!r}?" if near else "")
    message = problem["msg"].removeprefix("Value error, ")
    return f"{where}.{key}: {message} (got {problem['input']!r})" if key else f"{where}: {message}"
