"""`python -m pipeline train-classifier`: a fastText classifier from two corpora, its held-out figures, and its card.

One thread, a fixed seed, and lines in the order of their hashes: the same corpora and knobs give the same bytes, in whatever order the
files stand. Of equal lines one is trained or measured on, and the hash that says which side it is on is the line's own, so no line is ever
on both sides; a line of both corpora is left out.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import model_validator

from pipeline.classifier_card import card
from pipeline.classifier_figures import figures
from pipeline.corpora import CorpusConfig, TrainingConfig, check_output
from pipeline.yamlfile import ConfigError
from stages.fasttext_classifier import PREFIX, Settings, line_of, load_classifier, write_settings
from stages.stage import knob

FORMAT = 1  # of report.json
Corpora = CorpusConfig | tuple[CorpusConfig, ...]


class ClassifierTraining(TrainingConfig):
    """A classifier that tells good texts from ordinary ones, or any class from the rest."""

    good: Corpora = knob(..., "the corpus, or a list of them, whose texts should score high")
    ordinary: Corpora = knob(..., "the corpus, or a list of them, whose texts should score low")
    label: str = knob("hq", "name of the good label", "DCLM", pattern=r"^[A-Za-z0-9_.\-]+$")
    ordinary_label: str = knob("ordinary", "name of the other label", pattern=r"^[A-Za-z0-9_.\-]+$")
    languages: tuple[str, ...] = knob(
        (),
        "languages that the corpora are in, as the `language` column labels them: documents in others get no score; empty: any",
    )
    max_documents: int | None = knob(
        None, "take at most this many documents of either side, those of the smallest hashes; null takes all", ge=10
    )
    held_out: float = knob(0.1, "share of the documents that are measured, not trained on", gt=0, lt=1)
    seed: int = knob(0, "of the split and of the training", ge=0, le=2**31 - 1)
    lower_case: bool = knob(True, "read texts in lower case")
    split_punctuation: bool = knob(True, "punctuation marks are words of their own")
    max_characters: int = knob(10_000, "how much of each text is read, from its beginning", ge=1)
    epochs: int = knob(5, "passes over the training documents", "fastText", ge=1)
    learning_rate: float = knob(0.1, "at the beginning; falls to 0", "fastText, DCLM", gt=0)
    dimensions: int = knob(100, "numbers a word", "fastText", ge=1)
    word_ngrams: int = knob(2, "longest run of words that is a feature", "DCLM (Li et al. 2024)", ge=1, le=5)
    character_ngrams: tuple[int, int] | None = knob(
        None, "shortest and longest run of characters that is a feature, as in [3, 6]; null: none"
    )
    min_count: int = knob(3, "rarer words are no features of their own", ge=1)
    buckets: int = knob(200_000, "hash buckets of word and character n-grams; a float32 vector each", ge=1)
    quantize: bool = knob(False, "compress the vectors (model.ftz instead of model.bin): about a tenth of the size")
    cutoff: int = knob(0, "with `quantize`: keep only this many words and n-grams, the strongest; 0 keeps all", ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> ClassifierTraining:
        if self.label == self.ordinary_label:
            raise ValueError(f"ordinary_label: is {self.label!r} too; the labels must differ")
        if self.cutoff and not self.quantize:
            raise ValueError("cutoff: needs quantize: true")
        if self.character_ngrams and not 1 <= self.character_ngrams[0] <= self.character_ngrams[1] <= 10:
            raise ValueError("character_ngrams: expected [shortest, longest] from 1 to 10")
        return self

    def corpora(self) -> dict[str, tuple[CorpusConfig, ...]]:
        """Both sides as lists."""
        return {"good": _listed(self.good), "ordinary": _listed(self.ordinary)}

    def settings(self) -> Settings:
        """How texts become lines, for training and for scoring."""
        return Settings(self.label, self.lower_case, self.split_punctuation, self.max_characters, self.languages)


def _listed(corpora: Corpora) -> tuple[CorpusConfig, ...]:
    return (corpora,) if isinstance(corpora, CorpusConfig) else corpora


def train(config: ClassifierTraining, output: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Train, measure, and write model, settings, report.json and README.md; returns the report.

    Raises `ConfigError` if a corpus gives too little to train or to measure on.
    """
    check_output(output, "model.bin.json", "model.ftz.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".training-") as work:
        folder = Path(work)
        lines = _Lines(folder / "lines.txt", config)
        counts = {"good": lines.counts(True), "ordinary": lines.counts(False)}
        say(
            "; ".join(
                f"{side}: {', '.join(f'{n:,} {what}' for what, n in one.items())}" for side, one in counts.items()
            )
        )
        for side, one in counts.items():
            if min(one["train"], one["held_out"]) < 2:
                raise ConfigError(
                    f"{side}: {one['train']} documents to train on and {one['held_out']} held out, of {one['read']} read; "
                    "at least 2 of each are needed: give more texts, or another `held_out`"
                )
        result = folder / "result"
        result.mkdir()
        model = result / ("model.ftz" if config.quantize else "model.bin")
        _fit(config, lines.training_file(folder / "train.txt"), model)
        write_settings(model, config.settings())
        scores, good = _held_out_scores(model, lines, config.settings())
        report = {
            "format": FORMAT,
            "name": config.name,
            "model": {"file": model.name, "bytes": model.stat().st_size, "sha256": _sha256(model)},
            "knobs": config.model_dump(exclude={"good", "ordinary", "name"}),
            "corpora": {
                side: {
                    **counts[side],
                    "corpora": [
                        {
                            **corpus.model_dump(exclude={"storage_options"}, exclude_none=True),
                            "files": corpus.card(),
                        }
                        for corpus in corpora
                    ],
                }
                for side, corpora in config.corpora().items()
            },
            "held_out": figures(scores, good),
            "versions": {name: version(name) for name in ("fasttext-community", "numpy")},
        }
        (result / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (result / "README.md").write_text(card(report), encoding="utf-8")
        if output.exists():
            shutil.rmtree(output)
        result.rename(output)
    return report


class _Lines:
    """The prepared lines of both corpora, on disk, in the order of their hashes; equal ones once."""

    def __init__(self, path: Path, config: ClassifierTraining) -> None:
        self.path, self.config = path, config
        found: list[tuple[bytes, int, int, bool]] = []  # hash, place, bytes, side
        sides: dict[bytes, int] = {}  # bit 1: in ordinary, bit 2: in good
        self.read = {True: 0, False: 0}
        self.empty = {True: 0, False: 0}  # without a word, or unreadable
        settings, place = config.settings(), 0
        with path.open("wb") as file:
            for side, corpora in config.corpora().items():
                good = side == "good"
                for corpus in corpora:
                    for text in corpus.texts():
                        self.read[good] += 1
                        line = line_of(text, settings).encode()
                        self.empty[good] += not line
                        digest = hashlib.sha256(f"{config.seed}\n".encode() + line).digest()[:16]
                        before = sides.get(digest, 0)
                        sides[digest] = before | (2 if good else 1)
                        if line and not before:
                            file.write(line)
                            found.append((digest, place, len(line), good))
                            place += len(line)
        self.in_both = sum(bits == 3 for bits in sides.values())
        found = sorted(one for one in found if sides[one[0]] != 3)
        if config.max_documents is not None:
            chosen = {side: [one for one in found if one[3] == side][: config.max_documents] for side in (True, False)}
            found = sorted(chosen[True] + chosen[False])
        self.rows = found
        self.held_out = np.array([int.from_bytes(one[0][8:], "big") / 2**64 < config.held_out for one in found])
        self.good = np.array([one[3] for one in found], dtype=bool)

    def counts(self, good: bool) -> dict[str, int]:
        """Documents of a side: read, without words, in both corpora, and on each side of the split."""
        held_out = int((self.held_out & (self.good == good)).sum())
        used = int((self.good == good).sum())
        return {
            "read": self.read[good],
            "empty": self.empty[good],
            "in_both": self.in_both,
            "train": used - held_out,
            "held_out": held_out,
        }

    def of(self, held_out: bool) -> Iterator[tuple[str, bool]]:
        """The lines of one side of the split, and whether each is good."""
        if not self.rows:
            return
        with self.path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            for (_, place, size, good), out in zip(self.rows, self.held_out.tolist(), strict=True):
                if out == held_out:
                    yield data[place : place + size].decode(), good

    def training_file(self, path: Path) -> Path:
        """The training lines with their labels, as fastText reads them."""
        names = {True: self.config.label, False: self.config.ordinary_label}
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for line, good in self.of(held_out=False):
                file.write(f"{PREFIX}{names[good]} {line}\n")
        return path


def _fit(config: ClassifierTraining, lines: Path, model: Path) -> None:
    """Train on the file and save the model. Raises `ConfigError` where fastText cannot."""
    import fasttext

    shortest, longest = config.character_ngrams or (0, 0)
    try:
        trained = fasttext.train_supervised(
            input=str(lines),
            lr=config.learning_rate,
            dim=config.dimensions,
            epoch=config.epochs,
            wordNgrams=config.word_ngrams,
            minn=shortest,
            maxn=longest,
            minCount=config.min_count,
            bucket=config.buckets,
            loss="softmax",
            thread=1,  # more would make the result depend on timing
            seed=config.seed,
            verbose=0,
            label=PREFIX,
        )
        if config.quantize:
            trained.quantize(input=str(lines), qnorm=True, retrain=config.cutoff > 0, cutoff=config.cutoff, thread=1)
    except (RuntimeError, ValueError) as error:
        advice = (
            "there are fewer words and n-grams than quantize needs: set quantize: false"
            if "quantiz" in str(error)
            else "set a smaller learning_rate"
            if "NaN" in str(error)
            else "give more texts, or a smaller min_count"
        )
        raise ConfigError(f"fastText cannot train on these corpora: {error}; {advice}") from error
    trained.save_model(str(model))


def _held_out_scores(
    model: Path, lines: _Lines, settings: Settings
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    classifier = load_classifier(model, "train-classifier", settings)
    pairs = [(classifier.score_line(line), good) for line, good in lines.of(held_out=True)]
    return np.array([score for score, _ in pairs]), np.array([good for _, good in pairs], dtype=bool)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
