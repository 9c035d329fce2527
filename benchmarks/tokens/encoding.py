"""Encoding with one tokenizer: our engine, gigatoken, tiktoken and tokenizers, one thread, each in a process of its own, in turns.

    python -m benchmarks.tokens.encoding --english DOCUMENTS.jsonl [--mixed SENTENCES.tar.xz] [--peer NAME=TOKENIZER.json ...]
        [--megabytes 8] [--runs 3] [--vocab 32768] [--tokenizer FOLDER]

DOCUMENTS.jsonl has one {"text": ...} a line; SENTENCES is an archive of text files in many languages (such as NTREX), taken a line
of each by turns; code is Python's own library. A tokenizer is trained on a part of all three, unless one is given. `--peer` measures
a published byte-level tokenizer.json too. Prints a Markdown table: MB of UTF-8 per CPU-second (median of the runs), on the first
pass over the text (cold: nothing cached, code compiled) and on the second (warm), and whether ids are those of `tokenizers`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ENGINES = ("gristmill", "gigatoken", "tiktoken", "encode_batch", "encode_batch_fast")


def english(file: Path, size: int) -> list[str]:
    """Documents whose words are often English ones, up to `size` characters."""
    common = {"the", "of", "and", "to", "in", "is", "that", "for"}
    texts: list[str] = []
    taken = 0
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            text = json.loads(line)["text"]
            words = text.lower().split()
            if len(words) > 50 and sum(word in common for word in words) > len(words) / 8:
                texts.append(text)
                taken += len(text)
                if taken > size:
                    break
    return texts


def mixed(archive: Path, size: int) -> list[str]:
    """One line of each file by turns, twenty lines a text."""
    with tarfile.open(archive) as tar:
        members = sorted((member for member in tar if member.isfile()), key=lambda member: member.name)
        files = [tar.extractfile(member).read().decode("utf-8", "replace").splitlines() for member in members]  # type: ignore[union-attr]
    files = [lines for lines in files if len(lines) > 100]
    lines = [lines[i] for i in range(max(map(len, files))) for lines in files if i < len(lines)]
    texts = ["\n".join(lines[i : i + 20]) for i in range(0, len(lines), 20)]
    return limited(texts, size)


def code(size: int) -> list[str]:
    files = sorted(Path(os.__file__).parent.rglob("*.py"))
    return limited([file.read_text(encoding="utf-8", errors="replace") for file in files[:3000]], size)


def limited(texts: list[str], size: int) -> list[str]:
    ends = np.cumsum([len(text.encode()) for text in texts])
    return texts[: int(np.searchsorted(ends, size)) + 1]


def run_engine(name: str, tokenizer: Path, column: Path) -> None:
    """In the child: print seconds of both passes, bytes, and a digest of the ids."""
    from tokenizers import Tokenizer

    from tokenizer_training.encoding.bpe_file import read_byte_pairs
    from tokenizer_training.encoding.encoder import _normal, _pieces
    from tokenizer_training.encoding.exact import _MAKERS
    from tokenizer_training.encoding.texts import Texts, texts_of_column

    texts = texts_of_column(pq.read_table(column).column("text").combine_chunks())[0]
    model = read_byte_pairs(tokenizer)
    library = Tokenizer.from_file(str(tokenizer))
    library.encode_special_tokens = True
    encode: Callable[[Texts], tuple[np.ndarray, np.ndarray]]
    if name.startswith("encode_batch"):
        pieces, _ = _pieces(texts)

        def encode(given: Texts) -> tuple[np.ndarray, np.ndarray]:
            made = getattr(library, name)(list(given), add_special_tokens=False)
            ids = [encoding.ids for encoding in made]
            return np.array([i for some in ids for i in some], np.int32), np.cumsum([0, *map(len, ids)])

    else:
        pieces, _ = _pieces(_normal(texts) if model.nfc else texts)
        _MAKERS[name](model).encode(pieces.rows(0, 1))  # compiles
        encode = _MAKERS[name](model).encode
    seconds = []
    for _ in range(2):
        begun = time.process_time()
        ids, offsets = encode(pieces)
        seconds.append(time.process_time() - begun)
    digest = hashlib.sha256(ids.astype(np.int32).tobytes() + offsets.astype(np.int64).tobytes()).hexdigest()
    size = int(texts.offsets[-1] - texts.offsets[0])
    print(
        json.dumps(
            {"cold": size / 1e6 / seconds[0], "warm": size / 1e6 / seconds[1], "ids": digest, "tokens": len(ids)}
        )
    )


def child(name: str, tokenizer: Path, column: Path) -> dict[str, float | str]:
    one = {"TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "benchmarks.tokens.encoding", "--child", name, str(tokenizer), str(column)]
    run = subprocess.run(command, env={**os.environ, **one}, capture_output=True, text=True)
    if run.returncode:
        return {"error": run.stderr.strip().splitlines()[-1][-120:]}
    made: dict[str, float | str] = json.loads(run.stdout.splitlines()[-1])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--english", type=Path)
    parser.add_argument("--mixed", type=Path)
    parser.add_argument("--peer", metavar="NAME=TOKENIZER.json", action="append", default=[])
    parser.add_argument("--tokenizer", type=Path)
    parser.add_argument("--megabytes", type=int, default=8)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--vocab", type=int, default=32768)
    parser.add_argument("--child", nargs=3)
    arguments = parser.parse_args()
    if arguments.child:
        run_engine(arguments.child[0], Path(arguments.child[1]), Path(arguments.child[2]))
        return
    size = arguments.megabytes * 1_000_000
    corpora = {"code": code(size)}
    if arguments.english:
        corpora = {"English": english(arguments.english, size)} | corpora
    if arguments.mixed:
        corpora["128 languages"] = mixed(arguments.mixed, size)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        columns = {}
        for corpus, texts in corpora.items():
            columns[corpus] = folder / f"{corpus}.parquet"
            ids = [f"{corpus}-{i}" for i in range(len(texts))]
            pq.write_table(pa.table({"id": ids, "text": texts}), columns[corpus])
        trained = arguments.tokenizer
        if trained is None:
            trained = folder / "tokenizer"
            command = [sys.executable, "-m", "tokenizer_training", "train", *map(str, columns.values())]
            subprocess.run([*command, "--output", str(trained), "--vocab-size", str(arguments.vocab)], check=True)
        print("| tokenizer | text | engine | MB/s cold | MB/s warm | ids |\n|---|---|---|---|---|---|")
        peers = {name: Path(file) for name, file in (peer.split("=", 1) for peer in arguments.peer)}
        for label, tokenizer in {"ours": trained / "tokenizer.json", **peers}.items():
            for corpus, column in columns.items():
                made: dict[str, list[dict[str, float | str]]] = {engine: [] for engine in ENGINES}
                for _ in range(arguments.runs):
                    for engine in ENGINES:
                        made[engine].append(child(engine, tokenizer, column))
                right = made["encode_batch_fast"][0]["ids"]
                for engine, runs in made.items():
                    if "error" in runs[0]:
                        print(f"| {label} | {corpus} | {engine} | | | {runs[0]['error']} |")
                        continue
                    cold, warm = (statistics.median(float(run[key]) for run in runs) for key in ("cold", "warm"))
                    same = "the same" if all(run["ids"] == right for run in runs) else "other ids"
                    print(
                        f"| {label} | {corpus} | {engine} | {cold:.1f} | {warm:.1f} | {same} |",
                        flush=True,
                    )


if __name__ == "__main__":
    main()
