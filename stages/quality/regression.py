"""`quality.regression`: the score of a transformer with one output, such as FineWeb-Edu's classifier, from a local folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa

from stages.batch import Batch
from stages.padding import padded
from stages.quality.rules import column, table
from stages.stage import Decision, Limit, MapStage, Resources, StageConfig, StageError, knob, register

SCORE = "quality_regression_score"


class RegressionConfig(StageConfig):
    """Knobs of `quality.regression`. Needs the extra `scorers` (PyTorch, transformers)."""

    model: str = knob(
        ..., "folder of a Hugging Face sequence classifier with one output and its tokenizer; nothing is downloaded"
    )
    threshold: float | None = knob(
        None,
        "drop texts that score lower (`low_score`); null only adds the score. FineWeb-Edu: 3 on its scale of 0 to 5",
    )
    max_tokens: int = knob(
        512, "how much of each text is read, from its beginning, special tokens included", "FineWeb-Edu", ge=8
    )
    max_characters: int = knob(
        10_000, "how much of each text is given to the tokenizer, which would read all of it only to cut it", ge=8
    )
    batch_tokens: int = knob(
        2048,
        "tokens, padding included, that go through the model together: enough for a CPU, a GPU wants 32768 or more. Changes scores by "
        "rounding errors only",
        ge=64,
    )
    device: Literal["auto", "cpu", "cuda"] = knob(
        "auto", "where the model runs; auto: on a GPU if PyTorch finds one. Scores differ by rounding errors"
    )


@register
class Regression(MapStage):
    """Scores each document by a transformer's one output, unscaled, rounded to 4 digits after the point.

    Texts of like length go through the model together, padded to one of a few lengths and always as many as `batch_tokens` allows, so the
    shape of the computation, and with it its rounding, depends on a text's own length and not on its neighbours. Equal texts get equal
    scores on one machine; another device, PyTorch release or processor may change the last digits.
    """

    name = "quality.regression"
    config_model = RegressionConfig
    decide_knobs = ("threshold",)
    libraries: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers")
    resources = Resources(memory=2 << 30)
    config: RegressionConfig

    def __init__(self, config: RegressionConfig) -> None:
        super().__init__(config)
        self._torch: Any = None
        self._model: Any = None
        self._tokenizer: Any = None
        self._device = "cpu"

    def provides(self) -> dict[str, pa.DataType]:
        return {SCORE: pa.float64()}

    def measures(self) -> dict[str, pa.DataType]:
        """The score; an empty text has one too: what the model gives to its special tokens alone."""
        return {SCORE: pa.float64()}

    def limits(self) -> list[Limit]:
        return [] if self.config.threshold is None else [Limit(SCORE, "low_score", self.config.threshold)]

    def assets(self) -> dict[str, str]:
        return {"model": self.config.model}

    def setup(self, assets: Mapping[str, Path]) -> None:
        """Load model and tokenizer. Raises `StageError` for a folder that holds none, or not one output, or where a package is missing."""
        folder = assets["model"]
        try:
            import torch
            from transformers import AutoModelForSequenceClassification, AutoTokenizer
        except ImportError as error:
            raise StageError(f"{self.name}: {error}; install the extra: pip install 'gristmill[scorers]'") from error
        if not (folder / "config.json").is_file():
            raise StageError(
                f"{self.name}: {folder} holds no config.json; give `model` the folder of a Hugging Face model"
            )
        try:
            outputs = json.loads((folder / "config.json").read_text(encoding="utf-8"))
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
            model, facts = AutoModelForSequenceClassification.from_pretrained(
                str(folder),
                local_files_only=True,
                trust_remote_code=False,
                dtype=torch.float32,
                output_loading_info=True,
            )
        except Exception as error:  # whatever a broken folder raises
            raise StageError(f"{self.name}: the model in {folder} cannot be loaded: {error}") from error
        if facts["missing_keys"]:
            missing = ", ".join(sorted(facts["missing_keys"])[:3])
            raise StageError(
                f"{self.name}: the model in {folder} lacks weights ({missing}): is it a sequence classifier?"
            )
        if model.config.num_labels != 1:
            raise StageError(
                f"{self.name}: the model in {folder} has {model.config.num_labels} outputs, expected 1 (architecture "
                f"{outputs.get('architectures')}); for labels use quality.classifier"
            )
        if self.config.device == "cuda" and not torch.cuda.is_available():
            raise StageError(f"{self.name}: device: cuda, but PyTorch finds no GPU; set device: auto or cpu")
        positions = getattr(model.config, "max_position_embeddings", None)
        if positions is not None and self.config.max_tokens > positions:
            raise StageError(f"{self.name}: max_tokens: the model in {folder} reads at most {positions} tokens")
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
        self._device = wanted if self.config.device == "auto" else self.config.device
        self._torch, self._model = torch, model.to(self._device).eval()

    def measure(self, batch: Batch) -> pa.Table:
        limit = self.config.max_characters
        texts = [text[:limit].encode("utf-8", "replace").decode("utf-8") for text in batch.texts()]
        encoded: list[list[int]] = (
            self._tokenizer(texts, truncation=True, max_length=self.config.max_tokens, padding=False)["input_ids"]
            if texts
            else []
        )
        scores = np.zeros(len(texts))
        pad = self._tokenizer.pad_token_id or 0
        for rows, ids, mask in padded(encoded, self.config.max_tokens, self.config.batch_tokens, pad):
            scores[rows] = self._scores(ids, mask)[: len(rows)]
        return table(self.measures(), {SCORE: np.round(scores, 4) + 0.0})  # + 0.0: no minus zero

    def _scores(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        torch = self._torch
        with torch.inference_mode():
            output = self._model(
                input_ids=torch.from_numpy(ids).to(self._device), attention_mask=torch.from_numpy(mask).to(self._device)
            )
        return np.asarray(output.logits[:, 0].float().cpu().numpy(), dtype=np.float64)

    def decide(self, values: pa.Table) -> Decision:
        decision = Decision.keep(values.num_rows)
        if self.config.threshold is not None:
            score = column(values, SCORE)
            decision.drop_where(score < self.config.threshold, "low_score", score, self.config.threshold)
        return decision
