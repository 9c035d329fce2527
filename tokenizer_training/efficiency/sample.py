"""The text that tokenizers are measured on, in memory: the same for all of them, and named by a hash."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tokenizer_training.config import TokenizerError
from tokenizer_training.corpus.documents import FIELDS, Fields, document_tables, hash64, text_bytes
from tokenizer_training.corpus.files import find_documents
from tokenizer_training.efficiency.words import CharacterTable, count_words, scripts_of
from tokenizer_training.encoding.encoder import clean

UNKNOWN = "unknown"
DIMENSIONS = ("language", "source", "domain", "script")
BATCH_CHARACTERS = 4_000_000


@dataclass
class Sample:
    """Documents, what they are grouped by, and their words.

    Groups: for each dimension its names, and int64 codes of the documents into them; `cells` are the distinct combinations.
    """

    corpus_bytes: int
    texts: list[str]
    bytes: np.ndarray  # int64[documents], UTF-8
    characters: np.ndarray  # int64[documents]
    names: dict[str, list[str]]
    codes: dict[str, np.ndarray]
    words: pa.Array  # distinct words
    word_cell: np.ndarray  # int64: index into `cells` of each pair (cell, word)
    word: np.ndarray
    word_count: np.ndarray
    cells: np.ndarray  # int64[cells, dimensions]: distinct combinations of groups
    sha256: str
    files: list[Path]

    @property
    def total_bytes(self) -> int:
        """UTF-8 bytes of all documents."""
        return int(self.bytes.sum())


def read_sample(documents: Sequence[str | Path], max_bytes: int, fields: Fields = FIELDS) -> Sample:
    """Documents of Parquet or JSONL files; beyond `max_bytes` those whose hashed id is low enough.

    So the sample depends neither on the order nor on the files. Memory: some ten times `max_bytes`. Raises
    `TokenizerError` if there is no text.
    """
    files = find_documents(documents)
    total = sum(text_bytes(path, fields) for path in files)
    if total == 0:
        raise TokenizerError(f"{', '.join(map(str, documents))}: no text to measure a tokenizer on")
    share = min(1.0, max_bytes / total)
    columns: list[str] = ["id", "text", "source", "language", *(["domain"] if fields.domain else [])]
    texts: list[str] = []
    labels: dict[str, list[str]] = {name: [] for name in DIMENSIONS if name in columns}
    digests: list[bytes] = []
    for path in files:
        for table in document_tables(path, columns, fields):
            ids = table.column("id").to_pylist()
            used = [i for i, name in enumerate(ids) if share == 1.0 or hash64("evaluate", name) < share * 2**64]
            found = [clean(text) for text in table.column("text").take(pa.array(used, pa.int64())).to_pylist()]
            texts.extend(found)
            for name, values in labels.items():
                values.extend(table.column(name).take(pa.array(used, pa.int64())).to_pylist())
            digests.extend(hashlib.sha256(text.encode("utf-8")).digest() for text in found)
    if not any(texts):
        raise TokenizerError(f"max_bytes={max_bytes} of {total} bytes left no text after sampling whole documents")
    return make_sample(texts, labels, total, hashlib.sha256(b"".join(sorted(digests))).hexdigest(), files)


def make_sample(
    texts: list[str], labels: dict[str, list[str]], corpus_bytes: int, sha256: str, files: list[Path]
) -> Sample:
    """A sample of texts without lone surrogates; `labels` of the documents by dimension, script is added."""
    table = CharacterTable()
    batches = batches_of(texts)
    scripts = [name for start, end in batches for name in scripts_of(texts[start:end], table)]
    labels = {**labels, "script": scripts}
    names, codes = {}, {}
    for dimension, values in labels.items():
        names[dimension] = sorted({value or UNKNOWN for value in values})
        where = {name: code for code, name in enumerate(names[dimension])}
        codes[dimension] = np.array([where[value or UNKNOWN] for value in values], np.int64)
    cells, cell = np.unique(np.stack([codes[name] for name in names], 1), axis=0, return_inverse=True)
    words, pairs = _words(texts, cell.reshape(-1).astype(np.int64), table)
    return Sample(
        corpus_bytes=corpus_bytes,
        texts=texts,
        bytes=np.array([len(text.encode("utf-8")) for text in texts], np.int64),
        characters=np.array([len(text) for text in texts], np.int64),
        names=names,
        codes=codes,
        words=words,
        word_cell=pairs[0],
        word=pairs[1],
        word_count=pairs[2],
        cells=cells,
        sha256=sha256,
        files=files,
    )


def batches_of(texts: list[str]) -> list[tuple[int, int]]:
    """Ranges of texts of some million characters each."""
    found = []
    start = size = 0
    for at, text in enumerate(texts):
        size += len(text) + 1
        if size >= BATCH_CHARACTERS or at + 1 == len(texts):
            found.append((start, at + 1))
            start, size = at + 1, 0
    return found


def _words(texts: list[str], cell: np.ndarray, table: CharacterTable) -> tuple[pa.Array, list[np.ndarray]]:
    """Distinct words of all texts and their counts by cell, batch after batch."""
    found: list[Any] = [count_words(texts[a:b], cell[a:b], table) for a, b in batches_of(texts)]
    joined = pa.concat_arrays([batch[0] for batch in found]).dictionary_encode()
    codes = joined.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    firsts = np.cumsum([0] + [len(batch[0]) for batch in found])
    group = np.concatenate([batch[1] for batch in found])
    word = np.concatenate([codes[first + batch[2]] for first, batch in zip(firsts[:-1], found, strict=True)])
    count = np.concatenate([batch[3] for batch in found])
    return joined.dictionary, [group, word, count]
