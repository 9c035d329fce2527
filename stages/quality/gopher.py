"""The quality rules of Gopher: does this read like prose at all?

Rae et al. 2021, "Scaling Language Models: Methods, Analysis & Insights from Training Gopher", appendix A1.1. Words are those of
`stages.words` (punctuation alone is no word, so that the rule on alphabetic words means what the paper means by it); lines are
non-blank lines, stripped. `definition: datatrove` counts lines as its code does (blank ones are lines, cut at any line separator),
and, of words that are punctuation, all but their number and length (which matters with `words: spacy`).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa

from stages.batch import Batch
from stages.characters import Ints, Keys
from stages.lines import batch_lines
from stages.quality import peers, stop_words
from stages.quality.rules import Rule, RuleConfig, RuleStage, ratio, table, thresholds
from stages.quality.tokens import WordKnob, counted_words, key_of, strings, word_knob
from stages.stage import ASSETS, knob, register
from stages.words import Words

PAPER = "Gopher (Rae et al. 2021), A1.1"
P = "quality_gopher_"


class GopherConfig(RuleConfig):
    """Thresholds; null switches a rule off."""

    definition: Literal["paper", "datatrove"] = knob(
        "paper", "what is counted: as the paper's words say, or as the code of another system does", source=PAPER
    )
    words: WordKnob = word_knob()

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
class Gopher(RuleStage):
    """Drops documents that do not read like prose."""

    name = "quality.gopher"
    version = 2
    prefix = P
    config_model = GopherConfig
    decide_knobs = thresholds(GopherConfig)
    config: GopherConfig

    def counted(self) -> dict[str, pa.DataType]:
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

    def assets(self) -> dict[str, str]:
        return {"stop_words": self.config.stop_words or str(ASSETS / "quality" / "stop_words.json")}

    def setup(self, assets: Mapping[str, Path]) -> None:
        self.stop_words = stop_words.load(assets["stop_words"], key_of(self.config.words))

    def count(self, batch: Batch) -> pa.Table:
        words, lines = counted_words(batch, self.config.words), batch_lines(batch)
        counts, solid = words.counts, np.ones(len(words.key), np.bool_)
        if self.config.definition == "datatrove":
            shares = [peers.gopher_lines(text, self.config.bullets) for text in batch.texts()]
            bullets, ellipses = np.array(shares, np.float64).reshape(len(batch), 2).T
            if self.config.words != "ours":
                solid = ~np.fromiter(map(peers.symbol, strings(batch, words)), np.bool_, len(words.key))
        else:
            bullets = ratio(lines.total(lines.starting(batch.utf8()[0], self.config.bullets)), lines.counts)
            ellipses = ratio(lines.total(lines.ellipsis), lines.counts)
        measured = solid & ~words.unspaced
        stops, listed = self._distinct_stop_words(words, batch.values("language"))
        return table(
            self.counted(),
            {
                P + "words": words.total(solid),
                P + "mean_word_length": ratio(words.total(words.length * measured), words.total(measured)),
                P + "hash_ratio": ratio(lines.hashes, counts),
                P + "ellipsis_ratio": ratio(lines.ellipses, counts),
                P + "bullet_lines": bullets,
                P + "ellipsis_lines": ellipses,
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


def _distinct(keys: Keys, row: Ints, rows: np.ndarray, wanted: Keys) -> Ints:
    """The number of different wanted keys (sorted) in each of the rows."""
    mine = rows[row]
    place = np.searchsorted(wanted, keys[mine])
    place[place == len(wanted)] = 0
    hit = wanted[place] == keys[mine] if len(wanted) else np.zeros(len(place), dtype=np.bool_)
    pairs = np.unique(row[mine][hit] * np.int64(max(1, len(wanted))) + place[hit])
    return np.bincount(pairs // max(1, len(wanted)), minlength=len(rows)).astype(np.int64)
