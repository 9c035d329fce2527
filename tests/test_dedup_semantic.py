"""`dedup.semantic`: what is kept and why, whatever the partitions; models in folders; what cannot be compared."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from stages.batch import Batch
from stages.dedup import embedding, semantic, unit_vectors
from stages.dedup.semantic import Semantic, SemanticConfig
from stages.dedup.unit_vectors import fit_centroids, nearest, quantised, stars
from stages.stage import StageError
from tests.group_runner import run_group
from tests.support import tree, write_config
from tests.test_dedup_unit_vectors import families
from tests.tiny_embedder import WORDS, save_static, save_static_module, save_transformer
from tests.toy_stages import run_toy, write_rows

Row = dict[str, Any]


def shards(count: int = 3, **columns: Any) -> list[pa.Table]:
    rows = len(next(iter(columns.values())))
    given = {"id": [f"d{i}" for i in range(rows)], "text": ["x"] * rows, "source": ["s"] * rows, **columns}
    table = pa.table(given)
    size = -(-rows // count)
    return [table.slice(i * size, size) for i in range(count)]


def run(tables: list[pa.Table], runner: dict[str, Any] | None = None, **knobs: Any) -> list[Row]:
    stage = Semantic(SemanticConfig(**knobs))
    stage.setup({name: Path(path) for name, path in stage.assets().items()})
    return [row for table in run_group(stage, tables, **(runner or {})) for row in table.to_pylist()]


def kept_for(rows: list[Row]) -> dict[str, str]:
    """The removed documents, each with the one that is kept for it."""
    return {row["id"]: row["kept_id"] for row in rows if row["rule"]}


def as_lists(vectors: np.ndarray) -> pa.Array:
    return pa.array(vectors.tolist(), pa.list_(pa.float32()))


def expected(vectors: np.ndarray, lengths: list[int], threshold: float) -> tuple[dict[str, str], dict[str, float]]:
    """All pairs of one cluster, the longest text first."""
    order = np.lexsort((np.arange(len(vectors)), -np.array(lengths)))
    keeper, cosine = stars(quantised(vectors.astype(np.float32))[0], order, threshold)
    removed = [row for row in range(len(vectors)) if keeper[row] != row]
    return {f"d{row}": f"d{keeper[row]}" for row in removed}, {f"d{row}": float(cosine[row]) for row in removed}


def test_one_cluster_is_all_pairs() -> None:
    vectors = families(1)
    lengths = [1 + n % 17 for n in range(len(vectors))]
    tables = shards(text=["x" * n for n in lengths], vector=as_lists(vectors))
    rows = run(tables, column="vector", threshold=0.9, clusters=1)
    keepers, cosines = expected(vectors, lengths, 0.9)
    assert kept_for(rows) == keepers and 60 < len(keepers) < 200
    by_id = {row["id"]: row for row in rows}
    for row in rows:
        assert row["dup_cluster_size"] == 1 + list(keepers.values()).count(row["dup_cluster"])
        if row["rule"] is None:
            assert row["dup_cluster"] == row["id"]
            assert row["duplicate_of"] is row["dup_similarity"] is row["kept_id"] is row["value"] is None
        else:
            assert row["rule"] == "semantic_duplicate" and by_id[row["kept_id"]]["rule"] is None
            assert row["duplicate_of"] == row["dup_cluster"] == row["kept_id"]
            assert (
                row["value"]
                == row["similarity"]
                == row["dup_similarity"]
                == cosines[row["id"]]
                >= row["threshold"]
                == 0.9
            )


@pytest.mark.parametrize("clusters", [None, 1, 7, 1000])
def test_partitions_batches_and_cuts_change_nothing(monkeypatch: pytest.MonkeyPatch, clusters: int | None) -> None:
    vectors = families(2, count=20)
    knobs = {
        "column": "vector",
        "threshold": 0.9,
        "clusters": clusters,
        "sample": 100,
        "survivor": ["nearest", "longest"],
    }
    monkeypatch.setattr(semantic, "PER_CLUSTER", 40)
    tables = shards(vector=as_lists(vectors), source=[f"s{n % 2}" for n in range(len(vectors))])
    one = run(tables, {"partitions": 1, "chunk": 10_000}, **knobs)
    assert len(kept_for(one)) > 20
    for partitions, chunk, batch in ((1, 3, 9), (2, 11, 1000), (8, 50, 31)):
        assert run(tables, {"partitions": partitions, "chunk": chunk, "batch": batch}, **knobs) == one
    monkeypatch.setattr(unit_vectors, "IN_MEMORY", 100)
    monkeypatch.setattr(unit_vectors, "BLOCK", 3)
    monkeypatch.setattr(unit_vectors, "PRODUCTS", 1)
    monkeypatch.setattr("stages.dedup.columns.PIECE", 2)
    assert run(tables, **knobs) == one


def test_given_the_centroids_nothing_is_approximate() -> None:
    """The centroids are those of the documents with the smallest hashes; in each cluster every pair is compared."""
    from xxhash import xxh3_128_digest

    vectors, seed = families(3, count=40, noise=0.1), 5
    whole = quantised(vectors.astype(np.float32))[0]
    drawn = sorted(range(len(whole)), key=lambda row: xxh3_128_digest(seed.to_bytes(8, "little") + f"d{row}".encode()))
    centroids = fit_centroids(whole[drawn[:60]], 9, 20)
    labels = nearest(whole, centroids)[0]
    keepers = {}
    for label in range(9):
        mine = np.flatnonzero(labels == label)
        keeper, _ = stars(whole[mine], np.arange(len(mine)), 0.9)
        keepers |= {f"d{mine[i]}": f"d{mine[k]}" for i, k in enumerate(keeper) if i != k}
    rows = run(
        shards(vector=as_lists(vectors)),
        column="vector",
        threshold=0.9,
        clusters=9,
        sample=60,
        seed=seed,
        survivor=["first"],
    )
    assert len(set(labels.tolist())) > 5 and len(keepers) > 50
    assert kept_for(rows) == keepers


def test_how_many_clusters_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []

    def fit(sample: np.ndarray, clusters: int, iterations: int) -> np.ndarray:
        asked.append((len(sample), clusters))
        return fit_centroids(sample, clusters, iterations)

    monkeypatch.setattr(semantic, "fit_centroids", fit)
    monkeypatch.setattr(semantic, "PER_CLUSTER", 50)
    tables = shards(vector=as_lists(families(4)))  # 240 documents
    for knobs in ({}, {"sample": 100}, {"sample": 10}, {"clusters": 30}):
        run(tables, column="vector", **knobs)
    assert asked == [(240, 5), (100, 2), (10, 1), (240, 30)]


def test_which_one_is_kept() -> None:
    cosines = [1.0, 0.999, 0.98, 0.985]  # with the first axis: 0, 2.6, 11.5 and 9.9 degrees; their centroid is at 6
    vectors = as_lists(np.array([[c, np.sqrt(1 - c * c)] for c in cosines]))
    tables = shards(1, vector=vectors, text=["a", "bb", "cccc", "ddd"], score=[0.1, 0.9, 0.2, None])
    for survivor, kept in (
        (["longest"], "d2"),
        (["first"], "d0"),
        (["best:score"], "d1"),
        (["farthest"], "d0"),
        (["nearest"], "d1"),
    ):
        rows = run(tables, column="vector", threshold=0.9, survivor=survivor)
        assert {row["dup_cluster"] for row in rows} == {kept}, survivor
        assert {row["dup_cluster_size"] for row in rows} == {4}
    twice = shards(1, vector=as_lists(np.array([[1.0, 0], [0, 1], [1, 0]])), text=["a", "b", "cc"])
    assert kept_for(run(twice, column="vector", survivor=["farthest", "longest"])) == {"d0": "d2"}


def test_scope_mode_and_earlier_counts() -> None:
    vectors = as_lists(np.array([[1.0, 0]] * 4))
    tables = shards(2, vector=vectors, source=["a", "b", "a", "b"])
    assert kept_for(run(tables, column="vector")) == {"d2": "d0", "d3": "d1"}
    assert kept_for(run(tables, column="vector", scope="global")) == {"d1": "d0", "d2": "d0", "d3": "d0"}
    rows = run(tables, column="vector", mode="tag")
    assert kept_for(rows) == {} and [row["duplicate_of"] for row in rows] == [None, None, "d0", "d1"]
    assert rows[2]["dup_similarity"] == 1.0 and rows[2]["value"] is None
    before = {"dup_cluster": ["d0", "d1", "d2", "d3"], "dup_cluster_size": pa.array([5, 1, 2, 1], pa.int32())}
    rows = run(shards(2, vector=vectors, **before), column="vector")
    assert {row["dup_cluster_size"] for row in rows} == {9}


def test_token_vectors(tmp_path: Path) -> None:
    texts = [
        "big house",
        "Large HOME",
        "river",
        "stream stream",
        "house by the river",
        "unknown words alone",
        "",
        None,
        " \n",
    ]
    rows = run(shards(text=texts), model=str(save_static(tmp_path / "model")), survivor=["first"])
    assert kept_for(rows) == {"d1": "d0", "d3": "d2"}
    assert rows[1]["similarity"] == pytest.approx(
        np.dot([1, 1, 0], [1, 1.05, 0.05]) / np.sqrt(2 * (1 + 1.05**2 + 0.05**2)), abs=5e-4
    )
    assert kept_for(run(shards(text=texts), model=str(tmp_path / "model"), threshold=0.9999)) == {}


def test_a_run_is_the_same_with_any_partitions(tmp_path: Path) -> None:
    words = [word for word in WORDS if word != "[UNK]"]
    write_rows(tmp_path / "in.jsonl", [f"{words[n % 6]} {words[n // 6 % 6]} {words[n % 5]}" for n in range(200)])
    path = write_config(
        tmp_path / "config.yaml",
        name="semantic",
        input={"source": "toy", "format": "jsonl", "paths": [str(tmp_path / "in.jsonl")]},
        stages=[{"dedup.semantic": {"model": str(save_static(tmp_path / "model")), "clusters": 3}}],
        engine={"shard_bytes": "1100B"},
    )
    trees = []
    for partitions in (1, 2, 8):
        out = tmp_path / f"out{partitions}"
        code, said = run_toy(path, out, f"engine.partitions={partitions}", debug=True)
        assert code == 0, said
        trees.append(tree(out, "documents", "ledger", "samples"))
    assert trees[0] == trees[1] == trees[2]
    rules = [row["rule"] for row in pq.read_table(tmp_path / "out1/ledger").to_pylist()]
    assert len(rules) == 200 and 100 < rules.count("semantic_duplicate") < 200


def test_weights_a_mapping_and_a_limit(tmp_path: Path) -> None:
    words = list(WORDS)
    plain = embedding.load(save_static(tmp_path / "plain"), None, 2048, "cpu")
    assert plain(["big river [UNK]", "nothing", "river"]).tolist() == [[0.5, 0, 0.5], [0, 0, 0], [0, 0, 1]]
    weights = np.arange(len(words), dtype=np.float32)
    weighted = embedding.load(save_static(tmp_path / "weighted", weights=weights), None, 2048, "cpu")
    assert weighted(["big river"]).tolist() == [[0.5, 0, 2.5]]
    few = {"embeddings": np.array([[9, 9], [1, 2], [3, 4]], np.float16), "mapping": np.array([0, 1, 1, 2, 2, 1, 2])}
    mapped = embedding.load(save_static(tmp_path / "mapped", **few), 2, 2048, "cpu")
    assert mapped(["large house", "river home big big"]).tolist() == [[2, 3], [2, 3]]
    module = embedding.load(save_static_module(tmp_path / "module"), None, 2048, "cpu")
    assert module(["big nothing"]).tolist() == [[5, 4.5, 4.5]], "sentence-transformers counts unknown tokens"


def test_bfloat16(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    values = torch.tensor([[1.5, -2.0], [0.0, 3.140625]])
    save_file({"a": values.bfloat16(), "b": values.half(), "c": torch.tensor([3, -1])}, tmp_path / "x")
    found = embedding.tensors(tmp_path / "x")
    assert all(np.array_equal(found[name], values.numpy()) for name in "ab") and found["c"].tolist() == [3, -1]


@pytest.mark.parametrize("pooling", ["mean", "mean_tokens", "cls_token", "cls"])
def test_a_transformer_is_that_of_the_library(tmp_path: Path, pooling: str) -> None:
    import torch
    from transformers import AutoModel, AutoTokenizer

    folder = save_transformer(tmp_path / "model", pooling)
    texts = ["the quiet river", "x", "the river runs to the sea " * 30, "the sea", "quiet " * 12]
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
    wanted = []
    with torch.inference_mode():
        for text in texts:
            one = tokenizer(text, truncation=True, max_length=48, return_tensors="pt")
            states = model(**one).last_hidden_state[0]
            wanted.append(states[0] if pooling.startswith("cls") else states.mean(dim=0))
    embedder = embedding.load(folder, None, 256, "cpu")
    found = embedder(texts)
    assert np.abs(found - torch.stack(wanted).numpy()).max() < 1e-4
    alone = np.concatenate([embedder([text]) for text in texts])
    again = embedder(texts[::-1] * 3)
    assert np.array_equal(alone, found) and np.array_equal(again[:5][::-1], found), (
        "a text's vector depends on its neighbours"
    )
    rows = run(shards(text=[*texts, texts[0]]), model=str(folder), threshold=1.0, batch_tokens=256)
    assert kept_for(rows) == {"d5": "d0"}


def test_bad_input(tmp_path: Path) -> None:
    folder = save_static(tmp_path / "model")
    odd = ["\x00", "big\x00 house", "house " * 200_000, "\u200b", "😀 river", "\ufffe"]
    rows = run(shards(text=odd), model=str(folder))
    assert len(rows) == len(odd)
    stage = Semantic(SemanticConfig(model=str(folder)))
    stage.setup({"model": folder})
    lone = Batch(pa.table({"id": ["a"], "text": ["x"], "source": ["s"]}), {"texts": ["river \ud800"]})
    assert [sent.table.num_rows for sent in stage.emit(lone, 0, np.array([0]))] == [1, 1]
    odd_vectors = [
        None,
        [],
        [0.0, 0.0],
        [None, 1.0],
        [float("nan"), 1.0],
        [float("inf"), 1.0],
        [1e300, 1e300],
        [2.0, 2.0],
    ]
    rows = run(shards(vector=pa.array(odd_vectors, pa.list_(pa.float64()))), column="vector")
    assert kept_for(rows) == {"d7": "d6"}
    for kind in (pa.list_(pa.float16(), 2), pa.large_list(pa.int8()), pa.list_(pa.float64())):
        given = pa.array([[1, 0], [0, 1], [1, 0], None], kind)
        assert kept_for(run(shards(vector=given), column="vector")) == {"d2": "d0"}
    assert kept_for(run(shards(vector=pa.nulls(3)), column="vector")) == {}
    assert run([table.slice(0, 0) for table in shards(vector=given)], column="vector") == []


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (pa.array(["a", "b"]), "column 'vector' is string; expected lists of numbers"),
        (pa.array([["a"], ["b"]]), "expected lists of numbers"),
        (pa.array([[1.0], [1.0, 2.0]]), "embeddings of 1 and of 2 numbers"),
        (pa.array([[1.0] * 40_000] * 2), "at most 32768"),
    ],
)
def test_columns_that_hold_no_embeddings(vectors: pa.Array, message: str) -> None:
    with pytest.raises(StageError, match=message):
        run(shards(1, vector=vectors), column="vector")
    with pytest.raises(StageError, match="no column 'vectors'; the documents have id, text, source, vector"):
        run(shards(1, vector=vectors), column="vectors")


def test_embeddings_of_two_lengths_in_different_batches() -> None:
    tables = shards(2, vector=pa.array([[1.0], [1.0], [1.0, 2.0], [1.0, 3.0]]))
    for sample in (1, 100):  # seen when the centroids are fitted, or when the documents meet them
        with pytest.raises(StageError, match=r"embeddings of . and of . numbers"):
            run(tables, column="vector", sample=sample)


@pytest.mark.parametrize(
    ("knobs", "message"),
    [
        ({}, "give `model`"),
        ({"model": "m", "column": "c"}, "one of the two"),
        ({"column": "c", "max_tokens": 9}, "max_tokens: is for `model`"),
        ({"column": "c", "compare": "prompt"}, "compare: is for `model`"),
        ({"column": "c", "survivor": ["farthest", "nearest"]}, "one can decide"),
        ({"column": "c", "survivor": ["first", "farthest"]}, "`first` leaves no ties"),
        ({"column": "c", "survivor": ["best"]}, "no survivor criterion"),
        ({"column": "c", "threshold": 0}, "greater than 0"),
    ],
)
def test_mistakes_in_the_config(knobs: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SemanticConfig(**knobs)


def test_folders_that_hold_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(folder: Path, message: str, max_tokens: int | None = None) -> None:
        with pytest.raises(StageError, match=message):
            embedding.load(folder, max_tokens, 2048, "cpu")

    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", "holds neither config.json nor modules.json")
    broken = save_static(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"\x09")
    fails(broken, "cannot be loaded")
    fails(save_static(tmp_path / "flat", embeddings=np.zeros(3, np.float32)), "has no token vectors")
    fails(save_static(tmp_path / "short", embeddings=np.zeros((3, 2), np.float32)), "has 7 tokens, .* knows 3")
    fails(save_transformer(tmp_path / "max", "max_tokens"), "pooling max_tokens; known are mean and cls")
    fails(save_transformer(tmp_path / "last", "lasttoken"), "pooling lasttoken; known are")
    whole = save_transformer(tmp_path / "dense", "mean", ("Dense", "3_Dense"))
    fails(whole, "'Dense' is not known")
    fails(save_transformer(tmp_path / "good"), "reads at most 64 tokens", 65)
    weights = tmp_path / "good" / "model.safetensors"
    (tmp_path / "good" / "config.json").write_text(
        json.dumps({**json.loads((tmp_path / "good" / "config.json").read_text()), "num_hidden_layers": 3})
    )
    assert weights.is_file()
    fails(tmp_path / "good", "lacks weights")
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "torch" else real(name, *a))
    stage = Semantic(SemanticConfig(model=str(whole)))
    with pytest.raises(
        StageError, match=r"needs the package torch; install the extra: pip install 'gristmill\[scorers\]'"
    ):
        stage.setup({"model": whole})
    Semantic(SemanticConfig(model="m")).setup({"model": save_static(tmp_path / "static")})
