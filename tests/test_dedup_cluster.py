from __future__ import annotations

import random
from itertools import pairwise

import networkx
import numpy as np
import pyarrow as pa
import pytest

from stages.dedup.candidates import HUBS, NEIGHBOURS, Bucket, large_pairs, segment_pairs, small_pairs
from stages.dedup.cluster import components, star, survivors
from stages.dedup.messages import message_table, pack, unpack, whole_keys
from stages.stage import StageError


def random_edges(rng: random.Random, nodes: int, edges: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges sorted by their lower end: node numbers are the survivor order here."""
    pairs = sorted({tuple(sorted(rng.sample(range(nodes), 2))) for _ in range(edges)})
    both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def test_components_equal_networkx_on_random_graphs():
    rng = random.Random(0)
    for nodes, edges in ((2, 1), (50, 20), (200, 100), (500, 400), (300, 2000), (5, 0)):
        better, worse = random_edges(rng, nodes, edges)
        graph = networkx.Graph()
        graph.add_nodes_from(range(nodes))
        graph.add_edges_from(zip(better.tolist(), worse.tolist(), strict=True))
        label = components(better, worse, nodes)
        best = survivors(better, label)
        for component in networkx.connected_components(graph):
            assert {int(label[node]) for node in component} == {min(component)}
            assert {int(best[node]) for node in component} == {min(component)}


def test_survivor_of_a_component_follows_the_order_of_edges_not_node_numbers():
    better, worse = np.array([4, 4, 2]), np.array([1, 2, 0])  # survivor order 4, 2, ...
    label = components(better, worse, 5)
    assert survivors(better, label).tolist() == [4, 4, 4, 3, 4]


def test_components_of_a_long_path_and_of_a_star_whose_centre_is_last():
    path = np.random.default_rng(0).permutation(20_000)
    assert set(components(path[:-1], path[1:], 20_000).tolist()) == {0}
    leaves = np.arange(5000)
    assert set(components(leaves, np.full(5000, 5000), 5001).tolist()) == {0}


def test_stars_are_greedy_in_survivor_order():
    rng = random.Random(1)
    for nodes, edges in ((2, 1), (50, 30), (300, 900), (100, 3000)):
        better, worse = random_edges(rng, nodes, edges)
        graph = networkx.Graph()
        graph.add_nodes_from(range(nodes))
        graph.add_edges_from(zip(better.tolist(), worse.tolist(), strict=True))
        expected: dict[int, int] = {}
        for node in range(nodes):
            if node not in expected:
                expected[node] = node
                for neighbour in graph[node]:
                    expected.setdefault(neighbour, node)
        kept, edge = star(better, worse, nodes)
        assert kept.tolist() == [expected[node] for node in range(nodes)]
        for node in range(nodes):
            if kept[node] == node:
                assert edge[node] == -1
            else:
                assert (better[edge[node]], worse[edge[node]]) == (kept[node], node)


def test_stars_and_components_of_nothing():
    none = np.empty(0, dtype=np.int64)
    kept, edge = star(none, none, 0)
    assert len(kept) == len(edge) == len(components(none, none, 0)) == 0


def test_all_pairs_of_small_buckets():
    groups = np.array([0, 1, 1, 2, 3, 3, 3, 4])
    found = {(int(a), int(b)) for first, second in small_pairs(groups) for a, b in zip(first, second, strict=True)}
    assert found == {(1, 2), (4, 5), (4, 6), (5, 6)}
    assert list(small_pairs(np.zeros(1))) == []


def bucket(rows: int, seed: int = 0) -> Bucket:
    rng = np.random.default_rng(seed)
    return Bucket(np.arange(rows), rng.integers(1, 50, rows).astype(np.int32), [rng.integers(0, 30, rows)])


def test_pairs_of_a_large_bucket_are_linear_unique_and_reach_the_best():
    for rows in (17, 18, 21, 1000):
        documents = bucket(rows)
        pairs = [
            pair
            for first, second in segment_pairs(documents)
            for pair in zip(first.tolist(), second.tolist(), strict=True)
        ]
        assert len(pairs) <= rows * (HUBS + NEIGHBOURS)
        assert len({frozenset(pair) for pair in pairs}) == len(pairs)
        best = int(documents.order()[0])
        assert {a + b - best for a, b in pairs if best in (a, b)} == set(range(rows)) - {best}


def test_segments_of_one_bucket_are_tied_by_their_best(monkeypatch):
    monkeypatch.setattr("stages.dedup.candidates.SEGMENT", 40)
    documents = bucket(250)
    graph = networkx.Graph()
    for part, first, second in large_pairs(documents, None):
        graph.add_edges_from(zip(part.places[first].tolist(), part.places[second].tolist(), strict=True))
    assert networkx.is_connected(graph) and len(graph) == 250
    assert graph.number_of_edges() <= 250 * (HUBS + NEIGHBOURS) + 6


def test_places_pack_in_order_and_refuse_what_does_not_fit():
    shard, row = np.array([0, 0, 1, 2**23 - 1]), np.array([0, 2**40 - 1, 0, 5])
    places = pack(shard, row)
    assert (np.diff(places) > 0).all()
    assert [part.tolist() for part in unpack(places)] == [shard.tolist(), row.tolist()]
    for shard, row in ((0, 2**40), (2**23, 0)):
        with pytest.raises(StageError, match="rows a shard"):
            pack(np.array([shard]), np.array([row]))


@pytest.mark.parametrize("limit", [None, 3])
def test_whole_keys_cuts_between_keys_only_or_at_multiples_of_the_limit(limit):
    rng = random.Random(2)
    lengths = [rng.choice((1, 1, 2, 3, 4, 11)) for _ in range(60)]
    numbers = np.repeat(np.arange(60, dtype=np.uint64), lengths)
    table = message_table(np.stack([numbers, numbers], 1), np.arange(len(numbers)), {})
    for largest in (1, 2, 5, 1000):
        cuts = [0]
        while cuts[-1] < len(numbers):
            cuts.append(cuts[-1] + rng.randint(0, largest))
        pieces = list(whole_keys((table.slice(a, b - a) for a, b in pairwise(cuts)), limit))
        assert pa.concat_tables(pieces).equals(table)
        done = np.cumsum([piece.num_rows for piece in pieces])[:-1]
        starts = np.cumsum([0, *lengths])
        for cut in done.tolist():
            inside = cut - int(starts[np.searchsorted(starts, cut, side="right") - 1])
            assert inside == 0 or (limit is not None and inside % limit == 0)
    assert list(whole_keys([])) == list(whole_keys([table.slice(0, 0)])) == []
