"""Language identification on gold sets, ours beside other identifiers in one run; and what of a text it pays to read.

GRISTMILL_GOLD names a folder with lid/lid_dev.jsonl.xz (rows: id, set, text, iso639_3), quality/registers_dev.jsonl.xz (rows: lang,
text), extraction/trafilatura_eval/html.tar.xz and warc_docs_sample/*.warc.gz (HTML pages); a part whose files are not there is left out.
GRISTMILL_PEERS names the Python of a virtual environment of its own with the identifiers to compare with:

    python3 -m venv peers && peers/bin/pip install 'numpy>=2' py3langid lingua-language-detector heliport
"""

from __future__ import annotations

import json
import lzma
import os
import statistics
import subprocess
import sys
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from stages.batch import Batch
from stages.language import Language, LanguageConfig
from stages.language_guess import SURE, LanguageGuess, LanguageGuessConfig
from stages.language_model import load
from stages.language_names import parse
from stages.stage import ASSETS, MapStage

EVERY = 3  # of the gold rows
TIMED = 3000  # short texts in each timed round
ROUNDS = 3
MODEL = ASSETS / "lid.176.ftz"

PEERS = """
import json, sys, time
name, rounds = sys.argv[1], int(sys.argv[2])
texts, timed = json.load(sys.stdin)
known = None
if name == "py3langid":
    from py3langid.langid import LanguageIdentifier, MODEL_FILE
    import py3langid
    known = list(LanguageIdentifier.from_model_file(MODEL_FILE).labels)
    label = lambda text: py3langid.classify(text)[0]
elif name == "lingua":
    from lingua import Language, LanguageDetectorBuilder
    known = [one.iso_code_639_3.name.lower() for one in Language.all()]
    detector = LanguageDetectorBuilder.from_all_languages().with_preloaded_language_models().build()
    def label(text):
        found = detector.detect_language_of(text)
        return found.iso_code_639_3.name.lower() if found else "und"
elif name == "heliport":
    import heliport
    identifier = heliport.Identifier()
    label = lambda text: str(identifier.identify(text))
label("warm up")
seconds = []
for number in range(rounds):
    start = time.process_time()
    for text in timed:
        label(text)
    seconds.append(time.process_time() - start)
print(json.dumps([known, [str(label(text)) for text in texts], seconds]))
"""

Row = dict[str, Any]


def rows(path: Path) -> list[Row]:
    with lzma.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def code(label: str) -> str:
    """A label of any identifier, macrolanguages and their standard varieties alike."""
    name = parse(label)
    return name.code if name else label


def stage(**knobs: Any) -> MapStage:
    ready = Language(LanguageConfig(**knobs))
    ready.setup({"model": MODEL})
    return ready


def labels(language: MapStage, texts: Sequence[str]) -> list[tuple[str, float]]:
    found: list[tuple[str, float]] = []
    for start in range(0, len(texts), 64):
        values = language.measure(Batch(pa.table({"text": pa.array(texts[start : start + 64], pa.string())})))
        found += zip(values["language"].to_pylist(), values["language_score"].to_pylist(), strict=True)
    return found


def bare() -> Callable[[str], str]:
    """The model alone, as its own interface reads a line."""
    import fasttext

    predict = fasttext.FastText._FastText(model_path=str(MODEL)).f.predict
    return lambda text: predict(text.replace("\n", " ") + "\n", 1, 0.0, "strict")[0][1].removeprefix("__label__")


def fair(label: str) -> str:
    """A label of lid.176: `als` is Alemannic there."""
    return "gsw" if label == "als" else code(label)


def scores(gold: Sequence[str], found: Sequence[str]) -> tuple[float, float, dict[str, float]]:
    """Accuracy, macro F1 and F1 by language."""
    right, wanted, given = Counter[str](), Counter(gold), Counter(found)
    for want, got in zip(gold, found, strict=True):
        right[want] += want == got
    f1 = {name: 2 * right[name] / (wanted[name] + given[name]) for name in wanted}
    return sum(right.values()) / len(gold), statistics.mean(f1.values()), f1


def peer(python: str, name: str, texts: list[str], timed: list[str]) -> tuple[list[str] | None, list[str], list[float]]:
    done = subprocess.run(
        [python, "-c", PEERS, name, str(ROUNDS)],
        input=json.dumps([texts, timed]),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{name}: {done.stderr.strip().splitlines()[-1]}")
    known, found, seconds = json.loads(done.stdout)
    return known, found, seconds


def identifiers(gold: list[Row]) -> None:
    """Accuracy and macro F1 of each identifier by set, over languages that all of them know, and texts per CPU second."""
    sample = gold[::EVERY]
    texts = [row["text"] for row in sample]
    timed = texts[:: max(1, len(texts) // TIMED)]
    alone = bare()
    ours, both = stage(), stage(second_opinion=True)
    ways: dict[str, Callable[[list[str]], list[str]]] = {
        "ours": lambda texts: [label for label, _ in labels(ours, texts)],
        "ours, second_opinion": lambda texts: [label for label, _ in labels(both, texts)],
        "lid.176 bare": lambda texts: [alone(text) for text in texts],
    }
    found = {name: [fair(label) for label in run(texts)] for name, run in ways.items()}
    known = [{fair(label) for label in load(MODEL).names}]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, run in ways.items():
            start = time.process_time()
            run(timed)
            seconds[name].append(time.process_time() - start)
    for name in ("py3langid", "heliport", "lingua"):
        python = os.environ.get("GRISTMILL_PEERS")
        if not python:
            print("GRISTMILL_PEERS is not set: ours alone")
            break
        try:
            languages, labelled, seconds[name] = peer(python, name, texts, timed)
        except RuntimeError as error:
            print(f"left out: {error}")
            continue
        found[name] = [code(label.replace("_", "-")) for label in labelled]
        if languages is not None:
            known.append({code(language) for language in languages})
    common = set.intersection(*known)
    wanted = [code(row["iso639_3"]) for row in sample]
    print(f"{len(common)} languages that all know; accuracy / macro F1")
    for name, answers in found.items():
        cells = []
        for one in sorted({row["set"] for row in gold}):
            rows_of = [i for i, row in enumerate(sample) if row["set"] == one and wanted[i] in common]
            accuracy, macro, _ = scores([wanted[i] for i in rows_of], [answers[i] for i in rows_of])
            cells.append(f"{one} ({len(rows_of)}) {accuracy:.4f} / {macro:.4f}")
        print(f"  {name}: {'; '.join(cells)}; {len(timed) / statistics.median(seconds[name]):,.0f} texts/CPU-s")


def confusions(gold: list[Row]) -> None:
    """Ours on all rows whose language lid.176 labels: by set, the languages that it knows least, the commonest mistakes."""
    known = {fair(label) for label in load(MODEL).names}
    for capitals in (False, True):
        for one in sorted({row["set"] for row in gold}):
            mine = [row for row in gold if row["set"] == one and code(row["iso639_3"]) in known]
            wanted = [code(row["iso639_3"]) for row in mine]
            texts = [row["text"].upper() if capitals else row["text"] for row in mine]
            found = [fair(label) for label, _ in labels(stage(), texts)]
            accuracy, macro, f1 = scores(wanted, found)
            print(f"{one}{', in capitals' if capitals else ''}: {len(mine)} rows, {accuracy:.4f} / {macro:.4f}")
            if not capitals:
                wrong = Counter((w, g) for w, g in zip(wanted, found, strict=True) if w != g).most_common(10)
                print("  confused:", ", ".join(f"{w} as {g} {n}" for (w, g), n in wrong))
                print(
                    "  lowest F1:", ", ".join(f"{name} {f1[name]:.2f}" for name in sorted(f1, key=f1.__getitem__)[:12])
                )


def reading(documents: list[Row]) -> None:
    """How much of a web document to read: right labels, right ones that pass 0.65, documents per CPU second."""
    texts, wanted = [row["text"] for row in documents], [row["lang"] for row in documents]
    ways: dict[str, dict[str, Any]] = {
        "default": {},
        "beginning, 1,000 at once": {"first_look": None},
        "beginning, 500": {"first_look": None, "max_characters": 500},
        "spread, 1,000": {"first_look": None, "sample": "spread"},
        "whole": {"first_look": None, "max_characters": None},
        "default with paragraphs": {"paragraphs": True},
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, list[tuple[str, float]]] = {}
    stages = {name: stage(**knobs) for name, knobs in ways.items()}
    for _ in range(ROUNDS):
        for name, ready in stages.items():
            start = time.process_time()
            results[name] = labels(ready, texts)
            seconds[name].append(time.process_time() - start)
    for name, found in results.items():
        right = sum(label == want for (label, _), want in zip(found, wanted, strict=True)) / len(texts)
        kept = sum(label == want and score >= 0.65 for (label, score), want in zip(found, wanted, strict=True)) / len(
            texts
        )
        print(
            f"  {name}: {right:.4f} right, {kept:.4f} kept, {len(texts) / statistics.median(seconds[name]):,.0f} documents/CPU-s"
        )


def pages(gold: Path) -> Iterator[tuple[str, bytes]]:
    archive = gold / "extraction/trafilatura_eval/html.tar.xz"
    if archive.is_file():
        with tarfile.open(archive) as tar:
            for member in tar:
                if (file := tar.extractfile(member) if member.isfile() else None) is not None:
                    yield "web", file.read()
    for path in sorted((gold / "warc_docs_sample").glob("*.warc.gz")):
        from warcio.archiveiterator import ArchiveIterator

        with path.open("rb") as handle:
            for record in ArchiveIterator(handle):
                if record.rec_type == "response":
                    yield "manuals", record.content_stream().read()


def guessing(gold: Path) -> None:
    """`language_guess` before extraction beside `language` after it, both with keep: [en]: what it loses and saves."""
    from stages.extract.extract import Extract, ExtractConfig

    html = list(pages(gold))
    if not html:
        return
    batches = [Batch(pa.table({"html": pa.array([body], pa.large_binary())})) for _, body in html]
    for method in ("trafilatura", "gristmill"):
        extract = Extract(ExtractConfig.model_validate({"method": method}))
        extract.setup({name: Path(path) for name, path in extract.assets().items()})
        texts, extracting = [], []
        for batch in batches:
            start = time.process_time()
            texts.append(extract.measure(batch)["text"][0].as_py() or "")
            extracting.append(time.process_time() - start)
        full = labels(stage(), texts)
        for sure in (0.5, 0.65, SURE, 0.9):
            ready = LanguageGuess(LanguageGuessConfig(keep=("en",), sure=sure))
            ready.setup({"model": MODEL})
            dropped, guessing = [], []
            for batch in batches:
                start = time.process_time()
                dropped.append(ready.decide(ready.measure(batch)).rule[0] is not None)
                guessing.append(time.process_time() - start)
            for kind in sorted({kind for kind, _ in html}):
                mine = [row for row, (k, _) in enumerate(html) if k == kind]
                kept = [row for row in mine if texts[row] and full[row][0] == "en" and full[row][1] >= 0.65]
                lost = sum(dropped[row] for row in kept)
                known = sum(dropped[row] for row in mine) - lost
                print(
                    f"guess, sure {sure}, {method}, {kind}: of {len(mine)} pages {len(kept)} are kept without it, {lost} of them lost "
                    f"({lost / len(kept):.4f}); {known} of {len(mine) - len(kept)} others known before; guessing "
                    f"{sum(guessing[row] for row in mine):.2f} CPU s, extraction {sum(extracting[row] for row in mine):.1f}, "
                    f"of which saved {sum(extracting[row] for row in mine if dropped[row]):.1f}"
                )


def main() -> None:
    """Every part whose data is there."""
    gold = Path(os.environ.get("GRISTMILL_GOLD", ""))
    if not (gold / "lid/lid_dev.jsonl.xz").is_file():
        print(
            f"language: set GRISTMILL_GOLD to a folder with lid/lid_dev.jsonl.xz (see {Path(__file__).name})",
            file=sys.stderr,
        )
        return
    sentences = rows(gold / "lid/lid_dev.jsonl.xz")
    identifiers(sentences)
    confusions(sentences)
    documents = gold / "quality/registers_dev.jsonl.xz"
    if documents.is_file():
        print("web documents:")
        reading(rows(documents))
    guessing(gold)
