"""The `language` stage: labels each text, checks its script, looks into its paragraphs, and keeps the languages asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from stages.batch import Batch
from stages.language_model import Guess, Identifier, load, spread
from stages.language_names import Wanted, iso639_3, resolve
from stages.language_paragraphs import language_shares, language_spans
from stages.language_second import SecondOpinion
from stages.scripts import script_shares
from stages.stage import ASSETS, Decision, Edit, Limit, MapStage, Resources, StageConfig, StageError, knob, register

_Probability = Annotated[float, Field(ge=0, le=1)]
_SURE = 0.95  # score of a first look that is the last

_SHARES = pa.list_(pa.struct([("language", pa.string()), ("share", pa.float64())]))
_SCRIPTS = pa.list_(pa.struct([("script", pa.string()), ("share", pa.float64())]))
_SPANS = pa.list_(pa.struct([("start", pa.int64()), ("end", pa.int64()), ("language", pa.string())]))


class LanguageConfig(StageConfig):
    """Knobs of `language`. Languages are named by any code: en, eng, eng_Latn, or a label of the model."""

    keep: tuple[str, ...] | None = knob(None, "languages to keep (`not_kept`); null keeps all")
    min_score: float = knob(
        0.65, "texts that the model is less sure of are dropped (`low_score`)", "FineWeb, RefinedWeb", ge=0, le=1
    )
    min_scores: dict[str, _Probability] = knob({}, "languages with a `min_score` of their own: {de: 0.5, yue: 0.3}")
    min_length: int = knob(
        0, "shorter texts, in characters, are dropped (`too_short`): labels of a few words are guesses", ge=0
    )
    min_script_share: float = knob(
        0.1,
        "texts with a smaller share of letters in their label's scripts are dropped (`script_mismatch`): at 0.1 that only happens "
        "where the model has no language for the script (137 of 73,815 gold rows, none with a right label, 37 with a score over "
        "0.65)",
        "measured",
        ge=0,
        le=1,
    )
    scripts: bool = knob(
        False, "add `language_scripts`: the share of the whole text's letters in each script (ISO 15924), largest first"
    )
    paragraphs: bool = knob(
        False,
        "label paragraphs too, and add `language_share` and `language_shares`; reads the whole text, about 3 million "
        "characters a CPU second",
    )
    paragraph_length: int = knob(
        60,
        "shortest paragraph, in characters, that has a label of its own: shorter lines are taken together, and what is "
        "left over takes its neighbours' label",
        "measured",
        ge=1,
    )
    paragraph_score: float = knob(
        0.5, "paragraphs that the model is less sure of take their neighbours' label", "measured", ge=0, le=1
    )
    min_share: float = knob(
        0.0,
        "texts with a smaller share of characters in their own language are dropped (`mixed`); needs `paragraphs`",
        ge=0,
        le=1,
    )
    cut: bool = knob(
        False, "cut paragraphs of languages that are not kept out of the texts that are; needs `paragraphs` and `keep`"
    )
    first_look: int | None = knob(
        400,
        "a text is labelled by this many characters where the model is at least 0.95 sure of them: 1.4 times as fast, the "
        "same label for 0.999 of 2,033 extracted pages; null always reads `max_characters`",
        "measured",
        ge=1,
    )
    max_characters: int | None = knob(
        1000,
        "how much of each text is read for its label, null for all: 1,000 characters label web pages as well as the whole text "
        "does (0.998 against 0.997 of 1,889 Swedish and French pages), over three times as fast",
        "measured",
        ge=1,
    )
    sample: Literal["beginning", "spread"] = knob(
        "beginning",
        "where those characters stand: at the beginning, or a third each at the beginning, in the middle and at the end, which "
        "is better for pages that begin with menus (WET): 0.94 of 1,898 keep their label and 0.65, 0.91 by the beginning",
        "measured",
    )
    model: str | None = knob(
        None,
        "path of another fastText model with `__label__` labels (GlotLID, OpenLID, ...); null is lid.176.ftz, which ships",
    )
    lower_case: bool | None = knob(
        None,
        "whether the model reads texts in lower case; null does with lid.176, which knows few words in capitals: right on "
        "0.37 of sentences in capitals, 0.89 of the same in lower case",
        "measured",
    )
    second_opinion: bool = knob(
        False,
        "ask py3langid as well where the model is less than 0.9 sure, and take the best label of both together: right on 0.96 "
        "instead of 0.90 of single lines of news, no change on whole web pages; `language_score` is then a probability that can be "
        "taken at its word, no longer the one that published thresholds are for; 80 MB a worker",
        "measured",
    )

    @model_validator(mode="after")
    def _consistent(self) -> LanguageConfig:
        if self.cut and self.keep is None:
            raise ValueError("cut: true needs `keep`, the languages whose paragraphs stay")
        for name, given in (("cut", self.cut), ("min_share", self.min_share > 0)):
            if given and not self.paragraphs:
                raise ValueError(f"{name} looks at paragraphs; set `paragraphs: true` as well")
        return self


@register
class Language(MapStage):
    """Labels each text with the model's best label, whatever its score, and drops by label, score, length, script and mixture.

    `language_score` is the label's probability (0 to 1), `language_iso639_3` its ISO 639-3 code (null for a label of
    another model that has none), `language_script` the ISO 15924 code of the script most letters belong to.
    """

    name = "language"
    version = 2
    config_model = LanguageConfig
    decide_knobs = ("keep", "min_score", "min_scores", "min_length", "min_script_share", "min_share", "cut")
    libraries: ClassVar[tuple[str, ...]] = ("fasttext-community", "py3langid")
    resources = Resources(memory=64 << 20)
    config: LanguageConfig

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__(config)
        self.edits = config.cut
        self._model: Identifier
        self._keep: list[Wanted] | None = None
        self._min_scores: dict[str, float] = {}  # of the labels that have their own

    def provides(self) -> dict[str, pa.DataType]:
        """The four columns of the label; those of paragraphs and scripts where they are asked for."""
        columns = {
            "language": pa.string(),
            "language_score": pa.float64(),
            "language_iso639_3": pa.string(),
            "language_script": pa.string(),
        }
        if self.config.scripts:
            columns["language_scripts"] = _SCRIPTS
        if self.config.paragraphs:
            columns |= {"language_share": pa.float64(), "language_shares": _SHARES}
        return columns

    def measures(self) -> dict[str, pa.DataType]:
        """The provided columns; length in code points; share of letters in the label's scripts (null: no letters, or not known)."""
        columns = {**self.provides(), "language_characters": pa.int64(), "language_script_share": pa.float64()}
        if self.config.paragraphs:
            columns["language_spans"] = _SPANS  # code points of the text, without gaps
        return columns

    def scored(self) -> tuple[str, ...]:
        """All that is measured, so that changed knobs are decided without labelling again."""
        return tuple(self.measures())

    def limits(self) -> list[Limit]:
        """Score, length, and the shares that are asked for."""
        config = self.config
        limits = [
            Limit("language_score", "low_score", config.min_score),
            Limit("language_characters", "too_short", config.min_length),
        ]
        if config.min_script_share > 0:
            limits.append(Limit("language_script_share", "script_mismatch", config.min_script_share))
        if config.min_share > 0:
            limits.append(Limit("language_share", "mixed", config.min_share))
        return limits

    def assets(self) -> dict[str, str]:
        """The model file."""
        return {"model": self.config.model or str(ASSETS / "lid.176.ftz")}

    def setup(self, assets: Mapping[str, Path]) -> None:
        """Load the model; refuses a broken file, and languages that it does not have."""
        config = self.config
        lower_case = config.model is None if config.lower_case is None else config.lower_case
        self._model = load(assets["model"], lower_case, SecondOpinion() if config.second_opinion else None)
        self._keep = None if config.keep is None else [self._find("keep", name) for name in config.keep]
        self._min_scores = {}
        for name, score in config.min_scores.items():
            self._min_scores |= dict.fromkeys(self._find("min_scores", name).labels, score)

    def _find(self, key: str, name: str) -> Wanted:
        try:
            return resolve(name, self._model.names)
        except ValueError as error:
            raise StageError(f"language.{key}: {error}") from None

    def measure(self, batch: Batch) -> pa.Table:
        """The best label of each text; of an empty one too, with the little that the model gives it."""
        rows = [self._row(text) for text in batch.texts()]
        return pa.table({name: pa.array([row[name] for row in rows], kind) for name, kind in self.measures().items()})

    def _row(self, text: str) -> dict[str, Any]:
        config = self.config
        label, score, scripts = self._label(text)
        row: dict[str, Any] = {
            "language": label,
            "language_score": score,
            "language_iso639_3": iso639_3(label),
            "language_script": next(iter(scripts), "Zyyy"),
            "language_characters": len(text),
            "language_script_share": self._model.share(label, scripts),
        }
        if config.scripts:
            row["language_scripts"] = [{"script": name, "share": share} for name, share in script_shares(text).items()]
        if config.paragraphs:
            spans = language_spans(text, label, config.paragraph_length, config.paragraph_score, self._label_and_score)
            shares = language_shares(spans)
            row["language_spans"] = [span._asdict() for span in spans]
            row["language_shares"] = [{"language": name, "share": share} for name, share in shares]
            row["language_share"] = dict(shares).get(label, 0.0) if shares else None
        return row

    def _label(self, text: str) -> Guess:
        config = self.config
        most = len(text) if config.max_characters is None else config.max_characters
        if config.first_look is not None and config.first_look < min(len(text), most):
            guess = self._model.best(text[: config.first_look])
            if guess.score >= _SURE:
                return guess
        return self._model.best(text[:most] if config.sample == "beginning" else spread(text, most))

    def _label_and_score(self, text: str) -> tuple[str, float]:
        label, score, _ = self._model.best(text)
        return label, score

    def decide(self, values: pa.Table) -> Decision:
        """Rules in this order: too_short, not_kept (the label as detail), low_score, script_mismatch, mixed."""
        decision = Decision.keep(values.num_rows)
        config = self.config
        labels = values.column("language").to_pylist()
        length = _numbers(values, "language_characters")
        decision.drop_where(length < config.min_length, "too_short", length, config.min_length)
        if self._keep is not None:
            for row, pair in enumerate(zip(labels, values.column("language_script").to_pylist(), strict=True)):
                if not self._kept(*pair):
                    decision.drop(row, "not_kept", detail=pair[0])
        score = _numbers(values, "language_score")
        for row, label in enumerate(labels):
            threshold = self._min_scores.get(label, config.min_score)
            if score[row] < threshold:
                decision.drop(row, "low_score", score[row], threshold)
        in_script = _numbers(values, "language_script_share")  # null is no mismatch: NaN is not smaller
        decision.drop_where(in_script < config.min_script_share, "script_mismatch", in_script, config.min_script_share)
        if config.paragraphs:
            share = _numbers(values, "language_share")
            decision.drop_where(share < config.min_share, "mixed", share, config.min_share)
            if config.cut:
                self._cut(decision, values.column("language_spans").to_pylist())
        return decision

    def _kept(self, label: str, script: str) -> bool:
        return any(label in wanted.labels and wanted.script in (None, script) for wanted in self._keep or ())

    def _cut(self, decision: Decision, spans: Sequence[Sequence[Mapping[str, Any]]]) -> None:
        """Cut the runs in languages that are not kept; a text of which nothing would stay is dropped."""
        kept = frozenset(label for wanted in self._keep or () for label in wanted.labels)
        for row, runs in enumerate(spans):
            away = [run for run in runs if run["language"] not in kept]
            if len(away) == len(runs) > 0:
                decision.drop(row, "not_kept", detail=runs[0]["language"])
            elif away and decision.rule[row] is None:
                decision.edits[row] = [Edit(run["start"], run["end"], "") for run in away]


def _numbers(values: pa.Table, name: str) -> np.ndarray:
    return np.asarray(values.column(name).cast(pa.float64()).fill_null(float("nan")).to_numpy())
