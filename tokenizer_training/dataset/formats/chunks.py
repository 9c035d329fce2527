"""Formats of their own: MDS (mosaicml-streaming) and litdata, both a table of offsets and the samples behind it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset.formats.shards import Shard, Source

CHUNK_BYTES = 1 << 26  # of a chunk, more where one document has more; MDS's own default
MOST_BYTES = 2**32 - 1  # offsets are uint32
LITDATA_DTYPES = {"uint16": 20, "int32": 16}  # litdata/constants.py: places in its table of torch types


def to_mds(source: Source, out: Path) -> None:
    """A folder for each split: `shard.NNNNN.mds` and index.json; samples are documents: id, source, tokens (and mask)."""
    columns = {"id": "str", "source": "str", "tokens": f"ndarray:{source.facts['dtype']}"}
    columns |= {"mask": "ndarray:uint8"} if source.masked else {}
    names = sorted(columns)
    config = {
        "version": 2,
        "format": "mds",
        "compression": None,
        "hashes": ["sha256"],
        "size_limit": CHUNK_BYTES,
        "column_names": names,
        "column_encodings": [columns[name] for name in names],
        "column_sizes": [None] * len(names),
    }
    head = json.dumps(config, sort_keys=True).encode()
    for split in source.facts["splits"]:
        folder, entries = out / split, []
        for number, samples in enumerate(_bounded(_mds_samples(source, split, names))):
            folder.mkdir(exist_ok=True)
            sizes = np.array([0, *map(len, samples)], np.int64)
            offsets = np.cumsum(sizes) + 4 + 4 * len(sizes) + len(head)
            if offsets[-1] > MOST_BYTES:
                raise TokenizerError(
                    f"{source.path}: a document of {max(map(len, samples))} bytes; MDS counts bytes in 32 bits"
                )
            data = b"".join([np.uint32(len(samples)).tobytes(), offsets.astype("<u4").tobytes(), head, *samples])
            name = f"shard.{number:05d}.mds"
            (folder / name).write_bytes(data)
            raw = {"basename": name, "bytes": len(data), "hashes": {"sha256": hashlib.sha256(data).hexdigest()}}
            entries.append({"samples": len(samples), "raw_data": raw, "zip_data": None, **config})
        if entries:
            text = json.dumps({"version": 2, "shards": entries}, sort_keys=True)
            (folder / "index.json").write_text(text, encoding="utf-8")


def _mds_samples(source: Source, split: str, names: list[str]) -> Iterator[bytes]:
    for shard in source.shards(split):
        tokens = shard.payload()
        mask = shard.mask() if source.masked else None
        start = 0
        for length, (identity, origin) in zip(shard.lengths().tolist(), shard.texts(), strict=True):
            stop = start + length
            values = {"id": identity.encode(), "source": origin.encode(), "tokens": _array(tokens[start:stop])}
            if mask is not None:
                values["mask"] = _array(mask[start:stop])
            bodies = [values[name] for name in names]
            yield np.array([*map(len, bodies)], "<u4").tobytes() + b"".join(bodies)
            start = stop


def _array(values: np.ndarray) -> bytes:
    """A one-dimensional array of a known type as MDS has it: (dimensions << 2 | width of the shape), shape, values."""
    for code, kind in enumerate(("<u1", "<u2", "<u4")):
        if len(values) < 1 << (8 * np.dtype(kind).itemsize):
            return bytes([1 << 2 | code]) + np.array([len(values)], kind).tobytes() + values.tobytes()
    raise TokenizerError(f"a document of {len(values)} tokens; MDS would need 64 bits for its length")


def _bounded(samples: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Samples of about `CHUNK_BYTES` together."""
    held: list[bytes] = []
    size = 0
    for sample in samples:
        if held and size + len(sample) + 4 > CHUNK_BYTES:
            yield held
            held, size = [], 0
        held.append(sample)
        size += len(sample) + 4
    if held:
        yield held


def to_litdata(source: Source, out: Path) -> None:
    """A folder for each split: `chunk-N.bin` and index.json, for litdata's StreamingDataset with TokensLoader; items are documents.

    TokensLoader reads a chunk as one stream in blocks and leaves out what is behind its last whole block.
    """
    for split in source.facts["splits"]:
        chunks: list[dict[str, Any]] = []
        for shard in source.shards(split):
            tokens, lengths = shard.payload(), shard.lengths()
            for first, stop, start, end in _litdata_chunks(shard, lengths):
                (out / split).mkdir(exist_ok=True)
                sizes = np.concatenate([[0], np.cumsum(lengths[first:stop])]) * shard.dtype.itemsize
                offsets = sizes + 4 + 4 * len(sizes)
                if offsets[-1] > MOST_BYTES:
                    raise TokenizerError(f"{shard.file}: a document of 4 GiB; litdata counts bytes in 32 bits")
                name = f"chunk-0-{len(chunks)}.bin"
                with (out / split / name).open("wb") as file:
                    file.write(np.uint32(stop - first).tobytes() + offsets.astype("<u4").tobytes())
                    file.write(tokens[start:end].tobytes())
                size = int(offsets[-1])
                chunks.append({"chunk_bytes": size, "chunk_size": stop - first, "dim": end - start, "filename": name})
        if chunks:
            config = {
                "chunk_bytes": CHUNK_BYTES,
                "chunk_size": None,
                "compression": None,
                "data_format": [f"no_header_tensor:{LITDATA_DTYPES[source.facts['dtype']]}"],
                "data_spec": '[1, {"type": null, "context": null, "children_spec": []}]',
                "encryption": None,
                "item_loader": "TokensLoader",
            }
            text = json.dumps({"chunks": chunks, "config": config, "updated_at": "0"}, sort_keys=True)
            (out / split / "index.json").write_text(text, encoding="utf-8")


def _litdata_chunks(shard: Shard, lengths: np.ndarray) -> Iterator[tuple[int, int, int, int]]:
    """(first document, its successor's, first token, its successor's) of each chunk."""
    ends = np.cumsum(lengths)
    first = start = 0
    while first < len(lengths):
        most = start + CHUNK_BYTES // shard.dtype.itemsize
        stop = max(first + 1, int(np.searchsorted(ends, most, "right")))
        yield first, stop, start, int(ends[stop - 1])
        first, start = stop, int(ends[stop - 1])
