"""Connected components of a graph that is too large for one process: its documents in parts, one part in memory at a time.

Sibeyn's node reduction, by groups of nodes instead of single ones (Dementiev, Sanders, Schultes and Sibeyn 2004, "Engineering an external
memory minimum spanning tree algorithm"). *Forward*, from the last part to the first: a part sees every edge with an end in it and
the other there or in an earlier part. It joins its own nodes; each set of them keeps one edge to an earlier part, and every other edge
to one becomes an edge between two nodes of earlier parts. So edges never grow in number, and the last part is left with none.
*Backward*, from the first part to the last: a set's label is that of the node that its edge leads to, or, without one, its own root.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from stages.characters import Ints, Keys
from stages.dedup.cluster import PAGE_BITS, Numbers, first_places, grown, places_of
from stages.dedup.hashing import mix
from stages.dedup.messages import key_values, message_table, pack, places, unpack
from stages.jit import kernel

OTHER: dict[str, pa.DataType] = {"other_shard": pa.int32(), "other_row": pa.int64()}
FORWARD = OTHER  # an edge from the sender; or (QUESTION) the part `other_shard` asks for the label of the sender
BACKWARD: dict[str, pa.DataType] = {**OTHER, "asker": pa.int32()}
EDGE, QUESTION = range(2)  # keys in a forward round, in the order in which they are needed
ANSWER, LEADS_TO, BELONGS_TO = range(3)  # and in a backward round
_PIECE = 1 << 16


class Rounds(NamedTuple):
    """The numbers of the rounds of `dedup.fuzzy` for so many parts."""

    parts: int

    def forward(self, part: int) -> int:
        """The last part comes first."""
        return 3 + self.parts - 1 - part

    def backward(self, part: int) -> int:
        """The first part comes first."""
        return 3 + self.parts + part

    @property
    def labelled(self) -> int:
        """Where edges learn their component."""
        return 3 + 2 * self.parts

    def cluster(self, part: int) -> int:
        """Where the edges of whole components come together, in survivor order."""
        return 3 if self.parts == 1 else 4 + 2 * self.parts + part

    @property
    def survivor(self) -> int:
        """Where survivors learn their members."""
        return self.cluster(self.parts - 1) + 1


def part_of(place: Ints, parts: int) -> Ints:
    """The part of each place; rows of a page stay together."""
    found: Ints = (mix((place >> PAGE_BITS).astype(np.uint64)) % np.uint64(parts)).astype(np.int64)
    return found


def keyed(kind: int, senders: Ints, other: Ints, **more: Any) -> pa.Table:
    """Messages of one kind, from places, about other places."""
    shard, row = unpack(other)
    payload = {"other_shard": pa.array(shard), "other_row": pa.array(row), **more}
    return message_table(_keys(kind, len(senders)), senders, payload)


def _keys(kind: int, rows: int) -> Keys:
    """Keys that sort by kind."""
    keys = np.zeros((rows, 2), dtype=np.uint64)
    keys[:, 0] = np.uint64(kind).byteswap()
    return keys


def edges_by_part(a: Ints, b: Ints, parts: int) -> Iterator[tuple[int, pa.Table]]:
    """Edges (places) as messages to the forward round of the later of their two parts."""
    at_a, at_b = part_of(a, parts), part_of(b, parts)
    later = np.maximum(at_a, at_b)
    here, there = np.where(at_a == later, a, b), np.where(at_a == later, b, a)
    for part in np.unique(later).tolist():
        rows = later == part
        yield part, keyed(EDGE, here[rows], there[rows])


class Forward(NamedTuple):
    """What a part sends: messages to a forward round (of an earlier part) or to its own backward round."""

    backward: bool
    part: int
    table: pa.Table


def forward(messages: Iterable[pa.Table], part: int, parts: int) -> Iterator[Forward]:
    """The forward round of a part. Memory: 16 bytes for each of its documents, in pages that hold any node."""
    numbers = Numbers()
    parent = outer = np.zeros(0, dtype=np.int64)  # see `_absorb`
    for table in messages:
        kinds = _kinds(table)
        edges = np.flatnonzero(kinds == EDGE)
        sender, other = places(table), others(table)
        if len(edges):
            there = other[edges]
            inside = part_of(there, parts) == part
            here = numbers.of(sender[edges])
            end = np.full(len(edges), -1, dtype=np.int64)
            end[inside] = numbers.of(there[inside])
            parent, outer = grown(parent, len(numbers)), grown(outer, len(numbers))
            a, b = _absorb(parent, outer, here, end, there)
            for target, edge in edges_by_part(a, b, parts):
                yield Forward(False, target, edge)
        asked = np.flatnonzero(kinds == QUESTION)  # after all edges: what is asked has its root
        if len(asked):
            nodes = numbers.of(sender[asked])  # perhaps not seen before: its only edge may be the one that leads to it
            parent, outer = grown(parent, len(numbers)), grown(outer, len(numbers))
            roots = places_of(first_places(numbers), _find_roots(parent, nodes))
            askers = table.column("other_shard").take(pa.array(asked))
            yield Forward(True, part, keyed(BELONGS_TO, roots, sender[asked], asker=askers))
    first = first_places(numbers)
    for start in range(0, len(parent), _PIECE):
        nodes = np.flatnonzero(parent[start : start + _PIECE]) + start
        roots = _find_roots(parent, nodes)
        asker = pa.array(np.full(len(nodes), -1, dtype=np.int32))
        node_places, root_places = places_of(first, nodes), places_of(first, roots)
        yield Forward(True, part, keyed(BELONGS_TO, root_places, node_places, asker=asker))
        leading = np.flatnonzero((roots == nodes) & (outer[nodes] > 0))
        if len(leading):
            to = outer[nodes[leading]] - 1
            nobody = pa.array(np.full(len(to), -1, dtype=np.int32))
            yield Forward(True, part, keyed(LEADS_TO, node_places[leading], to, asker=nobody))
            to = np.unique(to)
            at = part_of(to, parts)
            for target in np.unique(at).tolist():
                yield Forward(False, target, question(to[at == target], part))


def question(nodes: Ints, asker: int) -> pa.Table:
    """A part asks another one for the labels of its nodes."""
    payload = {
        "other_shard": pa.array(np.full(len(nodes), asker, dtype=np.int32)),
        "other_row": pa.array(np.zeros(len(nodes), dtype=np.int64)),
    }
    return message_table(_keys(QUESTION, len(nodes)), nodes, payload)


class Labelled(NamedTuple):
    """Places and the labels of their components; for the part that asked (`asker`), or for the nodes themselves (-1)."""

    asker: int
    places: Ints
    labels: Ints


def backward(messages: Iterable[pa.Table]) -> Iterator[Labelled]:
    """The backward round of a part. Memory: 32 bytes for each set of its nodes that leads to an earlier part."""
    held: dict[int, list[tuple[Ints, Ints]]] = {ANSWER: [], LEADS_TO: []}
    roots = labels = np.zeros(0, dtype=np.int64)
    ready = False
    for table in messages:
        kinds, sender, other = _kinds(table), places(table), others(table)
        for kind, rows_held in held.items():
            rows = np.flatnonzero(kinds == kind)
            if len(rows):
                rows_held.append((sender[rows], other[rows]))
        rows = np.flatnonzero(kinds == BELONGS_TO)
        if not len(rows):
            continue
        if not ready:
            roots, labels = _root_labels(held[ANSWER], held[LEADS_TO])
            ready = True
        found = sender[rows].copy()  # a set that leads nowhere has its root for a label
        if len(roots):
            at = np.minimum(np.searchsorted(roots, found), len(roots) - 1)
            leads = roots[at] == found
            found[leads] = labels[at[leads]]
        askers = table.column("asker").to_numpy()[rows]
        for asker in np.unique(askers).tolist():
            chosen = askers == asker
            yield Labelled(asker, other[rows[chosen]], found[chosen])


def answer(found: Labelled) -> pa.Table:
    """Labels for the part that asked."""
    nobody = pa.array(np.full(len(found.places), -1, dtype=np.int32))
    return keyed(ANSWER, found.places, found.labels, asker=nobody)


def _root_labels(answers: list[tuple[Ints, Ints]], leads: list[tuple[Ints, Ints]]) -> tuple[Ints, Ints]:
    """Roots, sorted, and the labels of the nodes that they lead to."""
    if not leads:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    nodes, labels = (np.concatenate(parts) for parts in zip(*answers, strict=True))
    roots, to = (np.concatenate(parts) for parts in zip(*leads, strict=True))  # both came sorted by sender
    return roots, labels[np.searchsorted(nodes, to)]


def others(table: pa.Table) -> Ints:
    """The `other_shard` and `other_row` columns as places."""
    return pack(table.column("other_shard").to_numpy(), table.column("other_row").to_numpy())


def _kinds(table: pa.Table) -> Ints:
    kinds: Ints = key_values(table)[:, 0].byteswap().astype(np.int64)
    return kinds


@kernel
def _find(parent: Ints, node: Any) -> Any:
    if parent[node] == 0:
        parent[node] = node + 1
    while parent[node] != node + 1:
        parent[node] = parent[parent[node] - 1]
        node = parent[node] - 1
    return node


@kernel
def _absorb(parent: Ints, outer: Ints, here: Ints, end: Ints, there: Ints) -> tuple[Ints, Ints]:
    """Take in edges from nodes of the part (numbers); the edges between earlier parts that they become.

    `end` is the other end's number, -1 where it is of an earlier part; `there` its place. parent: number plus one, 0 for nodes
    not seen; outer: of a root the place plus one of a node of an earlier part that it leads to, 0 for none.
    """
    a, b = np.empty(len(here), np.int64), np.empty(len(here), np.int64)
    count = 0
    for edge in range(len(here)):
        root = _find(parent, here[edge])
        if end[edge] >= 0:
            other = _find(parent, end[edge])
            if other == root:
                continue
            parent[other] = root + 1
            to = outer[other]
        else:
            to = there[edge] + 1
        if outer[root] == 0:
            outer[root] = to
        elif to != 0 and to != outer[root]:
            a[count], b[count] = outer[root] - 1, to - 1
            count += 1
    return a[:count].copy(), b[:count].copy()


@kernel
def _find_roots(parent: Ints, nodes: Ints) -> Ints:
    roots = np.empty(len(nodes), np.int64)
    for at in range(len(nodes)):
        roots[at] = _find(parent, nodes[at])
    return roots
