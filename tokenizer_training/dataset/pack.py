"""Packing: an index that cuts a split's tokens into training rows, beside the payload and without rewriting it.

- `concat`: rows are cut from the documents' stream; no padding but in the last row, many documents cut.
- `best_fit`: documents longer than a row are split into full rows and a rest; rests and shorter documents are placed,
  longest first, into the row where they fit tightest (best-fit-decreasing, Ding et al. 2024, arXiv 2404.10830), within
  windows of documents in their shuffled order; then the rows of a window are shuffled. Rows are padded.

Every token of a split is in exactly one row. Where there are phases of training, their rows follow each other: no row
and no window holds documents of two.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset.config import PackConfig
from tokenizer_training.dataset.layout import PACK_INDEX, PHASED_INDEX, atomic, pack_name, read_lengths, sha256_of

WRITE_SPANS = 1 << 18  # index lines of a Parquet row group


class Spans(NamedTuple):
    """Lines of the pack index (int64 arrays), sorted by row; `cut` counts documents in more than one row."""

    rows: np.ndarray
    shards: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    cut: int


def best_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    """Rows (lists of item numbers, ascending) for items of 1 to `capacity` tokens: best-fit-decreasing.

    Ties go to the earlier item and to the row that was changed last. A bit set of the capacities that some row has
    left makes each placement one search for the lowest set bit.
    """
    rows: list[list[int]] = []
    by_space: list[list[int]] = [[] for _ in range(capacity + 1)]  # row numbers by space left
    spaces = 0  # bit s: some row has s tokens left
    for item in sorted(range(len(lengths)), key=lambda item: (-lengths[item], item)):
        length = lengths[item]
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            row = by_space[space].pop()
            if not by_space[space]:
                spaces ^= 1 << space
            rows[row].append(item)
        else:
            space, row = capacity, len(rows)
            rows.append([item])
        left = space - length
        if left:
            by_space[left].append(row)
            spaces |= 1 << left
    for members in rows:
        members.sort()
    return rows


def mix64(values: np.ndarray, seed: int) -> np.ndarray:
    """SplitMix64's finaliser over uint64: a fixed shuffle of numbers that no library version changes."""
    x = values.astype(np.uint64) + np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def best_fit_window(
    shards: np.ndarray, offsets: np.ndarray, lengths: np.ndarray, config: PackConfig, first_row: int
) -> tuple[Spans, int]:
    """Pack the documents of one window (int64 arrays); returns its spans and the number of its rows."""
    capacity = config.sequence_length
    pieces: list[tuple[int, int, int]] = []  # shard, offset, length
    rows: list[list[int]] = []
    open_items: list[int] = []
    cut = 0
    for shard, offset, length in zip(shards.tolist(), offsets.tolist(), lengths.tolist(), strict=True):
        cut += length > capacity
        for start in range(0, length, capacity):
            size = min(capacity, length - start)
            if size == capacity:
                rows.append([len(pieces)])
            else:
                open_items.append(len(pieces))
            pieces.append((shard, offset + start, size))
    packed = best_fit([pieces[item][2] for item in open_items], capacity)
    rows += [[open_items[item] for item in row] for row in packed]
    order = np.argsort(mix64(np.arange(first_row, first_row + len(rows)), config.seed), kind="stable")
    lines = [(first_row + place, *pieces[item]) for place, row in enumerate(order.tolist()) for item in rows[row]]
    columns = np.array(lines, np.int64).reshape(-1, 4).T
    return Spans(columns[0], columns[1], columns[2], columns[3], cut), len(rows)


class Stretch(NamedTuple):
    """Documents of a shard that follow each other: the place of the first in tokens, and their lengths (int64)."""

    shard: int
    offset: int
    lengths: np.ndarray


def stretches(lengths: list[np.ndarray], shards: list[dict[str, Any]], phases: int) -> list[list[Stretch]]:
    """The documents of each phase (of one where there are none), by shard. `shards`: their entries of dataset.json."""
    found: list[list[Stretch]] = [[] for _ in range(max(1, phases))]
    for shard, (sizes, entry) in enumerate(zip(lengths, shards, strict=True)):
        counts = entry.get("phases", [len(sizes)])
        if sum(counts) != len(sizes) or len(counts) > len(found):
            raise TokenizerError(
                f"{entry['file']}: its phases, {counts}, are not its {len(sizes)} documents; run `verify`"
            )
        ends = np.concatenate([[0], np.cumsum(sizes)])
        first = 0
        for phase, count in enumerate(counts):
            if count:
                found[phase].append(Stretch(shard, int(ends[first]), sizes[first : first + count]))
            first += count
    return found


def _windows(documents: list[Stretch], size: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(shards, offsets, lengths) of `size` documents at a time, across shards."""
    parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    held = 0
    for shard, begin, these in documents:
        offsets = begin + np.concatenate([[0], np.cumsum(these)[:-1]])
        start = 0
        while start < len(these):
            stop = min(len(these), start + size - held)
            parts.append((np.full(stop - start, shard, np.int64), offsets[start:stop], these[start:stop]))
            held += stop - start
            start = stop
            if held == size:
                yield _joined(parts)
                parts, held = [], 0
    if parts:
        yield _joined(parts)


def _joined(parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shards, offsets, lengths = (np.concatenate(column) for column in zip(*parts, strict=True))
    return shards, offsets, lengths


def _best_fit_spans(documents: list[Stretch], config: PackConfig, row: int) -> Iterator[Spans]:
    for shards, offsets, sizes in _windows(documents, config.window):
        spans, rows = best_fit_window(shards, offsets, sizes, config, row)
        row += rows
        yield spans


def _concat_spans(documents: list[Stretch], config: PackConfig, row: int) -> Iterator[Spans]:
    """Cut at every multiple of the row length in the stream of all shards, and between shards."""
    capacity = config.sequence_length
    before = 0  # tokens of the shards before this one
    for shard, begin, sizes in documents:
        total = int(sizes.sum())
        first = before // capacity
        edges = np.arange(first + 1, (before + total - 1) // capacity + 1, dtype=np.int64) * capacity - before
        starts = np.concatenate([[0], edges])
        stops = np.concatenate([edges, [total]])
        ends = before + np.cumsum(sizes)
        cut = int(((ends - sizes) // capacity != (ends - 1) // capacity).sum())
        rows = row + first + np.arange(len(starts), dtype=np.int64)
        yield Spans(rows, np.full(len(starts), shard, np.int64), begin + starts, stops - starts, cut)
        before += total


def build_pack(
    out_dir: str | Path,
    split: str,
    shards: list[dict[str, Any]],
    config: PackConfig,
    phases: Sequence[str] = (),
) -> dict[str, Any]:
    """Write `<split>.pack-<length>.parquet` from the `.idx` files of a split; returns its sums for dataset.json.

    `shards`: the split's entries of dataset.json. tokens_in = tokens_kept + tokens_dropped (always 0 here), and
    rows * sequence_length = tokens_kept + tokens_padded. `phases`: their names; each has its first row, rows and tokens.
    """
    out = Path(out_dir)
    sums = {"rows": 0, "tokens_in": 0, "tokens_kept": 0, "tokens_padded": 0, "tokens_dropped": 0}
    sums |= {"documents": 0, "documents_cut": 0, "documents_longer_than_row": 0}
    by_phase: list[dict[str, Any]] = []
    if not shards:
        return {"file": None, "sha256": None, **sums, **({"phases": []} if phases else {})}
    lengths = [read_lengths((out / shard["file"]).with_suffix(".idx")) for shard in shards]
    sums["tokens_in"] = sum(int(sizes.sum()) for sizes in lengths)
    sums["documents"] = sum(map(len, lengths))
    sums["documents_longer_than_row"] = sum(int((sizes > config.sequence_length).sum()) for sizes in lengths)
    make = _best_fit_spans if config.strategy == "best_fit" else _concat_spans
    path = out / pack_name(split, config.sequence_length)
    index = PHASED_INDEX if phases else PACK_INDEX
    with atomic(path) as temporary, pq.ParquetWriter(temporary, index, compression="zstd") as writer:
        held: list[Spans] = []
        for phase, documents in enumerate(stretches(lengths, shards, len(phases))):
            first, before = sums["rows"], sums["tokens_kept"]
            for spans in make(documents, config, first):
                sums["rows"] = int(spans.rows[-1]) + 1
                sums["tokens_kept"] += int(spans.lengths.sum())
                sums["documents_cut"] += spans.cut
                held.append(spans)
                if sum(len(s.rows) for s in held) >= WRITE_SPANS:
                    _write(writer, held, index, phase)
                    held = []
            if held:
                _write(writer, held, index, phase)
                held = []
            if phases:
                rows, tokens = sums["rows"] - first, sums["tokens_kept"] - before
                by_phase.append({"name": phases[phase], "first_row": first, "rows": rows, "tokens": tokens})
    sums["tokens_dropped"] = sums["tokens_in"] - sums["tokens_kept"]
    sums["tokens_padded"] = sums["rows"] * config.sequence_length - sums["tokens_kept"]
    return {"file": path.name, "sha256": sha256_of(path), **sums, **({"phases": by_phase} if phases else {})}


def _write(writer: pq.ParquetWriter, held: list[Spans], index: pa.Schema, phase: int) -> None:
    columns = [np.concatenate([getattr(s, name) for s in held]) for name in ("rows", "offsets", "lengths", "shards")]
    columns += [np.full(len(columns[0]), phase)] if "phase" in index.names else []
    arrays = [pa.array(values, field.type) for values, field in zip(columns, index, strict=True)]
    writer.write_table(pa.Table.from_arrays(arrays, schema=index), row_group_size=WRITE_SPANS)


def pack_facts(config: PackConfig, splits: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The entry of dataset.json's `pack` for one sequence length; `splits`: what `build_pack` returned, by split."""
    facts: dict[str, Any] = {"strategy": config.strategy}
    if config.strategy == "best_fit":
        facts |= {"window": config.window, "seed": config.seed}
    return {**facts, "splits": splits}
