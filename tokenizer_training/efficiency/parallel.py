"""The same content in many languages: the set that ships with the project, or a folder of the user's."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset.layout import sha256_of
from tokenizer_training.efficiency.metrics import gini, ratio
from tokenizer_training.efficiency.peers import Peer
from tokenizer_training.encoding.encoder import clean

SHIPPED = Path(__file__).with_name("udhr.json")
ENGLISH = ("en", "eng", "eng_Latn", "eng-US", "en-US", "newstest2019-src.eng")


class Parallel(NamedTuple):
    """Line i says the same in every language."""

    title: str
    sha256: str
    names: dict[str, str]  # of the languages
    lines: dict[str, list[str]]
    english: str | None  # key of the reference


@cache
def shipped() -> Parallel:
    """Articles 1 to 10 of the Universal Declaration of Human Rights in 56 languages."""
    content: dict[str, Any] = json.loads(SHIPPED.read_text(encoding="utf-8"))
    return Parallel(content["title"], sha256_of(SHIPPED), content["names"], content["articles"], "en")


def read_parallel(folder: Path) -> Parallel:
    """A file a language (`<language>.txt`, UTF-8), line-aligned. Raises `TokenizerError` if lines differ in number."""
    files = [file for file in sorted(folder.glob("*.txt")) if file.stem != "doc_ids"] if folder.is_dir() else []
    if len(files) < 2:
        raise TokenizerError(f"{folder}: expected a folder of two or more line-aligned files, <language>.txt")
    lines = {
        f.stem: clean(f.read_text(encoding="utf-8", errors="replace")).removesuffix("\n").split("\n") for f in files
    }
    wanted = len(next(iter(lines.values())))
    for name, found in lines.items():
        if len(found) != wanted:
            raise TokenizerError(
                f"{folder}: {name}.txt has {len(found)} lines and {files[0].name} {wanted}; parallel files are line-aligned"
            )
    digest = ",".join(sha256_of(file) for file in files)
    english = next((name for name in ENGLISH if name in lines), None)
    names = {name: name for name in lines}
    return Parallel(folder.resolve().name, hashlib.sha256(digest.encode()).hexdigest(), names, lines, english)


def measure_parallel(peer: Peer, parallel: Parallel) -> dict[str, Any]:
    """Tokens by language, parity against English, and Gini over languages of the tokens per parallel line."""
    codes = list(parallel.lines)
    texts = [line for code in codes for line in parallel.lines[code]]
    _, offsets = peer.encode_batch(texts)
    per_line = np.diff(offsets).reshape(len(codes), -1)
    tokens = dict(zip(codes, per_line.sum(1).tolist(), strict=True))
    reference = tokens[parallel.english] if parallel.english else None
    rows = {}
    for code in codes:
        size = sum(len(line.encode("utf-8")) for line in parallel.lines[code])
        rows[code] = {
            "name": parallel.names[code],
            "bytes": size,
            "characters": sum(map(len, parallel.lines[code])),
            "tokens": tokens[code],
            "bytes_per_token": ratio(size, tokens[code]),
            "parity": ratio(tokens[code], reference) if reference else None,
        }
    return {
        "title": parallel.title,
        "sha256": parallel.sha256,
        "english": parallel.english,
        "lines": per_line.shape[1],
        "gini": gini(per_line.mean(1)),
        "worst_parity": max((row["parity"] for row in rows.values() if row["parity"]), default=None),
        "languages": rows,
    }
