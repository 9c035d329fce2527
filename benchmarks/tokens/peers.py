"""Bytes per token of our tokenizer against published vocabularies, on a corpus, on parallel text and on Python's library.

    python -m benchmarks.tokens.peers --ours TOKENIZER --packages FOLDER --documents DOCUMENTS --parallel FOLDER|.tar.xz

FOLDER holds unpacked packages (docs/efficiency.md says which); what it has is found by file name. The figures in brackets are
those published by tokka-bench for 2 MB of web text a language: another text, so only their size and order can be checked.
"""

from __future__ import annotations

import argparse
import os
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from tokenizer_training.efficiency.metrics import ratio
from tokenizer_training.efficiency.parallel import Parallel, measure_parallel, read_parallel, shipped
from tokenizer_training.efficiency.peers import Peer, open_peer
from tokenizer_training.efficiency.sample import Sample, read_sample

PACKAGES = {  # name in the table -> where its vocabulary lies in a package
    "GPT-2": "r50k_base.tiktoken",
    "GPT-4": "cl100k_base.tiktoken",
    "GPT-4o": "o200k_base.tiktoken",
    "Llama-3": "*llama3*/**/tokenizer.json",
    "Qwen3": "*qwen3*/**/tokenizer.json",
    "Gemma-3": "*gemma3*/**/tokenizer.json",
    "DeepSeek-V3": "*deepseek*/**/tokenizer.json",
    "Tekken": "tekken_240911.json",
}
ANCHORS = {  # tokka-bench; GPT-4o's are those of gpt-oss, whose text tokens are the same
    "GPT-2": (4.42, 2.69, 1.70, 1.69, 1.42, 2.07, 2.15),
    "GPT-4": (4.53, 3.60, 3.83, 2.61, 2.31, 2.73, 4.43),
    "GPT-4o": (4.58, 4.34, 6.41, 7.97, 3.47, 3.79, 4.40),
    "Llama-3": (4.54, 3.61, 5.61, 4.90, 3.39, 4.03, 4.43),
    "Qwen3": (4.40, 3.57, 5.14, 2.78, 4.04, 4.22, 4.37),
    "Gemma-3": (4.36, 4.12, 6.41, 9.28, 3.93, 4.97, 3.52),
}
LANGUAGES = {"en": "eng", "de": "deu", "ru": "rus", "hi": "hin", "zh": "zho-CN", "ja": "jpn"}
CODE_BYTES = 2_000_000


def find_peers(folders: list[str]) -> list[str]:
    """NAME=PATH of every known vocabulary below some folders."""
    found = []
    for name, pattern in PACKAGES.items():
        for folder in folders:
            files = sorted(Path(folder).glob(pattern if "/" in pattern else f"**/{pattern}"))
            if files:
                found.append(f"{name}={files[0]}")
                break
    return found


def python_library() -> str:
    """The beginning of Python's standard library, file after file."""
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    return "".join(file.read_text(encoding="utf-8", errors="replace") for file in files)[:CODE_BYTES]


def parallel_text(given: str) -> Parallel:
    """A folder of line-aligned files, or a tar of one."""
    if Path(given).is_dir():
        return read_parallel(Path(given))
    with tempfile.TemporaryDirectory() as folder, tarfile.open(given) as archive:
        archive.extractall(folder, filter="data")
        inner = next(path.parent for path in sorted(Path(folder).rglob("eng.txt")))
        return read_parallel(inner)._replace(title=Path(given).name)


def figures(peer: Peer, sample: Sample, parallel: Parallel, code: str) -> dict[str, Any]:
    """What one row of the tables says."""
    tokens = len(peer.encode_batch(sample.texts)[0])
    found = measure_parallel(peer, parallel)
    by_language = [found["languages"].get(name, {}).get("bytes_per_token") for name in LANGUAGES.values()]
    return {
        "name": peer.name,
        "vocabulary": peer.vocab_size,
        "corpus": ratio(sample.total_bytes, tokens),
        "by_language": [*by_language, ratio(len(code.encode()), len(peer.encode(code)))],
        "gini": found["gini"],
        "worst": found["worst_parity"],
        "shipped_gini": measure_parallel(peer, shipped())["gini"],
        "losses": peer.losses(),
    }


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", action="append", default=[], metavar="[NAME=]FOLDER")
    parser.add_argument("--packages", action="append", default=[], metavar="FOLDER")
    parser.add_argument("--documents", nargs="+", required=True)
    parser.add_argument("--parallel", required=True)
    parser.add_argument("--max-bytes", type=int, default=5_000_000)
    arguments = parser.parse_args()
    sample = read_sample(arguments.documents, arguments.max_bytes)
    parallel = parallel_text(arguments.parallel)
    code = python_library()
    rows = [
        figures(open_peer(given), sample, parallel, code)
        for given in [*arguments.ours, *find_peers(arguments.packages)]
    ]
    print(f"Corpus: {sample.total_bytes:,} bytes; parallel: {parallel.title}, {len(parallel.lines)} languages\n")
    heads = ["tokenizer", "V", "corpus", *LANGUAGES, "Python", "Gini", "worst parity", "Gini, UDHR", "not given back"]
    print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
    for row in rows:
        anchors = ANCHORS.get(row["name"], (None,) * 7)
        shown = [
            ("–" if value is None else f"{value:.2f}") + (f" ({anchor})" if anchor else "")
            for value, anchor in zip(row["by_language"], anchors, strict=True)
        ]
        cells = [row["name"], f"{row['vocabulary']:,}", f"{row['corpus']:.2f}", *shown]
        cells += [f"{row['gini']:.3f}", "–" if row["worst"] is None else f"{row['worst']:.1f}"]
        print("| " + " | ".join([*cells, f"{row['shipped_gini']:.3f}", ", ".join(row["losses"]) or "–"]) + " |")


if __name__ == "__main__":
    main()
