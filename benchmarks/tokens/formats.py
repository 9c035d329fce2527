"""Every converted format read back by its own library, against the payload: the proof that other trainers see the same tokens.

    python -m benchmarks.tokens.formats [--tokens 300000] [--streaming PYTHON] [--litdata PYTHON] [--datatrove PYTHON] [--megatron PYTHON]

Each flag names an interpreter with that library (mosaicml-streaming, litdata, datatrove with torch, megatron-core); formats without one are read by
the readers in tests/test_token_formats.py. What is compared: SHA-256 of all tokens of the train split in order, as uint32.
litdata's TokensLoader leaves out what is behind the last whole block of a chunk: it is asked for blocks of one token.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.tokens.made_dataset import make
from tokenizer_training.dataset.config import PackConfig
from tokenizer_training.dataset.formats import convert
from tokenizer_training.dataset.read import TokenDataset

DIGEST = """
import hashlib, sys
import numpy as np
digest, documents = hashlib.sha256(), 0
def add(tokens):
    digest.update(np.asarray(tokens).astype("<u4").tobytes())
folder = sys.argv[1]
"""

READERS = {
    "mds": DIGEST
    + """
from streaming import StreamingDataset
for sample in StreamingDataset(local=folder + "/train", shuffle=False, batch_size=1):
    add(sample["tokens"])
    documents += 1
print("digest", digest.hexdigest(), documents)
""",
    "litdata": DIGEST
    + """
import os, tempfile, json
os.environ["DATA_OPTIMIZER_CACHE_FOLDER"] = tempfile.mkdtemp()
from litdata import StreamingDataset
from litdata.streaming.item_loader import TokensLoader
data = StreamingDataset(folder + "/train", item_loader=TokensLoader(block_size=1), shuffle=False)
add(np.concatenate([data[i].numpy() for i in range(len(data))]))
documents = sum(chunk["chunk_size"] for chunk in json.load(open(folder + "/train/index.json"))["chunks"])
print("digest", digest.hexdigest(), documents)
""",
    "datatrove": DIGEST
    + """
import glob
from datatrove.utils.dataset import DatatroveFileDataset
for file in sorted(glob.glob(folder + "/train-*.ds")):
    data = DatatroveFileDataset(file, seq_len=0, token_size=2)  # a window is one token
    add(np.concatenate([data[i]["input_ids"].numpy() for i in range(len(data))]))
    documents += len(np.fromfile(file + ".index", np.uint64))
print("digest", digest.hexdigest(), documents)
""",
    "megatron": DIGEST
    + """
import glob
from megatron.core.datasets.indexed_dataset import IndexedDataset
for file in sorted(glob.glob(folder + "/train-*.idx")):
    data = IndexedDataset(file[:-4])
    for i in range(len(data)):
        add(data[i])
    documents += len(data)
print("digest", digest.hexdigest(), documents)
""",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=300_000)
    for flag in ("streaming", "litdata", "datatrove", "megatron"):
        parser.add_argument(f"--{flag}", help="python with it")
    given = parser.parse_args()
    pythons = {
        "mds": given.streaming,
        "litdata": given.litdata,
        "datatrove": given.datatrove,
        "megatron": given.megatron,
    }
    print("| format | read by its library | documents |\n|---|---|---|")
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        path = make(Path(folder), given.tokens, PackConfig(validation=0.01, shard_tokens=given.tokens // 2))
        dataset = TokenDataset(path)
        digest = hashlib.sha256()
        for number in range(len(dataset.splits["train"])):
            digest.update(np.asarray(dataset.shard("train", number)).astype("<u4").tobytes())
        for name, python in pythons.items():
            if not python:
                continue
            convert(path, name, Path(folder) / name)
            done = subprocess.run(
                [python, "-c", READERS[name], str(Path(folder) / name)], capture_output=True, text=True
            )
            said = [line.split() for line in done.stdout.splitlines() if line.startswith("digest")]
            if not said:
                print(f"| {name} | failed: {done.stderr.strip().splitlines()[-1:]} | |")
                failed = True
                continue
            _, found, documents = said[0]
            same = found == digest.hexdigest() and int(documents) == dataset.documents("train")
            failed |= not same
            print(f"| {name} | {'the same tokens' if same else 'OTHER TOKENS'} | {documents} |")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
