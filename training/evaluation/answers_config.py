"""Knobs of what a model answers: questions, comparison by a judge, abstention and safety probes. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from training.knobs import knob

Metric = Literal["verified", "exact_match", "f1", "rouge", "bleu", "chrf", "bertscore"]
Form = Literal["auto", "chat", "text"]
FORM_DOC = (
    "how a prompt is put: chat, by the model's chat template; text, as it stands, several messages parted by an empty "
    "line; auto: chat where the folder has a template"
)


class QuestionsConfig(BaseModel):
    """One file of questions that models answer by writing."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str = knob(..., "JSONL, or Parquet file or folder, of prompt or messages, answer, verifier")
    name: str | None = knob(None, "name in the results; by default the file's stem")
    metrics: tuple[Metric, ...] = knob(
        (), "scores of the answers; by default verified where rows name a verifier, else exact_match and f1"
    )
    verifier: str | None = knob(None, "of rows that name none")
    form: Form = knob("auto", FORM_DOC)
    max_new_tokens: int = knob(256, "of an answer, at most", ge=1)
    temperature: float = knob(0.0, "0 takes the likeliest token always", ge=0)
    samples: int = knob(1, "answers to each question; scores other than pass@k are means over them", ge=1)
    pass_at: tuple[int, ...] = knob((1,), "k of pass@k, of answers that the verifier takes", "Chen et al. 2021")
    stop: tuple[str, ...] = knob((), "texts that end an answer and are not part of it")
    allow_unsandboxed: bool = knob(False, "let verifiers run code where there is no sandbox")

    @model_validator(mode="after")
    def _fit_together(self) -> QuestionsConfig:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError(f"samples={self.samples} with temperature=0 would all be the same; set temperature")
        if any(not 1 <= k <= self.samples for k in self.pass_at):
            raise ValueError(
                f"pass_at must be from 1 to samples; got pass_at={list(self.pass_at)}, samples={self.samples}"
            )
        if "" in self.stop:
            raise ValueError("stop must not hold an empty text")
        return self


class JudgeConfig(BaseModel):
    """A model behind an OpenAI-compatible endpoint that says which of two answers is better."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str = knob(..., "address up to /v1, such as http://localhost:8000/v1", pattern=r"^https?://\S+$")
    model: str = knob(..., "the model's name there", min_length=1)
    api_key: str = knob("OPENAI_API_KEY", "environment variable with the key; none is sent where it is not set")
    instruction: str | None = knob(None, "what the judge is to look at; by default helpful, correct, to the point")
    temperature: float | None = knob(0.0, "of the judge; null: not sent, for models that take none", ge=0)
    max_tokens: int = knob(512, "of a verdict, reasons included", ge=1)
    timeout: float = knob(60.0, "seconds without a byte after which a request has failed", gt=0)
    retries: int = knob(5, "further tries of a request that failed for the moment", ge=0)
    concurrency: int = knob(4, "requests at a time", ge=1, le=256)


class AbstentionConfig(BaseModel):
    """Questions with and without an answer: does the model say that it does not know, where it does not?"""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str | None = knob(None, "JSONL of prompt, answer (null: nobody knows), language; by default the bundled ones")
    penalty: float = knob(1.0, "what a wrong answer costs beside a right one's 1", "Kalai et al. 2025", ge=0)
    form: Form = knob("auto", FORM_DOC)
    max_new_tokens: int = knob(48, "of an answer, at most", ge=1)


class SafetyConfig(BaseModel):
    """Requests that should be refused, and harmless ones that look alike."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    path: str | None = knob(
        None, "JSONL of prompt, refuse (true or false), category, language; by default the bundled ones"
    )
    form: Form = knob("auto", FORM_DOC)
    max_new_tokens: int = knob(48, "of an answer, at most", ge=1)
