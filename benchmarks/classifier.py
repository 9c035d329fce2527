"""The bundled quality model on text that it has not seen, beside counting words, and its speed.

Without other data: packages held out one at a time, trained by the recipe of benchmarks/prose.yaml. GRISTMILL_GOLD names a folder with
extraction/trafilatura_eval/gold.jsonl.xz (rows: with, without: wanted and unwanted segments of pages),
extraction/readability_pages/{gold.jsonl.xz, html.tar.xz} (main texts and their pages) and quality/registers_dev.jsonl.xz (lang, registers,
text); a part whose files are not there is left out.
"""

from __future__ import annotations

import json
import lzma
import os
import statistics
import tarfile
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding

from benchmarks.prose_corpora import PACKAGES, corpora
from pipeline.classifier_figures import auc, auc_interval
from pipeline.corpora import read_training
from pipeline.train_classifier import ClassifierTraining, train
from stages.batch import Batch
from stages.fasttext_classifier import Classifier, load_classifier, read_settings, settings_path
from stages.language_model import load as load_language
from stages.quality.classifier import DEFAULT_MODEL, ClassifierConfig, QualityClassifier
from stages.stage import ASSETS

ROUNDS = 5


def bundled(model: Path = DEFAULT_MODEL) -> Classifier:
    return load_classifier(model, "benchmark", read_settings(settings_path(model), "benchmark"))


def show(what: str, scores: list[float], good: list[bool]) -> None:
    area, truth = auc(np.array(scores), np.array(good)), np.array(good)
    low, high = auc_interval(area, int(truth.sum()), int((~truth).sum()))
    print(f"  {what}: AUC {area:.3f} ({low:.3f} to {high:.3f}; {truth.sum()} good, {(~truth).sum()} ordinary)")


def compare(what: str, model: Classifier, texts: list[str], good: list[bool]) -> None:
    show(f"{what}, model", [model.score(text) for text in texts], good)
    show(f"{what}, number of words alone", [float(len(text.split())) for text in texts], good)


def left_out_packages() -> None:
    """Each package's texts by a model that is trained on the other packages."""
    rows = list(corpora())
    print("packages held out one at a time (sentences against the rest of the same pages):")
    for package in PACKAGES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for side in (True, False):
                texts = [text for one, good, text in rows if one != package and good == side]
                lines = "".join(json.dumps({"text": text}) + "\n" for text in texts)
                (folder / ("good.jsonl" if side else "ordinary.jsonl")).write_text(lines)
            os.environ["CORPORA"] = name
            config = read_training(ClassifierTraining, Path(__file__).with_name("prose.yaml"), [])
            train(config, folder / "model", lambda line: None)
            mine = [(text, good) for one, good, text in rows if one == package]
            compare(
                package, bundled(folder / "model/model.ftz"), [text for text, _ in mine], [good for _, good in mine]
            )


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def segments(gold: Path) -> None:
    """Segments of pages that annotators want in the main text, and those that they do not."""
    path = gold / "extraction/trafilatura_eval/gold.jsonl.xz"
    if not path.exists():
        return
    identify = load_language(ASSETS / "lid.176.ftz")
    by_language: dict[str, list[tuple[str, bool]]] = {}
    for row in lines_of(path):
        language = identify.best(" ".join(row["with"])).label
        pairs = by_language.setdefault(language if language in ("en", "de", "fr") else "other", [])
        pairs += [(text, True) for text in row["with"]] + [(text, False) for text in row["without"]]
    print("wanted and unwanted segments of the pages of trafilatura's evaluation:")
    for language, pairs in sorted(by_language.items()):
        compare(language, bundled(), [text for text, _ in pairs], [good for _, good in pairs])


def page_texts(gold: Path) -> list[tuple[str, bool]]:
    """Main texts of the pages of Readability's tests, and what else is on those pages."""
    folder = gold / "extraction/readability_pages"
    if not (folder / "gold.jsonl.xz").exists():
        return []
    pairs: list[tuple[str, bool]] = []
    with tarfile.open(folder / "html.tar.xz") as tar:
        pages = {member.name.split("/")[-1]: tar.extractfile(member) for member in tar if member.isfile()}
        for row in lines_of(folder / "gold.jsonl.xz"):
            file = pages.get(row["file"])
            if file is None or row.get("lang") not in (None, "en", "en-US", "en-us", "en-GB"):
                continue
            body = file.read()
            main = " ".join(row["text"].split())
            whole = extract_plain_text(bytes_to_str(body, detect_encoding(body)), main_content=False)
            rest = [line for line in map(str.strip, whole.split("\n")) if line and " ".join(line.split()) not in main]
            if sum(len(line.split()) for line in rest) >= 30:
                pairs += [(row["text"], True), ("\n".join(rest), False)]
    return pairs


def registers(gold: Path) -> None:
    """Swedish and French documents: sales text against the rest. The model is English: as a stage it would skip them."""
    path = gold / "quality/registers_dev.jsonl.xz"
    if not path.exists():
        return
    print("web documents by register (informational persuasion = sales text):")
    for language in ("sv", "fr"):
        rows = [row for row in lines_of(path) if row["lang"] == language]
        sales = ["IP" in row["registers"] for row in rows]
        compare(
            f"{language}, all others against IP", bundled(), [row["text"] for row in rows], [not one for one in sales]
        )


def own_corpora(gold: Path) -> None:
    """What a model taught by labels of one's own can do: sales text against the rest of Swedish web documents, five splits."""
    path = gold / "quality/registers_dev.jsonl.xz"
    if not path.exists():
        return
    rows = [row for row in lines_of(path) if row["lang"] == "sv"]
    areas = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for side, file in ((False, "good.jsonl"), (True, "ordinary.jsonl")):
            texts = [row["text"] for row in rows if ("IP" in row["registers"]) == side]
            (folder / file).write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        os.environ["CORPORA"] = name
        overrides = ["quantize=false", "held_out=0.3", "dimensions=50", "epochs=25", "max_characters=10000"]
        for seed in range(5):
            config = read_training(
                ClassifierTraining, Path(__file__).with_name("prose.yaml"), [*overrides, f"seed={seed}"]
            )
            areas.append(train(config, folder / "model", lambda line: None)["held_out"]["roc_auc"])
    print(
        f"a model trained on Swedish documents, all others against sales text, {len(rows)} documents: "
        f"held-out AUC {statistics.median(areas):.3f} (median of 5 splits; {min(areas):.3f} to {max(areas):.3f})"
    )


def speed(texts: list[str]) -> None:
    """Documents a CPU second of the whole stage, medians of rounds."""
    stage = QualityClassifier(ClassifierConfig())
    stage.setup({name: Path(path) for name, path in stage.assets().items()})
    batch = pa.table({"id": [str(number) for number in range(len(texts))], "text": texts})
    seconds = []
    for _ in range(ROUNDS):
        before = time.process_time()
        stage.measure(Batch(batch))
        seconds.append(time.process_time() - before)
    size = sum(map(len, texts)) / len(texts)
    print(
        f"quality.classifier: {len(texts) / statistics.median(seconds):,.0f} documents/CPU-s ({size:,.0f} characters each)"
    )


def main() -> None:
    """Print all figures."""
    left_out_packages()
    gold = Path(os.environ.get("GRISTMILL_GOLD", ""))
    if not os.environ.get("GRISTMILL_GOLD"):
        print("GRISTMILL_GOLD is not set: no other pages to measure on")
        speed([text for _, _, text in corpora()])
        return
    segments(gold)
    pairs = page_texts(gold)
    if pairs:
        print("main texts of the English pages of Readability's tests, against the rest of those pages:")
        compare("en", bundled(), [text for text, _ in pairs], [good for _, good in pairs])
    registers(gold)
    own_corpora(gold)
    speed([text for text, _ in pairs] * 5 or [text for _, _, text in corpora()])
