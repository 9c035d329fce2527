"""JSONL, Parquet, HTML and text files."""

from __future__ import annotations

import gzip
import json
import lzma
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from pipeline.files import InputError, list_files
from pipeline.readers import Limits, ReadOptions, Record, Segment, carry, open_segment, preflight, restart, split

OPTIONS = ReadOptions(id_field="id")
LIMITS = Limits()


def read_all(
    path: Path, format: str, shard_bytes: int = 1 << 40, options: ReadOptions = OPTIONS, limits: Limits = LIMITS
):
    (file,) = list_files("s", format, [str(path)])
    rows: list[Record] = []
    expected: int | None = 0
    segments = split(file, shard_bytes, options)
    for segment in segments:
        reader = open_segment(Segment.from_dict(json.loads(json.dumps(segment.to_dict()))), limits)
        rows += list(reader)
        assert restart(segment, expected, reader) is None
        expected = carry(expected, reader)
    places = [(row.offset, row.sub) for row in rows]
    assert places == sorted(set(places))
    return rows, len(segments)


def lines(*rows: object) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def test_jsonl_fields(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b"\xef\xbb\xbf"
        + lines({"id": "a", "text": "tëxt \x00", "url": "http://e.org/", "date": "2020-01-02T03:04:05Z"})
        + b"\n  \r\n"
        + lines({"id": 7, "text": "", "date": 1577934245}, {"html": "<p>é", "url": 3, "date": "2020"})
        + b'{"id": [1], "text": "a\\ud800b\\ud83d\\ude00"}'
    )
    rows, _ = read_all(path, "jsonl")
    assert [row.offset for row in rows] == [0, 3, 4, 5]
    assert rows[0] == Record(0, 0, "a", "http://e.org/", 1577934245, text="tëxt \x00")
    assert (rows[1].record_id, rows[1].text, rows[1].date) == ("7", "", 1577934245)
    assert (rows[2].html, rows[2].charset, rows[2].url, rows[2].date) == ("<p>é".encode(), "utf-8", None, 1577836800)
    assert (rows[3].record_id, rows[3].text) == ("[1]", "a\ufffdb😀")
    rows, _ = read_all(path, "jsonl", options=ReadOptions(text_field="url"))
    assert [row.text for row in rows] == ["http://e.org/", None, None, None]
    assert [row.rule for row in rows] == [None, "bad_row", "bad_row", "bad_row"]


def test_bad_lines_fail_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    bad = [
        b"{",
        b"\xff\xfe",
        b"[1]",
        b'{"text": 3}',
        b"{}",
        b'{"text": null}',
        b"[" * 100_000,
        b'{"a": ' + b"9" * 5000 + b"}",
    ]
    path.write_bytes(b"\n".join([*bad, b'{"text": "good"}', b'{"text": "' + b"x" * 300 + b'"}', b'{"text": "last"}']))
    rows, _ = read_all(path, "jsonl", limits=Limits(max_record_bytes=200_000))
    assert [(row.fate, row.rule) for row in rows[:8]] == [("failed", "bad_row")] * 8
    assert [row.text for row in rows[8:]] == ["good", "x" * 300, "last"]
    assert rows[3].detail == "text is no string but int" and all(row.detail for row in rows[:8])
    rows, _ = read_all(path, "jsonl", limits=Limits(max_record_bytes=200))
    assert [row.rule for row in rows[8:]] == [None, "too_large", None] and rows[9].value == 312
    assert rows[6].value == 100_000


@pytest.mark.parametrize("packing", ["gz", "two members", "zst", "xz"])
def test_jsonl_compressed(tmp_path: Path, packing: str) -> None:
    data = [lines(*({"text": f"row {part} {number} " + "é" * number} for number in range(200))) for part in range(2)]
    pack = {
        "gz": gzip.compress,
        "two members": lambda data: gzip.compress(data[:5000]) + gzip.compress(data[5000:]),
        "zst": zstandard.ZstdCompressor(write_checksum=True).compress,
        "xz": lzma.compress,
    }[packing]
    packed = pack(b"".join(data))
    path = tmp_path / "a.jsonl.x"
    path.write_bytes(packed)
    rows, segments = read_all(path, "jsonl", 1000)
    assert segments == 1 and [row.offset for row in rows] == list(range(400))
    assert rows[399].text == "row 1 199 " + "é" * 199
    path.write_bytes(packed[:-30])
    rows, _ = read_all(path, "jsonl")
    assert (rows[-1].rule, rows[-1].detail) == ("corrupt", "truncated") and rows[-1].offset == len(rows) - 1


def test_jsonl_cuts_change_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    text = lines(*({"text": "x" * (number * 37 % 400)} for number in range(300))).replace(b"\n", b"\n\n", 20)
    for data in (text, text[:-1], b"\n\n" + text + b"\n\n\n"):
        path.write_bytes(data)
        rows, _ = read_all(path, "jsonl")
        assert len(rows) == 300
        for shard_bytes in (1, 100, 401, 5000, len(data) - 1):
            cut, segments = read_all(path, "jsonl", shard_bytes)
            assert cut == rows and (segments > 5 or shard_bytes > 5000)


def test_jsonl_preflight(tmp_path: Path) -> None:
    for data, message in ((b' [{"text": "a"}]', "JSON array"), ('{"text": "a"}'.encode("utf-16"), "UTF-16")):
        path = tmp_path / "a.json"
        path.write_bytes(data)
        with pytest.raises(InputError, match=message):
            preflight(list_files("s", "jsonl", [str(path)])[0], OPTIONS)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.binary(), pa.dictionary(pa.int32(), pa.string())])
def test_parquet_text(tmp_path: Path, kind: pa.DataType) -> None:
    texts = ["a", "ü\x00", "", None, "b" * 1000] * 100
    plain = pa.array(texts, pa.string())
    path = tmp_path / "a.parquet"
    table = {
        "id": pa.array(range(500)),
        "text": plain.dictionary_encode() if pa.types.is_dictionary(kind) else plain.cast(kind),
        "date": pa.array([datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC)] * 500, pa.timestamp("ms", "UTC")),
        "url": pa.array(["http://e.org/"] * 500),
        "other": pa.array([1] * 500),
    }
    pq.write_table(pa.table(table), path, row_group_size=70)
    rows, _ = read_all(path, "parquet")
    assert [row.text for row in rows] == texts and [row.offset for row in rows] == list(range(500))
    assert [row.rule for row in rows[:5]] == [None, None, None, "bad_row", None]
    assert (rows[9].record_id, rows[9].date, rows[9].url) == ("9", 1577934245, "http://e.org/")
    for shard_bytes in (1, 1000, 10_000):
        cut, segments = read_all(path, "parquet", shard_bytes)
        assert cut == rows and (segments == 8) == (shard_bytes == 1)


def test_parquet_html_and_odd_values(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    far = pa.array([2**62, 0, None], pa.int64()).cast(pa.timestamp("us"))
    pq.write_table(pa.table({"html": pa.array([b"<p>\xff", b"", None]), "date": far}), path)
    rows, _ = read_all(path, "parquet", options=ReadOptions())
    assert [row.html for row in rows] == [b"<p>\xff", b"", None] and rows[2].rule == "bad_row"
    assert [row.date for row in rows] == [None, 0, None]
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"ok", b"\xff"]).buffers())
    pq.write_table(pa.table({"text": bad, "date": pa.array([date(2020, 1, 1)] * 2)}), path)
    rows, _ = read_all(path, "parquet", options=ReadOptions())
    assert [(row.text, row.rule, row.date) for row in rows] == [("ok", None, 1577836800), (None, "bad_row", None)]


def test_parquet_mistakes_and_damage(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"content": ["a"], "number": [1]}), path)
    (file,) = list_files("s", "parquet", [str(path)])
    with pytest.raises(InputError, match=r"a.parquet: no column 'text'.*content, number.*text_field"):
        preflight(file, ReadOptions())
    with pytest.raises(InputError, match="int64"):
        preflight(file, ReadOptions(text_field="number"))
    with pytest.raises(InputError, match="id_field"):
        preflight(file, ReadOptions(text_field="content", id_field="nope"))
    preflight(file, ReadOptions(text_field="content"))
    for data, rule in ((b"", "empty_file"), (b"no parquet" * 9, "corrupt"), (path.read_bytes()[:-5], "corrupt")):
        path.write_bytes(data)
        rows, _ = read_all(path, "parquet", 1, ReadOptions())
        assert [(row.fate, row.rule) for row in rows] == [("failed", rule)]
    pq.write_table(
        pa.table({"text": [str(number) * 50 for number in range(300)]}), path, row_group_size=100, use_dictionary=False
    )
    broken = bytearray(path.read_bytes())
    start = pq.ParquetFile(path).metadata.row_group(1).column(0).data_page_offset
    broken[start : start + 40] = b"\xff" * 40
    path.write_bytes(broken)
    rows, _ = read_all(path, "parquet", options=ReadOptions())
    assert [row.offset for row in rows if row.rule == "corrupt"] == [100] and rows[100].value == 100
    assert [row.text for row in rows if row.fate is None] == [
        str(number) * 50 for number in [*range(100), *range(200, 300)]
    ]


def test_empty_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), path)
    assert read_all(path, "parquet", 1, ReadOptions()) == ([], 1)


def test_html_and_text_files(tmp_path: Path) -> None:
    for name, format, data, expected in (
        ("a.html", "html", b"<p>\xff", b"<p>\xff"),
        ("a.html.gz", "html", gzip.compress(b"<p>"), b"<p>"),
        ("a.txt", "text", "naïve\x00".encode(), "naïve\x00"),
        ("b.txt", "text", "naïve".encode("utf-16"), "naïve"),
        ("c.txt", "text", b"\xef\xbb\xbfx", "x"),
        ("d.txt.gz", "text", gzip.compress("Füße übers Öl".encode("cp1252")), "Füße übers Öl"),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        ((row,), _) = read_all(path, format, 1)
        assert (row.html if format == "html" else row.text) == expected and row.offset == row.sub == 0
        assert row.fate is None
    for name, data, rule in (
        ("a.html", b"", "empty_file"),
        ("a.html.gz", gzip.compress(b"<p>" * 99)[:-9], "corrupt"),
        ("b.html", b"x" * 99, "too_large"),
    ):
        path.with_name(name).write_bytes(data)
        ((row,), _) = read_all(
            path.with_name(name), "html", limits=Limits(max_record_bytes=98 if rule == "too_large" else 10**6)
        )
        assert (row.fate, row.rule) == ("failed", rule)
