"""Rows of preference pairs and of prompts, from the pipeline's Parquet folders or from JSONL, checked one by one."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from training.evaluation.texts import json_lines
from training.knobs import TrainingError

Message = dict[str, str]  # role and content


def read_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of a JSONL file, a Parquet file, or a folder of either. Raises `TrainingError` if there is none."""
    if not path.exists():
        raise TrainingError(f"{path}: no such file or folder; expected Parquet or JSONL rows")
    files = [path]
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix == ".parquet" or ".jsonl" in file.suffixes)
        if not files:
            raise TrainingError(f"{path} holds neither *.parquet nor *.jsonl files")
    for file in files:
        yield from _parquet_rows(file) if file.suffix == ".parquet" else json_lines(file)


def _parquet_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        number = 0
        for batch in pq.ParquetFile(path).iter_batches(1024):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row
    except (pa.ArrowException, OSError) as error:
        raise TrainingError(f"cannot read {path}: {error}") from None


def messages_of(row: dict[str, Any], key: str, role: str, where: str) -> list[Message]:
    """The conversation under a key: a list of messages, or a text that `role` says.

    Raises `TrainingError` for anything else, and for messages without text.
    """
    value = row.get(key)
    if isinstance(value, str) and value.strip():
        return [{"role": role, "content": value}]
    if not isinstance(value, list) or not value:
        shown = "missing" if key not in row else f"a {type(value).__name__}" if value else "empty"
        raise TrainingError(f"{where}: {key!r} is {shown}; expected a text or a list of role and content")
    for message in value:
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise TrainingError(f"{where}: {key!r} holds {message!r:.80}; expected an object with role and content")
        if not isinstance(message.get("content"), str):
            raise TrainingError(f"{where}: {key!r} has a message of {message['role']!r} without text in content")
    return [{"role": message["role"], "content": message["content"]} for message in value]


def identity(*values: Any) -> str:
    """A checksum of JSON values: the id of a row without one, the key by which rows are held out."""
    return hashlib.sha256(json.dumps(values, sort_keys=True, ensure_ascii=False).encode()).hexdigest()
