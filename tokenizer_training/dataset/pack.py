"""Packing: an index that cuts a split's tokens into training rows, beside the payload and without rewriting it.

- `best_fit`: documents longer than a row are split (at sentence ends, see `bins.cut`); the pieces and all others are placed,
  longest first, into the row where they fit tightest (best-fit-decreasing, Ding et al. 2024, arXiv 2404.10830), within
  windows of documents in their shuffled order; then the rows of a window are shuffled. Rows are padded.
- `bucketed`: the same, but a row holds only pieces whose lengths round up to the same power of two.
- `document`: each piece has a row to itself.
- `concat`: rows are cut from the documents' stream; no padding but in the last row, many documents cut.

Every token of a split is in exactly one row, but for documents left out by `longer: drop` and, of conversations that are split, pieces
without a token to train on; both are counted. Where there are phases of training, their rows follow each other: no row and
no window holds documents of two. Memory: the index of one shard, and a window for each group that is interleaved.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq

from tokenizer_training.config import TokenizerError
from tokenizer_training.dataset import bins
from tokenizer_training.dataset.boundaries import flags_of
from tokenizer_training.dataset.config import PackConfig
from tokenizer_training.dataset.layout import DATASET, atomic, mask_bits, pack_name, read_lengths, sha256_of
from tokenizer_training.dataset.spans import TENTHS, IndexWriter, Spans, Spool

NONE = np.zeros(0, np.int64)
POWERS = 2 ** np.arange(48, dtype=np.int64)


def best_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    """Rows (lists of item numbers, ascending) for items of 1 to `capacity` tokens: best-fit-decreasing, see `bins.fit`."""
    sizes = np.array(lengths, np.int64)
    rows = np.empty(len(sizes), np.int64)
    count = bins.fit(sizes, np.zeros(len(sizes), np.int64), capacity, rows)
    members: list[list[int]] = [[] for _ in range(count)]
    for item, row in enumerate(rows.tolist()):
        members[row].append(item)
    return members


class Stretch(NamedTuple):
    """Documents of one shard and one group that stand in this order: int64 places of their first tokens, lengths, codes of their sources."""

    shard: int
    offsets: np.ndarray
    lengths: np.ndarray
    codes: np.ndarray

    def part(self, which: Any) -> Stretch:
        return Stretch(self.shard, self.offsets[which], self.lengths[which], self.codes[which])


class Split:
    """The payload of a split, shard by shard, and where documents may be cut."""

    def __init__(self, out: Path, shards: list[dict[str, Any]], config: PackConfig, about: dict[str, Any]) -> None:
        self.out, self.shards, self.config = out, shards, config
        self.dtype = np.dtype(about.get("dtype", "uint16")).newbyteorder("<")
        self.chat = about.get("kind") == "chat"
        self.sentences = config.split == "sentence" and "boundaries" in about
        self.flags = flags_of(about["boundaries"]) if self.sentences else np.zeros(0, np.uint8)
        self.names: dict[str, int] = {}  # of sources, or groups, and their codes
        self.column = "group" if about.get("groups") else "source"
        self._payload: tuple[int, np.ndarray] | None = None
        self.documents: Counter[tuple[int, int]] = Counter()  # by phase and code
        self.tokens: Counter[tuple[int, int]] = Counter()
        self.lengths = np.zeros(len(POWERS), np.int64)  # of documents, by the power of two that they round up to
        self.longer = 0

    def payload(self, shard: int) -> np.ndarray:
        """All tokens of a shard, memory-mapped; those of the last one asked for stay open."""
        if self._payload is None or self._payload[0] != shard:
            self._payload = shard, np.memmap(self.out / self.shards[shard]["file"], self.dtype, "r")
        return self._payload[1]

    def stretches(self, phase: int, phases: int) -> Iterator[Stretch]:
        """The documents of a phase (of all where there are none), by shard."""
        for shard, entry in enumerate(self.shards):
            counts = entry.get("phases", [entry["documents"]])
            if len(counts) > max(1, phases) or sum(counts) != entry["documents"]:
                raise TokenizerError(f"{entry['file']}: its phases, {counts}, are not its documents; run `verify`")
            if phase >= len(counts) or not counts[phase]:
                continue
            lengths = read_lengths((self.out / entry["file"]).with_suffix(".idx"))
            if len(lengths) != entry["documents"]:
                raise TokenizerError(f"{entry['file']}: its index has {len(lengths)} documents; run `verify`")
            mine = slice(sum(counts[:phase]), sum(counts[: phase + 1]))
            offsets = np.cumsum(lengths) - lengths
            stretch = Stretch(shard, offsets[mine], lengths[mine], self._codes(entry["file"])[mine])
            self._count(phase, stretch)
            yield stretch

    def _count(self, phase: int, stretch: Stretch) -> None:
        documents = np.bincount(stretch.codes)
        tokens = np.bincount(stretch.codes, stretch.lengths)
        for code in np.flatnonzero(documents).tolist():
            self.documents[phase, code] += int(documents[code])
            self.tokens[phase, code] += int(tokens[code])
        self.lengths += np.bincount(np.searchsorted(POWERS, stretch.lengths), minlength=len(POWERS))
        self.longer += int((stretch.lengths > self.config.sequence_length).sum())

    def take_away(self, phase: int, packed: Packed) -> None:
        """Leave what was dropped out of the mixture."""
        for code, tokens in zip(packed.dropped.tolist(), packed.dropped_tokens.tolist(), strict=True):
            self.tokens[phase, code] -= tokens

    def mixture(self, phase: int | None = None) -> dict[str, dict[str, int]]:
        """Documents, and tokens in rows, by source (or group of the mix)."""
        found: dict[str, dict[str, int]] = {}
        for name, code in sorted(self.names.items()):
            keys = [key for key in self.documents if key[1] == code and phase in (None, key[0])]
            if keys:
                found[name] = {
                    "documents": sum(self.documents[key] for key in keys),
                    "tokens": sum(self.tokens[key] for key in keys),
                }
        return found

    def _codes(self, file: str) -> np.ndarray:
        """The code of each document's source (or group of the mix)."""
        sidecar = pq.read_table((self.out / file).with_suffix(".parquet"), columns=[self.column])
        encoded: Any = sidecar.column(self.column).combine_chunks().dictionary_encode()
        codes = [self.names.setdefault(name, len(self.names)) for name in encoded.dictionary.to_pylist()]
        return np.array(codes, np.int64)[encoded.indices.to_numpy()]


class Packed(NamedTuple):
    """Rows of one window (or stretch): spans with rows numbered from 0, and sums."""

    spans: Spans
    rows: int
    cut: int = 0  # documents in more than one row
    cut_tokens: int = 0  # of these documents
    most: int = 0  # documents in a row, at most
    dropped: np.ndarray = NONE  # codes of the sources of tokens left out, and how many
    dropped_tokens: np.ndarray = NONE
    dropped_pieces: int = 0


def pack_window(split: Split, window: list[Stretch], first_row: int) -> Packed:
    """Pack the documents of a window; `first_row` moves the shuffle of its rows from window to window."""
    config, capacity = split.config, split.config.sequence_length
    lengths = np.concatenate([part.lengths for part in window])
    shards = np.repeat(np.array([part.shard for part in window]), [len(part.lengths) for part in window])
    too_long = lengths > capacity
    long = lengths[too_long]
    drop = config.longer == "drop" and len(long) > 0
    search = capacity // 4 if split.sentences else 0
    room = len(lengths) + int((long // (1 if split.chat else capacity - search) + 1).sum())
    documents, offsets, sizes, gaps = (np.empty(room, np.int64) for _ in range(4))
    avail = np.zeros(search + 1, np.int64)
    if config.strategy == "best_fit" and search:
        avail += np.bincount(np.minimum(lengths, search + 1), minlength=search + 2)[: search + 1]
    count = before = 0
    for part in window:
        kept = part.part(part.lengths <= capacity) if drop else part
        tokens = split.payload(part.shard) if search and len(long) else np.zeros(0, split.dtype)
        start = count
        count = bins.cut(
            tokens,
            split.flags,
            kept.offsets,
            kept.lengths,
            capacity,
            capacity // 16,
            search,
            avail,
            split.chat and search > 0,
            documents,
            offsets,
            sizes,
            gaps,
            count,
        )
        if drop:
            documents[start:count] = np.flatnonzero(part.lengths <= capacity)[documents[start:count]]
        documents[start:count] += before
        before += len(part.lengths)
    documents, offsets, sizes, gaps = documents[:count], offsets[:count], sizes[:count], gaps[:count]
    dropped, dropped_tokens, dropped_pieces = NONE, NONE, 0
    if drop or (split.chat and len(long)):
        codes = np.concatenate([part.codes for part in window])
        if drop:
            dropped, dropped_tokens = codes[too_long], long
        else:
            empty = untrained(split, shards[documents], offsets, sizes, too_long[documents])
            dropped, dropped_tokens, dropped_pieces = codes[documents[empty]], sizes[empty], int(empty.sum())
            documents, offsets, sizes, gaps = documents[~empty], offsets[~empty], sizes[~empty], gaps[~empty]
    rows, made = _place(config, sizes, gaps)
    lines = np.empty((4, len(rows)), np.int64)
    seed = np.uint64((config.seed * 0x9E3779B97F4A7C15 + first_row * 0xD1342543DE82EF95) % 2**64)
    most = bins.arrange(rows, made, seed, documents, offsets, sizes, shards, lines)
    cut, cut_tokens = (0, 0) if drop else (len(long), int(long.sum()))
    return Packed(Spans(*lines), made, cut, cut_tokens, most, dropped, dropped_tokens, dropped_pieces)


def _place(config: PackConfig, sizes: np.ndarray, gaps: np.ndarray) -> tuple[np.ndarray, int]:
    """The row of each piece, and the number of rows."""
    if config.strategy == "document":
        return np.arange(len(sizes), dtype=np.int64), len(sizes)
    rows = np.empty(len(sizes), np.int64)
    if config.strategy == "best_fit":
        return rows, bins.fit(sizes, gaps, config.sequence_length, rows)
    made = 0
    buckets = np.searchsorted(POWERS, sizes)
    for bucket in np.unique(buckets).tolist():
        mine = np.flatnonzero(buckets == bucket)
        placed = np.empty(len(mine), np.int64)
        more = bins.fit(sizes[mine], gaps[mine], config.sequence_length, placed)
        rows[mine] = placed + made
        made += more
    return rows, made


def untrained(
    split: Split, shards: np.ndarray, offsets: np.ndarray, sizes: np.ndarray, pieces: np.ndarray
) -> np.ndarray:
    """Which of the `pieces` (mask) of conversations hold no token to train on."""
    found = np.zeros(len(pieces), bool)
    for at in np.flatnonzero(pieces).tolist():
        file = (split.out / split.shards[int(shards[at])]["file"]).with_suffix(".mask")
        found[at] = not mask_bits(file, int(offsets[at]), int(sizes[at])).any()
    return found


def _windows(split: Split, phase: int, phases: int) -> Iterator[tuple[int, list[Stretch]]]:
    """(group, documents) of `window` documents at a time; group 0 alone where nothing is interleaved."""
    size = split.config.window
    held: dict[int, list[Stretch]] = {}
    for stretch in split.stretches(phase, phases):
        for group, part in _grouped(split, stretch):
            parts = held.setdefault(group, [])
            start = 0
            while start < len(part.lengths):
                stop = min(len(part.lengths), start + size - sum(len(p.lengths) for p in parts))
                parts.append(part.part(slice(start, stop)))
                start = stop
                if sum(len(p.lengths) for p in parts) == size:
                    yield group, parts
                    parts = held[group] = []
    for group, parts in sorted(held.items()):
        if parts:
            yield group, parts


def _grouped(split: Split, stretch: Stretch) -> Iterator[tuple[int, Stretch]]:
    if split.config.interleave == "none":
        yield 0, stretch
    else:
        for group in np.unique(stretch.codes).tolist():
            yield group, stretch.part(stretch.codes == group)


def _window_rows(split: Split, phase: int, phases: int, first: int) -> Iterator[tuple[int, Packed]]:
    """(group, rows of a window); rows are numbered within their group."""
    rows: dict[int, int] = {}
    for group, window in _windows(split, phase, phases):
        packed = pack_window(split, window, first + rows.get(group, 0))
        yield group, _moved(packed, rows.get(group, 0))
        rows[group] = rows.get(group, 0) + packed.rows


def _moved(packed: Packed, by: int) -> Packed:
    return packed._replace(spans=packed.spans._replace(rows=packed.spans.rows + by))


def _concat_rows(split: Split, phase: int, phases: int, first: int) -> Iterator[tuple[int, Packed]]:
    """Cut at every multiple of the row length in the stream of a group's documents, and between shards."""
    capacity = split.config.sequence_length
    state: dict[int, tuple[int, int, int]] = {}  # by group: the open row, its tokens, its documents
    for stretch in split.stretches(phase, phases):
        for group, part in _grouped(split, stretch):
            row, filled, held = state.get(group, (0, 0, 0))
            room = len(part.lengths) + int(part.lengths.sum()) // capacity + 2
            rows, starts, sizes = (np.empty(room, np.int64) for _ in range(3))
            spans, more, filled, held, cut, tokens, most = bins.chain(
                part.offsets, part.lengths, capacity, filled, held, rows, starts, sizes
            )
            shard = np.full(spans, part.shard, np.int64)
            lines = Spans(rows[:spans] + row, starts[:spans], sizes[:spans], shard)
            state[group] = row + more, filled, held
            yield group, Packed(lines, more, cut, tokens, most)


def build_pack(
    out_dir: str | Path,
    split: str,
    shards: list[dict[str, Any]],
    config: PackConfig,
    about: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write `<split>.pack-<length>.parquet` from the `.idx` files of a split; returns its sums for dataset.json.

    `shards`: the split's entries of dataset.json. `about`: what else dataset.json (or the plan of the shards) says; without it
    documents are cut anywhere and there are no phases. tokens_in = tokens_kept + tokens_dropped, and rows * sequence_length =
    tokens_kept + tokens_padded.
    """
    out, about = Path(out_dir), about or {}
    phases: list[str] = about.get("phases", [])
    empty = {"rows": 0, "tokens_in": 0, "tokens_kept": 0, "tokens_padded": 0, "tokens_dropped": 0}
    empty |= {"documents": 0, "documents_cut": 0, "documents_longer_than_row": 0}
    if not shards:
        return {"file": None, "sha256": None, **empty, **({"phases": []} if phases else {})}
    if config.interleave == "group" and not about.get("groups"):
        raise TokenizerError("interleave: group needs documents of a mix (column mix_group); use source, or none")
    source = Split(out, shards, config, about)
    if config.interleave == "source":
        source.column = "source"
    path = out / pack_name(split, config.sequence_length)
    totals: Counter[str] = Counter()
    most = 0
    by_phase: list[dict[str, Any]] = []
    with atomic(path) as temporary, tempfile.TemporaryDirectory(dir=out, prefix=".spans-") as folder:
        writer = IndexWriter(temporary, bool(phases), config.sequence_length)
        for phase in range(max(1, len(phases))):
            first, before = writer.rows, writer.tokens
            spool = Spool(Path(folder))
            make = _concat_rows if config.strategy == "concat" else _window_rows
            for group, packed in make(source, phase, len(phases), first):
                most = max(most, packed.most)
                totals += _counted(packed)
                source.take_away(phase, packed)
                if config.interleave == "none":
                    writer.add(packed.spans._replace(rows=packed.spans.rows + first), phase)
                else:
                    spool.add(group, packed.spans)
            for spans in spool.merged(first) if spool.files else ():
                writer.add(spans, phase)
            if phases:
                rows, tokens = writer.rows - first, writer.tokens - before
                one = {"name": phases[phase], "first_row": first, "rows": rows, "tokens": tokens}
                by_phase.append({**one, "mixture": source.mixture(phase)})
        writer.close()
    kept = writer.tokens
    sums = {
        "rows": writer.rows,
        "tokens_in": kept + totals["tokens_dropped"],
        "tokens_kept": kept,
        "tokens_padded": writer.rows * config.sequence_length - kept,
        "tokens_dropped": totals["tokens_dropped"],
        "tokens_cut": totals["tokens_cut"],
        "documents": int(source.lengths.sum()),
        "documents_cut": totals["documents_cut"],
        "documents_longer_than_row": source.longer,
        "documents_dropped": totals["documents_dropped"],
        "pieces_dropped": totals["pieces_dropped"],
        "most_documents_in_row": most,
        "mixture_by": source.column,
        "mixture": source.mixture(),
        "document_lengths": {str(1 << power): count for power, count in enumerate(source.lengths.tolist()) if count},
        "row_fill": dict(zip(TENTHS, writer.filled.tolist(), strict=True)),
    }
    if sums["tokens_in"] != sum(int(shard["tokens"]) for shard in shards):
        raise TokenizerError(
            f"{path}: {sums['tokens_in']} tokens packed or dropped are not those of {DATASET}; run `verify`"
        )
    return {"file": path.name, "sha256": sha256_of(path), **sums, **({"phases": by_phase} if phases else {})}


def _counted(packed: Packed) -> Counter[str]:
    return Counter(
        tokens_dropped=int(packed.dropped_tokens.sum()),
        tokens_cut=packed.cut_tokens,
        documents_cut=packed.cut,
        documents_dropped=len(packed.dropped) - packed.dropped_pieces,
        pieces_dropped=packed.dropped_pieces,
    )


def pack_facts(config: PackConfig, splits: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The entry of dataset.json's `pack` for one sequence length; `splits`: what `build_pack` returned, by split."""
    facts: dict[str, Any] = {"strategy": config.strategy}
    if config.strategy != "concat":
        facts |= {"window": config.window, "seed": config.seed, "split": config.split, "longer": config.longer}
    return {**facts, "interleave": config.interleave, "splits": splits}
