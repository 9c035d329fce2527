"""What the n-grams found in documents say about a document, and about an item."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from stages.dedup.messages import key_values

if TYPE_CHECKING:
    from stages.decontaminate.index import Index

MOST_DOCUMENTS = 100  # documents that the report names for an item, the first in the order of the corpus
NEAR = 100  # characters within which a cut looks for white space
PIECE = 4096  # rows of the report in one table

FINDINGS_COLUMNS: dict[str, pa.DataType] = {
    "benchmark": pa.string(),
    "item": pa.string(),
    "state": pa.string(),  # contaminated, clean, or why it cannot be looked for: too_short, common
    "words": pa.int64(),
    "ngrams": pa.int64(),  # that were looked for (1 for what is matched whole)
    "common_in_items": pa.int64(),  # n-grams that stand in too many items, so that they were not
    "common_in_documents": pa.int64(),  # n-grams found in too many documents, so that they did not count
    "documents": pa.int64(),  # that hold some of it
    "coverage": pa.float64(),  # the largest share of its words that one document holds
    "covered": pa.float64(),  # share of its words that they hold together
    "found": pa.list_(  # the first of them; spans are code points [start, end) of the text that came to the stage
        pa.struct(
            [
                ("id", pa.string()),
                ("coverage", pa.float64()),
                ("spans", pa.list_(pa.struct([("start", pa.int64()), ("end", pa.int64())]))),
            ]
        )
    ),
}

_SPACES = np.array(sorted(ord(c) for c in " \t\n\r\v\f\u0085\u00a0\u2028\u2029\u3000"), dtype=np.uint32)


def merged(ranges: np.ndarray) -> np.ndarray:
    """Ranges [start, end), (n, 2), as disjoint ones in order; those that touch become one."""
    if len(ranges) < 2:
        return ranges
    ranges = ranges[np.argsort(ranges[:, 0], kind="stable")]
    ends = np.maximum.accumulate(ranges[:, 1])
    new = np.append(True, ranges[1:, 0] > ends[:-1])
    return np.stack([ranges[new, 0], ends[np.append(np.flatnonzero(new)[1:] - 1, len(ranges) - 1)]], axis=1)


def cut_ranges(text: str, start: np.ndarray, end: np.ndarray, margin: int | None) -> tuple[np.ndarray, np.ndarray]:
    """What to cut for overlaps [start, end): a margin on both sides, and on to white space if some is near. None: nothing."""
    if margin is None:
        return start, start
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    spaces = np.concatenate([[-1], np.flatnonzero(np.isin(codes, _SPACES)), [len(codes)]])
    low, high = np.maximum(start - margin, 0), np.minimum(end + margin, len(codes))
    before = spaces[np.searchsorted(spaces, low, "right") - 1]  # the last at or before
    after = spaces[np.searchsorted(spaces, high)]  # the first at or after
    return (
        np.where(low - before <= NEAR, np.maximum(before, 0), low),
        np.where(after - high <= NEAR, after, high),
    )


class Evidence:
    """The items that a document holds at least `least` of, by share, largest first.

    `places`: for each gram found (and not common), rows of start, end, start of the cut, end of the cut.
    """

    def __init__(self, index: Index, places: dict[int, np.ndarray], least: float) -> None:
        ranges: dict[int, list[tuple[int, int]]] = {}
        grams: dict[int, list[int]] = {}
        for gram in places:
            size = int(index.gram_size[gram])
            for item, begin in zip(*(part.tolist() for part in index.items_of(gram)), strict=True):
                ranges.setdefault(item, []).append((begin, begin + size))
                grams.setdefault(item, []).append(gram)
        self._covered = {item: merged(np.array(some)) for item, some in ranges.items()}
        words = np.diff(index.item_start)
        share = {item: int(np.diff(some).sum()) / int(words[item]) for item, some in self._covered.items()}
        self.items = sorted((item for item in share if share[item] >= least), key=lambda item: (-share[item], item))
        self._share = share
        self._places = {item: np.concatenate([places[gram] for gram in grams[item]]) for item in self.items}
        self.coverage = share[self.items[0]] if self.items else 0.0

    @property
    def spans(self) -> np.ndarray:
        """The places of all n-grams that count."""
        return np.concatenate([self._places[item] for item in self.items])

    def messages(self) -> Iterator[dict[str, Any]]:
        """What each item is told."""
        for item in self.items:
            yield {
                "item": item,
                "coverage": self._share[item],
                "covered": self._covered[item].ravel().tolist(),
                "spans": merged(self._places[item][:, :2]).ravel().tolist(),
            }


class _Item:
    """What is told about one item, summed up."""

    def __init__(self) -> None:
        self.common = 0
        self.documents = 0
        self.coverage = 0.0
        self.covered = np.zeros((0, 2), np.int64)
        self.found: list[dict[str, Any]] = []

    def add(self, row: dict[str, Any]) -> None:
        if row["id"] is None:
            self.common += 1
            return
        self.documents += 1
        self.coverage = max(self.coverage, row["coverage"])
        self.covered = merged(np.concatenate([self.covered, np.array(row["covered"]).reshape(-1, 2)]))
        if len(self.found) < MOST_DOCUMENTS:
            places = [{"start": a, "end": b} for a, b in np.array(row["spans"]).reshape(-1, 2).tolist()]
            self.found.append({"id": row["id"], "coverage": row["coverage"], "spans": places})


def _told(messages: Iterable[pa.Table]) -> Iterator[tuple[int, dict[str, Any]]]:
    for table in messages:
        items = key_values(table)[:, 0].byteswap().tolist()
        yield from zip(items, table.to_pylist(), strict=True)


def findings(index: Index, messages: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """The report in tables: a row for each item, in order. Messages come sorted by item."""
    schema = pa.schema(list(FINDINGS_COLUMNS.items()))
    words = np.diff(index.item_start)
    ngrams = np.bincount(index.item_of[index.gram_at], minlength=len(words))
    told = _told(messages)
    following = next(told, None)
    rows: list[dict[str, Any]] = []
    for number, (benchmark, name) in enumerate(index.names):
        item = _Item()
        while following is not None and following[0] == number:
            item.add(following[1])
            following = next(told, None)
        if item.documents:
            state = "contaminated"
        elif ngrams[number]:
            state = "clean"
        else:
            state = "common" if index.common[number] else "too_short"
        rows.append(
            {
                "benchmark": benchmark,
                "item": name,
                "state": state,
                "words": int(words[number]),
                "ngrams": int(ngrams[number]),
                "common_in_items": int(index.common[number]),
                "common_in_documents": item.common,
                "documents": item.documents,
                "coverage": item.coverage,
                "covered": int(np.diff(item.covered).sum()) / int(words[number]) if item.documents else 0.0,
                "found": item.found,
            }
        )
        if len(rows) == PIECE:
            yield pa.Table.from_pylist(rows, schema=schema)
            rows = []
    yield pa.Table.from_pylist(rows, schema=schema)
