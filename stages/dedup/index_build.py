"""Parts of an index: one made of documents, one made of several others with documents left out.

Merging parts gives the bytes that building one part of all their documents, in their order, would give. Memory of a merge: a piece of
each file at a time, and about 9 bytes a document (14 where documents are left out). What is mapped is let go of piece by piece.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute

from stages.dedup.hashing import mix
from stages.dedup.index_files import ArrayFile, write_ids
from stages.dedup.index_format import (
    DOCUMENTS,
    IDS,
    LARGEST_PART,
    PART,
    REPEATED,
    SIGNATURES,
    Part,
    PartFacts,
    RunOfPart,
    StoredFile,
    key_file,
    sha256_file,
)
from stages.dedup.index_hash import IndexParameters, hash_documents
from stages.stage import StageError

PIECE = 1 << 21  # entries sorted at a time
REPEATS = "repeats.npy"  # while a part is made: (documents,) bool, whether an earlier document has the same signature
_ROW = np.uint32(REPEATED - 1)
pc: Any = pyarrow.compute  # its stubs know too little of what these functions take


class Documents(NamedTuple):
    """What is indexed of some documents, one entry each; texts may be null."""

    ids: Sequence[str]
    sources: Sequence[str | None]
    texts: Sequence[str | None]


@dataclass(frozen=True)
class Selection:
    """A part, in a local folder, and what of it is taken."""

    folder: Path
    without_ids: frozenset[str] = field(default=frozenset())
    without_runs: frozenset[str] = field(default=frozenset())


def build_part(documents: Iterable[Documents], parameters: IndexParameters, run: str, folder: Path) -> PartFacts:
    """Write a part of all documents that have a text. Memory: about 16 + permutations + 20 * bands bytes a document.

    Equal documents in equal order give equal bytes, however they are cut.
    """
    ids: list[str] = []
    sources: list[str] = []
    exact = [np.zeros((0, 2), np.uint64)]
    bands = [np.zeros((0, parameters.bands), np.uint64)]
    rows = [np.zeros(0, np.uint32)]
    narrow = [np.zeros((0, parameters.permutations), np.uint8)]
    for some in documents:
        hashed = hash_documents([text or "" for text in some.texts], some.sources, parameters)
        rows.append((hashed.worded + len(ids)).astype(np.uint32))
        for row in hashed.kept.tolist():
            ids.append(some.ids[row])
            sources.append(some.sources[row] or "")
        exact.append(hashed.exact)
        bands.append(hashed.bands)
        narrow.append(hashed.signatures)
    _check_size(len(ids))
    folder.mkdir(parents=True, exist_ok=True)
    signatures = np.concatenate(narrow)
    np.save(folder / SIGNATURES, signatures)
    write_ids(folder / IDS, [(pa.array(ids, pa.string()), pa.array(sources, pa.string()))], sorted(set(sources)))
    repeated = repeats(signatures[start : start + DOCUMENTS] for start in range(0, len(ids), DOCUMENTS))
    hashes, keys, worded = np.concatenate(exact), np.concatenate(bands), np.concatenate(rows)
    order = np.lexsort((np.arange(len(ids)), hashes[:, 0]))
    np.save(folder / key_file(None, "keys"), hashes[order, 0])
    np.save(folder / key_file(None, "low"), hashes[order, 1])
    np.save(folder / key_file(None, "rows"), order.astype(np.uint32))
    marked = worded | np.where(repeated[worded], REPEATED, np.uint32(0))
    for band in range(parameters.bands):
        order = np.lexsort((marked, keys[:, band]))
        np.save(folder / key_file(band, "keys"), keys[order, band])
        np.save(folder / key_file(band, "rows"), marked[order])
    return finish_part(folder, parameters, [RunOfPart(run, len(ids))])


def finish_part(folder: Path, parameters: IndexParameters, runs: Iterable[RunOfPart]) -> PartFacts:
    """Write part.json, the last file of a part; runs without documents are left out, unless none has any."""
    (folder / REPEATS).unlink(missing_ok=True)
    files = {
        path.name: StoredFile(path.stat().st_size, sha256_file(path))
        for path in sorted(folder.iterdir())
        if path.suffix in (".npy", ".arrow")
    }
    facts = PartFacts(parameters, _joined(runs), files)
    (folder / PART).write_bytes(facts.to_json())
    return facts


def _joined(runs: Iterable[RunOfPart]) -> tuple[RunOfPart, ...]:
    """Neighbours of the same name as one."""
    found: list[RunOfPart] = []
    for run in runs:
        if found and found[-1].run == run.run:
            found[-1] = RunOfPart(run.run, found[-1].documents + run.documents)
        else:
            found.append(run)
    return tuple(run for run in found if run.documents) or tuple(found[:1])


def merge_parts(selections: Sequence[Selection], folder: Path) -> PartFacts:
    """One part of several, in their order. Raises `StageError` if their parameters differ."""
    runs = merge_documents(selections, folder)
    parameters = common_parameters(selections)
    for which in (None, *range(parameters.bands)):
        merge_keys(selections, folder, which)
    return finish_part(folder, parameters, runs)


def common_parameters(selections: Sequence[Selection]) -> IndexParameters:
    """The parameters of all parts. Raises `StageError` where they differ."""
    found = [Part.at(selection.folder).facts.parameters for selection in selections]
    for selection, parameters in zip(selections, found, strict=True):
        if parameters != found[0]:
            raise StageError(f"{selection.folder}: {differing(found[0], parameters)}; build it again with equal ones")
    return found[0]


def differing(expected: IndexParameters, found: IndexParameters) -> str:
    """In what parameters differ, in words."""
    ours, theirs = expected.model_dump(), found.model_dump()
    return ", ".join(f"{name} is {theirs[name]}, not {ours[name]}" for name in ours if ours[name] != theirs[name])


def merge_documents(selections: Sequence[Selection], folder: Path) -> list[RunOfPart]:
    """The first step of a merge: ids, signatures and (for the next step) which signatures repeat. The runs, part by part."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = [Part.at(selection.folder) for selection in selections]
    masks = [_mask(part, selection) for part, selection in zip(parts, selections, strict=True)]
    counts = [len(part) if mask is None else int(mask.sum()) for part, mask in zip(parts, masks, strict=True)]
    _check_size(sum(counts))
    permutations = parts[0].facts.parameters.permutations
    with ArrayFile(folder / SIGNATURES, np.uint8, (sum(counts), permutations)) as file:
        np.save(folder / REPEATS, repeats(file.through(_signatures(parts, masks))))
    names: set[str] = set()
    for part, mask in zip(parts, masks, strict=True):
        for _, sources in _names(part, mask):
            names.update(pc.unique(sources).to_pylist())
    columns = (column for part, mask in zip(parts, masks, strict=True) for column in _names(part, mask))
    write_ids(folder / IDS, columns, sorted(names))
    return [run for part, mask in zip(parts, masks, strict=True) for run in _runs(part, mask)]


def merge_keys(selections: Sequence[Selection], folder: Path, which: int | None) -> None:
    """A later step of a merge, after `merge_documents`: the keys of one band, or of the texts' hashes (None)."""
    parts = [Part.at(selection.folder) for selection in selections]
    sources = []
    first = 0
    for part, selection in zip(parts, selections, strict=True):
        mask = _mask(part, selection)
        keys, rows = part.keys(which)
        sources.append(_Source(part, keys, rows, part.low if which is None else None, mask, first))
        first += len(part) if mask is None else int(mask.sum())
    repeated = np.zeros(first, dtype=bool) if which is None else np.asarray(np.load(folder / REPEATS, mmap_mode="r"))
    total = sum(source.entries() for source in sources)
    with contextlib.ExitStack() as stack:
        out_keys, out_rows, *out_low = (
            stack.enter_context(ArrayFile(folder / key_file(which, what), kind, (total,)))
            for what, kind in (("keys", np.uint64), ("rows", np.uint32), ("low", np.uint64))
            if which is None or what != "low"
        )
        for keys, rows, low in _sorted_pieces(sources, repeated):
            out_keys.write(keys)
            out_rows.write(rows)
            for file in out_low:
                file.write(low)
            for part in parts:
                part.release()


@dataclass
class _Source:
    """One part's sorted entries of a band."""

    part: Part
    keys: np.ndarray
    rows: np.ndarray
    low: np.ndarray | None
    mask: np.ndarray | None  # of its documents: which are taken
    first: int  # new row of its first document

    def __post_init__(self) -> None:
        self.new_rows = None if self.mask is None else (np.cumsum(self.mask, dtype=np.int64) - 1).astype(np.uint32)

    def entries(self) -> int:
        """How many entries are taken."""
        if self.mask is None:
            return len(self.keys)
        count = 0
        for start in range(0, len(self.rows), PIECE):
            count += int(self.mask[self.rows[start : start + PIECE] & _ROW].sum())
            self.part.release()
        return count

    def piece(self, start: int, end: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Entries that are taken: keys, rows in the new part, lower halves."""
        keys, rows = self.keys[start:end], self.rows[start:end] & _ROW
        low = keys if self.low is None else self.low[start:end]
        if self.mask is not None and self.new_rows is not None:
            taken = self.mask[rows]
            keys, low, rows = keys[taken], low[taken], self.new_rows[rows[taken]]
        return keys, rows + np.uint32(self.first), low


def _sorted_pieces(
    sources: Sequence[_Source], repeated: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """All entries sorted by (key, marked row), some at a time."""
    for bounds in _key_ranges([source.keys for source in sources], 0, 1 << 64):
        if sum(end - start for start, end in bounds) > PIECE:
            yield from _one_key(sources, bounds, repeated)
            continue
        found = [source.piece(start, end) for source, (start, end) in zip(sources, bounds, strict=True)]
        keys, rows, low = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        rows = rows | np.where(repeated[rows], REPEATED, np.uint32(0))
        order = np.lexsort((rows, keys))
        yield keys[order], rows[order], low[order]


def _one_key(
    sources: Sequence[_Source], bounds: Sequence[tuple[int, int]], repeated: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Entries of one key that are too many for one piece: their rows alone are sorted, one part and mark at a time."""
    for mark in (False, True):
        for source, (first, last) in zip(sources, bounds, strict=True):
            held = [np.zeros(0, np.uint32)]
            for start in range(first, last, PIECE):
                _, rows, _ = source.piece(start, min(start + PIECE, last))
                held.append(rows[repeated[rows] == mark])
            rows = np.sort(np.concatenate(held))
            for start in range(0, len(rows), PIECE):
                piece = rows[start : start + PIECE]
                keys = np.full(len(piece), source.keys[first], dtype=np.uint64)
                low = keys if source.low is None else np.full(len(piece), source.low[first], dtype=np.uint64)
                yield keys, piece | (REPEATED if mark else np.uint32(0)), low


def _key_ranges(arrays: Sequence[np.ndarray], low: int, high: int) -> Iterator[list[tuple[int, int]]]:
    """Bounds of ranges of keys in each sorted array, in order: of at most `PIECE` entries, or of one key."""
    bounds = [
        (
            int(np.searchsorted(keys, np.uint64(low))),
            len(keys) if high == 1 << 64 else int(np.searchsorted(keys, np.uint64(high))),
        )
        for keys in arrays
    ]
    size = sum(end - start for start, end in bounds)
    if not size:
        return
    if size <= PIECE or high - low == 1:
        yield bounds
        return
    middle = (low + high) // 2
    yield from _key_ranges(arrays, low, middle)
    yield from _key_ranges(arrays, middle, high)


def repeats(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """Whether an earlier row of the blocks, each (some, permutations) uint8, is the same; by a 64-bit hash. (documents,) bool."""
    hashes = [np.zeros(0, np.uint64)]
    for block in blocks:
        words = np.ascontiguousarray(block).view("<u8")
        state = np.zeros(len(words), dtype=np.uint64)
        for column in words.T:
            state = mix(state ^ column)
        hashes.append(state)
    digests = np.concatenate(hashes)
    found = np.zeros(len(digests), dtype=bool)
    ranges = -(-len(digests) // PIECE)
    for number in range(ranges):
        if ranges == 1:
            rows = np.arange(len(digests))
        else:  # by the top 32 bits, so that equal ones come together
            rows = np.flatnonzero((digests >> np.uint64(32)) * np.uint64(ranges) >> np.uint64(32) == number)
        order = rows[np.argsort(digests[rows], kind="stable")]
        found[order[1:]] = digests[order[1:]] == digests[order[:-1]]
    return found


def _mask(part: Part, selection: Selection) -> np.ndarray | None:
    """Which documents of a part are taken; None for all."""
    if not selection.without_ids and not selection.without_runs:
        return None
    mask = np.ones(len(part), dtype=bool)
    if selection.without_ids:
        wanted = pa.array(sorted(selection.without_ids), pa.string())
        start = 0
        for batch in part.ids():
            mask[start : start + len(batch)] = pc.invert(pc.is_in(batch.column(0), value_set=wanted))
            start += len(batch)
    start = 0
    for run in part.facts.runs:
        if run.run in selection.without_runs:
            mask[start : start + run.documents] = False
        start += run.documents
    return None if mask.all() else mask


def _runs(part: Part, mask: np.ndarray | None) -> list[RunOfPart]:
    if mask is None:
        return list(part.facts.runs)
    starts = [0, *part.run_ends[:-1].tolist()]
    ends = part.run_ends.tolist()
    return [
        RunOfPart(run.run, int(mask[start:end].sum()))
        for run, start, end in zip(part.facts.runs, starts, ends, strict=True)
    ]


def _signatures(parts: Sequence[Part], masks: Sequence[np.ndarray | None]) -> Iterator[np.ndarray]:
    """Signatures of the documents that are taken, in blocks."""
    for part, mask in zip(parts, masks, strict=True):
        start = 0
        for block in part.blocks(SIGNATURES, DOCUMENTS):
            yield block if mask is None else block[mask[start : start + len(block)]]
            start += len(block)


def _names(part: Part, mask: np.ndarray | None) -> Iterator[tuple[pa.Array, pa.Array]]:
    """Ids and sources of a part's documents that are taken, in batches."""
    start = 0
    for batch in part.ids():
        taken = batch if mask is None else batch.filter(pa.array(mask[start : start + len(batch)]))
        start += len(batch)
        yield taken.column(0), pc.cast(taken.column(1), pa.string())


def _check_size(documents: int) -> None:
    if documents >= LARGEST_PART:
        raise StageError(f"a part of an index holds fewer than {LARGEST_PART:,} documents, not {documents:,}; use more")
