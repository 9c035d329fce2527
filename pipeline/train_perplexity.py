"""`python -m pipeline train-perplexity`: an n-gram model of good text for `quality.perplexity`, as an ARPA file, with its card."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import model_validator

from pipeline.corpora import CorpusConfig, TrainingConfig, check_output
from pipeline.yamlfile import ConfigError
from stages.ngram.arpa import read_arpa, write_arpa
from stages.ngram.kneser_ney import train as estimate
from stages.ngram.model import Tokens, sentences
from stages.stage import knob

FORMAT = 1  # of report.json
MODEL = "model.arpa.gz"
_AT_A_TIME = 1000  # held-out documents


class PerplexityTraining(TrainingConfig):
    """An n-gram model of one corpus."""

    good: CorpusConfig | tuple[CorpusConfig, ...] = knob(
        ..., "the corpus, or a list of them, that should surprise the model least"
    )
    order: int = knob(5, "longest n-gram", "CCNet (Wenzek et al. 2020)", ge=1, le=7)
    min_count: int = knob(2, "rarer words are `<unk>`", ge=1)
    prune: tuple[int, ...] = knob(
        (0, 0, 1),
        "n-grams of length 1, 2, ... that occur this often or less are left out; the last number is for all longer ones. lmplz's own: [0]",
    )
    tokens: Tokens = knob("words", "how text is cut: see `quality.perplexity`")
    held_out: float = knob(0.05, "share of the documents that are measured, not trained on", gt=0, lt=1)
    seed: int = knob(0, "of the split", ge=0)

    @model_validator(mode="after")
    def _consistent(self) -> PerplexityTraining:
        if self.prune and (self.prune[0] != 0 or list(self.prune) != sorted(self.prune)):
            raise ValueError("prune: must begin with 0 and never fall, as in [0, 0, 1]")
        return self

    def corpora(self) -> dict[str, tuple[CorpusConfig, ...]]:
        """The corpus as a list."""
        return {"good": (self.good,) if isinstance(self.good, CorpusConfig) else self.good}

    def texts(self, held_out: bool) -> Iterator[str]:
        """The documents of one side of the split, which the hash of each text decides; equal texts once."""
        seen: set[bytes] = set()
        for corpus in self.corpora()["good"]:
            for text in corpus.texts():
                digest = hashlib.sha256(f"{self.seed}\n{text}".encode("utf-8", "replace")).digest()[:16]
                if (
                    text
                    and digest not in seen
                    and (int.from_bytes(digest[8:], "big") / 2**64 < self.held_out) == held_out
                ):
                    seen.add(digest)
                    yield text


def train(config: PerplexityTraining, output: Path, say: Callable[[str], None]) -> dict[str, Any]:
    """Train, measure, and write the model, report.json and README.md; returns the report. Raises `ConfigError` for too little text."""
    check_output(output, MODEL)
    read = {"train": 0, "held_out": 0}

    def training() -> Iterator[list[str]]:
        for text in config.texts(held_out=False):
            read["train"] += 1
            yield from sentences(text, config.tokens)

    try:
        model = estimate(training(), config.order, config.min_count, config.prune)
    except ValueError as error:
        raise ConfigError(
            f"good: {error}: {read['train']} documents; give more texts, or a smaller `min_count`"
        ) from error
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".training-") as work:
        result = Path(work) / "result"
        result.mkdir()
        write_arpa(model, result / MODEL)
        model = read_arpa(result / MODEL)  # what is measured is what was written
        total, words, unknown = 0.0, 0, 0
        held_out = list(config.texts(held_out=True))
        for at in range(0, len(held_out), _AT_A_TIME):
            sums, counts, unknowns = model.score(
                [sentences(text, config.tokens) for text in held_out[at : at + _AT_A_TIME]]
            )
            total, words, unknown = total + float(sums.sum()), words + int(counts.sum()), unknown + int(unknowns.sum())
        if words == 0:
            raise ConfigError("good: no held-out document has a word; give more texts, or a larger `held_out`")
        report: dict[str, Any] = {
            "format": FORMAT,
            "name": config.name,
            "model": {"file": MODEL, "bytes": (result / MODEL).stat().st_size, "sha256": _sha256(result / MODEL)},
            "knobs": config.model_dump(exclude={"good", "name"}),
            "corpora": [
                {**corpus.model_dump(exclude={"storage_options"}, exclude_none=True), "files": corpus.card()}
                for corpus in config.corpora()["good"]
            ],
            "documents": {"train": read["train"], "held_out": len(held_out)},
            "ngrams": [len(keys) for keys in model.keys],
            "held_out": {
                "perplexity": round(10 ** (-total / words), 3),
                "words": words,
                "unknown": round(unknown / words, 6),
            },
            "versions": {"numpy": version("numpy")},
        }
        (result / "report.json").write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (result / "README.md").write_text(_card(report), encoding="utf-8")
        if output.exists():
            shutil.rmtree(output)
        result.rename(output)
    say(f"{report['documents']['train']:,} documents, n-grams of length 1 to {config.order}: {report['ngrams']}")
    return report


def _card(report: dict[str, Any]) -> str:
    """The model card as Markdown."""
    measured, knobs = report["held_out"], report["knobs"]
    lines = [
        f"# {report['name']}",
        "",
        f"An n-gram model (order {knobs['order']}, interpolated modified Kneser-Ney) for `quality.perplexity`: `{MODEL}`, "
        f"{report['model']['bytes']:,} bytes, SHA-256 `{report['model']['sha256']}`.",
        "",
        f"Trained on {report['documents']['train']:,} documents; n-grams by length: {report['ngrams']}.",
        f"On {report['documents']['held_out']:,} documents held out (by the hash of their text, seed {knobs['seed']}): perplexity "
        f"{measured['perplexity']:g} over {measured['words']:,} words and line ends, {measured['unknown']:.2%} of them unknown.",
        "",
        "It finds text likely that is like its corpus, in subject as in style, and nothing else.",
        "",
        "| file | bytes | SHA-256 | licence |",
        "|---|---|---|---|",
    ]
    for corpus in report["corpora"]:
        licence = corpus.get("licence", "not stated")
        lines += [f"| {one['file']} | {one['bytes']} | {one['sha256']} | {licence} |" for one in corpus["files"]]
    lines += ["", "| knob | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in knobs.items()), ""]
    return "\n".join([*lines, ", ".join(f"{name} {number}" for name, number in report["versions"].items()), ""])


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
