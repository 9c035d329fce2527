"""Clusters from verified pairs that stream by in survivor order: greedy stars, or connected components.

Both hold numbers for documents, not for pairs, so that memory does not grow with how often documents meet: stars 12 bytes for
each document, components 8 (4 more from two billion documents on), where any of its 4,096 neighbours has a duplicate.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from stages.characters import Ints
from stages.dedup.messages import places, whole_keys
from stages.jit import kernel

PAGE_BITS = 12  # rows of a shard that get their numbers together
ORDERED = 2  # ranks that fit into a key
_PIECE = 1 << 16
_GROWTH = 1.25
_INT32 = np.iinfo(np.int32).max


def order_keys(ranks: Sequence[npt.NDArray[np.int64]], rows: int) -> npt.NDArray[np.void]:
    """16-byte keys that sort as bytes in the order of the first two ranks."""
    keys = np.zeros((rows, 2), dtype=">u8")
    for column, rank in enumerate(ranks[:ORDERED]):
        keys[:, column] = rank.view(np.uint64) ^ np.uint64(1 << 63)
    return keys.view("V16").reshape(-1)


def in_survivor_order(tables: Iterable[pa.Table], rank_columns: Sequence[str]) -> Iterator[pa.Table]:
    """Messages under `order_keys` of the better document, sent from its place, in survivor order of the better document.

    They come so by themselves, but where there are more ranks than a key can hold: those of equal keys are sorted here, in memory.
    """
    if len(rank_columns) <= ORDERED:
        yield from tables
        return
    for table in whole_keys(tables):
        ranks = [table.column(name).to_numpy() for name in rank_columns]
        yield table.take(pa.array(np.lexsort((places(table), *reversed(ranks)))))


class Numbers:
    """Small numbers for the places of documents, in pages of `2**PAGE_BITS` rows: places are sparse, pages hardly."""

    def __init__(self) -> None:
        self.pages = np.empty(0, dtype=np.int64)  # sorted: place >> PAGE_BITS
        self.number = np.empty(0, dtype=np.int64)  # of each page

    def __len__(self) -> int:
        """One more than the largest number."""
        return len(self.pages) << PAGE_BITS

    @property
    def memory(self) -> int:
        """Bytes held."""
        return int(self.pages.nbytes + self.number.nbytes)

    def of(self, place: Ints) -> Ints:
        """The number of each place; new pages get the next ones."""
        pages = place >> PAGE_BITS
        new = np.setdiff1d(pages, self.pages)
        if len(new):
            number = np.concatenate([self.number, np.arange(len(self.pages), len(self.pages) + len(new))])
            joined = np.concatenate([self.pages, new])
            order = np.argsort(joined)
            self.pages, self.number = joined[order], number[order]
        found: Ints = (self.number[np.searchsorted(self.pages, pages)] << PAGE_BITS) | (place & ((1 << PAGE_BITS) - 1))
        return found


def first_places(numbers: Numbers) -> Ints:
    """The first place of each page, by the page's number."""
    first = np.empty(len(numbers.pages), dtype=np.int64)
    first[numbers.number] = numbers.pages << PAGE_BITS
    return first


def places_of(first: Ints, numbers: Ints) -> Ints:
    """The places of numbers, given the first place of each page."""
    return first[numbers >> PAGE_BITS] + (numbers & ((1 << PAGE_BITS) - 1))


class Removed(NamedTuple):
    """Documents (places) that are removed, the one kept for each, how similar the two are; and the edges that removed them."""

    edges: Ints
    places: Ints
    kept: Ints
    similarity: npt.NDArray[np.float64]


class Stars:
    """Greedy stars: in survivor order, each document not yet removed is kept, and removes its duplicates that are still there.

    So every removed document is a duplicate of the one kept for it. Documents with equal sets need only one edge among them
    (similarity 1): the worse shares the fate of the better, whose similarities are its own.
    """

    def __init__(self) -> None:
        self._numbers = Numbers()
        self._keeper: Any = np.zeros(0, dtype=np.int32)  # number plus one of the document kept for each; 0: none yet
        self._similarity = np.zeros(0, dtype=np.float64)  # to it

    @property
    def memory(self) -> int:
        """Bytes held."""
        return int(self._keeper.nbytes + self._similarity.nbytes + self._numbers.memory)

    def remove(self, better: Ints, worse: Ints, similarity: npt.NDArray[np.float64]) -> Removed:
        """What these edges (places) remove. Edges come, over all calls, in survivor order of `better`."""
        a, b = self._numbers.of(better), self._numbers.of(worse)  # numbers stay: new pages do not change old ones
        size = len(self._numbers)
        if size >= _INT32 and self._keeper.dtype == np.int32:
            self._keeper = self._keeper.astype(np.int64)
        self._keeper, self._similarity = grown(self._keeper, size), grown(self._similarity, size)
        edges = _stars(self._keeper, self._similarity, a, b, similarity)
        kept = self._keeper[b[edges]].astype(np.int64) - 1
        return Removed(edges, worse[edges], places_of(first_places(self._numbers), kept), self._similarity[b[edges]])


class Components:
    """Connected components, whose survivor is the best of each: union-find in which the better root stays the root."""

    def __init__(self) -> None:
        self._numbers = Numbers()
        # 0: not seen; > 0: number of the parent plus one; < 0: a root, minus its place in the survivor order of those seen
        self._parent: Any = np.zeros(0, dtype=np.int32)
        self._weight = np.zeros(0, dtype=np.int32)  # of a root: that of its component
        self._seen = 0

    @property
    def memory(self) -> int:
        """Bytes held."""
        return int(self._parent.nbytes + self._weight.nbytes + self._numbers.memory)

    def join(self, better: Ints, worse: Ints, weight: Ints, other_weight: Ints) -> None:
        """Edges (places), over all calls in survivor order of `better`; how many documents each end stands for."""
        a, b = self._numbers.of(better), self._numbers.of(worse)
        size = len(self._numbers)
        if max(size, self._seen + 2 * len(a)) >= _INT32 and self._parent.dtype == np.int32:
            self._parent = self._parent.astype(np.int64)
        self._parent, self._weight = grown(self._parent, size), grown(self._weight, size)
        self._seen = _join(self._parent, self._weight, a, b, weight, other_weight, self._seen)

    def members(self) -> Iterator[tuple[Ints, Ints, Ints]]:
        """Places of all that are not kept, in pieces; the place of the one kept for each, and how many that stands for."""
        first = first_places(self._numbers)
        for start in range(0, len(self._numbers), _PIECE):
            end = min(start + _PIECE, len(self._numbers))
            members = np.flatnonzero(self._parent[start:end] > 0) + start
            if len(members):
                roots = _roots(self._parent, members)
                yield places_of(first, members), places_of(first, roots), self._weight[roots].astype(np.int64)


def grown(values: Any, size: int) -> Any:
    """The array with at least `size` entries, the new ones 0."""
    if len(values) >= size:
        return values
    grown = np.zeros(max(size, int(len(values) * _GROWTH)), dtype=values.dtype)
    grown[: len(values)] = values
    return grown


@kernel
def _stars(keeper: Any, kept_similarity: Any, better: Ints, worse: Ints, similarity: Any) -> Ints:
    removing = np.empty(len(better), np.int64)
    count = 0
    for edge in range(len(better)):
        a, b = better[edge], worse[edge]
        if keeper[b] != 0 or (keeper[a] != 0 and similarity[edge] < 1.0):
            continue
        if keeper[a] == 0:
            keeper[b], kept_similarity[b] = a + 1, similarity[edge]
        else:
            keeper[b], kept_similarity[b] = keeper[a], kept_similarity[a]
        removing[count] = edge
        count += 1
    return removing[:count].copy()


@kernel
def _root(parent: Any, node: Any) -> Any:
    """The root of a node; the path to it is halved (Tarjan and van Leeuwen 1984)."""
    while parent[node] > 0:
        up = parent[node] - 1
        if parent[up] > 0:
            parent[node] = parent[up]
        node = up
    return node


@kernel
def _join(parent: Any, weight: Any, better: Ints, worse: Ints, weights: Ints, others: Ints, seen: Any) -> Any:
    largest = np.int64(2147483647)
    for edge in range(len(better)):
        a, b = better[edge], worse[edge]
        if parent[a] == 0:
            seen += 1
            parent[a], weight[a] = -seen, weights[edge]
        if (
            parent[b] == 0
        ):  # worse than all that were the better end so far, and so it joins the other's component at once
            root = _root(parent, a)
            parent[b] = root + 1
            weight[root] = min(largest, np.int64(weight[root]) + others[edge])
            continue
        first, second = _root(parent, a), _root(parent, b)
        if first == second:
            continue
        if parent[second] > parent[first]:  # both negative: the smaller number is nearer to 0
            first, second = second, first
        parent[second] = first + 1
        weight[first] = min(largest, np.int64(weight[first]) + np.int64(weight[second]))
    return seen


@kernel
def _roots(parent: Any, nodes: Ints) -> Ints:
    roots = np.empty(len(nodes), np.int64)
    for at in range(len(nodes)):
        roots[at] = _root(parent, nodes[at])
    return roots
