"""A fastText text classifier: the line that it reads, its file and settings, and the probability of one of its labels.

Training (`python -m pipeline train-classifier`) and scoring prepare texts with the same function, and the settings that a model was
trained with stand beside it in `<model>.json`, so that a score never comes from another kind of line than the model has seen.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from stages.fasttext_file import check_fasttext
from stages.language_names import iso639_3
from stages.stage import StageError

PREFIX = "__label__"
FORMAT = 1  # of the settings file

# Marks that are words of their own with `split_punctuation`: ASCII's, and the usual ones of other scripts. Combining marks are not
# among them, so words of Indic scripts stay whole.
_PUNCTUATION = re.compile(r"([!-/:-@\[-^`{-~¡¿«»‐-‧‹›。、，．！？：；（）「」『』・।॥؟،؛۔])")


@dataclass(frozen=True)
class Settings:
    """How texts become lines, which label's probability is the score, and for which languages it means something.

    The defaults are those of models trained elsewhere: DCLM's `oh_eli5` reads whole texts as they are and calls its good ones `hq`.
    """

    label: str = "hq"
    lower_case: bool = False
    split_punctuation: bool = False
    max_characters: int = 10_000
    languages: tuple[str, ...] = ()  # those that it was taught; empty: any

    def knows(self, language: str | None) -> bool:
        """Whether the model was taught this language, whichever way its label is written; an unknown one counts as known."""
        known = {iso639_3(name) or name for name in self.languages}
        return not known or not language or (iso639_3(language) or language) in known


def line_of(text: str, settings: Settings) -> str:
    """The text as one line of words, without line end; empty for a text without any.

    What fastText would take for a label, the end of a line or a word boundary of its own (`__label__`, `</s>`, NUL) is taken apart,
    lone surrogates become `?`.
    """
    text = text[: settings.max_characters]
    if settings.lower_case:
        text = text.lower()
    if settings.split_punctuation:
        text = _PUNCTUATION.sub(r" \1 ", text)
    text = text.replace(PREFIX, "__ label __").replace("</s>", "< /s>").replace("\0", " ")
    return " ".join(text.encode("utf-8", "replace").decode("utf-8").split())


class Classifier:
    """Scores texts; equal texts get equal scores, whatever was asked before."""

    def __init__(self, predict: Callable[..., list[tuple[float, str]]], labels: int, settings: Settings) -> None:
        self.settings = settings
        self._predict = predict
        self._labels = labels
        self._label = PREFIX + settings.label

    def score(self, text: str) -> float:
        """The label's probability, 0 to 1, rounded to 6 digits; 0 for a text without words."""
        line = line_of(text, self.settings)
        return self.score_line(line) if line else 0.0

    def score_line(self, line: str) -> float:
        """The same for a line that `line_of` made."""
        for probability, label in self._predict(line + "\n", self._labels, 0.0, "strict"):
            if label == self._label:
                # fastText adds 1e-5 before it takes the logarithm, so a probability may pass 1
                return round(min(1.0, max(0.0, float(probability))), 6)
        return 0.0


def settings_path(model: str | Path) -> Path:
    """Where the settings of a model stand: `quality.ftz` has `quality.ftz.json`."""
    return Path(f"{model}.json")


def write_settings(model: Path, settings: Settings) -> None:
    """Put the settings beside the model."""
    content = json.dumps({"format": FORMAT, **asdict(settings)}, indent=2, ensure_ascii=False)
    settings_path(model).write_text(content + "\n", encoding="utf-8")


def read_settings(path: Path, stage: str) -> Settings:
    """The settings in a file. Raises `StageError` if they are broken or newer than this release."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") > FORMAT:
            raise ValueError("they are of a newer release")
        settings = Settings(**{**content, "languages": tuple(content.get("languages", ()))})
        if [type(value) for value in asdict(settings).values()] != [str, bool, bool, int, tuple]:
            raise ValueError("a value has another type")
        return settings
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise StageError(f"{stage}: the model's settings {path} cannot be used: {error}; train it again") from error


def load_classifier(path: Path, stage: str, settings: Settings) -> Classifier:
    """The classifier in a `.bin` or `.ftz` file. Raises `StageError` for a missing, broken or unfit one."""
    if not path.is_file():
        raise StageError(f"{stage}: no model file at {path}; give `model` the path of a fastText classifier")
    try:
        check_fasttext(path)
    except ValueError as error:
        raise StageError(f"{stage}: the model {path} cannot be used: {error}; replace the file") from error
    import fasttext

    model = fasttext.FastText._FastText(model_path=str(path))  # `load_model` of older releases warns on stderr
    labels = [label.removeprefix(PREFIX) for label in model.f.getLabels("strict")[0]]
    if settings.label not in labels:
        known = ", ".join(labels[:20]) or "none at all (word vectors?)"
        raise StageError(f"{stage}: the model {path} has no label {settings.label!r}; its labels: {known}; set `label`")
    return Classifier(model.f.predict, len(labels), settings)


def model_assets(model: str) -> dict[str, str]:
    """The assets of a stage with this model."""
    settings = settings_path(model)
    return {"model": model, **({"settings": str(settings)} if settings.expanduser().is_file() else {})}


def classifier_of(assets: Mapping[str, Path], stage: str, knobs: Any) -> Classifier:
    """The model among a stage's assets, with its settings, where the knobs of that name do not say otherwise."""
    settings = read_settings(assets["settings"], stage) if "settings" in assets else Settings()
    names = ("label", "lower_case", "split_punctuation", "max_characters", "languages")
    given = {name: getattr(knobs, name, None) for name in names}
    return load_classifier(
        assets["model"], stage, replace(settings, **{name: value for name, value in given.items() if value is not None})
    )
