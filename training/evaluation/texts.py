"""Documents to be scored: the splits of a token dataset, and Parquet, JSONL and text files."""

from __future__ import annotations

import glob
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from tokenizer_training.dataset.read import TokenDataset
from training.knobs import TrainingError
from training.vocabulary import encode_text

GROUPS = ("source", "language")  # columns by which figures are given
UNREADABLE = (OSError, UnicodeDecodeError, EOFError, zlib.error)  # what a file, compressed or not, cannot be read for


class Document(NamedTuple):
    """A text as token ids, its size in UTF-8 bytes and in words, and its source and language where they are known."""

    tokens: list[int]
    bytes: int
    words: int
    groups: dict[str, str]


def count_words(text: str) -> int:
    """Words as lm-evaluation-harness counts them: parts between white space."""
    return len(re.split(r"\s+", text))


def split_documents(
    data: TokenDataset, split: str, tokenizer: Tokenizer, lengths: np.ndarray, language: Callable[[str], str | None]
) -> Iterator[Document]:
    """The documents of a split, in its order. `lengths`: bytes of each token id. `language`: by document id."""
    if split not in data.splits:
        raise TrainingError(f"{data.path}: no split {split!r}; it has {', '.join(data.splits)}")
    for number in range(len(data.splits[split])):
        payload, sidecar = data.shard(split, number), data.sidecar(split, number)
        for at, size, name, source in zip(sidecar.offsets, sidecar.lengths, sidecar.ids, sidecar.sources, strict=True):
            ids = payload[at : at + size].astype(np.int64)
            if len(ids) and ids.max() >= len(lengths):
                raise TrainingError(f"{data.path}: token id {ids.max()} is beyond the vocabulary of {len(lengths)}")
            text = tokenizer.decode(ids.tolist(), skip_special_tokens=True)
            groups = {"source": source.as_py(), "language": language(name.as_py())}
            known = {key: value for key, value in groups.items() if value is not None}
            yield Document(ids.tolist(), int(lengths[ids].sum()), count_words(text), known)


def file_documents(pattern: str, text_field: str, tokenizer: Tokenizer) -> Iterator[Document]:
    """The documents of files that a path or glob names, in the order of their names.

    .parquet and .jsonl (.gz too) hold a document a row, with `source` and `language` where there are such columns; any
    other file is one document. Raises `TrainingError` that names file and line.
    """
    for path in find_files(pattern):
        for where, row in _rows(path, text_field):
            text = row.get(text_field)
            if not isinstance(text, str):
                raise TrainingError(
                    f"{where}: {text_field!r} is {_shown(row, text_field)}, expected a text (text_field)"
                )
            groups = {key: row[key] for key in GROUPS if isinstance(row.get(key), str)}
            yield Document(encode_text(tokenizer, text), len(text.encode()), count_words(text), groups)


def find_files(pattern: str) -> list[Path]:
    """The files of a path, a folder or a glob. Raises `TrainingError` if there are none."""
    path = Path(pattern)
    if path.is_dir():
        found = sorted(inner for inner in path.iterdir() if inner.is_file() and not inner.name.startswith("."))
    else:
        found = [path] if path.is_file() else sorted(Path(name) for name in glob.glob(pattern, recursive=True))  # noqa: PTH207
    if not found:
        raise TrainingError(f"{pattern}: there is no such file, folder or split")
    return found


def _rows(path: Path, text_field: str) -> Iterator[tuple[str, dict[str, Any]]]:
    name = path.name.removesuffix(".gz")
    try:
        if name.endswith(".parquet"):
            yield from _parquet_rows(path, text_field)
        elif name.endswith((".jsonl", ".ndjson")):
            yield from json_lines(path)
        else:
            yield str(path), {text_field: _open(path).read()}
    except UNREADABLE as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: BaseException) -> TrainingError:
    why = error.strerror if isinstance(error, OSError) and error.strerror else error
    return TrainingError(f"cannot read {path}: {why}")


def _open(path: Path) -> Any:
    return gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8")


def json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(file:line, object) of each line of a JSONL file, empty lines left out. Raises `TrainingError` for another line, and for a
    file that cannot be read to its end."""
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise TrainingError(f"{path}:{number}: not JSON ({error}); expected one object a line") from None
        if not isinstance(row, dict):
            raise TrainingError(f"{path}:{number}: a {type(row).__name__}, expected one JSON object a line")
        yield f"{path}:{number}", row


def _lines(path: Path) -> Iterator[str]:
    try:
        with _open(path) as lines:
            yield from lines
    except UNREADABLE as error:
        raise _unreadable(path, error) from None


def _parquet_rows(path: Path, text_field: str) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(path)
        columns = [name for name in (text_field, *GROUPS) if name in file.schema_arrow.names]
        number = 0
        for batch in file.iter_batches(256, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
    except pa.ArrowException as error:
        raise TrainingError(f"cannot read {path}: {error}") from None


def _shown(row: dict[str, Any], key: str) -> str:
    return f"missing (there are {', '.join(row)})" if key not in row else f"a {type(row[key]).__name__}"


def language_of(
    data: TokenDataset, split: str, limit: int | None, documents: Path | None
) -> Callable[[str], str | None]:
    """The language of the first documents of a split, by id, where the Parquet parts in a folder have such a column."""
    if documents is None or not has_languages(documents):
        return lambda identity: None
    from training.held_out import column_of

    ids: list[str] = []
    for number in range(len(data.splits.get(split, []))):
        ids += data.sidecar(split, number).ids[: None if limit is None else limit - len(ids)].to_pylist()
        if limit is not None and len(ids) >= limit:
            break
    return column_of(documents, ids, "language").get


def has_languages(documents: Path) -> bool:
    """Whether a folder's Parquet parts say languages. Raises `TrainingError` where there are none, or they cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = sorted(documents.glob("*.parquet"))
    if not files:
        raise TrainingError(f"{documents} has no *.parquet; give the folder of the documents that were encoded")
    found = False
    for file in files:
        try:
            found = found or {"id", "language"} <= set(pq.read_schema(file).names)
        except (OSError, pa.ArrowException) as error:
            raise TrainingError(f"cannot read {file}: {error}") from None
    return found
