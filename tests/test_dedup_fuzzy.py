from __future__ import annotations

import random
import time
from itertools import pairwise

import networkx
import numpy as np
import pyarrow as pa
import pytest
from datasketch import MinHashLSH
from pydantic import ValidationError

from stages.dedup.fuzzy import Fuzzy, FuzzyConfig
from tests.group_runner import run_group
from tests.shingle_twin import shingle_set

VOCABULARY = [f"{a}{b}{c}" for a in "bdkmrst" for b in "aeiou" for c in ("n", "l", "sta", "r")]


def words(rng: random.Random, count: int) -> list[str]:
    return rng.choices(VOCABULARY, k=count)


def perturbed(rng: random.Random, text: list[str], changes: int) -> list[str]:
    text = list(text)
    for _ in range(changes):
        place = rng.randrange(len(text))
        change = rng.randrange(3)
        text[place : place + (change > 0)] = words(rng, 1) if change < 2 else []
    return text


def corpus(seed: int, originals: int = 40, copies: int = 6) -> list[str]:
    """Documents in families of perturbed copies, in random order."""
    rng = random.Random(seed)
    documents = []
    for _ in range(originals):
        original = words(rng, rng.randint(30, 200))
        documents += [original] + [perturbed(rng, original, rng.randint(0, 8)) for _ in range(copies)]
    rng.shuffle(documents)
    return [" ".join(document) for document in documents]


def shards(texts: list[str | None], count: int = 3, source: list[str] | None = None) -> list[pa.Table]:
    table = pa.table(
        {
            "id": [f"d{i}" for i in range(len(texts))],
            "text": pa.array(texts, pa.string()),
            "source": source or ["s"] * len(texts),
        }
    )
    size = -(-len(texts) // count)
    return [table.slice(i * size, size) for i in range(count)]


def run(tables: list[pa.Table], config: dict | None = None, **runner) -> list[dict]:
    stage = Fuzzy(FuzzyConfig(**(config or {})))
    stage.setup({})
    return [row for table in run_group(stage, tables, **runner) for row in table.to_pylist()]


def kept(rows: list[dict]) -> list[str]:
    return [row["id"] for row in rows if row["rule"] is None]


def true_jaccard(a: str, b: str) -> float:
    one, two = shingle_set(a), shingle_set(b)
    return len(one & two) / len(one | two) if one and two else 0.0


def true_pairs(texts: list[str], threshold: float) -> dict[tuple[int, int], float]:
    sets = [shingle_set(text) for text in texts]
    found = {}
    for a in range(len(sets)):
        for b in range(a):
            common = len(sets[a] & sets[b])
            if common and (similarity := common / (len(sets[a]) + len(sets[b]) - common)) >= threshold:
                found[b, a] = similarity
    return found


def check_columns(rows: list[dict], texts: dict[str, str]) -> None:
    """What holds whatever the linkage: columns agree with verdicts, sizes with members, similarities with the texts."""
    by_id = {row["id"]: row for row in rows}
    members: dict[str, int] = {}
    for row in rows:
        members[row["dup_cluster"]] = members.get(row["dup_cluster"], 0) + 1
    for row in rows:
        assert row["dup_cluster_size"] == members[row["dup_cluster"]]
        if row["rule"] is None:
            assert row["dup_cluster"] == row["id"]
            assert row["duplicate_of"] is row["dup_similarity"] is row["kept_id"] is row["similarity"] is None
        else:
            survivor = by_id[row["kept_id"]]
            assert row["rule"] == "near_duplicate" and survivor["rule"] is None
            assert row["duplicate_of"] == row["dup_cluster"] == row["kept_id"]
            assert row["value"] == row["similarity"] == row["dup_similarity"]
            assert row["similarity"] == true_jaccard(texts[row["id"]], texts[row["kept_id"]])


def test_star_against_brute_force():
    texts = corpus(0, originals=30)
    by_id = {f"d{i}": text for i, text in enumerate(texts)}
    rows = run(shards(texts))
    check_columns(rows, by_id)
    removed = [row for row in rows if row["rule"]]
    assert len(removed) > 40
    assert all(row["similarity"] >= row["threshold"] == 0.8 for row in removed)
    gone = {row["id"] for row in removed}
    close = true_pairs(texts, 0.9)
    assert len(close) > 40
    for a, b in close:
        assert {f"d{a}", f"d{b}"} & gone, "two documents of similarity 0.9 or more were both kept"
    # the survivor of a star is the longest of it
    for row in removed:
        assert len(by_id[row["kept_id"]]) >= len(row["text"])


def test_component_linkage_against_brute_force():
    texts = corpus(1, originals=25)
    # with two rows a band every similar pair is a candidate, so that the true graph is known
    rows = run(shards(texts), {"linkage": "component", "bands": 20, "rows": 2, "survivor": ["first"]})
    check_columns(rows, {f"d{i}": text for i, text in enumerate(texts)})
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(texts)))
    graph.add_edges_from(true_pairs(texts, 0.8))
    expected = {f"d{i}": f"d{min(part)}" for part in networkx.connected_components(graph) for i in part}
    assert {row["id"]: row["dup_cluster"] for row in rows} == expected
    assert sum(row["rule"] is not None for row in rows) > 50


@pytest.mark.parametrize("linkage", ["star", "component"])
def test_partitions_batches_and_cuts_change_nothing(monkeypatch, linkage):
    texts = corpus(2, originals=6, copies=3) + ["same words in every one of these pages"] * 30
    config = {"linkage": linkage, "survivor": ["longest", "first"], "bands": 8}
    monkeypatch.setattr("stages.dedup.candidates.SMALL", 4)
    monkeypatch.setattr("stages.dedup.candidates.SEGMENT", 16)  # buckets of the last page are cut inside
    expected = run(shards(texts), config, partitions=1, chunk=10_000)
    for partitions, chunk, batch in ((1, 3, 9), (2, 11, 1000), (8, 50, 31)):
        assert run(shards(texts), config, partitions=partitions, chunk=chunk, batch=batch) == expected
    for name in ("fuzzy.FLUSH", "columns.PIECE"):
        monkeypatch.setattr(f"stages.dedup.{name}", 2)
    monkeypatch.setattr("stages.dedup.meeting.PIECE", 100)
    assert run(shards(texts), config) == expected


def test_survivors_do_not_depend_on_how_the_corpus_is_cut_into_shards():
    texts = corpus(3, originals=10)
    one, five = run(shards(texts, 1)), run(shards(texts, 5))
    assert [row["dup_cluster"] for row in one] == [row["dup_cluster"] for row in five]


@pytest.mark.parametrize("linkage", ["star", "component"])
def test_the_order_of_the_input_does_not_matter_where_the_criteria_decide(linkage):
    texts = sorted({len(text): text for text in corpus(4, originals=30)}.values())  # no two of equal length
    expected = None
    for seed in range(3):
        random.Random(seed).shuffle(texts)
        rows = run(shards(texts, seed + 1), {"linkage": linkage})
        by_id = {f"d{i}": text for i, text in enumerate(texts)}
        found = {(by_id[row["id"]], by_id[row["dup_cluster"]], row["dup_similarity"]) for row in rows}
        assert found == (expected or found)
        expected = found
    assert 20 < len({kept for _, kept, _ in found}) < len(texts) - 20


def test_drifting_revisions():
    rng = random.Random(5)
    revision = words(rng, 300)
    revisions = []
    for number in range(20):
        revision = list(revision)
        for place in range(4):  # each revision changes 4 new places: 20 of its shingles
            revision[number * 15 + place * 3] = f"edit{number}x{place}"
        revisions.append(" ".join(revision))
    assert all(true_jaccard(a, b) > 0.85 for a, b in pairwise(revisions))
    assert true_jaccard(revisions[0], revisions[-1]) < 0.2
    by_id = {f"d{i}": text for i, text in enumerate(revisions)}
    component = run(shards(revisions), {"linkage": "component", "survivor": ["first"]})
    check_columns(component, by_id)
    assert kept(component) == ["d0"]
    assert component[-1]["similarity"] < 0.2 and component[-1]["threshold"] == 0.8
    stars = run(shards(revisions), {"survivor": ["first"]})
    check_columns(stars, by_id)
    assert len(kept(stars)) > 5
    assert all(row["similarity"] >= 0.8 for row in stars if row["rule"])


def near_identical_source(pages: int) -> list[str]:
    """One template; each page has its own number in it, and some have a longer title."""
    rng = random.Random(6)
    template = words(rng, 400)
    return [
        " ".join([*template[:200], f"item{i}", *template[200:], *words(rng, rng.randint(0, 8))]) for i in range(pages)
    ]


def test_a_source_of_near_identical_pages_keeps_one():
    pages = near_identical_source(400)
    rows = run(shards(pages), chunk=1000)
    assert len(kept(rows)) == 1
    assert rows[0]["dup_cluster_size"] == 400
    longest = max(range(400), key=lambda i: len(pages[i]))
    assert kept(rows) == [f"d{longest}"]


def test_documents_without_words_or_with_few():
    texts = ["", None, " ", "?!", "?!", "One", "one!", "two", "One two", "one TWO", "two one", "a b c d", "A, b; c. d"]
    rows = run(shards(texts))
    assert kept(rows) == ["d0", "d1", "d2", "d3", "d4", "d6", "d7", "d8", "d10", "d12"]  # longest: "one!" before "One"
    assert rows[5]["kept_id"] == "d6" and rows[5]["similarity"] == 1.0
    assert [row["id"] for row in run(shards(["", None, "?"]))] == ["d0", "d1", "d2"]
    assert (
        run(
            [
                pa.table(
                    {
                        "id": pa.array([], pa.string()),
                        "text": pa.array([], pa.string()),
                        "source": pa.array([], pa.string()),
                    }
                )
            ]
        )
        == []
    )


def test_unspaced_scripts():
    sentences = [f"第{i}条のこの法律は公布の日から施行する。" for i in range(200)]
    page = "".join(sentences)
    edited = "".join([*sentences[:100], "改正された条文である。", *sentences[101:]])
    other = "".join(f"これは別の文書の{i}番目の文である。" for i in range(200))
    texts = [page, other, edited, "字" * 5000, "字" * 5001]
    rows = run(shards(texts))
    assert kept(rows) == ["d0", "d1", "d3", "d4"]  # the last two are one word each
    assert rows[2]["kept_id"] == "d0" and rows[2]["similarity"] == true_jaccard(page, edited)
    rows = run(shards(texts), {"words": "letters"})
    assert kept(rows) == ["d0", "d1", "d4"]  # the last two are one shingle, over and over
    sets = [shingle_set(text, letters=True) for text in (page, edited)]
    assert rows[2]["similarity"] == len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_one_letter_changed_in_text_without_spaces_or_stops():
    rng = random.Random(3)
    for first, last in ((0x4E00, 0x9FA0), (0x0E01, 0x0E2E), (0x1780, 0x17A2)):  # Han, Thai and Khmer consonants
        page = "".join(chr(rng.randint(first, last)) for _ in range(120))
        texts = [page + "x", page[:60] + chr(first + 1) + page[61:], page[60:] + page[:60][::-1]]
        assert kept(run(shards(texts), {"bands": 30, "rows": 4, "words": "letters"})) == ["d0", "d2"]
        assert len(kept(run(shards(texts), {"bands": 30, "rows": 4}))) == 3  # one word each, and no two alike


def test_a_document_of_50_megabytes_and_its_copy():
    long = " ".join(map(str, range(6_600_000)))
    assert len(long) > 50_000_000
    start = long.index(" 3000000 ")
    rows = run(shards([long, "a short one beside it", long[:start] + " an edit in the middle " + long[start:]], 1))
    assert kept(rows) == ["d1", "d2"]
    assert rows[0]["kept_id"] == "d2" and 0.99999 < rows[0]["similarity"] < 1


@pytest.mark.parametrize("linkage", ["star", "component"])
def test_signatures_verify_within_their_error(linkage):
    texts = corpus(21)
    exact = run(shards(texts), {"linkage": linkage})
    rows = run(shards(texts), {"linkage": linkage, "verify": "signature", "permutations": 512, "threshold": 0.8})
    by_id = dict(zip((row["id"] for row in rows), texts, strict=True))
    removed = [row for row in rows if row["rule"]]
    assert abs(len(removed) - sum(row["rule"] is not None for row in exact)) < 0.2 * len(texts)
    errors = [row["similarity"] - true_jaccard(by_id[row["id"]], by_id[row["kept_id"]]) for row in removed]
    assert max(map(abs, errors)) < 5 * np.sqrt(0.25 / 512) and abs(np.mean(errors)) < 0.02
    assert all((row["similarity"] * 512) % 1 == 0 for row in removed)


def test_bands_and_rows_by_threshold_are_those_of_datasketch():
    for threshold, permutations in ((0.5, 128), (0.7, 128), (0.8, 128), (0.9, 256)):
        lsh = MinHashLSH(threshold=threshold, num_perm=permutations)
        config = FuzzyConfig(threshold=threshold, permutations=permutations)
        assert config.banding() == (lsh.b, lsh.r, permutations)
    assert FuzzyConfig().banding() == (14, 8, 112)
    with pytest.raises(ValidationError, match="leave out bands and rows"):
        FuzzyConfig(permutations=128, bands=14, rows=8)
    with pytest.raises(ValidationError, match="too few for threshold"):
        FuzzyConfig(permutations=2, threshold=0.99)


@pytest.mark.parametrize("scheme", ["affine32", "legacy"])
def test_the_other_schemes_find_the_same_duplicates(scheme):
    texts = corpus(22, originals=10)
    config = {"bands": 40, "rows": 3}  # so many bands that chance has no say
    assert run(shards(texts), config | {"scheme": scheme}) == run(shards(texts), config)


@pytest.mark.parametrize("linkage", ["star", "component"])
def test_more_criteria_than_a_key_holds(linkage):
    texts = corpus(23, originals=8)
    rng = random.Random(1)
    more = {name: pa.array([float(rng.randint(0, 2)) for _ in texts]) for name in ("q1", "q2", "q3")}
    tables = [pa.table({**dict(zip(t.column_names, t.columns, strict=True))}) for t in shards(texts, 1)]
    for name, column in more.items():
        tables = [table.append_column(name, column) for table in tables]
    rows = run(
        tables, {"linkage": linkage, "survivor": ["best:q1", "best:q2", "best:q3", "longest"], "bands": 40, "rows": 3}
    )
    order = {f"d{i}": (*(-more[name][i].as_py() for name in more), -len(texts[i]), i) for i in range(len(texts))}
    pairs = [(f"d{a}", f"d{b}") for a, b in true_pairs(texts, 0.8)]
    graph = networkx.Graph(pairs)
    expected = {}
    if linkage == "component":
        for component in networkx.connected_components(graph):
            best = min(component, key=order.__getitem__)
            expected |= {node: best for node in component if node != best}
    else:
        for node in sorted(graph, key=order.__getitem__):
            if node not in expected:
                expected |= {
                    other: node for other in graph[node] if other not in expected and order[other] > order[node]
                }
    assert {row["id"]: row["kept_id"] for row in rows if row["rule"]} == expected


def test_scope_keeps_sources_apart():
    texts = [" ".join(words(random.Random(7), 50))] * 4
    tables = shards(texts, 2, ["a", "b", "a", "b"])
    assert kept(run(tables)) == ["d0", "d1"]
    assert kept(run(tables, {"scope": "global"})) == ["d0"]


def test_survivor_by_several_criteria_and_sizes_of_an_earlier_stage():
    text = " ".join(words(random.Random(8), 60))
    table = shards([text + " x", text, text + " y", text, "alone"], 1)[0]
    table = table.append_column("score", pa.array([1.0, 3.0, None, 3.0, 0.0]))
    table = table.append_column("duplicate_of", pa.array([None, None, None, "d1", None], pa.string()))
    table = table.append_column("dup_similarity", pa.array([None, None, None, 1.0, None], pa.float64()))
    table = table.append_column("dup_cluster", pa.array(["d0", "d1", "d2", "d1", "d4"]))
    table = table.append_column("dup_cluster_size", pa.array([5, 2, 1, 2, 7], pa.int32()))
    rows = run([table], {"survivor": ["best:score"]})
    assert kept(rows) == ["d1", "d4"]
    assert [row["dup_cluster_size"] for row in rows] == [8, 8, 8, 8, 7]  # d3 was already counted by d1
    rows = run([table], {"survivor": ["best:score"], "linkage": "component"})
    assert [row["dup_cluster_size"] for row in rows] == [8, 8, 8, 8, 7]
    ends = run([table.slice(0, 3)], {"survivor": ["longest", "best:score"]})
    assert kept(ends) == ["d0"]


@pytest.mark.parametrize("linkage", ["star", "component"])
def test_tag_mode_drops_nothing(linkage):
    texts = corpus(9, originals=4)
    dropped = run(shards(texts), {"linkage": linkage})
    tagged = run(shards(texts), {"linkage": linkage, "mode": "tag"})
    columns = ["duplicate_of", "dup_similarity", "dup_cluster", "dup_cluster_size"]
    assert [[row[name] for name in columns] for row in tagged] == [[row[name] for name in columns] for row in dropped]
    assert all(
        row["rule"] is row["value"] is row["threshold"] is row["kept_id"] is row["similarity"] is None for row in tagged
    )
    assert any(row["rule"] for row in dropped)


def test_other_shingles_thresholds_and_seeds():
    a = "the quick brown fox jumps over the lazy dog again and again today"
    b = "the quick brown fox jumped over the lazy dog again and again today"
    assert len(kept(run(shards([a, b])))) == 2
    config = {"ngram": 1, "threshold": 0.7, "bands": 50, "rows": 2}
    for seed in (0, 1, 5):
        rows = run(shards([a, b]), config | {"seed": seed})
        assert len(kept(rows)) == 1
    assert [row["similarity"] for row in rows if row["rule"]] == [10 / 12]
    # 10 / 12 itself is the similarity: the threshold is reached, not passed
    assert len(kept(run(shards([a, b]), config | {"threshold": 10 / 12}))) == 1
    assert len(kept(run(shards([a, b]), config | {"threshold": 0.834}))) == 2


@pytest.mark.parametrize(
    "knobs", [{"threshold": 0}, {"threshold": 1.1}, {"ngram": 0}, {"bands": 0}, {"linkage": "single"}, {"seed": -1}]
)
def test_impossible_knobs_are_refused(knobs):
    with pytest.raises(ValidationError, match=next(iter(knobs))):
        FuzzyConfig(**knobs)


def bucket_messages(stage: Fuzzy, rows: int) -> pa.Table:
    """Bucket messages of `rows` documents with equal signatures."""
    bands = 14
    key = np.repeat(np.arange(bands), rows).astype("<u8")
    keys = pa.FixedSizeBinaryArray.from_buffers(
        pa.binary(16), len(key), [None, pa.py_buffer(np.stack([key, key], 1).tobytes())]
    )
    columns = {
        "key": keys,
        "shard": pa.array(np.zeros(len(key)), pa.int32()),
        "row": pa.array(np.tile(np.arange(rows), bands)),
        "size": pa.array(np.full(len(key), 100), pa.int32()),
        "digest": pa.array(np.tile(np.arange(rows), bands), pa.uint64()),
        "rank_0": pa.array(np.tile(-np.arange(rows) % 1013, bands)),
        "band": pa.array(np.repeat(np.arange(bands), rows), pa.int16()),
    }
    assert list(stage.messages()[0]) == ["size", "digest", "rank_0", "band"]
    return pa.table(columns)


def test_a_bucket_of_equal_signatures_costs_linear_time():
    stage = Fuzzy(FuzzyConfig())

    def cost(rows: int) -> tuple[float, int]:
        table = bucket_messages(stage, rows)
        start = time.process_time()
        sent = [addressed.table.num_rows for addressed in stage.reduce(0, iter([table]))]
        return time.process_time() - start, sum(sent)

    cost(100)
    small, few = cost(2_000)
    large, many = cost(20_000)
    assert many <= 14 * 20_000 * 2 * 8 and many >= 14 * 19_999 * 2
    assert 9 <= many / few <= 11
    assert large < 40 * max(small, 0.02), "more than linear"


def test_thousands_of_copies_end_to_end(monkeypatch):
    monkeypatch.setattr("stages.dedup.candidates.SEGMENT", 1024)
    better = "all of these pages say just the same, and this one a word more at its end: here"
    copies = ["all of these pages say just the same, and this one a word more at its end"] * 5000
    tables = shards([*copies, "and this one does not at all", better], 2)
    sent: dict[int | None, int] = {}

    class Counting(Fuzzy):
        def reduce(self, round, messages):
            for addressed in super().reduce(round, messages):
                sent[addressed.round] = sent.get(addressed.round, 0) + addressed.table.num_rows
                yield addressed

    rows = [
        row
        for table in run_group(Counting(FuzzyConfig()), tables, partitions=2, chunk=5000)
        for row in table.select(["id", "rule", "kept_id", "similarity", "dup_cluster_size"]).to_pylist()
    ]
    assert kept(rows) == ["d5000", "d5001"]
    assert {(row["kept_id"], row["similarity"]) for row in rows if row["rule"]} == {("d5001", 13 / 14)}
    assert [row["dup_cluster_size"] for row in rows[-2:]] == [1, 5001]
    assert sent[1] < 2 * 5000 * 1.2, "a copy is told of in each of the 14 bands"


def test_a_pair_in_many_bands_is_compared_once():
    text = " ".join(words(random.Random(1), 100))
    sent: dict[int | None, list[pa.Table]] = {}

    class Recorder(Fuzzy):
        def reduce(self, round, messages):
            for addressed in super().reduce(round, messages):
                sent.setdefault(addressed.round, []).append(addressed.table)
                yield addressed

    def rows_sent(texts: list[str]) -> list[int]:
        sent.clear()
        rows = run_group(Recorder(FuzzyConfig()), shards(texts, 1))
        assert rows[0].column("rule").to_pylist() == ["near_duplicate", None][:: 1 if len(texts[1]) > len(text) else -1]
        return [sum(table.num_rows for table in sent[round]) for round in (1, 2, 3)]

    invited, met, edges = rows_sent([text, text + " x"])
    assert 2 < invited <= 28 and invited % 2 == 0  # both are invited, once for each band that they share
    assert (met, edges) == (2, 1)  # but shingles travel once
    assert rows_sent([text, text]) == [2, 2, 1]  # of equal ones one band tells


def test_scope_by_file_and_by_column():
    texts = [" ".join(words(random.Random(7), 50))] * 6
    tables = shards(texts, 2)
    for name, values in (
        ("crawl", ["x", "x", "y"]),
        ("_file", ["CC-MAIN-2024-10/a", "CC-MAIN-2024-10/b", "CC-MAIN-2024-18/a"]),
    ):
        tables = [table.append_column(name, pa.array(values)) for table in tables]
    assert kept(run(tables, {"scope": "column:crawl"})) == ["d0", "d2"]
    assert kept(run(tables, {"scope": r"file:CC-MAIN-\d{4}-\d\d"})) == ["d0", "d2"]
    assert kept(run(tables, {"scope": "global"})) == ["d0"]
