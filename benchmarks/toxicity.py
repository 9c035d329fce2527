"""How much harmless text the rules of `toxicity` drop, beside C4's one-word rule; which cues they hold; and the stage's speed.

GRISTMILL_GOLD names a folder with extraction/readability_pages/gold.jsonl.xz (rows: text, lang), quality/registers_dev.jsonl.xz
(lang, text); a part whose files are not there is left out. Bundled documents are measured always. None of these is a collection of toxic text:
what they show is how much is dropped in vain.
"""

from __future__ import annotations

import os
import statistics
import time
from collections import Counter
from pathlib import Path

import pyarrow as pa

from benchmarks.classifier import lines_of
from benchmarks.prose_corpora import corpora
from stages.batch import Batch
from stages.toxicity import Toxicity
from stages.toxicity.toxicity import ToxicityConfig

ROUNDS = 5


def ready(**knobs: object) -> Toxicity:
    stage = Toxicity(ToxicityConfig(**knobs))
    stage.setup({name: Path(path) for name, path in stage.assets().items()})
    return stage


def sets(gold: Path) -> dict[str, list[tuple[str, str]]]:
    """(language, text) by the name of the set."""
    found = {"bundled sample": [("en", text) for _, _, text in corpora()]}
    pages = gold / "extraction/readability_pages/gold.jsonl.xz"
    if pages.exists():
        found["main texts of news and blog pages"] = [
            ((row.get("lang") or "en")[:2].lower(), row["text"]) for row in lines_of(pages)
        ]
    registers = gold / "quality/registers_dev.jsonl.xz"
    if registers.exists():
        for language in ("sv", "fr"):
            rows = [(language, row["text"]) for row in lines_of(registers) if row["lang"] == language]
            found[f"web documents, {language}"] = rows
    return found


def main() -> None:
    """Print shares dropped, cues found, documents a CPU second."""
    variants = {
        "C4's rule (one entry drops)": {"max_count": 0},
        "the defaults": {},
    }
    for name, rows in sets(Path(os.environ.get("GRISTMILL_GOLD", ""))).items():
        table = pa.table({"language": [one for one, _ in rows], "text": [text for _, text in rows]})
        print(f"{name}, {len(rows)} documents:")
        for what, knobs in variants.items():
            stage = ready(**knobs)
            values = stage.measure(Batch(table))
            rules = Counter(rule for rule in stage.decide(values).rule if rule)
            print(f"  {what}: drops {sum(rules.values())} {dict(rules)}")
        excused = sum(one or 0 for one in values.column("toxicity_excused").to_pylist())
        counted = sum(one or 0 for one in values.column("toxicity_words").to_pylist())
        cues = Counter(cue for some in values.column("toxicity_cues").to_pylist() for cue in some)
        print(f"  entries counted {counted}, excused {excused}; texts with cues {dict(cues)}")
        seconds = []
        for _ in range(ROUNDS):
            before = time.process_time()
            stage.measure(Batch(table))
            seconds.append(time.process_time() - before)
        size = sum(len(text) for _, text in rows) / len(rows)
        print(
            f"  {len(rows) / statistics.median(seconds):,.0f} documents/CPU-s ({size:,.0f} characters each), words tokenised for it alone"
        )


if __name__ == "__main__":
    main()
