"""Clusters from verified pairs: greedy stars in survivor order, or connected components."""

from __future__ import annotations

from array import array

import numpy as np

_STEP = 1 << 16  # edges turned into Python integers at a time


def star(better: np.ndarray, worse: np.ndarray, nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Greedy stars. Edges come sorted by the survivor order of `better`; both are node numbers below `nodes`.

    In survivor order, a node that no kept node has removed is kept, and removes those of its neighbours that are neither kept nor removed.
    So every removed node has an edge to the node that removed it. Returns for each node its kept node, and the edge that
    says so, -1 for kept nodes (int64 each). Time: one step for each edge. Memory: 16 bytes a node beside the edges.
    """
    keeper, edge = array("q", [-1]) * nodes, array("q", [-1]) * nodes
    for start in range(0, len(better), _STEP):
        pairs = zip(better[start : start + _STEP].tolist(), worse[start : start + _STEP].tolist(), strict=True)
        for number, (a, b) in enumerate(pairs, start):
            if keeper[a] < 0:
                keeper[a] = a  # every edge that could have removed it is behind us
            if keeper[a] == a and keeper[b] < 0:
                keeper[b], edge[b] = a, number
    kept = np.frombuffer(keeper, dtype=np.int64).copy() if nodes else np.empty(0, dtype=np.int64)
    alone = kept < 0
    kept[alone] = np.flatnonzero(alone)
    return kept, np.frombuffer(edge, dtype=np.int64).copy() if nodes else np.empty(0, dtype=np.int64)


def components(a: np.ndarray, b: np.ndarray, nodes: int) -> np.ndarray:
    """For each node the smallest node number of its connected component.

    Hooking and pointer jumping (Shiloach and Vishkin 1982) on whole arrays: every round each root with an edge to a smaller root joins it.
    """
    parent = np.arange(nodes)
    while len(a):
        a, b = parent[a], parent[b]
        apart = a != b
        a, b = a[apart], b[apart]
        np.minimum.at(parent, np.maximum(a, b), np.minimum(a, b))
        while not np.array_equal(up := parent[parent], parent):
            parent = up
    return parent


def survivors(better: np.ndarray, component: np.ndarray) -> np.ndarray:
    """For each node the best node of its component, given edges sorted by the survivor order of `better`.

    The best node of a component is the better end of each of its edges, so the component's first edge begins with it.
    """
    best = np.arange(len(component))
    labels, first = np.unique(component[better], return_index=True)
    best[labels] = better[first]
    return best[component]
