"""The `language` stage: fastText's lid.176 labels each text, and only the languages asked for stay."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from stages.batch import Batch
from stages.fasttext_file import check_fasttext
from stages.language_names import iso639_3, script_of
from stages.stage import ASSETS, Decision, Limit, MapStage, Resources, StageConfig, StageError, knob, register

_PREFIX = "__label__"


class LanguageConfig(StageConfig):
    """Knobs of `language`."""

    keep: tuple[str, ...] | None = knob(None, "labels to keep, as the model names them (en, de, zh); null keeps all")
    min_score: float = knob(
        0.65, "texts that the model is less sure of are dropped (`low_score`)", "FineWeb, RefinedWeb", ge=0, le=1
    )
    min_length: int = knob(
        0, "shorter texts, in characters, are dropped (`too_short`): labels of a few words are guesses", ge=0
    )
    max_characters: int | None = knob(
        1000,
        "how much of each text's beginning the model reads, null for all: 1,000 characters label web pages as well as the "
        "whole text does (0.999 against 0.998 of 1,889 Swedish and French pages), over twice as fast",
        "measured",
        ge=1,
    )
    model: str | None = knob(
        None, "path of another fastText model with `__label__` labels; null is lid.176.ftz, which ships"
    )


@register
class Language(MapStage):
    """Labels each text with the model's best label, whatever its score, and drops by label, score and length.

    `language_score` is the label's probability (0 to 1), `language_iso639_3` its ISO 639-3 code (null for a label of
    another model that has none), `language_script` the ISO 15924 code of the script most letters belong to.
    """

    name = "language"
    version = 1
    config_model = LanguageConfig
    decide_knobs = ("keep", "min_score", "min_length")
    libraries: ClassVar[tuple[str, ...]] = ("fasttext-community",)
    resources = Resources(memory=64 << 20)
    config: LanguageConfig

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__(config)
        self._predict: Any = None

    def provides(self) -> dict[str, pa.DataType]:
        """The four columns of the label."""
        return {
            "language": pa.string(),
            "language_score": pa.float64(),
            "language_iso639_3": pa.string(),
            "language_script": pa.string(),
        }

    def measures(self) -> dict[str, pa.DataType]:
        """The provided columns, and the length of the text in code points."""
        return {**self.provides(), "language_characters": pa.int64()}

    def scored(self) -> tuple[str, ...]:
        """All that is measured, so that changed knobs are decided without labelling again."""
        return tuple(self.measures())

    def limits(self) -> list[Limit]:
        """Score and length."""
        return [
            Limit("language_score", "low_score", self.config.min_score),
            Limit("language_characters", "too_short", self.config.min_length),
        ]

    def assets(self) -> dict[str, str]:
        """The model file."""
        return {"model": self.config.model or str(ASSETS / "lid.176.ftz")}

    def setup(self, assets: Mapping[str, Path]) -> None:
        """Load the model; refuses a broken file, and labels in `keep` that it does not have."""
        path = assets["model"]
        if not path.is_file():
            raise StageError(
                f"language: no model file at {path}; give `model` the path of a fastText model, or leave it out"
            )
        try:
            check_fasttext(path)
        except ValueError as error:
            raise StageError(f"language: the model {path} cannot be used: {error}; replace the file") from error
        import fasttext

        # `load_model` of older releases warns on stderr; the class behind it does the same in silence
        model = fasttext.FastText._FastText(model_path=str(path))
        labels = {label.removeprefix(_PREFIX) for label in model.get_labels()}
        self._predict = model.f.predict
        for label in self.config.keep or ():
            if label not in labels:
                same = sorted(x for x in labels if iso639_3(x) == label)
                near = same or difflib.get_close_matches(label, sorted(labels), 1, 0.5)
                hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(sorted(labels)[:8])}, ..."
                raise StageError(f"language.keep: the model has no label {label!r}; {hint}")

    def measure(self, batch: Batch) -> pa.Table:
        """The best label of each text; of an empty one too, with the little that the model gives it."""
        rows = [self._row(text) for text in batch.texts()]
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(self.measures())
        return pa.table(
            {
                name: pa.array(column, kind)
                for (name, kind), column in zip(self.measures().items(), columns, strict=True)
            }
        )

    def _row(self, text: str) -> tuple[str, float, str | None, str, int]:
        head = text[: self.config.max_characters]
        # the C++ object: the Python wrapper's copies are not needed, and older ones break with numpy 2
        found = self._predict(head.replace("\n", " ") + "\n", 1, 0.0, "strict")
        score, label = found[0] if found else (0.0, f"{_PREFIX}und")
        label = label.removeprefix(_PREFIX)
        return label, min(1.0, max(0.0, float(score))), iso639_3(label), script_of(head), len(text)

    def decide(self, values: pa.Table) -> Decision:
        """Rules: too_short, not_kept (the label as detail), low_score."""
        decision = Decision.keep(values.num_rows)
        config = self.config
        length = np.asarray(values.column("language_characters").to_pylist(), dtype=np.float64)
        decision.drop_where(length < config.min_length, "too_short", length, config.min_length)
        if config.keep is not None:
            keep = frozenset(config.keep)
            for row, label in enumerate(values.column("language").to_pylist()):
                if label not in keep:
                    decision.drop(row, "not_kept", detail=label)
        score = np.asarray(values.column("language_score").to_pylist(), dtype=np.float64)
        decision.drop_where(score < config.min_score, "low_score", score, config.min_score)
        return decision
