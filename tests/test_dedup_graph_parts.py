"""Components of a graph found part by part, against networkx and against clustering in one part."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise

import networkx
import numpy as np
import pyarrow as pa
import pytest

from pipeline.engine.exchange import Sorter
from stages.dedup.graph_parts import BACKWARD, FORWARD, answer, backward, edges_by_part, forward, part_of
from stages.dedup.messages import pack
from stages.stage import ADDRESSED
from tests.test_dedup_fuzzy import check_columns, corpus, kept, run, shards, true_pairs


@pytest.fixture(autouse=True)
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four rows a page, so that a few documents are in many pages and parts."""
    for module in ("cluster", "graph_parts"):
        monkeypatch.setattr(f"stages.dedup.{module}.PAGE_BITS", 2)


def labels_of(edges: list[tuple[int, int]], parts: int, chunk: int) -> dict[int, int]:
    """The label of each node, by the rounds as the engine would hold them: sorted messages, cut anywhere."""
    boxes = {
        (backward_, part): Sorter(pa.schema([*ADDRESSED.items(), *(BACKWARD if backward_ else FORWARD).items()]), 1)
        for backward_ in (False, True)
        for part in range(parts)
    }

    def sorted_messages(backward_: bool, part: int) -> Iterator[pa.Table]:
        for table in boxes[backward_, part].sorted():
            for start in range(0, table.num_rows, chunk):
                yield table.slice(start, chunk)

    a, b = (np.array(ends, dtype=np.int64) for ends in zip(*edges, strict=True))
    for part, table in edges_by_part(a, b, parts):
        boxes[False, part].add(table)
    for part in reversed(range(parts)):
        for sent in forward(sorted_messages(False, part), part, parts):
            assert sent.part < part if not sent.backward else sent.part == part
            boxes[sent.backward, sent.part].add(sent.table)
    labels: dict[int, int] = {}
    for part in range(parts):
        for found in backward(sorted_messages(True, part)):
            if found.asker >= 0:
                assert found.asker > part
                boxes[True, found.asker].add(answer(found))
                continue
            assert set(part_of(found.places, parts).tolist()) == {part}
            for node, label in zip(found.places.tolist(), found.labels.tolist(), strict=True):
                assert labels.setdefault(node, label) == label
    return labels


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_components_equal_networkx_on_random_graphs(parts: int) -> None:
    rng = random.Random(parts)
    for nodes, count in ((2, 1), (40, 15), (200, 120), (300, 300), (120, 900), (1000, 700)):
        places = pack(np.array([rng.randrange(5) for _ in range(nodes)]), np.array(rng.sample(range(4 * nodes), nodes)))
        edges = [tuple(rng.sample(places.tolist(), 2)) for _ in range(count)]
        labels = labels_of(edges, parts, rng.choice([1, 7, 100_000]))
        graph = networkx.Graph(edges)
        assert set(labels) == set(graph)
        components = list(networkx.connected_components(graph))
        found = [{labels[node] for node in component} for component in components]
        assert all(len(some) == 1 for some in found)
        assert len({label for some in found for label in some}) == len(components)


@pytest.mark.parametrize("parts", [2, 5])
def test_long_paths_and_stars(parts: int) -> None:
    order = list(range(3000))
    random.Random(1).shuffle(order)
    for edges in (
        list(pairwise(order)),
        [(order[0], other) for other in order[1:]],
        [(other, other + 1) for other in range(2999)],
    ):
        assert len(set(labels_of(edges, parts, 500).values())) == 1


@pytest.mark.parametrize("linkage", ["star", "component"])
@pytest.mark.parametrize("parts", [2, 5])
def test_parts_change_nothing(linkage: str, parts: int) -> None:
    texts = corpus(31, originals=25) + ["same words in every one of these pages"] * 20
    expected = run(shards(texts), {"linkage": linkage})
    assert 20 < len(kept(expected)) < len(texts) - 50
    for partitions, chunk in ((1, 10_000), (3, 7)):
        assert run(shards(texts), {"linkage": linkage, "parts": parts}, partitions=partitions, chunk=chunk) == expected
    check_columns(expected, {f"d{i}": text for i, text in enumerate(texts)})
    assert true_pairs(texts, 0.8)


def test_more_criteria_than_a_key_holds_in_parts() -> None:
    texts = corpus(32, originals=6)
    rng = random.Random(1)
    table = shards(texts, 1)[0]
    for name in ("q1", "q2", "q3"):
        table = table.append_column(name, pa.array([float(rng.randint(0, 2)) for _ in texts]))
    config = {"survivor": ["best:q1", "best:q2", "best:q3", "longest"]}
    assert run([table], {**config, "parts": 3}) == run([table], config)
