"""Whole fuzzy deduplication of one JSONL file: ours and peers', each as a user runs it, and which documents each kept and joined."""

from __future__ import annotations

import gzip
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import yaml

from benchmarks.dedup.measure import Taken, run

PEERS = Path(__file__).parent / "peers"
TEXT_DEDUP_READER = """
import json, pickle, sys
from datasets import load_from_disk
out = sys.argv[1]
clusters = pickle.load(open(out + "/clusters.pickle", "rb"))
print(json.dumps([load_from_disk(out)["__INDEX__"][:], sorted(clusters.items())]))
"""


class Outcome(NamedTuple):
    """What a tool did to the documents of a file, by their number in it."""

    cluster: dict[int, int | str]  # of each document in one; documents with equal values are in one cluster
    kept: set[int]


def ours(
    source: Path,
    folder: Path,
    knobs: Mapping[str, Any] | None = None,
    workers: int | None = None,
) -> Taken:
    """A run of the pipeline with `dedup.fuzzy` alone; `workers` None is the inline executor, a number that many of Ray's."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "name": "bench",
        "input": {"source": "bench", "format": "jsonl", "paths": [str(source)], "id_field": "id"},
        "stages": [{"dedup.fuzzy": dict(knobs or {})}],
        "engine": {"executor": "inline"} if workers is None else {"executor": "ray", "workers": workers},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "pipeline", "run", str(folder / "config.yaml"), "--output", str(folder / "run")]
    return run(command, folder)


def ours_outcome(folder: Path) -> Outcome:
    """Of the ledger: `kept_id` is the cluster."""
    row_of: dict[str, int] = {}
    kept_of: dict[int, str] = {}
    kept: set[int] = set()
    columns = ["id", "offset", "fate", "kept_id"]
    for path in sorted((folder / "run" / "ledger").glob("*.parquet")):
        for row in pq.read_table(path, columns=columns).to_pylist():
            number = len(row_of)
            row_of[row["id"]] = number
            if row["fate"] == "kept":
                kept.add(number)
            elif row["kept_id"]:
                kept_of[number] = row["kept_id"]
    cluster: dict[int, int | str] = {number: row_of[name] for number, name in kept_of.items()}
    cluster.update({number: number for number in set(cluster.values()) if isinstance(number, int)})
    return Outcome(cluster, kept)


def ours_stage_seconds(folder: Path) -> dict[str, float]:
    """CPU seconds of each stage, as the run's own record has them."""
    facts = json.loads((folder / "run" / "run.json").read_text())
    return {stage["stage"]: stage["seconds"] for stage in facts["stages"]}


def datatrove(python: Path, source: Path, folder: Path, bands: int, rows: int, workers: int = 1) -> Taken:
    """Its four steps, 64-bit hashes; the file is read by one task, as it reads any file (`workers` serve its buckets)."""
    folder.mkdir(parents=True, exist_ok=True)
    script = PEERS / "datatrove_fuzzy.py"
    return run([str(python), str(script), str(source), str(folder), str(bands), str(rows), str(workers)], folder)


def datatrove_outcome(folder: Path, ids: Mapping[str, int]) -> Outcome:
    """From what it kept and what it removed; it numbers clusters from 0, -1 is none."""
    cluster: dict[int, int | str] = {}
    kept: set[int] = set()
    for name in ("out", "removed"):
        for path in sorted((folder / name).glob("*.gz")):
            with gzip.open(path, "rt") as lines:
                for row in map(json.loads, lines):
                    number = ids[row["id"]]
                    found = row["metadata"]["minhash_cluster_id"]
                    if found >= 0:
                        cluster[number] = found
                    if name == "out":
                        kept.add(number)
    return Outcome(cluster, kept)


def text_dedup(
    python: Path, source: Path, folder: Path, bands: int, rows: int, workers: int = 1, check: float | None = None
) -> Taken:
    """Its MinHash; with `check` its own comparison of candidates, which lets pass what has that similarity."""
    folder.mkdir(parents=True, exist_ok=True)
    reader = f'{{path = "json", data_files = "{source}", split = "train", cache_dir = "{folder}/cache"}}'
    (folder / "config.toml").write_text(
        f"""[input]
input_type = "local_files"
file_type = "json"
read_arguments = {reader}
[algorithm]
algorithm_name = "minhash"
text_column = "text"
num_proc = {workers}
bands = {bands}
rows = {rows}
num_perm = {bands * rows}
ngram_size = 5
threshold = {check or 0.8}
check_false_positive = {str(check is not None).lower()}
[output]
output_dir = "{folder}/out"
save_clusters = true
[debug]
"""
    )
    env = {"HF_HOME": str(folder / "home"), "HF_HUB_OFFLINE": "1", "POLARS_MAX_THREADS": str(workers)}
    return run([str(python), "-m", "text_dedup.minhash"], folder, env, folder)


def text_dedup_outcome(python: Path, folder: Path, count: int) -> tuple[Outcome, int]:
    """Clusters, with the first document of each taken as kept; and of how many clusters its own output holds no document.

    0.4.1 names clusters by numbers of their own and then keeps documents whose number is their cluster's, so that without its check
    hardly a cluster keeps a document. That would make every figure worse, so its clusters are judged as if the first were kept.
    """
    found = run([str(python), "-c", TEXT_DEDUP_READER, str(folder / "out")])
    own_kept, pairs = json.loads(found.output.splitlines()[-1])
    cluster: dict[int, int | str] = dict(pairs)
    first: dict[int | str, int] = {}
    for number in sorted(cluster):
        first.setdefault(cluster[number], number)
    kept = {number for number in range(count) if number not in cluster or first[cluster[number]] == number}
    of_own = {cluster[number] for number in own_kept if number in cluster}
    return Outcome(cluster, kept), len(first) - len(of_own)


def kept_documents(folder: Path) -> int:
    """How many documents our run kept."""
    return sum(pq.ParquetFile(path).metadata.num_rows for path in (folder / "run" / "documents").glob("*.parquet"))


def medians(rounds: Sequence[Taken]) -> dict[str, float]:
    """Of CPU, wall, memory and disk."""
    return {
        name: statistics.median(getattr(taken, name) for taken in rounds) for name in ("cpu", "wall", "memory", "disk")
    }
