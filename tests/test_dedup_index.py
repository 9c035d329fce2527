"""`dedup.index`: what an index finds, what it holds, and what is said of one that is wrong."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest
from datasketch import MinHash

import stages.dedup.index_build as index_build
from pipeline.dedup_index.commands import build, info, merge, remove
from pipeline.yamlfile import ConfigError
from stages.batch import Batch
from stages.dedup.index import Index, IndexDedupConfig
from stages.dedup.index_build import Documents, Selection, build_part, finish_part, merge_parts
from stages.dedup.index_files import ArrayFile, write_ids
from stages.dedup.index_format import REPEATED, Part, RunOfPart
from stages.dedup.index_hash import Hashed, IndexParameters, estimate, hash_documents, narrow_signatures, standard_error
from stages.dedup.index_lookup import LIMIT, first_of, look_up
from stages.dedup.shingles import jaccard, shingles
from stages.stage import StageError
from tests.group_runner import run_group
from tests.support import tree

SMALL = IndexParameters(bands=6, rows=4, permutations=64)
VOCABULARY = [f"{a}{b}{c}" for a in "bdkmrst" for b in "aeiou" for c in ("n", "l", "sta", "r")]


def made_texts(seed: int, count: int, words: int = 200) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(VOCABULARY, k=words)) for _ in range(count)]


def changed(text: str, places: int = 1) -> str:
    words = text.split()
    for place in range(places):
        words[(place * 17 + 5) % len(words)] = "otherwise"
    return " ".join(words)


def documents(texts: list[Any], prefix: str = "d", source: str = "s") -> Documents:
    return Documents([f"{prefix}{i}" for i in range(len(texts))], [source] * len(texts), texts)


def write_jsonl(path: Path, texts: list[Any], **columns: list[Any]) -> Path:
    rows = [
        {"id": f"{path.stem}{i}", "text": text, **{n: v[i] for n, v in columns.items()}} for i, text in enumerate(texts)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_index(path: Path, texts: list[Any], run: str = "earlier", *overrides: str, **columns: list[Any]) -> str:
    build(str(path), [write_jsonl(path.with_name(f"{run}.jsonl"), texts, **columns)], run, overrides, lambda line: None)
    return str(path)


def table(texts: list[Any], source: str = "s") -> pa.Table:
    count = len(texts)
    return pa.table(
        {"id": [f"q{i}" for i in range(count)], "text": pa.array(texts, pa.string()), "source": [source] * count}
    )


def query(path: str | list[str], texts: list[Any], shards: int = 1, partitions: int = 3, source: str = "s", **knobs: Any) -> list[dict[str, Any]]:  # fmt: skip
    stage = Index(Index.pin(IndexDedupConfig(path=path, **knobs), None))
    stage.setup({name: Path(asset) for name, asset in stage.assets().items()})
    whole = table(texts, source)
    size = -(-len(texts) // shards)
    tables = [whole.slice(start, size) for start in range(0, max(1, len(texts)), size)]
    return [row for one in run_group(stage, tables, partitions=partitions, batch=50) for row in one.to_pylist()]


# What is found


def test_planted_copies_are_found_and_nothing_else(tmp_path: Path) -> None:
    old = made_texts(1, 300)
    new = made_texts(2, 100)
    mixed = [changed(old[7]), new[0], f"  {old[9]}\n", changed(old[7], 30), *new[1:]]
    path = make_index(tmp_path / "index", old)
    rows = query(path, mixed)
    found = {i: (row["rule"], row["kept_id"]) for i, row in enumerate(rows) if row["rule"]}
    assert found == {0: ("in_index", "earlier7"), 2: ("in_index_exact", "earlier9")}
    near, exact = rows[0], rows[2]
    truth = jaccard(*shingles([old[7], mixed[0]], 5))
    assert near["value"] == near["similarity"] and near["threshold"] == 0.8
    assert abs(near["similarity"] - truth) < 4 * standard_error(truth, 256)
    assert (exact["value"], exact["threshold"], exact["similarity"]) == (None, None, 1.0)
    assert query(path, mixed, threshold=1.0)[0]["rule"] is None


@pytest.mark.parametrize(("shards", "partitions"), [(1, 1), (2, 8), (8, 2)])
def test_the_answer_depends_on_the_document_alone(tmp_path: Path, shards: int, partitions: int) -> None:
    old = made_texts(1, 120)
    mixed = [changed(text, i % 6) for i, text in enumerate(old)] + made_texts(3, 50)
    path = make_index(tmp_path / "index", old)
    expected = query(path, mixed)
    assert sum(row["rule"] is not None for row in expected) > 40
    assert query(path, mixed, shards, partitions) == expected
    order = list(range(len(mixed)))
    random.Random(4).shuffle(order)
    shuffled = query(path, [mixed[i] for i in order], shards, partitions)
    for place, i in enumerate(order):
        assert {**shuffled[place], "id": ""} == {**expected[i], "id": ""}


def test_tag_writes_columns_and_drops_nothing(tmp_path: Path) -> None:
    old = made_texts(1, 20)
    rows = query(make_index(tmp_path / "index", old), [old[3], "something else", changed(old[4])], mode="tag")
    assert [row["rule"] for row in rows] == [None] * 3
    assert [row["index_duplicate_of"] for row in rows] == ["earlier3", None, "earlier4"]
    assert [row["index_run"] for row in rows] == ["earlier", None, "earlier"]
    assert rows[0]["index_similarity"] == 1.0 and rows[1]["index_similarity"] is None


def test_odd_texts(tmp_path: Path) -> None:
    odd = ["", None, "  \n", "!!!", "?!", "word", "two words", "\x00", "語" * 50, "x" * 1_000_000, "\ufffd"]
    path = make_index(tmp_path / "index", odd)
    rows = query(path, odd)
    assert [row["rule"] is not None for row in rows] == [bool((text or "").strip()) for text in odd]
    assert {row["rule"] for row in rows} == {None, "in_index_exact"}
    assert [row["rule"] for row in query(path, ["Word!", "three words here", "WORD\nword"])] == ["in_index", None, None]
    lone = hash_documents(["a \ud800 b", "a \ud801 b"], [None, "\udfff"], SMALL)
    assert len(lone.kept) == 2 and (lone.exact[0] != lone.exact[1]).any()


def test_scope_source_compares_within_a_source(tmp_path: Path) -> None:
    text = made_texts(1, 1)[0]
    path = make_index(tmp_path / "index", [text], "earlier", "scope=source", source=["news"])
    for asked in (text, changed(text)):
        assert query(path, [asked], source="news")[0]["rule"] is not None
        assert query(path, [asked], source="blogs")[0]["rule"] is None


def test_several_indexes_the_first_wins(tmp_path: Path) -> None:
    text = made_texts(1, 1)[0]
    one = make_index(tmp_path / "one", [changed(text), "x y z"], "one")
    two = make_index(tmp_path / "two", [text, "x y z"], "two")
    asked = [changed(text), text, "X y z", changed(text, 2)]
    assert [row["kept_id"] for row in query([one, two], asked)] == ["one0", "two0", "one1", "one0"]
    assert [row["kept_id"] for row in query([two, one], asked)] == ["one0", "two0", "two1", "one0"]


def test_runs_can_be_chosen(tmp_path: Path) -> None:
    path = make_index(tmp_path / "index", ["a b c"], "jan")
    make_index(tmp_path / "index", ["d e f"], "feb")
    assert [row["kept_id"] for row in query(path, ["a b c", "d e f"])] == ["jan0", "feb0"]
    assert [row["kept_id"] for row in query(path, ["a b c", "d e f"], runs=("feb",))] == [None, "feb0"]
    with pytest.raises(StageError, match=r"holds no run 'mar'; it holds jan, feb"):
        query(path, ["a"], runs=("mar",))


def test_a_run_is_compared_with_those_before_it(tmp_path: Path) -> None:
    path = make_index(tmp_path / "index", ["a b c"], "jan")
    make_index(tmp_path / "index", ["d e f"], "feb")
    config = IndexDedupConfig(path=path)
    names = {run: [Path(p).name.split("-")[0] for p in Index.pin(config, run).parts] for run in ("jan", "feb", "mar")}
    assert names == {"jan": [], "feb": ["jan"], "mar": ["jan", "feb"]}


# Skew


def test_a_bucket_of_50000_equal_documents(tmp_path: Path) -> None:
    text = made_texts(1, 1)[0]
    texts = [changed(text, 5), *[text] * 50_000, changed(text)]
    build_part([documents(texts)], SMALL, "r", tmp_path / "part")
    part = Part.at(tmp_path / "part")
    for band in range(SMALL.bands):
        keys, rows = part.keys(band)
        assert len(keys) == 50_002
        plain = set(rows[rows < REPEATED].tolist())
        assert plain == {0, 1, 50_001}, "what a document in this bucket is compared with"
    asked = hash_documents([text, changed(text, 2)], [None, None], SMALL)
    matches = look_up([part], asked, SMALL)
    assert matches.exact.tolist() == [True, False] and matches.row[0] == 1 and matches.row[1] == 50_001


def test_only_so_many_signatures_of_a_key_are_compared(tmp_path: Path) -> None:
    one_row = IndexParameters(bands=1, rows=1, permutations=64)
    texts = ["ever same " + " ".join(made_texts(seed, 1, 4)) for seed in range(3 * LIMIT)]  # many share a minimum
    keys = hash_documents(texts, [None] * len(texts), one_row).bands[:, 0]
    _, counts = np.unique(keys, return_counts=True)
    assert counts.max() <= LIMIT  # random texts: the limit is reached by planting the keys below
    build_part([documents(texts)], one_row, "r", tmp_path / "part")
    stored = Part.at(tmp_path / "part")
    np.save(tmp_path / "part/band-000.keys.npy", np.full(len(texts), 5, np.uint64))
    np.save(tmp_path / "part/band-000.rows.npy", np.arange(len(texts), dtype=np.uint32))
    asked = hash_documents([texts[10] + " end", texts[LIMIT + 10] + " end"], [None, None], one_row)
    asked.bands[:] = 5
    matches = look_up([stored], asked, one_row)
    assert matches.row[0] == 10 and matches.row[1] != LIMIT + 10


def test_what_was_looked_at_does_not_stay_in_memory(tmp_path: Path) -> None:
    """Mapped pages count as a worker's memory, for which it would be ended."""
    parameters = IndexParameters(bands=1, rows=1, permutations=256)
    rng, count = np.random.default_rng(1), 400_000
    with ArrayFile(tmp_path / "signatures.npy", np.uint8, (count, 256)) as file:
        for _ in range(count // 50_000):
            file.write(rng.integers(0, 256, (50_000, 256), dtype=np.uint8))
    for name in ("exact", "band-000"):
        np.save(tmp_path / f"{name}.keys.npy", np.sort(rng.integers(0, 2**64, count, dtype=np.uint64)))
        np.save(tmp_path / f"{name}.rows.npy", rng.permutation(count).astype(np.uint32))
    np.save(tmp_path / "exact.low.npy", rng.integers(0, 2**64, count, dtype=np.uint64))
    write_ids(tmp_path / "ids.arrow", [], [])
    finish_part(tmp_path, parameters, [RunOfPart("r", count)])
    part, process = Part.at(tmp_path), psutil.Process()
    everywhere = np.arange(4000) * (count // 4000)
    asked = Hashed(
        np.arange(4000),
        rng.integers(0, 2**64, (4000, 2), dtype=np.uint64),
        np.arange(4000),
        part.keys(0)[0][everywhere][:, None],
        rng.integers(0, 256, (4000, 256), dtype=np.uint8),
    )
    look_up([part], Hashed(*(column[:5] for column in asked)), parameters)
    before = process.memory_info().rss
    for _ in range(3):
        assert (look_up([part], asked, parameters).row >= 0).mean() > 0.5  # some have no equal byte
    assert sum(block.shape[0] for block in part.blocks("signatures.npy", 10_000)) == count
    assert process.memory_info().rss - before < 60 << 20, "of 102 MB of signatures alone"


# What is stored


def test_signatures_are_datasketchs_top_bytes() -> None:
    text = made_texts(1, 1)[0]
    (values,) = shingles([text], 5)
    reference = MinHash(num_perm=64, seed=1, scheme="affine64", hashfunc=lambda value: value)
    reference.update_batch(values.tolist())
    ours = hash_documents([text], [None], SMALL).signatures[0]
    assert (ours == narrow_signatures(reference.hashvalues[None, :])[0]).all()


def test_the_estimate_is_unbiased_with_the_stated_error() -> None:
    parameters = IndexParameters()
    pairs = [(a, changed(a, 1 + i % 9)) for i, a in enumerate(made_texts(5, 400))]
    truth = np.array([jaccard(*shingles(pair, 5)) for pair in pairs])
    one, two = (hash_documents(list(texts), [None] * 400, parameters).signatures for texts in zip(*pairs, strict=True))
    found = estimate((one == two).sum(axis=1), parameters.permutations)
    z = (found - truth) / [standard_error(t, parameters.permutations) for t in truth]
    assert abs(z.mean()) < 4 / np.sqrt(len(z)) and 0.8 < z.std() < 1.2


def test_first_of_sorted_keys() -> None:
    rng = np.random.default_rng(1)
    for keys in (
        np.sort(rng.integers(0, 2**64, 5000, dtype=np.uint64)),
        np.full(1000, 7, np.uint64),
        np.array([0, 0, 1, 2**64 - 1, 2**64 - 1], np.uint64),
        np.zeros(0, np.uint64),
    ):
        asked = np.concatenate([keys[::7], np.array([0, 1, 7, 8, 2**63, 2**64 - 1], np.uint64)])
        assert [first_of(keys, key) for key in asked] == np.searchsorted(keys, asked).tolist()


@pytest.mark.parametrize("piece", [1, 7, 1 << 21])
def test_merging_equals_building_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int) -> None:
    texts: list[Any] = made_texts(1, 60) * 2 + ["", "!!!", None] + ["the same page"] * 40
    random.Random(2).shuffle(texts)
    all_documents = documents(texts)
    build_part([all_documents], SMALL, "r", tmp_path / "whole")
    monkeypatch.setattr(index_build, "PIECE", piece)
    selections = []
    for number, start in enumerate(range(0, len(texts), 50)):
        some = Documents(*(column[start : start + 50] for column in all_documents))
        build_part([some], SMALL, "r", tmp_path / str(number))
        selections.append(Selection(tmp_path / str(number)))
    merge_parts(selections, tmp_path / "merged")
    assert tree(tmp_path, "merged").values() and {
        path.removeprefix("merged/"): digest for path, digest in tree(tmp_path, "merged").items()
    } == {path.removeprefix("whole/"): digest for path, digest in tree(tmp_path, "whole").items()}


@pytest.mark.parametrize("piece", [3, 1 << 21])
def test_leaving_documents_out_equals_building_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    texts = made_texts(1, 30) * 3 + ["the same page"] * 20
    build_part([documents(texts)], SMALL, "r", tmp_path / "whole")
    gone = {0, 31, 62, 90, 91}  # a document with all its copies, and the first of another's
    ids, sources, kept = documents(texts)
    rest = [i for i in range(len(texts)) if i not in gone]
    build_part(
        [Documents(*([column[i] for i in rest] for column in (ids, sources, kept)))], SMALL, "r", tmp_path / "rest"
    )
    monkeypatch.setattr(index_build, "PIECE", piece)
    merge_parts([Selection(tmp_path / "whole", frozenset(f"d{i}" for i in gone))], tmp_path / "merged")
    assert list(tree(tmp_path, "merged").values()) == list(tree(tmp_path, "rest").values())


def test_an_empty_index(tmp_path: Path) -> None:
    path = make_index(tmp_path / "index", [])
    assert query(path, ["a b c", ""])[0]["rule"] is None
    make_index(tmp_path / "index", ["a b c"], "second")
    merge(str(tmp_path / "both"), [path])
    assert query(str(tmp_path / "both"), ["a b c"])[0]["kept_id"] == "second0"
    assert query(str(tmp_path / "nowhere"), ["a b c"], missing="empty")[0]["rule"] is None


# Commands


def test_merged_indexes_answer_like_both(tmp_path: Path) -> None:
    old = made_texts(1, 80)
    one, two = make_index(tmp_path / "one", old[:40], "jan"), make_index(tmp_path / "two", old[30:], "feb")
    merge(str(tmp_path / "both"), [one, two])
    asked = [changed(text, i % 3) for i, text in enumerate(old)] + made_texts(6, 10)
    rows = query(str(tmp_path / "both"), asked)
    assert rows == query([one, two], asked) and sum(row["rule"] is not None for row in rows) > 60
    assert "jan (40), feb (50)" in info(str(tmp_path / "both"), verify=True)
    with pytest.raises(StageError, match="'feb' was merged with others"):
        query(str(tmp_path / "both"), asked, runs=("jan",))
    with pytest.raises(ConfigError, match="there is an index already"):
        merge(str(tmp_path / "both"), [one])
    with pytest.raises(ConfigError, match="'jan' is in two of the indexes"):
        merge(str(tmp_path / "three"), [one, str(tmp_path / "both")])


def test_takedown_leaves_nothing_behind(tmp_path: Path) -> None:
    old = made_texts(1, 50)
    path = make_index(tmp_path / "index", [*old, old[3]], "jan")
    make_index(tmp_path / "index", ["d e f"], "feb")
    assert "took out 1 document" in remove(path, ["jan3", "unknown"], [])
    rows = query(path, old)
    assert [i for i, row in enumerate(rows) if row["rule"] is None] == []
    assert rows[3]["kept_id"] == "jan50", "another copy stands for the text now"
    assert "took out 1 document" in remove(path, ["jan50"], [])
    rows = query(path, [*old, "d e f"])
    assert [i for i, row in enumerate(rows) if row["rule"] is None] == [3]
    content = b"".join(file.read_bytes() for file in (tmp_path / "index").rglob("*") if file.is_file())
    assert b"jan49" in content and b"jan50" not in content
    assert "took out 0" in remove(path, ["jan50"], [])
    assert "took out 49" in remove(path, [], ["jan"])
    assert query(path, [old[0], "d e f"])[1]["kept_id"] == "feb0"
    with pytest.raises(ConfigError, match="no such run; it holds feb"):
        remove(path, [], ["apr"])
    assert len(list((tmp_path / "index/parts").iterdir())) == 1


def test_a_run_replaces_its_own_part(tmp_path: Path) -> None:
    path = make_index(tmp_path / "index", ["a b c"], "jan")
    make_index(tmp_path / "index", ["d e f"], "feb")
    make_index(tmp_path / "index", ["g h i"], "jan")
    assert [row["kept_id"] for row in query(path, ["a b c", "d e f", "g h i"])] == [None, "feb0", "jan0"]
    before = tree(tmp_path, "index")
    make_index(tmp_path / "index", ["g h i"], "jan")
    assert tree(tmp_path, "index") == before, "equal documents change nothing, not even the generation"
    assert [p.name.split("-")[0] for p in sorted((tmp_path / "index/parts").iterdir())] == ["feb", "jan"]


# What is wrong


def edit(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_what_is_said_of_an_index_that_cannot_be_used(tmp_path: Path) -> None:
    path = make_index(tmp_path / "index", made_texts(1, 5))
    folder = next((tmp_path / "index/parts").iterdir())

    def said(**knobs: Any) -> str:
        with pytest.raises(StageError) as caught:
            query(knobs.pop("path", path), ["a"], **knobs)
        return str(caught.value)

    assert "there is no such index" in said(path=str(tmp_path / "none"))
    other = make_index(tmp_path / "other", ["a"], "other", "ngram=4", "seed=9")
    assert "ngram is 4, not 5, seed is 9, not 1; use the stage twice" in said(path=[path, other])
    good = (folder / "part.json").read_text(), (tmp_path / "index/index.json").read_text()

    def restore() -> None:
        (folder / "part.json").write_text(good[0])
        (tmp_path / "index/index.json").write_text(good[1])

    for file in (folder / "part.json", tmp_path / "index/index.json"):
        edit(file, format=2)
        assert f"{file.name}: is of format 2, newer than 1" in said()
        edit(file, format=1, scheme="sha1")
        assert "of scheme 'sha1'" in said()
        edit(file, scheme=json.loads(good[0])["scheme"], parameters={"ngram": 0})
        assert "is damaged" in said()
        for text in ("", "[]", "{}", "{", '{"format": 1}'):
            file.write_text(text)
            assert f"{file.name}: is " in said() or "its signatures are of scheme None" in said()
        restore()
    keys = folder / "band-003.keys.npy"
    content = keys.read_bytes()
    keys.write_bytes(content[:-8])
    assert "band-003.keys.npy: is damaged" in said()
    keys.write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(ConfigError, match=r"band-003\.keys\.npy: is damaged \(another SHA-256"):
        info(path, verify=True)
    keys.unlink()
    assert "band-003.keys.npy: is not there" in said()
    shutil.rmtree(folder)
    with pytest.raises((StageError, FileNotFoundError)):
        query(path, ["a"])


def test_commands_say_what_is_wrong(tmp_path: Path) -> None:
    source = write_jsonl(tmp_path / "in.jsonl", ["a"])
    path = make_index(tmp_path / "index", ["a"])

    def said(*overrides: str, run: str | None = None, inputs: Path = source, index: str = path) -> str:
        with pytest.raises(ConfigError) as caught:
            build(index, [inputs], run, overrides, lambda line: None)
        return str(caught.value)

    assert "was built with other parameters: ngram is 5, not 4" in said("ngram=4")
    assert "ngrams" in said("ngrams=4") and "ngram" in said("ngrams=4")
    assert "112" in said("permutations=8", index=str(tmp_path / "new"))
    assert "--run ../up" in said(run="../up")
    assert "needs the column 'text'" in said(inputs=write_rows(tmp_path / "b.jsonl"))
    assert "no such file" in said(inputs=tmp_path / "none.jsonl")
    with pytest.raises(ConfigError, match="there is no such index"):
        info(str(tmp_path / "none"), verify=False)


def write_rows(path: Path) -> Path:
    path.write_text('{"body": "a"}\n')
    return path


def test_a_batch_without_documents(tmp_path: Path) -> None:
    stage = Index(Index.pin(IndexDedupConfig(path=make_index(tmp_path / "index", ["a b"])), None))
    stage.setup({name: Path(asset) for name, asset in stage.assets().items()})
    assert list(stage.emit(Batch(table([]).slice(0, 0)), 0, np.zeros(0, np.int64))) == []
