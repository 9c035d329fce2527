"""Corpora of any shape: Parquet and JSONL, any column names, missing columns, damaged files."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from tokenizer_training.config import TokenizerError
from tokenizer_training.corpus import files
from tokenizer_training.corpus.documents import FIELDS, Fields, document_tables, read_documents, text_bytes
from tokenizer_training.corpus.files import find_documents

ROWS: list[dict[str, Any]] = [
    {"id": "a", "text": "one\ntwo", "source": "web", "language": "en"},
    {"id": "b", "text": "žluťoučký kůň 😀", "source": None, "language": "cs"},
    {"id": "c", "text": None, "source": "web", "language": "en"},
]


def jsonl(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(jsonl(rows)))
    elif path.suffix == ".zst":
        path.write_bytes(zstandard.compress(jsonl(rows)))
    else:
        path.write_bytes(jsonl(rows))
    return path


def read(path: Path, columns: list[str], fields: Fields = FIELDS) -> dict[str, list[Any]]:
    table = pa.concat_tables(list(document_tables(path, columns, fields)))
    assert table.column_names == columns
    return table.to_pydict()


@pytest.mark.parametrize("name", ["d.parquet", "d.jsonl", "d.ndjson", "d.jsonl.gz", "d.jsonl.zst"])
def test_every_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    found = read(write(tmp_path / name, ROWS), ["id", "text", "source", "language", "domain", "dup_cluster", "repeat"])
    assert found == {
        "id": ["a", "b", "c"],
        "text": ["one\ntwo", "žluťoučký kůň 😀", ""],
        "source": ["web", "", "web"],
        "language": ["en", "cs", "en"],
        "domain": ["", "", ""],
        "dup_cluster": ["a", "b", "c"],
        "repeat": [1, 1, 1],
    }


@pytest.mark.parametrize("name", ["d.parquet", "d.jsonl"])
def test_other_names_numbers_as_ids_and_no_ids(tmp_path: Path, name: str) -> None:
    file = write(tmp_path / name, [{"content": "x", "n": 7, "site": "s"}, {"content": "y", "n": 8, "site": "t"}])
    fields = Fields(text="content", id="n", domain="site")
    assert read(file, ["id", "text", "domain"], fields) == {"id": ["7", "8"], "text": ["x", "y"], "domain": ["s", "t"]}
    assert read(file, ["id"], Fields(text="content")) == {"id": [f"{name}:0", f"{name}:1"]}
    assert text_bytes(file, Fields(text="content")) == 2


def test_batches_are_whole_lines_and_rows_keep_their_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"text": "x" * (i % 50)} for i in range(500)]
    for name in ("d.jsonl", "d.parquet"):
        file = write(tmp_path / name, rows)
        monkeypatch.setattr(files, "BATCH_BYTES", 300)
        tables = list(document_tables(file, ["id", "text"]))
        assert len(tables) > 5
        table = pa.concat_tables(tables)
        assert table.column("text").to_pylist() == [row["text"] for row in rows]
        assert table.column("id").to_pylist() == [f"{name}:{i}" for i in range(500)]


def test_a_last_line_without_line_feed_and_empty_lines(tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    file.write_bytes(b'\n{"text": "a"}\r\n\n{"text": "b"}')
    assert read(file, ["text"]) == {"text": ["a", "b"]}


def test_lone_surrogates_and_broken_utf8_become_replacement_characters(tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    file.write_bytes(b'{"text": "a\\ud800b"}\n{"text": "\xff\xc3"}\n')
    assert read(file, ["text"]) == {"text": ["a\ufffdb", "\ufffd\ufffd"]}
    raw = pa.array([b"a\xff", None], pa.binary())
    pq.write_table(pa.table({"text": raw}), tmp_path / "d.parquet")
    assert read(tmp_path / "d.parquet", ["text"]) == {"text": ["a\ufffd", ""]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"text": "a"}\n{"text": ', "line 2: not JSON"),
        (b'{"text": "a"}\n[1]\n', "line 2: expected a JSON object, found list"),
        (b'{"text": {"x": 1}}\n', "line 1: text is .*expected a string"),
        (b'{"text": "a", "repeat": "often"}\n', "line 1: repeat is .*expected a whole number"),
        (b'{"body": "a"}\n', "no field 'text' with text in its first 1 lines"),
        (b'{"text": "a", "repeat": 0}\n', "row 0 has repeat 0"),
    ],
)
def test_mistakes_name_the_file_and_the_line(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "d.jsonl"
    file.write_bytes(content)
    with pytest.raises(TokenizerError, match=rf"d\.jsonl.*{message}"):
        list(document_tables(file, ["text", "repeat"]))


def test_damaged_compression_is_an_error_of_the_file(tmp_path: Path) -> None:
    whole = gzip.compress(jsonl(ROWS) * 5000, mtime=0)
    (tmp_path / "d.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TokenizerError, match=r"d\.jsonl\.gz: cannot be read to its end"):
        list(document_tables(tmp_path / "d.jsonl.gz", ["text"]))
    (tmp_path / "d.jsonl.zst").write_bytes(b"not zstd at all")
    with pytest.raises(TokenizerError, match=r"d\.jsonl\.zst: cannot be read"):
        list(document_tables(tmp_path / "d.jsonl.zst", ["text"]))
    (tmp_path / "d.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(TokenizerError, match=r"d\.parquet: not a readable Parquet file"):
        list(document_tables(tmp_path / "d.parquet", ["text"]))


def test_wrong_columns_are_named(tmp_path: Path) -> None:
    file = write(tmp_path / "d.parquet", [{"id": "a", "text": 5}])
    with pytest.raises(TokenizerError, match="column text is int64; expected string"):
        list(document_tables(file, ["text"]))
    with pytest.raises(TokenizerError, match="no column body; it has id, text"):
        list(document_tables(file, ["text"], Fields(text="body")))
    with pytest.raises(TokenizerError, match="no column topic"):
        list(document_tables(file, ["domain"], Fields(domain="topic")))


def test_folders_are_searched_but_not_hidden_or_private_files(tmp_path: Path) -> None:
    for name in ("b/x.parquet", "a.jsonl.gz", "_tmp/y.parquet", ".z.jsonl", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, ROWS)
    found = find_documents([tmp_path])
    assert [f.relative_to(tmp_path).as_posix() for f in found] == ["a.jsonl.gz", "b/x.parquet"]
    with pytest.raises(TokenizerError, match=r"notes\.txt: expected a name that ends in"):
        find_documents([tmp_path / "notes.txt"])
    with pytest.raises(TokenizerError, match=r"no \.parquet or \.jsonl file"):
        find_documents([_empty(tmp_path)])


def _empty(tmp_path: Path) -> Path:
    (tmp_path / "empty").mkdir()
    return tmp_path / "empty"


def test_documents_as_python_values(tmp_path: Path) -> None:
    (batch,) = read_documents(write(tmp_path / "d.jsonl", ROWS))
    assert batch.ids == ["a", "b", "c"] and batch.texts[2] == "" and batch.phases == [[], [], []]
