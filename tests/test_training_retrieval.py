"""Retrieval: scores by BM25's formula, passages, the folder of an index and what is wrong with one."""

import math
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.training_common import texts
from training import cli
from training.knobs import TrainingError
from training.tools.calls import Call
from training.tools.registry import toolbox
from training.tools.retrieval import Index, build_index, documents_in, passages_of, search_tool, words_of

DOCUMENTS = [(f"d{n}", text) for n, text in enumerate(texts(40, seed=3))] + [("empty", ""), ("marks", "... !!!"), ("mill", "The WINDMILL of Kinderdijk\n\n" + "turns " * 400)]  # fmt: skip


@pytest.fixture(scope="module")
def index_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("index")
    (root / "documents").mkdir()
    for part in range(2):
        rows = DOCUMENTS[part::2]
        table = pa.table(
            {"id": [number for number, _ in rows], "text": [text for _, text in rows], "url": [None] * len(rows)}
        )
        pq.write_table(table, root / "documents" / f"part-{part:05}.parquet")
    assert cli.main(["index", str(root / "documents"), "--output", str(root / "index"), "--words", "30"]) == 0
    return root / "index"


def test_scores_are_those_of_the_formula(index_folder):
    index = Index.load(index_folder)
    rows = sorted(
        documents_in(index_folder.parent / "documents"), key=lambda row: int(row[0][1:]) if row[0][1:].isdigit() else 99
    )
    passages = [(number, n, text) for number, whole in documents_in(index_folder.parent / "documents") for n, text in enumerate(passages_of(whole, 30)) if words_of(text)]  # fmt: skip
    assert len(rows) == len(DOCUMENTS) - 1  # without the empty one
    lengths = [len(words_of(text)) for _, _, text in passages]
    mean = sum(lengths) / len(lengths)
    for query in ("the old mill turns", "粉屋 麦", "мельник мелет", "windmill"):
        scores = []
        for (_, _, text), length in zip(passages, lengths, strict=True):
            counts = Counter(words_of(text))
            score = 0.0
            for word in words_of(query):
                containing = sum(word in set(words_of(other)) for _, _, other in passages)
                if containing and counts[word]:
                    idf = math.log(1 + (len(passages) - containing + 0.5) / (containing + 0.5))
                    score += idf * counts[word] / (counts[word] + 1.5 * (1 - 0.75 + 0.75 * length / mean))
            scores.append(score)
        order = sorted(range(len(passages)), key=lambda n: (-round(scores[n], 5), n))
        best = [n for n in order if scores[n] > 0][:5]
        found = index.search(query, 5)
        assert [one.score for one in found] == pytest.approx([scores[n] for n in best], rel=1e-4)
        assert {(one.id, one.number) for one in found} <= {
            passages[n][:2] for n in order if scores[n] >= scores[best[-1]] - 1e-4
        }
    assert (
        index.search("windmill")[0].id == "mill"
        and index.search("zzz") == index.search("") == index.search("...") == []
    )


def test_passages_are_bounded_and_lose_no_word():
    text = "one two three\n\nfour five\n\n\n\nsix " + "seven " * 11
    for size in (1, 2, 4, 100):
        cut = list(passages_of(text, size))
        assert all(len(passage.split()) <= size for passage in cut) and " ".join(cut).split() == text.split()
    assert list(passages_of(" \n\n ", 3)) == []
    chinese = "水车磨面，" * 30 + "end.\n\n(…)"  # no spaces between words
    cut = list(passages_of(chinese, 50))
    assert [len(words_of(passage)) for passage in cut] == [50, 50, 21] and "".join(cut).split() == chinese.split()
    assert words_of("Das 3. Müllerhaus’ 粉屋 a_b") == ["das", "3", "müllerhaus", "粉", "屋", "a", "b"]


def test_an_index_is_the_same_each_time_and_searched_by_a_tool(index_folder, tmp_path, capsys):
    assert build_index(documents_in(index_folder.parent / "documents"), tmp_path / "again", 30) > 40
    files = sorted(path.name for path in index_folder.iterdir())
    assert files == sorted(path.name for path in (tmp_path / "again").iterdir())
    assert all((index_folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)
    box = toolbox(["search", "calculator"], str(index_folder))
    found = box.run(Call("search", {"query": "Windmill Kinderdijk"}))
    assert found.text.startswith("[mill] The WINDMILL of Kinderdijk")
    assert box.run(Call("search", {"query": "zzz"})).text == "error: nothing found; try other words"
    assert search_tool(Index.load(index_folder), 1).function("windmill").count("[") == 1
    assert cli.main(["index", "--output", str(index_folder), "--query", "windmill", "--count", "1"]) == 0
    assert "[mill, passage 0]" in capsys.readouterr().out


def test_mistakes_of_indexing(index_folder, tmp_path, capsys):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    (tmp_path / "no.parquet").write_text("x")
    pq.write_table(pa.table({"id": ["a"], "body": ["b"]}), tmp_path / "columns.parquet")
    pq.write_table(pa.table({"id": ["a"], "text": ["..."]}), tmp_path / "wordless.parquet")
    documents = index_folder.parent / "documents"
    for arguments, word in (
        ([tmp_path / "missing", "--output", tmp_path / "i"], "no Parquet file"),
        ([tmp_path / "other", "--output", tmp_path / "i"], "no Parquet file"),
        ([tmp_path / "no.parquet", "--output", tmp_path / "i"], "no.parquet is no Parquet file"),
        ([tmp_path / "columns.parquet", "--output", tmp_path / "i"], "no column text"),
        ([tmp_path / "wordless.parquet", "--output", tmp_path / "i"], "no document has a word"),
        ([documents, "--output", tmp_path / "other"], "is no index"),
        (["--output", tmp_path / "i"], "DOCUMENTS"),
        (["--output", tmp_path / "i", "--query", "x"], "is no index"),
        (["--output", index_folder, "--query", "x", "--words", "3"], "--words"),
        ([documents, "--output", tmp_path / "i", "--count", "3"], "--count"),
    ):
        assert cli.main(["index", *map(str, arguments)]) == 2
        assert word in capsys.readouterr().err
    assert (tmp_path / "other" / "file").exists() and not (tmp_path / "i").exists()
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in index_folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    (copy / "passages.arrow").write_bytes(b"x")
    with pytest.raises(TrainingError, match="broken"):
        Index.load(copy)
    (copy / "index.json").write_text('{"format": 99}')
    with pytest.raises(TrainingError, match="newer"):
        Index.load(copy)


def test_without_bm25s_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "bm25s", None)
    with pytest.raises(TrainingError, match=r"gristmill\[tools\]"):
        build_index([("a", "b")], tmp_path / "i")
