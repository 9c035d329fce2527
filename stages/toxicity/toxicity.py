"""The `toxicity` stage: obscene words in their context, a model's opinion, and text that is meant for models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from pydantic import model_validator

from stages.batch import Batch
from stages.fasttext_classifier import Classifier, classifier_of, model_assets
from stages.language_names import iso639_3
from stages.quality.rules import Rule, column, judge, limits, table
from stages.stage import ASSETS, Decision, Limit, MapStage, Resources, StageConfig, StageError, knob, register
from stages.toxicity.cues import COUNTS
from stages.toxicity.word_list import WordList, read_list
from stages.words import tokenise

P = "toxicity_"
Mode = Literal["drop", "tag"]
_CUE = "drop: drop texts with it; tag: only say so in `toxicity_cues`"


class ToxicityConfig(StageConfig):
    """Knobs of `toxicity`. Thresholds: null switches a rule off."""

    words: Mode = knob("drop", "drop: the word rules drop; tag: the columns alone say what was found")
    lists: str | None = knob(
        None, "folder of word lists, LANGUAGE.txt with an entry a line; null: those of 26 languages that ship (LDNOOBW)"
    )
    contexts: str | None = knob(
        None,
        "folder of contexts that excuse entries, LANGUAGE.txt (docs/toxicity.md); null: those that ship (en, de, fr)",
    )
    default_language: str = knob(
        "en", "the list for texts without a language label; where there is no list, the rules are skipped"
    )
    max_count: int | None = knob(
        None,
        "drop texts with more entries that are not excused; 0 is C4's rule, which drops much that is harmless",
        "C4 (Raffel et al. 2020): 0",
        ge=0,
    )
    max_distinct: int | None = knob(10, "drop texts with more different entries", ge=0)
    max_per_thousand: float | None = knob(
        10.0, "drop texts with more entries for each 1,000 words", "data-juicer: 45 (flagged words)", ge=0
    )
    least: int = knob(
        3, "the density is not looked at where fewer entries were found: one in a short text says little", ge=1
    )
    model: str | None = knob(
        None, "path of a fastText classifier of toxic texts (`python -m pipeline train-classifier`); null: none"
    )
    label: str | None = knob(None, "the model's toxic label; null: as its settings say, else hq")
    max_score: float | None = knob(0.5, "drop texts to which the model gives a higher probability", ge=0, le=1)
    injection: Mode = knob("tag", f"instructions to models (`ignore previous instructions`), in 16 languages. {_CUE}")
    chat_tokens: Mode = knob("tag", f"markers of chat templates (`<|im_start|>`, `[INST]`). {_CUE}")
    zero_width: Mode = knob("tag", f"long runs of characters without width. {_CUE}")
    zero_width_run: int = knob(8, "how long: eight of them can hide a byte", ge=2)
    tag_characters: Mode = knob("drop", f"invisible ASCII (U+E0000 to U+E007F) outside emoji flags. {_CUE}")
    bidi: Mode = knob("tag", f"overrides of the writing direction (U+202D, U+202E). {_CUE}")
    hidden_style: Mode = knob("tag", f"CSS that hides text, left over in it. {_CUE}")

    @model_validator(mode="after")
    def _consistent(self) -> ToxicityConfig:
        if self.model is None and self.model_fields_set & {"label", "max_score"}:
            raise ValueError("model: `label` and `max_score` are of the model; give its path")
        return self


@register
class Toxicity(MapStage):
    """Counts obscene words in their context, instructions to models and hidden text; drops or tags, each by its own rule.

    `toxicity_words` and `toxicity_per_thousand` count entries that no context excuses (null where the language has no list);
    `toxicity_cues` names what was found of injection, chat_tokens, zero_width, tag_characters, bidi, hidden_style.
    """

    name = "toxicity"
    config_model = ToxicityConfig
    decide_knobs = ("words", "max_count", "max_distinct", "max_per_thousand", "least", "max_score", *COUNTS)
    libraries: ClassVar[tuple[str, ...]] = ("fasttext-community",)
    resources = Resources(memory=256 << 20)
    config: ToxicityConfig

    def __init__(self, config: ToxicityConfig) -> None:
        super().__init__(config)
        self._lists: dict[str, WordList] = {}
        self._model: Classifier | None = None

    def provides(self) -> dict[str, pa.DataType]:
        columns = {P + "words": pa.int64(), P + "per_thousand": pa.float64(), P + "cues": pa.list_(pa.string())}
        return columns | ({P + "score": pa.float64()} if self.config.model else {})

    def measures(self) -> dict[str, pa.DataType]:
        """The provided columns; entries excused and different ones; how often each cue occurs (zero_width: its longest run)."""
        more = {P + "excused": pa.int64(), P + "distinct": pa.int64()}
        return {**self.provides(), **more, **{P + name: pa.int64() for name in COUNTS}}

    def scored(self) -> tuple[str, ...]:
        """All that is measured, so that changed thresholds are decided without counting again."""
        return tuple(self.measures())

    def rules(self) -> list[Rule]:
        """The rules that drop, in their order: words, model, cues."""
        knobs = self.config
        rules: list[Rule] = []
        if knobs.words == "drop":
            rules += [
                Rule("max_count", P + "words", "max", knobs.max_count),
                Rule("max_distinct", P + "distinct", "max", knobs.max_distinct),
                Rule("max_per_thousand", P + "per_thousand", "max", knobs.max_per_thousand),
            ]
        if knobs.model is not None:
            rules.append(Rule("max_score", P + "score", "max", knobs.max_score))
        for name in COUNTS:
            if getattr(knobs, name) == "drop":
                rules.append(Rule(name, P + name, "below", knobs.zero_width_run if name == "zero_width" else 1))
        return rules

    def limits(self) -> list[Limit]:
        return limits(self.rules())

    def assets(self) -> dict[str, str]:
        """The folders of lists and contexts; the model and its settings."""
        knobs = self.config
        folders = {
            "lists": knobs.lists or str(ASSETS / "toxicity/words"),
            "contexts": knobs.contexts or str(ASSETS / "toxicity/allow"),
        }
        return folders | (model_assets(knobs.model) if knobs.model else {})

    def setup(self, assets: Mapping[str, Path]) -> None:
        """Read the lists, load the model. Raises `StageError` for folders without lists and unreadable files."""
        try:
            entries = _folder(assets["lists"], "lists")
            contexts = _folder(assets["contexts"], "contexts")
        except (OSError, ValueError) as error:
            raise StageError(f"toxicity: {error}") from error
        self._lists = {name: WordList(some, contexts.get(name, ())) for name, some in entries.items()}
        self._model = classifier_of(assets, self.name, self.config) if "model" in assets else None

    def measure(self, batch: Batch) -> pa.Table:
        texts = batch.texts()
        lowered = batch.derived("toxicity_lower", lambda: [text.lower() for text in texts])
        values: dict[str, list[Any]] = {name: [] for name in self.measures()}
        for name, (lower, count) in COUNTS.items():
            values[P + name] = [count(text) for text in (lowered if lower else texts)]
        least = {"zero_width": self.config.zero_width_run}
        values[P + "cues"] = [
            [name for name in COUNTS if values[P + name][row] >= least.get(name, 1)] for row in range(len(texts))
        ]
        if self._model is not None:
            knows = self._model.settings.knows
            pairs = zip(texts, batch.values("language"), strict=True)
            values[P + "score"] = [self._model.score(text) if knows(label) else None for text, label in pairs]
        self._count_words(batch, lowered, values)
        return table(self.measures(), values)

    def _count_words(self, batch: Batch, lowered: list[str], values: dict[str, list[Any]]) -> None:
        """Look for the entries of each row's language."""
        words = batch.derived("toxicity_words", lambda: tokenise(lowered))
        total = words.counts.tolist()
        labels = [_language(label or self.config.default_language) for label in batch.values("language")]
        places = {
            name: np.split(found, np.searchsorted(found, words.rows[1:-1]))
            for name in sorted(set(labels) & set(self._lists))
            for found in (self._lists[name].candidates(words),)
        }
        for row, label in enumerate(labels):
            if label not in places:
                for name in ("words", "per_thousand", "excused", "distinct"):
                    values[P + name].append(None)
                continue
            found = self._lists[label].find(lowered[row], words, row, places[label][row].tolist())
            values[P + "words"].append(found.counted)
            values[P + "excused"].append(found.excused)
            values[P + "distinct"].append(found.distinct)
            density = 1000 * found.counted / max(1, total[row])
            values[P + "per_thousand"].append(density)

    def decide(self, values: pa.Table) -> Decision:
        """The rules in their order; the density is looked at where at least `least` entries were found."""
        counts = column(values, P + "words")
        density = column(values, P + "per_thousand")
        name = P + "per_thousand"
        few = np.where(counts < self.config.least, 0.0, density)
        looked = pa.array(few, pa.float64(), mask=np.isnan(counts))
        return judge(values.set_column(values.column_names.index(name), name, looked), self.rules())


def _language(label: str) -> str:
    """One name for a language, whatever the label: `en`, `eng` and `eng_Latn` are the same."""
    return iso639_3(label) or label


def _folder(folder: Path, knob: str) -> dict[str, list[str]]:
    """The lists of a folder by language. Raises `ValueError` if there is none."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is no folder; give `{knob}` a folder of files LANGUAGE.txt, one entry a line")
    found = {_language(path.stem): read_list(path) for path in sorted(folder.glob("*.txt"))}
    if not any(found.values()):
        raise ValueError(f"{folder} holds no entry; give `{knob}` a folder of files LANGUAGE.txt, one entry a line")
    return found
