"""The four families of rules beside datatrove's, on the same documents in one run: speed, and whose decisions differ.

    python -m benchmarks.rules --documents FILE ... [--peer-python PATH] [--languages en de ...] [--rounds N]

FILES are Parquet or JSONL(.xz) with `text`, and `language` or `lang` (labels; else lid.176 decides). `--peer-python` names a Python with
datatrove 0.10 and spaCy. Each filter judges the original text. Three readings of ours: `paper`, with our words; `definition: datatrove`
with our words; and that with spaCy's, which must decide as datatrove does.
"""

from __future__ import annotations

import argparse
import json
import lzma
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.batch import Batch
from stages.language_model import load
from stages.quality.c4 import C4, C4Config
from stages.quality.fineweb import FineWeb, FineWebConfig
from stages.quality.gopher import Gopher, GopherConfig
from stages.quality.gopher_repetition import GopherRepetition, RepetitionConfig
from stages.quality.rules import RuleStage
from stages.stage import ASSETS

FAMILIES = ("gopher_repetition", "gopher", "c4", "fineweb")
BATCH = 64

PEER = """
import json, sys, time
from datatrove.data import Document
from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
from loguru import logger
logger.remove()
texts = [json.loads(line) for line in open(sys.argv[1])]
verdicts, seconds = [], [0.0] * 4
chains = {}
for text, language, stops in texts:
    if language not in chains:
        chains[language] = [
            GopherRepetitionFilter(language=language), GopherQualityFilter(language=language, stop_words=stops),
            C4QualityFilter(filter_no_terminal_punct=False, language=language), FineWebQualityFilter(language=language)]
        for one in chains[language]:
            one.filter(Document(text="Warm up. Then go on.", id="0"))
    row = []
    for place, one in enumerate(chains[language]):
        started = time.process_time()
        try:
            found = one.filter(Document(text=text, id="0"))
        except ZeroDivisionError:
            found = (False, "ZeroDivisionError")
        seconds[place] += time.process_time() - started
        row.append(None if found is True else found[1])
    verdicts.append(row)
print(json.dumps([verdicts, seconds]))
"""

Verdicts = list[list[str | None]]


def main(arguments: Sequence[str]) -> None:
    """Print speeds and differences."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=Path, nargs="+", required=True)
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--languages", nargs="+", default=["en", "de", "fr", "es", "it", "pt", "nl", "sv", "da", "pl"])
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args(arguments)
    rows = [row for path in given.documents for row in read(path) if row[1] in given.languages and row[0].strip()]
    print(f"{len(rows)} documents, {sum(len(text) for text, _ in rows) / len(rows):.0f} characters each:", end=" ")
    print(
        ", ".join(f"{language} {count}" for language, count in Counter(language for _, language in rows).most_common())
    )
    ours = {"paper": families(definition="paper"), "datatrove, our words": families(definition="datatrove")}
    seconds: dict[str, list[list[float]]] = {}
    verdicts: dict[str, Verdicts] = {}
    for _ in range(given.rounds):
        for name, stages in ours.items():
            verdicts[name], taken = judge(stages, rows)
            seconds.setdefault(name, []).append(taken)
        if given.peer_python is not None:
            verdicts["datatrove 0.10"], taken = peer(given.peer_python, rows)
            seconds.setdefault("datatrove 0.10", []).append(taken)
    for name, rounds in seconds.items():
        each = [statistics.median(one[place] for one in rounds) for place in range(len(FAMILIES))]
        whole = statistics.median(sum(one) for one in rounds)
        print(
            f"{name}: {len(rows) / whole:,.0f} documents/CPU-s ("
            + ", ".join(f"{family} {len(rows) / one:,.0f}" for family, one in zip(FAMILIES, each, strict=True))
            + ")"
        )
    if given.peer_python is None:
        return
    verdicts["datatrove, spaCy's words"], _ = judge(families(definition="datatrove", words="spacy"), rows)
    theirs = verdicts.pop("datatrove 0.10")
    for name, mine in verdicts.items():
        differences(name, mine, theirs, rows)


def read(path: Path) -> list[tuple[str, str]]:
    """Texts and two-letter labels."""
    if path.suffix == ".parquet":
        found = pq.read_table(path).to_pylist()
    else:
        data = path.read_bytes()
        lines = (lzma.decompress(data) if path.suffix == ".xz" else data).splitlines()
        found = [json.loads(line) for line in lines]
    model = load(ASSETS / "lid.176.ftz")
    return [
        (row["text"], row.get("language") or row.get("lang") or model.best(row["text"][:1000]).label) for row in found
    ]


def families(**knobs: Any) -> list[RuleStage]:
    """The four stages with datatrove's thresholds, terminal punctuation off as in FineWeb."""
    repetition = {"max_duplicate_line_characters": 0.01} if knobs["definition"] == "datatrove" else {}
    stages = [
        GopherRepetition(RepetitionConfig(**knobs)),
        Gopher(GopherConfig(**knobs)),
        C4(C4Config(terminal_punctuation=False, **knobs)),
        FineWeb(FineWebConfig(**knobs, **repetition)),
    ]
    for stage in stages:
        stage.setup({name: Path(path) for name, path in stage.assets().items()})
    return stages


def judge(stages: list[RuleStage], rows: list[tuple[str, str]]) -> tuple[Verdicts, list[float]]:
    """Each family's rule for each document, and its CPU seconds; what families share counts for the first that asks."""
    verdicts: Verdicts = []
    seconds = [0.0] * len(stages)
    warm = Batch(pa.table({"text": ["Warm up. Then go on."], "language": ["en"]}))
    for stage in stages:
        stage.decide(stage.measure(warm))
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        batch = Batch(pa.table({"text": [text for text, _ in part], "language": [language for _, language in part]}))
        columns = []
        for place, stage in enumerate(stages):
            started = time.process_time()
            columns.append(stage.decide(stage.measure(batch)).rule)
            seconds[place] += time.process_time() - started
        verdicts += [list(row) for row in zip(*columns, strict=True)]
    return verdicts, seconds


def peer(python: Path, rows: list[tuple[str, str]]) -> tuple[Verdicts, list[float]]:
    """The same of datatrove, given our stop words."""
    stops = json.loads((ASSETS / "quality" / "stop_words.json").read_text())
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        for text, language in rows:
            file.write(json.dumps([text, LANGUAGES.get(language, language), stops.get(language, [])]) + "\n")
        file.flush()
        done = subprocess.run([python, "-c", PEER, file.name], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    verdicts, seconds = json.loads(done.stdout.splitlines()[-1])
    return verdicts, seconds


LANGUAGES = {  # as datatrove names them
    "en": "eng", "de": "deu", "fr": "fra", "es": "spa", "it": "ita", "pt": "por", "nl": "nld",
    "sv": "swe", "da": "dan", "pl": "pol", "fi": "fin", "ru": "rus",
}  # fmt: skip


def differences(name: str, mine: Verdicts, theirs: Verdicts, rows: list[tuple[str, str]]) -> None:
    """How many documents change sides, by family and by the rule that decided."""
    for place, family in enumerate(FAMILIES):
        changed = [
            (ours[place], other[place], row)
            for row, (ours, other) in enumerate(zip(mine, theirs, strict=True))
            if (ours[place] is None) != (other[place] is None)
        ]
        by_rule = Counter(ours or f"datatrove: {other}" for ours, other, _ in changed).most_common(6)
        print(
            f"{name} against datatrove, {family}: {len(changed)} of {len(rows)} change sides ({len(changed) / len(rows):.2%})",
            dict(by_rule),
        )
        if name.endswith("spaCy's words"):
            for ours, other, row in changed[:3]:
                print("   ", rows[row][1], ours, other, repr(rows[row][0][:60]))


if __name__ == "__main__":
    main(sys.argv[1:])
