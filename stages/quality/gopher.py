"""The quality rules of Gopher: does this read like prose at all?

Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", appendix A1.1. Words are those of
`stages.words` (punctuation alone is no word, so that the rule on alphabetic words means what the paper means by it); lines are
non-blank lines, stripped.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from stages.batch import Batch
from stages.quality import stop_words
from stages.quality.rules import Rule, judge, limits, ratio, table, thresholds
from stages.stage import ASSETS, Decision, Limit, MapStage, StageConfig, knob, register
from stages.words import Ints, Keys, Words, batch_lines, batch_words

PAPER = "Gopher (Rae et al. 2021), A1.1"
P = "quality_gopher_"


class GopherConfig(StageConfig):
    """Thresholds; null switches a rule off."""

    min_words: int | None = knob(50, "fewest words", source=PAPER, ge=0)
    max_words: int | None = knob(100_000, "most words", source=PAPER, ge=0)
    min_mean_word_length: float | None = knob(3, "shortest mean word, in characters", source=PAPER, ge=0)
    max_mean_word_length: float | None = knob(10, "longest mean word, in characters", source=PAPER, ge=0)
    max_hash_ratio: float | None = knob(0.1, "most `#` for each word", source=PAPER, ge=0)
    max_ellipsis_ratio: float | None = knob(0.1, "most ellipses (`...` or `…`) for each word", source=PAPER, ge=0)
    max_bullet_lines: float | None = knob(
        0.9, "largest share of lines that begin with a bullet", source=PAPER, ge=0, le=1
    )
    max_ellipsis_lines: float | None = knob(
        0.3, "largest share of lines that end with an ellipsis", source=PAPER, ge=0, le=1
    )
    min_alphabetic_words: float | None = knob(0.8, "smallest share of words with a letter", source=PAPER, ge=0, le=1)
    min_stop_words: int | None = knob(2, "fewest different stop words of the row's language", source=PAPER, ge=0)
    bullets: tuple[str, ...] = knob(("•", "-"), "what a bulleted line begins with", source="datatrove 0.10")
    stop_words: str | None = knob(
        None,
        "JSON file {language: [words]} in place of the built-in lists; English is the paper's, the others are frequent function "
        "words. A language without a list skips the rule",
        source="this project",
    )
    default_language: str | None = knob(
        "en",
        "language of rows without a label (no `language` stage before this one); null skips the stop-word rule",
        source=PAPER,
    )


@register
class Gopher(MapStage):
    """Drops documents that do not read like prose."""

    name = "quality.gopher"
    config_model = GopherConfig
    decide_knobs = thresholds(GopherConfig)
    config: GopherConfig

    def provides(self) -> dict[str, pa.DataType]:
        return {}

    def measures(self) -> dict[str, pa.DataType]:
        return {
            P + "words": pa.int32(),
            P + "mean_word_length": pa.float64(),  # null if most words are letters of scripts without spaces
            P + "hash_ratio": pa.float64(),
            P + "ellipsis_ratio": pa.float64(),
            P + "bullet_lines": pa.float64(),
            P + "ellipsis_lines": pa.float64(),
            P + "alphabetic_words": pa.float64(),
            P + "stop_words": pa.int32(),  # null if there is no list for the language
        }

    def rules(self) -> list[Rule]:
        knobs = self.config
        return [
            Rule("min_words", P + "words", "min", knobs.min_words),
            Rule("max_words", P + "words", "max", knobs.max_words),
            Rule("min_mean_word_length", P + "mean_word_length", "min", knobs.min_mean_word_length),
            Rule("max_mean_word_length", P + "mean_word_length", "max", knobs.max_mean_word_length),
            Rule("max_hash_ratio", P + "hash_ratio", "max", knobs.max_hash_ratio),
            Rule("max_ellipsis_ratio", P + "ellipsis_ratio", "max", knobs.max_ellipsis_ratio),
            Rule("max_bullet_lines", P + "bullet_lines", "max", knobs.max_bullet_lines),
            Rule("max_ellipsis_lines", P + "ellipsis_lines", "max", knobs.max_ellipsis_lines),
            Rule("min_alphabetic_words", P + "alphabetic_words", "min", knobs.min_alphabetic_words),
            Rule("min_stop_words", P + "stop_words", "min", knobs.min_stop_words),
        ]

    def limits(self) -> list[Limit]:
        return limits(self.rules())

    def assets(self) -> dict[str, str]:
        return {"stop_words": self.config.stop_words or str(ASSETS / "quality" / "stop_words.json")}

    def setup(self, assets: Mapping[str, Path]) -> None:
        self.stop_words = stop_words.load(assets["stop_words"])

    def measure(self, batch: Batch) -> pa.Table:
        words, texts, lines = batch_words(batch), batch.texts(), batch_lines(batch)
        counts = words.counts
        spaced = ~words.unspaced
        bullets = self.config.bullets
        stops, listed = self._distinct_stop_words(words, batch.values("language"))
        return table(
            self.measures(),
            {
                P + "words": counts,
                P + "mean_word_length": ratio(words.total(words.length * spaced), words.total(spaced)),
                P + "hash_ratio": ratio([text.count("#") for text in texts], counts),
                P + "ellipsis_ratio": ratio([text.count("...") + text.count("…") for text in texts], counts),
                P + "bullet_lines": ratio(
                    [sum(line.startswith(bullets) for line in some) for some in lines], [len(some) for some in lines]
                ),
                P + "ellipsis_lines": ratio(
                    [sum(line.endswith(("...", "…")) for line in some) for some in lines], [len(some) for some in lines]
                ),
                P + "alphabetic_words": ratio(words.total(words.alphabetic), counts),
                P + "stop_words": stops,
            },
            nulls={P + "mean_word_length": words.total(words.unspaced) * 2 > counts, P + "stop_words": ~listed},
        )

    def _distinct_stop_words(self, words: Words, languages: list[str | None]) -> tuple[Ints, np.ndarray]:
        """How many different stop words of its language each row has, and whether its language has a list."""
        found = np.zeros(len(languages), dtype=np.int64)
        listed = np.zeros(len(languages), dtype=np.bool_)
        default = self.config.default_language
        codes = [stop_words.language_code(label) if label else default for label in languages]
        row = words.row
        for language in sorted({code for code in codes if code in self.stop_words}):
            mine = np.array([code == language for code in codes])
            listed |= mine
            found += _distinct(words.key, row, mine, self.stop_words[language])
        return found, listed

    def decide(self, values: pa.Table) -> Decision:
        return judge(values, self.rules())


def _distinct(keys: Keys, row: Ints, rows: np.ndarray, wanted: Keys) -> Ints:
    """The number of different wanted keys (sorted) in each of the rows."""
    mine = rows[row]
    place = np.searchsorted(wanted, keys[mine])
    place[place == len(wanted)] = 0
    hit = wanted[place] == keys[mine] if len(wanted) else np.zeros(len(place), dtype=np.bool_)
    pairs = np.unique(row[mine][hit] * np.int64(max(1, len(wanted))) + place[hit])
    return np.bincount(pairs // max(1, len(wanted)), minlength=len(rows)).astype(np.int64)
