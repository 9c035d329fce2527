"""Documents to token files, MB of text per CPU-second: ours, datatrove's DocumentTokenizer, `tokenizers` and tiktoken with numpy.

    python -m benchmarks.tokens.encode_write TOKENIZER CORPUS.jsonl [--bytes 20000000] [--large 300000000] [--datatrove PYTHON] [--peers PYTHON] [--runs 3]

TOKENIZER is the folder of a trained tokenizer, CORPUS.jsonl has one {"text": ...} a line; the documents are first written as Parquet
of id and text, and as JSONL for those whose interpreter has no pyarrow (datatrove, tiktoken). One process and one thread each (TOKENIZERS_PARALLELISM=false), CPU time of user and
system; "with start" counts the imports and the loading of the tokenizer, the other column does not. Ours is the whole way:
encode, shuffle, payload, Megatron index, sidecar, checksums; and, apart, the encoding of files alone. datatrove shuffles within its file and writes .ds and .ds.index. The
other two write a raw payload in order. A second row of ours is for --large bytes, where the tokenizer's loading and the check
of the engine at the start of each file weigh less. Ids are compared document by document (as a multiset of digests).
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

OURS = """
import sys, time, resource
from pathlib import Path
def used():
    r = resource.getrusage(resource.RUSAGE_SELF)
    return r.ru_utime + r.ru_stime
from tokenizer_training.dataset.build import begin_dataset, build_shard, finish_dataset, plan_shards
from tokenizer_training.dataset.config import PackConfig
from tokenizer_training.dataset.encode import encode_documents
tokenizer, warm, documents, out = sys.argv[1:5]
config = PackConfig(validation=0.0)
def make(documents, out):
    Path(out).mkdir(parents=True)
    begun = used()
    encode_documents(documents, tokenizer, out + "/e.arrow", config)
    encoded = used() - begun
    plan = plan_shards([out + "/e.arrow"], config)
    splits = {s: [build_shard([out + "/e.arrow"], plan, s, n, out) for n in range(len(plan["shards"][s]))] for s in plan["shards"]}
    finish_dataset(out, plan, splits)
    return encoded, used() - begun
make(warm, out + "-warm")
encoded, whole = make(documents, out)
print(encoded, whole, used())
"""

DATATROVE = """
import os, sys, resource
def used():
    r = resource.getrusage(resource.RUSAGE_SELF)
    return r.ru_utime + r.ru_stime
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.tokens import DocumentTokenizer
from loguru import logger
logger.remove()
tokenizer, warm, documents, out = sys.argv[1:5]
def make(documents, out):
    begun = used()
    folder, name = os.path.split(documents.replace(".parquet", ".jsonl"))
    reader = JsonlReader(folder, glob_pattern=name, text_key="text", id_key="id")
    step = DocumentTokenizer(out, tokenizer_name_or_path=tokenizer + "/tokenizer.json", eos_token="<|endoftext|>", local_working_dir=out + "-work", shuffle_documents=True)
    step.run(reader.run(None, 0, 1), 0, 1)
    return used() - begun
make(warm, out + "-warm")
whole = make(documents, out)
print(whole, whole, used())
"""

TOKENIZERS = """
import sys, resource
def used():
    r = resource.getrusage(resource.RUSAGE_SELF)
    return r.ru_utime + r.ru_stime
import numpy as np, pyarrow.parquet as pq
from tokenizers import Tokenizer
tokenizer, warm, documents, out = sys.argv[1:5]
made = Tokenizer.from_file(tokenizer + "/tokenizer.json")
made.encode_special_tokens = True
end = made.token_to_id("<|endoftext|>")
kind = np.uint16 if made.get_vocab_size() < 65500 else np.int32
def make(documents, out):
    begun = used()
    with open(out, "wb") as file:
        for batch in pq.ParquetFile(documents).iter_batches(1000, columns=["text"]):
            for one in made.encode_batch_fast(batch.column(0).to_pylist(), add_special_tokens=False):
                np.array([*one.ids, end], kind).tofile(file)
    return used() - begun
make(warm, out + "-warm")
whole = make(documents, out)
print(whole, whole, used())
"""

TIKTOKEN = """
import sys, json, resource, base64
def used():
    r = resource.getrusage(resource.RUSAGE_SELF)
    return r.ru_utime + r.ru_stime
import numpy as np, tiktoken
tokenizer, warm, documents, out = sys.argv[1:5]
content = json.load(open(tokenizer + "/tokenizer.json"))
printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
others = [b for b in range(256) if b not in printable]
byte = {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}
special = {t["content"]: t["id"] for t in content["added_tokens"]}
first = min(i for t, i in content["model"]["vocab"].items() if t not in special)
ranks = {bytes(byte[c] for c in t): i - first for t, i in content["model"]["vocab"].items() if t not in special}
split = content["pre_tokenizer"]
steps = split.get("pretokenizers", [split])
pattern = next(s["pattern"].get("Regex") for s in steps if s["type"] == "Split")
made = tiktoken.Encoding("ours", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
kind = np.uint16 if len(ranks) + first < 65500 else np.int32
def make(documents, out):
    begun = used()
    with open(out, "wb") as file:
        for line in open(documents.replace(".parquet", ".jsonl"), encoding="utf-8"):
            for ids in made.encode_ordinary_batch([json.loads(line)["text"]], num_threads=1):
                np.append(np.array(ids, kind) + kind(first), kind(special["<|endoftext|>"])).tofile(file)
    return used() - begun
make(warm, out + "-warm")
whole = make(documents, out)
print(whole, whole, used())
"""


def corpus(source: Path, size: int, folder: Path) -> tuple[Path, Path, int]:
    """The corpus and a small part of it (which compiles and fills caches) as Parquet, and the bytes of text."""
    texts: list[str] = []
    total = 0
    with source.open(encoding="utf-8") as file:
        for line in file:
            texts.append(json.loads(line)["text"])
            total += len(texts[-1].encode("utf-8", "replace"))
            if total >= size:
                break
    made = []
    for name, part in (("warm", texts[:200]), ("documents", texts)):
        ids = [hashlib.sha256(f"{name}{n}".encode()).hexdigest()[:32] for n in range(len(part))]
        made.append(folder / f"{name}.parquet")
        pq.write_table(pa.table({"id": ids, "text": part}), made[-1])
        with made[-1].with_suffix(".jsonl").open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps({"id": i, "text": t}) + "\n" for i, t in zip(ids, part, strict=True))
    return made[0], made[1], total


def digests(tokens: np.ndarray, end: int) -> Counter[bytes]:
    """How often each document stands in a payload of documents with end tokens behind them."""
    ends = np.flatnonzero(tokens == end) + 1
    return Counter(hashlib.md5(part.astype("<u4").tobytes()).digest() for part in np.split(tokens, ends)[:-1])


def payload(path: Path, kind: str) -> np.ndarray:
    files = [path] if path.is_file() else sorted([*path.glob("train-*.bin"), *path.glob("*.ds")])
    return np.concatenate([np.fromfile(file, kind) for file in files])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tokenizer")
    parser.add_argument("corpus", type=Path)
    parser.add_argument("--bytes", type=int, default=20_000_000)
    parser.add_argument("--large", type=int, default=300_000_000, help="0: leave it out")
    parser.add_argument("--datatrove", help="python with datatrove")
    parser.add_argument("--peers", help="python with tiktoken")
    parser.add_argument("--runs", type=int, default=3)
    given = parser.parse_args()
    systems: dict[str, tuple[str, str]] = {"gristmill": (sys.executable, OURS)}
    if given.datatrove:
        systems["datatrove DocumentTokenizer"] = given.datatrove, DATATROVE
    systems["tokenizers, numpy tofile"] = sys.executable, TOKENIZERS
    if given.peers:
        systems["tiktoken, numpy tofile"] = given.peers, TIKTOKEN
    content: dict[str, Any] = json.loads((Path(given.tokenizer) / "tokenizer.json").read_text())
    (end,) = (token["id"] for token in content["added_tokens"] if token["content"] == "<|endoftext|>")
    kind = "<u2" if len(content["model"]["vocab"]) < 65500 else "<i4"
    found: dict[str, list[list[float]]] = {name: [] for name in systems}
    ids: dict[str, Counter[bytes]] = {}
    with tempfile.TemporaryDirectory() as folder:
        warm, documents, size = corpus(given.corpus, given.bytes, Path(folder))
        sizes = dict.fromkeys(systems, size)
        inputs = dict.fromkeys(systems, documents)
        if given.large:
            (Path(folder) / "large").mkdir()
            name = "gristmill, more text"
            _, inputs[name], sizes[name] = corpus(given.corpus, given.large, Path(folder) / "large")
            systems[name] = sys.executable, OURS
            found[name] = []
        for run in range(given.runs):
            for name, (python, code) in systems.items():
                out = Path(folder) / f"{list(systems).index(name)}-{run}"
                done = subprocess.run(
                    [python, "-c", code, given.tokenizer, str(warm), str(inputs[name]), str(out)],
                    capture_output=True,
                    text=True,
                    env={
                        **os.environ,
                        "TOKENIZERS_PARALLELISM": "false",
                        "RAYON_NUM_THREADS": "1",
                        "PYTHONPATH": str(Path.cwd()),
                    },
                )
                if done.returncode:
                    raise SystemExit(f"{name} failed:\n{done.stderr[-3000:]}")
                found[name].append([float(x) for x in done.stdout.split()[-3:]])
                if run == 0:
                    ids[name] = digests(payload(out, kind), end)
    print(f"medians of {given.runs} runs in turns")
    print("| | MB of text | MB / CPU-s | encoding alone | with start | same ids as ours |\n|---|---|---|---|---|---|")
    total = sum(ids["gristmill"].values())
    for name, runs in found.items():
        size = sizes[name]
        encoded, whole, everything = (size / 1e6 / statistics.median(r[at] for r in runs) for at in range(3))
        same = sum((ids[name] & ids["gristmill"]).values())
        print(f"| {name} | {size / 1e6:.0f} | {whole:.1f} | {encoded:.1f} | {everything:.1f} | {same:,} of {total:,} |")


if __name__ == "__main__":
    main()
