"""Decontamination beside datatrove: speed, memory of the index, what is found of planted overlaps, and false alarms.

Items and documents are files that you name (JSON lines), or made-up ones. Into a part of the documents items are
planted: as they are, with other case and punctuation, with one word in twelve changed. The other documents are searched
as they are: what is found there is listed, since real documents may truly hold items.
datatrove's indexer takes its tasks from lighteval, so its index is written here, with its own functions and its own
format, of the same texts; its filter then runs as it is.

    python -m benchmarks.decontamination [--items FILE --field NAME] [--documents FILE] [--peer-python PATH] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

OURS = """
import json, sys, time
from pathlib import Path
import numpy as np
from stages.decontaminate import Decontaminate, DecontaminateConfig
from stages.decontaminate.match import hits
items, documents, field, gap = sys.argv[1:5]
config = DecontaminateConfig(benchmarks=[{"name": "b", "paths": items, "fields": [field]}], gap=int(gap), common_items=10**6)
stage = Decontaminate(config)
assets = {name: Path(path) for name, path in stage.assets().items()}
stage.setup(assets)  # compiled, or read from numba's cache
from stages.decontaminate.decontaminate import _index
_index.cache_clear()
started = time.process_time()
stage.setup(assets)
load = time.process_time() - started
texts = [json.loads(line)["text"] for line in open(documents)]
for text in texts[:50]:
    hits(stage.index, text)
started = time.process_time()
found = [len(hits(stage.index, text).gram) > 0 for text in texts]
took = time.process_time() - started
print(json.dumps({"load": load, "memory": stage.index.nbytes, "speed": len(texts) / took, "found": found}))
"""

DATATROVE = """
import json, sys, time, tempfile, os
import numpy as np
from datatrove.data import Document
from datatrove.pipeline.decont.n_grams import NGramsDecontConfig, NGramsDecontFilter
from datatrove.utils.hashing import create_hash_func
from datatrove.utils.text import ngrams, simplify_text
from datatrove.utils.word_tokenizers import load_word_tokenizer
items, documents, field, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
config = NGramsDecontConfig(n_grams=13)
tokenizer, hash_func = load_word_tokenizer("eng"), create_hash_func(config.hash_config)
def rss():
    return next(int(l.split()[1]) * 1024 for l in open("/proc/self/smaps_rollup") if l.startswith("Pss:"))
tokenizer.word_tokenize("warm up")
with tempfile.TemporaryDirectory() as folder:
    started = time.process_time()
    hashes = set()
    for line in open(items):
        words = tokenizer.word_tokenize(simplify_text(json.loads(line)[field], config.norm_config))
        hashes.update(hash_func(" ".join(gram)) for gram in ngrams(words, config.n_grams))
    np.array(list(hashes), dtype=config.hash_config.np_descr).tofile(os.path.join(folder, "b.index.hashes"))
    del hashes
    made = NGramsDecontFilter(folder, config)
    before = rss()
    made.load_index_hashes()
    load, memory = time.process_time() - started, rss() - before
    texts = [json.loads(line)["text"] for line in open(documents)]
    texts = texts[:count]
    made.filter(Document(text="warm up", id=""))
    started = time.process_time()
    found = [made.filter(Document(text=text, id="")) is not True for text in texts]
    took = time.process_time() - started
print(json.dumps({"load": load, "memory": memory, "speed": len(texts) / took, "found": found}))
"""


def sentences(chance: random.Random, words: list[str], count: int) -> str:
    """Made-up prose, common words more often."""
    out = []
    for _ in range(count):
        own = [words[int(len(words) * chance.random() ** 3)] for _ in range(chance.randint(6, 22))]
        out.append(" ".join(own).capitalize() + ".")
    return " ".join(out)


def make_files(folder: Path, chance: random.Random) -> tuple[Path, Path]:
    """Made-up items and documents."""
    words = sorted({"".join(chance.choices("aeioubcdfghlmnprst", k=chance.randint(2, 9))) for _ in range(20_000)})
    items, documents = folder / "items.jsonl", folder / "documents.jsonl"
    items.write_text("".join(json.dumps({"question": sentences(chance, words, 4)}) + "\n" for _ in range(5000)))
    documents.write_text("".join(json.dumps({"text": sentences(chance, words, 40)}) + "\n" for _ in range(2000)))
    return items, documents


def changed(words: list[str], kind: str, chance: random.Random) -> str:
    """An item as it stands in a planted document."""
    if kind == "case and punctuation":
        marks = [", ", " - ", "\n", "; ", ' "', " "]
        return "".join(chance.choice([word.upper(), word.title()]) + chance.choice(marks) for word in words)
    if kind == "one word in twelve changed":
        return " ".join("qqq" if place % 12 == 6 else word for place, word in enumerate(words))
    return " ".join(words)


KINDS = ("exact", "case and punctuation", "one word in twelve changed")


def plant(items: Path, field: str, documents: Path, out: Path, planted: int, chance: random.Random) -> list[str]:
    """Documents of which the first `planted` hold an item; returns what each holds, "" for none."""
    texts = [json.loads(line)["text"] for line in documents.open()]
    chance.shuffle(texts)
    own = [words for line in items.open() if len(words := json.loads(line)[field].split()) >= 30]
    held = []
    with out.open("w") as file:
        for number, text in enumerate(texts):
            kind = KINDS[number % len(KINDS)] if number < planted else ""
            if kind:
                middle = text.find(" ", len(text) // 2)
                text = f"{text[:middle]}\n{changed(chance.choice(own), kind, chance)}\n{text[middle:]}"
            held.append(kind)
            file.write(json.dumps({"text": text}) + "\n")
    return held


def measure(python: str, program: str, *arguments: str) -> dict[str, object]:
    """What one program says of itself."""
    done = subprocess.run([python, "-c", program, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    answer: dict[str, object] = json.loads(done.stdout.splitlines()[-1])
    return answer


def main(arguments: list[str] | None = None) -> None:
    """Print speed, memory, and what was found; medians of interleaved rounds."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.decontamination")
    parser.add_argument("--items", type=Path, help="JSON lines of evaluation items")
    parser.add_argument("--field", default="question", help="the field of an item that is looked for")
    parser.add_argument("--documents", type=Path, help="JSON lines with `text`")
    parser.add_argument("--peer-python", help="a Python that has datatrove and spaCy")
    parser.add_argument("--peer-documents", type=int, default=600, help="documents that datatrove looks at")
    parser.add_argument("--planted", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args(arguments if arguments is not None else [])
    chance = random.Random(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        items, documents = make_files(folder, chance)
        items, documents = options.items or items, options.documents or documents
        searched = folder / "searched.jsonl"
        held = plant(items, options.field, documents, searched, options.planted, chance)
        programs = {
            f"gap {gap}": (sys.executable, OURS, [str(items), str(searched), options.field, str(gap)])
            for gap in (0, 1, 2)
        }
        if options.peer_python:
            given = [str(items), str(searched), options.field, str(options.peer_documents)]
            programs["datatrove NGramsDecontFilter"] = (options.peer_python, DATATROVE, given)
        rounds: dict[str, list[dict[str, object]]] = {name: [] for name in programs}
        for _ in range(options.rounds):
            for name, (python, program, given) in programs.items():
                rounds[name].append(measure(python, program, *given))
        size = statistics.mean(len(json.loads(line)["text"]) for line in searched.open())
        count = sum(1 for _ in items.open())
        print(
            f"{count:,} items, {len(held):,} documents of {size:,.0f} characters, medians of {options.rounds} interleaved rounds"
        )
        for name, answers in rounds.items():
            load, memory, speed = (
                statistics.median(float(one[k]) for one in answers) for k in ("load", "memory", "speed")
            )  # type: ignore[arg-type]
            found: list[bool] = answers[0]["found"]  # type: ignore[assignment]
            by_kind = []
            for kind in (*KINDS, ""):
                mine = [hit for hit, own in zip(found, held, strict=False) if own == kind]
                by_kind.append(f"{sum(mine)} of {len(mine)} {kind or 'without'}")
            print(
                f"  {name}: {speed:,.0f} documents/CPU-s, index {load:.2f} CPU-s, {memory / 1e6:.1f} MB; found {', '.join(by_kind)}"
            )


if __name__ == "__main__":
    main(sys.argv[1:])
