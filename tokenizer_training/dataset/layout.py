"""Files of a token dataset: their names, Megatron-LM's index layout, checksums, and atomic writing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tokenizer_training.config import TokenizerError

FORMAT = 3  # newest dataset.json, with the files that it names, that this version reads
PLAIN, PHASED, MASKED = (
    1,
    2,
    3,
)  # what it writes: 2 where there are phases of training, 3 for conversations with loss masks
DATASET = "dataset.json"
SPLITS = ("train", "validation")

MAGIC = b"MMIDIDX\x00\x00"  # Megatron-LM, megatron/core/datasets/indexed_dataset.py
HEADER = struct.Struct("<9sQBQQ")  # magic, version 1, dtype code, number of sequences, number of document boundaries
DTYPE_CODES = {"int32": 4, "uint16": 8}


def schema(**columns: pa.DataType) -> pa.Schema:
    """A schema without nulls."""
    fields: list[Any] = [pa.field(name, kind, False) for name, kind in columns.items()]
    return pa.schema(fields)


SIDECAR = schema(
    id=pa.string(), token_offset=pa.int64(), token_length=pa.int64(), source=pa.string(), repeat=pa.int32()
)


def sidecar_schema(groups: bool) -> pa.Schema:
    """Columns of a sidecar; `group` (of the mix) only where documents have one."""
    return SIDECAR.append(schema(group=pa.string()).field(0)) if groups else SIDECAR


PACK_INDEX = schema(row=pa.int64(), token_offset=pa.int64(), token_length=pa.int64(), shard=pa.int32())
PHASED_INDEX = PACK_INDEX.append(schema(phase=pa.int32()).field(0))  # where there are phases of training


def dtype_of(vocab_size: int) -> str:
    """The type of stored tokens. The bound is Megatron-LM's, so that every reader agrees."""
    return "uint16" if vocab_size < 65500 else "int32"


def stem(split: str, shard: int) -> str:
    """File name of a shard without its suffix."""
    return f"{split}-{shard:05d}"


def pack_name(split: str, sequence_length: int) -> str:
    """File name of a pack index."""
    return f"{split}.pack-{sequence_length}.parquet"


OWN_FILES = re.compile(r"(train|validation)(-\d{5,}\.(bin|idx|mask|parquet)|\.pack-\d+\.parquet)(\.tmp)?")


@contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the final name, synced to disk, when the block ends well."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def json_text(value: dict[str, Any]) -> str:
    """Readable JSON; equal values give equal text."""
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def write_json(path: Path, value: dict[str, Any]) -> None:
    """Write readable JSON atomically."""
    with atomic(path) as temporary:
        temporary.write_text(json_text(value), encoding="utf-8")


def with_checksum(facts: dict[str, Any]) -> dict[str, Any]:
    """The facts of dataset.json, last a SHA-256 over all others as JSON without spaces."""
    rest = {key: value for key, value in facts.items() if key != "checksum"}
    plain = json.dumps(rest, ensure_ascii=False, separators=(",", ":"))
    return {**rest, "checksum": hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()}


def sha256_of(path: Path) -> str:
    """SHA-256 of a file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def mask_bits(file: Path, start: int, count: int) -> np.ndarray:
    """Bits `start` to `start + count` of a `.mask` file as bool: bit i % 8 (from the lowest) of byte i // 8 is token i's."""
    first = start // 8
    with file.open("rb") as opened:
        opened.seek(first)
        raw = np.frombuffer(opened.read((start + count + 7) // 8 - first), np.uint8)
    return np.unpackbits(raw, bitorder="little")[start - 8 * first :][:count].astype(bool)


def read_lengths(path: Path) -> np.ndarray:
    """Lengths (int64, in tokens, end token included) of the documents of an `.idx` file, after checking it."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(HEADER.size)
        if len(head) < HEADER.size or head[:9] != MAGIC:
            raise TokenizerError(f"{path}: not a Megatron index (wrong magic number)")
        _, version, code, sequences, boundaries = HEADER.unpack(head)
        if version != 1 or code not in DTYPE_CODES.values():
            raise TokenizerError(
                f"{path}: version {version} with dtype code {code}; expected version 1 and code 4 or 8"
            )
        if boundaries != sequences + 1 or size != HEADER.size + 12 * sequences + 8 * boundaries:
            raise TokenizerError(f"{path}: {size} bytes do not fit {sequences} sequences and {boundaries} boundaries")
        lengths = np.fromfile(file, "<i4", sequences).astype(np.int64)
        pointers = np.fromfile(file, "<i8", sequences)
        documents = np.fromfile(file, "<i8", boundaries)
    itemsize = 2 if code == DTYPE_CODES["uint16"] else 4
    starts = np.concatenate([[0], np.cumsum(lengths)]) * itemsize
    if (lengths < 1).any() or (pointers != starts[:-1]).any() or (documents != np.arange(boundaries)).any():
        raise TokenizerError(f"{path}: lengths, pointers and document boundaries contradict each other")
    return lengths


def read_dataset_json(path: Path) -> dict[str, Any]:
    """dataset.json of a finished token dataset."""
    file = path / DATASET
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TokenizerError(f"{path}: no {DATASET}, so not a finished token dataset") from None
    except ValueError as error:
        raise TokenizerError(f"{file}: broken JSON ({error}); build the dataset again") from None
    if not isinstance(facts, dict) or not isinstance(facts.get("format"), int):
        raise TokenizerError(f"{file}: no integer `format`; not a token dataset's description")
    if facts["format"] > FORMAT:
        raise TokenizerError(f"{file}: format {facts['format']} is newer than this reader's {FORMAT}; update gristmill")
    return facts
