from __future__ import annotations

import random
from itertools import pairwise

import networkx
import numpy as np
import pyarrow as pa
import pytest

from stages.dedup.candidates import HUBS, NEIGHBOURS, Bucket, candidate_pairs, large_pairs, small_pairs
from stages.dedup.cluster import Components, Stars, order_keys
from stages.dedup.messages import message_table, pack, unpack, whole_keys
from stages.stage import StageError


def random_edges(rng: random.Random, nodes: int, edges: int) -> tuple[np.ndarray, np.ndarray]:
    """Edges sorted by their lower end: node numbers are the survivor order here."""
    pairs = sorted({tuple(sorted(rng.sample(range(nodes), 2))) for _ in range(edges)})
    both = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return both[:, 0], both[:, 1]


def spread(nodes: np.ndarray, rng: random.Random) -> np.ndarray:
    """Places for node numbers: several shards, rows far apart, nodes in no order."""
    places = [
        pack(np.array([rng.randrange(9)]), np.array([number << rng.randrange(12)]))[0] for number in range(len(nodes))
    ]
    while len(set(places)) < len(places):
        places = [place if place not in places[:at] else place + 10**6 + at for at, place in enumerate(places)]
    rng.shuffle(places)
    return np.array(places, dtype=np.int64)


def chunks(rng: random.Random, edges: int) -> list[slice]:
    cuts = sorted({0, edges, *(rng.randrange(edges + 1) for _ in range(3))})
    return [slice(a, b) for a, b in pairwise(cuts)]


def graph_of(better: np.ndarray, worse: np.ndarray) -> networkx.Graph:
    graph = networkx.Graph()
    graph.add_edges_from(zip(better.tolist(), worse.tolist(), strict=True))
    return graph


@pytest.mark.parametrize("wide", [False, True])
def test_components_equal_networkx_on_random_graphs(monkeypatch, wide):
    if wide:
        monkeypatch.setattr("stages.dedup.cluster._INT32", 100)  # as if two billion documents were seen
    rng = random.Random(0)
    for nodes, edges in ((2, 1), (50, 20), (200, 100), (500, 400), (300, 2000), (5, 0)):
        better, worse = random_edges(rng, nodes, edges)
        place = spread(np.arange(nodes), rng)
        weights = np.array([rng.randrange(4) for _ in range(nodes)])
        found = Components()
        for part in chunks(rng, len(better)):
            a, b = better[part], worse[part]
            found.join(place[a], place[b], weights[a], weights[b])
        node_at = {int(where): node for node, where in enumerate(place)}
        kept = {}
        for members, survivors, sizes in found.members():
            for member, survivor, size in zip(members.tolist(), survivors.tolist(), sizes.tolist(), strict=True):
                kept[node_at[member]] = (node_at[survivor], size)
        expected = {}
        for component in networkx.connected_components(graph_of(better, worse)):
            size = sum(int(weights[node]) for node in component)
            expected |= {node: (min(component), size) for node in component if node != min(component)}
        assert kept == expected


def test_survivor_of_a_component_follows_the_order_of_edges_not_places():
    found = Components()
    found.join(
        np.array([4, 4, 2]), np.array([1, 2, 0]), np.ones(3, np.int64), np.ones(3, np.int64)
    )  # survivor order 4, 2, ...
    ((members, survivors, sizes),) = found.members()
    assert members.tolist() == [0, 1, 2] and survivors.tolist() == [4, 4, 4] and sizes.tolist() == [4, 4, 4]


def test_a_long_path_is_one_component():
    """Edges of a path in any order of survivors, and one whose better ends come last to first."""
    for order in (np.random.default_rng(0).permutation(20_000), np.arange(20_000)[::-1]):
        rank = np.argsort(order)
        a, b = np.arange(19_999), np.arange(1, 20_000)
        better, worse = np.where(rank[a] < rank[b], a, b), np.where(rank[a] < rank[b], b, a)
        sort = np.argsort(rank[better], kind="stable")
        found, ones = Components(), np.ones(19_999, np.int64)
        found.join(better[sort], worse[sort], ones, ones)
        survivors = np.concatenate([kept for _, kept, _ in found.members()])
        assert set(survivors.tolist()) == {int(order[0])} and len(survivors) == 19_999


def test_stars_are_greedy_in_survivor_order():
    rng = random.Random(1)
    for nodes, edges in ((2, 1), (50, 30), (300, 900), (100, 3000), (4, 0)):
        better, worse = random_edges(rng, nodes, edges)
        place, graph = spread(np.arange(nodes), rng), graph_of(better, worse)
        expected: dict[int, int] = {}
        for node in range(nodes):
            if node not in expected and node in graph:
                for neighbour in graph[node]:
                    if neighbour > node:
                        expected.setdefault(neighbour, node)
        similarity = np.array([rng.uniform(0.5, 0.99) for _ in better])
        stars, removed = Stars(), []
        for part in chunks(rng, len(better)):
            found = stars.remove(place[better[part]], place[worse[part]], similarity[part])
            edges = found.edges + part.start
            assert np.array_equal(found.similarity, similarity[edges])
            assert np.array_equal(found.places, place[worse[edges]]) and np.array_equal(
                found.kept, place[better[edges]]
            )
            removed += edges.tolist()
        assert dict(zip(worse[removed].tolist(), better[removed].tolist(), strict=True)) == expected
        assert len(removed) == len(expected)


def test_equal_sets_share_their_fate():
    # 0 is like 1, which equals 2 and 5; 3 is like 2 alone, and less so; 4 equals 3
    better, worse = np.array([0, 1, 1, 2, 3]), np.array([1, 2, 5, 3, 4])
    found = Stars().remove(better, worse, np.array([0.9, 1.0, 1.0, 0.85, 1.0]))
    assert found.places.tolist() == [1, 2, 5, 4] and found.kept.tolist() == [0, 0, 0, 3]
    assert found.similarity.tolist() == [0.9, 0.9, 0.9, 1.0]


def test_order_keys_sort_as_the_first_two_ranks():
    rng = random.Random(2)
    extremes = [np.iinfo(np.int64).min, -1, 0, 1, np.iinfo(np.int64).max]
    ranks = [np.array(extremes + [rng.randrange(-5, 5) for _ in range(100)]) for _ in range(3)]
    for count in (0, 1, 2, 3):
        keys = [bytes(key) for key in order_keys(ranks[:count], 105)]
        in_order = sorted(range(105), key=lambda row: (keys[row], row))
        assert in_order == sorted(range(105), key=lambda row: (*(ranks[i][row] for i in range(min(2, count))), row))


def test_memory_of_clusters_grows_with_documents_not_with_pairs():
    """Two million edges among a million documents: 12 bytes for each, or 8, beside the piece of edges at hand."""
    rng = np.random.default_rng(0)
    stars, components = Stars(), Components()
    ones = np.ones(100_000, np.int64)
    for step in range(20):
        better = np.sort(rng.integers(step * 50_000, (step + 1) * 50_000, 100_000))
        worse = better + 1 + rng.integers(0, 1_000_000 - better)
        stars.remove(better, worse, np.full(100_000, 0.9))
        components.join(better, worse, ones, ones)
    assert stars.memory < 1.3 * 12 * 1_000_000 + 100_000 and components.memory < 1.3 * 8 * 1_000_000 + 100_000


def test_all_pairs_of_small_buckets():
    groups = np.array([0, 1, 1, 2, 3, 3, 3, 4])
    found = {(int(a), int(b)) for first, second in small_pairs(groups) for a, b in zip(first, second, strict=True)}
    assert found == {(1, 2), (4, 5), (4, 6), (5, 6)}
    assert list(small_pairs(np.zeros(1))) == []


def bucket(rows: int, seed: int = 0, digests: int = 2**40) -> Bucket:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 50, rows).astype(np.int32)
    digest = rng.integers(0, digests, rows).astype(np.uint64)
    return Bucket(np.arange(rows), sizes, digest, np.zeros(rows, np.int16), [rng.integers(0, 30, rows)])


def messages(documents: Bucket, keys: np.ndarray) -> pa.Table:
    payload = {
        "size": documents.sizes,
        "digest": documents.digests,
        "band": documents.bands,
        "rank_0": documents.ranks[0],
    }
    return message_table(keys, documents.places, {name: pa.array(values) for name, values in payload.items()})


def test_pairs_of_a_large_bucket_are_linear_unique_and_reach_the_best():
    for rows in (65, 66, 70, 1000):
        documents = bucket(rows)
        pairs = [
            pair
            for first, second in large_pairs(documents)
            for pair in zip(first.tolist(), second.tolist(), strict=True)
        ]
        assert len(pairs) <= rows * (HUBS + NEIGHBOURS)
        assert len({frozenset(pair) for pair in pairs}) == len(pairs)
        best = int(documents.order()[0])
        assert {a + b - best for a, b in pairs if best in (a, b)} == set(range(rows)) - {best}


def pairs_of(documents: Bucket, cuts: list[int]) -> list[tuple[int, int]]:
    table = messages(documents, np.ones((len(documents), 2), dtype=np.uint64))
    tables = [table.slice(a, b - a) for a, b in pairwise([0, *cuts, len(documents)])]
    found = candidate_pairs(tables, ["rank_0"], 1e-9)
    return [pair for low, high in found for pair in zip(low.tolist(), high.tolist(), strict=True)]


@pytest.mark.parametrize("digests", [2**40, 7])
def test_segments_of_one_bucket_are_tied_however_they_come(monkeypatch, digests):
    monkeypatch.setattr("stages.dedup.candidates.SEGMENT", 100)
    monkeypatch.setattr("stages.dedup.candidates.CARRIED", 10)
    documents = bucket(650, digests=digests)
    pairs = pairs_of(documents, [])
    graph = networkx.Graph(pairs)
    assert networkx.is_connected(graph) and len(graph) == 650
    assert len(pairs) <= 650 * (HUBS + NEIGHBOURS) + 50 * 60 / 2  # the last 50 are a small bucket with those carried
    for cuts in ([1], [99, 100, 101], [350, 649], list(range(7, 650, 7))):
        assert sorted(pairs_of(documents, cuts)) == sorted(pairs)


def test_equal_documents_meet_the_best_of_them_in_one_band_only():
    documents = bucket(200, digests=5)
    pairs = {frozenset(pair) for pair in pairs_of(documents, [])}
    order = documents.order().tolist()
    best = {digest: next(row for row in order if documents.digests[row] == digest) for digest in range(5)}
    equal = {frozenset((row, best[int(documents.digests[row])])) for row in range(200)} - {
        frozenset((row,)) for row in range(200)
    }
    between = {frozenset((a, b)) for a in best.values() for b in best.values() if a != b}
    assert pairs == equal | between
    documents.bands[:] = 3
    assert {frozenset(pair) for pair in pairs_of(documents, [])} == between


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
