"""`dedup.lines`, `dedup.spans` and `dedup.substring`: documents per CPU-second of the whole exchange, beside peers on the same documents.

    GRISTMILL_DOCUMENTS=docs.jsonl GRISTMILL_PEERS=/path/to/python python -m benchmarks passages

GRISTMILL_DOCUMENTS names a file of rows with `text`; without it the bundled sample is extracted. GRISTMILL_PEERS names the Python of a virtual
environment with datatrove 0.10 and spaCy (sentence deduplication: signatures, search, filter) and pydivsufsort (suffix array and LCP of
all bytes, which the exact method of Lee et al. 2022 is made of); either may be missing. One process, one partition; CPU time, medians of
interleaved rounds.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline.engine.exchange import Sorter
from pipeline.engine.mapping import apply_edits
from stages.batch import Batch
from stages.dedup.lines import Lines, LinesConfig
from stages.dedup.spans import Spans, SpansConfig
from stages.dedup.substring import Substring, SubstringConfig
from stages.stage import ADDRESSED, FINDINGS, VERDICT, Edit, GroupStage

MOST = 3600  # documents
SHARD = 600
BATCH = 100
ROUNDS = 3

STAGES: dict[str, Callable[[], GroupStage]] = {
    "lines": lambda: Lines(LinesConfig(report=0)),
    "lines, with a report": lambda: Lines(LinesConfig()),
    "paragraphs": lambda: Lines(LinesConfig(unit="paragraph", report=0)),
    "spans": lambda: Spans(SpansConfig(report=0)),
    "substring": lambda: Substring(SubstringConfig()),
}

SENTENCES = """
import json, sys, tempfile, time
from loguru import logger
logger.remove()
from datatrove.data import Document
from datatrove.pipeline.dedup import SentenceDedupFilter, SentenceDedupSignature, SentenceFindDedups
from datatrove.pipeline.dedup.sentence_dedup import SentDedupConfig
texts = [json.loads(line) for line in open(sys.argv[1])]
config = SentDedupConfig()
def once(texts, folder):
    documents = lambda: (Document(text=text, id=str(i)) for i, text in enumerate(texts))
    for _ in SentenceDedupSignature(folder + "/1", config=config).run(documents(), 0, 1) or (): pass
    SentenceFindDedups(folder + "/1", folder + "/2", config=config).run(None, 0, 1)
    kept = list(SentenceDedupFilter(folder + "/2", config=config).run(documents(), 0, 1))
    return len(kept), sum(len(one.text) for one in kept)
with tempfile.TemporaryDirectory() as folder:
    once(texts[:20], folder + "/warm")
    started = time.process_time()
    found = once(texts, folder + "/all")
    print(json.dumps([time.process_time() - started, *found]))
"""

SUFFIXES = """
import json, sys, time
import numpy as np
from pydivsufsort import divsufsort, kasai
texts = [json.loads(line) for line in open(sys.argv[1])]
started = time.process_time()
data = b"\\0".join(text.encode("utf-8", "replace") for text in texts)
array = divsufsort(data)
common = kasai(data, array)
print(json.dumps([time.process_time() - started, int((common >= 300).sum()), len(data)]))
"""


def documents() -> list[str]:
    """The texts that are looked at."""
    path = os.environ.get("GRISTMILL_DOCUMENTS")
    if path:
        with Path(path).open(encoding="utf-8") as handle:
            return [json.loads(line)["text"] for line in islice(handle, MOST)]
    from stages.extract.extract import Extract, ExtractConfig
    from tests.support import sample_pages

    stage = Extract(ExtractConfig())
    stage.setup({})
    pages = sample_pages(500)
    table = pa.table(
        {"id": [url for url, _ in pages], "url": [url for url, _ in pages], "html": [html for _, html in pages]}
    )
    values = stage.measure(Batch(table))
    return [text for text in values.column("text").to_pylist() if text]


def whole(stage: GroupStage, texts: list[str]) -> dict[str, Any]:
    """Everything that a run does for a stage but reading and writing: emit, sort, reduce, edit; seconds, sizes, results."""
    tables = [
        pa.table(
            {
                "id": [str(i) for i in range(start, min(start + SHARD, len(texts)))],
                "text": pa.array(texts[start : start + SHARD], pa.large_string()),
                "source": ["s"] * len(texts[start : start + SHARD]),
            }
        )
        for start in range(0, len(texts), SHARD)
    ]
    schemas = [pa.schema({**ADDRESSED, **payload}) for payload in stage.messages()]
    started = time.process_time()
    sorters = [Sorter(schema, 1, buffer_bytes=1 << 30) for schema in schemas]
    verdicts = Sorter(pa.schema({**VERDICT, **stage.provides()}), None, buffer_bytes=1 << 30)
    sent = 0

    def send(addressed: Any) -> None:
        nonlocal sent
        for target, table in addressed:
            if target == FINDINGS:
                continue
            sent += table.nbytes
            (verdicts if target is None else sorters[target]).add(table)

    for shard, table in enumerate(tables):
        for start in range(0, table.num_rows, BATCH):
            piece = table.slice(start, BATCH)
            send(stage.emit(Batch(piece), shard, np.arange(start, start + piece.num_rows)))
    emitted = time.process_time() - started
    for number, sorter in enumerate(sorters):
        send(stage.reduce(number, (table.drop_columns(["partition"]) for table in sorter.sorted())))
    dropped = characters = changed = 0
    for table in verdicts.sorted():
        for row in table.select(["shard", "row", "rule", "edits"]).to_pylist():
            text = texts[row["shard"] * SHARD + row["row"]]
            changed += bool(row["edits"])
            if row["rule"]:
                dropped, characters = dropped + 1, characters + len(text)
            elif row["edits"]:
                characters += len(text) - len(apply_edits(text, [Edit(**one) for one in row["edits"]]))
    return {
        "seconds": time.process_time() - started,
        "emit": emitted,
        "sent": sent,
        "dropped": dropped,
        "changed": changed,
        "characters": characters,
    }


def peer(script: str, python: str, path: Path) -> list[Any] | None:
    """What a peer's script prints; None if it cannot run."""
    done = subprocess.run([python, "-c", script, str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        print("  peer:", (done.stderr.strip().splitlines() or ["failed"])[-1][:200])
        return None
    found: list[Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def main() -> None:
    """Print documents and megabytes per CPU-second, what was sent and what was cut."""
    texts = documents()
    size = sum(len(text.encode("utf-8", "replace")) for text in texts)
    print(f"{len(texts):,} documents, {size / 1e6:.1f} MB")
    for make in STAGES.values():
        warm = make()
        warm.setup({})
        whole(warm, texts[:200])
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in STAGES}
    peers: dict[str, list[list[Any]]] = {"datatrove, sentences": [], "divsufsort and kasai": []}
    python = os.environ.get("GRISTMILL_PEERS")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.jsonl"
        path.write_text("".join(json.dumps(text) + "\n" for text in texts))
        for number in range(ROUNDS):
            for name, make in STAGES.items():
                stage = make()
                stage.setup({})
                found[name].append(whole(stage, texts))
            for name, script in zip(peers, (SENTENCES, SUFFIXES), strict=True):
                result = peer(script, python, path) if python else None
                if result is not None:
                    peers[name].append(result)
            taken = {name: round(runs[-1]["seconds"], 2) for name, runs in found.items()}
            taken |= {name: round(results[-1][0], 2) for name, results in peers.items() if results}
            print(f"round {number + 1}, CPU seconds: {taken}", flush=True)
    total = sum(map(len, texts))
    for name, runs in found.items():
        seconds, emit = (statistics.median(run[key] for run in runs) for key in ("seconds", "emit"))
        one = runs[0]
        print(
            f"{name}: {len(texts) / seconds:,.0f} documents/CPU-s, {size / seconds / 1e6:.1f} MB/CPU-s (emit alone"
            f" {len(texts) / emit:,.0f}); sent {one['sent'] / size:.2f} of the text; {one['changed']:,} changed,"
            f" {one['dropped']:,} dropped, {one['characters'] / total:.1%} of characters gone"
        )
    for name, results in peers.items():
        if results:
            seconds = statistics.median(result[0] for result in results)
            print(
                f"{name}: {len(texts) / seconds:,.0f} documents/CPU-s, {size / seconds / 1e6:.2f} MB/CPU-s; {results[0][1:]}"
            )


if __name__ == "__main__":
    sys.exit(main())
