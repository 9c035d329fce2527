"""`apply`: one stage on one file, every row and column kept, in JSONL and Parquet."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

import pipeline.apply
import pipeline.tables
from pipeline.apply import apply
from pipeline.cli import main
from pipeline.dedup_index.commands import build
from pipeline.engine.executors import Debug
from pipeline.yamlfile import ConfigError
from stages.stage import registry
from tests import crashing_stage
from tests.tiny_embedder import save_static
from tests.tiny_scorer import save

ROOT = Path(__file__).parents[1]
PROSE = (
    "The quick brown fox ran over the hill and then it came back to the river with all of its friends. "
    "They have been there for a long time, and that is what makes this story worth telling again. "
)
PAGE = f"<html><head><title>T</title></head><body><article><h1>Head</h1><p>{PROSE * 3}</p></article></body></html>"
STAGES = sorted(name for name in registry() if not name.startswith("test."))
WHOLE_RUN = [name for name in STAGES if registry()[name].kind == "aggregate"]
FORMATS = ("jsonl", "jsonl.gz", "jsonl.zst", "parquet")

Apply = Callable[..., int]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Apply:
    """`apply` with the stage in this process."""
    monkeypatch.setattr(pipeline.apply, "make_executor", lambda engine, debug: Debug())

    def run(stage: str, source: Path, target: Path, *overrides: str) -> int:
        return apply(stage, source, target, list(overrides), "inline", None, lambda line: None)

    return run


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.name.endswith("parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    data = "".join(json.dumps(row) + "\n" for row in rows).encode()
    if path.suffix == ".gz":
        data = gzip.compress(data[:100]) + gzip.compress(data[100:])  # several members
    if path.suffix == ".zst":
        data = zstandard.compress(data[:100]) + zstandard.compress(data[100:])
    path.write_bytes(data)
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.name.endswith("parquet"):
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return rows
    data = path.read_bytes()
    if path.suffix == ".gz":
        data = gzip.decompress(data)
    if path.suffix == ".zst":
        data = zstandard.ZstdDecompressor().stream_reader(data).read()
    return [json.loads(line) for line in data.decode().splitlines()]


def corpus() -> list[dict[str, Any]]:
    """Rows of every kind: prose, duplicates, short, empty, none, strange characters, nested columns."""
    texts = [
        PROSE * 4,
        PROSE * 4 + "One more.",
        PROSE * 4,
        "short",
        "",
        None,
        "mail me: a.b@example.com",
        "x\u0000y 😀 \u200b z",
    ]
    texts += [f"{PROSE * 4} This is number {i}." for i in range(5)]
    return [
        {"id": i, "url": f"https://example.com/{i}", "html": PAGE, "meta": {"deep": [i, {"a": "é"}]}, "text": text, "score": i / 2}
        for i, text in enumerate(texts)
    ]  # fmt: skip


@pytest.fixture(scope="module")
def required(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Knobs without which a stage cannot run."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "items.jsonl").write_text(json.dumps({"question": PROSE * 2}) + "\n")
    build(str(folder / "index"), [write(folder / "seen.jsonl", corpus())], None, [], lambda line: None)
    return {
        "language_guess": {"keep": ["en"]},
        "dedup.index": {"path": str(folder / "index")},
        "decontaminate": {"benchmarks": [{"name": "b", "paths": str(folder / "items.jsonl"), "fields": ["question"]}]},
        "dedup.semantic": {"model": str(save_static(folder / "token-vectors"))},
        "quality.perplexity": {"model": str(Path(__file__).parent / "recorded" / "tiny.arpa")},
        "quality.regression": {"model": str(save(folder / "scorer")), "max_tokens": 128},
    }


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("stage", sorted(set(STAGES) - set(WHOLE_RUN)))
def test_every_stage_on_every_format(
    tmp_path: Path, here: Apply, required: dict[str, dict[str, Any]], stage: str, kind: str
) -> None:
    rows = [
        {k: v for k, v in row.items() if k != "meta"} | {"meta": {"deep": row["meta"]["deep"][:1]}} for row in corpus()
    ]
    source, target = write(tmp_path / f"in.{kind}", rows), tmp_path / f"out.{kind}"
    before = source.read_bytes()
    knobs = required.get(stage, {})
    assert here(stage, source, target, *(f"{name}={json.dumps(value)}" for name, value in knobs.items())) == 0
    out = read(target)
    assert [row["id"] for row in out] == [row["id"] for row in rows]
    stage_class = registry()[stage]
    instance = stage_class(stage_class.config_model.model_validate(knobs))
    expected = [name for name in rows[0] if name not in instance.consumes]
    added = [*instance.provides(), *getattr(instance, "apply_only", ()), "verdict"]
    assert list(out[0]) == [*expected, *(name for name in added if name not in expected)]
    assert ("html" in out[0]) == (stage != "extract")
    untouched = [name for name in expected if name not in instance.provides() and name != "text"]
    assert [{k: row[k] for k in untouched} for row in out] == [{k: row[k] for k in untouched} for row in rows]
    verdicts = {row["verdict"] for row in out}
    assert all(v == "keep" or v.startswith(f"{stage}:") for v in verdicts)
    assert source.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"in.{kind}", f"out.{kind}"]


@pytest.mark.parametrize("stage", WHOLE_RUN)
def test_stages_that_need_the_whole_corpus_say_so(tmp_path: Path, here: Apply, stage: str) -> None:
    source = write(tmp_path / "in.jsonl", corpus())
    with pytest.raises(ConfigError, match="needs a whole run"):
        here(stage, source, tmp_path / "out.jsonl")


def test_formats_may_differ_and_say_the_same(tmp_path: Path, here: Apply) -> None:
    rows = [{"id": str(i), "text": text} for i, text in enumerate([PROSE * 4, "short", None])]
    source = write(tmp_path / "in.jsonl", rows)
    for kind in FORMATS[1:]:
        assert here("language", source, tmp_path / f"out.{kind}") == 0
    assert here("language", tmp_path / "in.jsonl", tmp_path / "out.jsonl") == 0
    assert here("language", write(tmp_path / "in.parquet", rows), tmp_path / "from.jsonl") == 0
    results = [
        read(tmp_path / name) for name in ("out.jsonl", "out.jsonl.gz", "out.jsonl.zst", "out.parquet", "from.jsonl")
    ]
    assert results[0][0]["language"] == "en" and results[0][0]["verdict"] == "keep"
    assert all(result == results[0] for result in results)
    again = (tmp_path / "out.jsonl.gz").read_bytes()
    here("language", source, tmp_path / "out.jsonl.gz")
    assert (tmp_path / "out.jsonl.gz").read_bytes() == again  # no time or name in it


def test_in_may_be_out_and_a_link_stays(tmp_path: Path, here: Apply) -> None:
    for stage in ("normalize", "dedup.exact"):
        path = write(tmp_path / "a.jsonl", [{"id": "x", "text": "a\u00a0b"}, {"id": "y", "text": "a\u00a0b"}])
        link = tmp_path / "link.jsonl"
        link.unlink(missing_ok=True)
        link.symlink_to(path)
        assert here(stage, link, link) == 0
        assert link.is_symlink() and len(read(path)) == 2
        assert read(path)[1]["verdict"] == ("keep" if stage == "normalize" else "dedup.exact:duplicate")


def test_a_failure_leaves_the_old_output(tmp_path: Path, here: Apply) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"text": "a"}\n' * 600 + '{"text": "b"\n')
    target.write_text("old\n")
    with pytest.raises(ConfigError, match=r"in\.jsonl:601: not a line of JSON: .*column 13"):
        here("normalize", source, target)
    assert target.read_text() == "old\n"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]


@pytest.mark.parametrize("stage", ["normalize", "dedup.fuzzy", "pii"])
def test_empty_files(tmp_path: Path, here: Apply, stage: str) -> None:
    for name in ("in.jsonl", "in.jsonl.gz", "in.jsonl.zst"):
        (tmp_path / name).write_bytes(b"")
        assert here(stage, tmp_path / name, tmp_path / "out.jsonl") == 0
        assert (tmp_path / "out.jsonl").read_bytes() == b""
    pq.write_table(pa.table({"text": pa.array([], pa.string()), "n": pa.array([], pa.int8())}), tmp_path / "in.parquet")
    assert here(stage, tmp_path / "in.parquet", tmp_path / "out.parquet") == 0
    schema = pq.read_schema(tmp_path / "out.parquet")
    assert schema.names[:2] == ["text", "n"] and schema.field("n").type == pa.int8()
    assert "verdict" in schema.names and set(registry()[stage](registry()[stage].config_model()).provides()) <= set(
        schema.names
    )
    assert here(stage, tmp_path / "in.jsonl", tmp_path / "out2.parquet") == 0
    assert pq.read_table(tmp_path / "out2.parquet").num_rows == 0


BROKEN = [
    (b'{"text": "a"}\n{"text": \n', "in.jsonl:2: not a line of JSON"),
    (b'{"text": "a"}\n\n[1]\n', "in.jsonl:3: expected a JSON object, got list"),
    (b'{"text": "a"}\n{"text": "\xff"}\n', "in.jsonl:2: not UTF-8"),
    (b'{"text": ' + b"[" * 100_000 + b"\n", "in.jsonl:1: not a line of JSON: nested too deeply"),
    (b"\xff\xfe{\x00", "in.jsonl:1: not UTF-8"),
    (b'{"a": 1}\n', "normalize needs the column 'text'; the file has a"),
]


@pytest.mark.parametrize(("data", "message"), BROKEN)
def test_broken_files(tmp_path: Path, here: Apply, data: bytes, message: str) -> None:
    (tmp_path / "in.jsonl").write_bytes(data)
    with pytest.raises(ConfigError) as raised:
        here("normalize", tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert message in str(raised.value)
    assert not (tmp_path / "out.jsonl").exists()


def test_damaged_compression_and_other_files(tmp_path: Path, here: Apply) -> None:
    data = b'{"text": "a long enough line"}\n' * 1000
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(data)[:-20])
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(data)[:-20])
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    (tmp_path / "d.jsonl").mkdir()
    for name, message in [
        ("a.jsonl.gz", "damaged behind line"),
        ("a.jsonl.zst", "damaged behind line"),
        ("a.parquet", "cannot be read as Parquet"),
        ("d.jsonl", "is a directory"),
        ("absent.jsonl", "no such file"),
        ("a.csv", "the format follows the suffix"),
    ]:
        with pytest.raises(ConfigError, match=message):
            here("normalize", tmp_path / name, tmp_path / "out.jsonl")
    with pytest.raises(ConfigError, match="the format follows the suffix"):
        here("normalize", write(tmp_path / "in.jsonl", corpus()), tmp_path / "out.txt")


def test_a_byte_order_mark_and_a_missing_last_newline(tmp_path: Path, here: Apply) -> None:
    (tmp_path / "in.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\n{"text": "b"}')
    here("normalize", tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert [row["text"] for row in read(tmp_path / "out.jsonl")] == ["a", "b"]


def test_ids_of_any_kind(tmp_path: Path, here: Apply) -> None:
    for ids in ([7, 8, 9], ["a", None, "c"], [None, None, None], [1, "b", 2.5]):
        rows = [{"id": id_, "text": "the same text"} for id_ in ids]
        here("dedup.exact", write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl")
        out = read(tmp_path / "out.jsonl")
        first = str(ids[0]) if ids[0] is not None else "0"
        assert [row["id"] for row in out] == ids
        assert [row["duplicate_of"] for row in out] == [None, first, first]
        assert [row["dup_cluster"] for row in out] == [first] * 3
        assert [row["dup_cluster_size"] for row in out] == [3, 3, 3]
    here("dedup.exact", write(tmp_path / "in.jsonl", [{"text": "t"}, {"text": "t"}]), tmp_path / "out.jsonl")
    out = read(tmp_path / "out.jsonl")
    assert out[1] == {
        "text": "t", "duplicate_of": "0", "dup_similarity": 1.0, "dup_cluster": "0", "dup_cluster_size": 2,
        "verdict": "dedup.exact:duplicate",
    }  # fmt: skip
    assert out[0]["verdict"] == "keep" and out[0]["dup_similarity"] is None


def test_columns_of_near_duplicates(tmp_path: Path, here: Apply) -> None:
    words = [f"word{i}" for i in range(200)]
    texts = [" ".join(words[:195]), " ".join(words), "something else entirely, with other words in it"]
    rows = [{"id": name, "text": text} for name, text in zip("abc", texts, strict=True)]
    here("dedup.fuzzy", write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl")
    a, b, c = read(tmp_path / "out.jsonl")
    assert (a["verdict"], a["duplicate_of"], a["dup_cluster"]) == ("dedup.fuzzy:near_duplicate", "b", "b")
    assert a["dup_similarity"] == pytest.approx(191 / 196)
    assert (b["verdict"], b["duplicate_of"], b["dup_cluster"], b["dup_cluster_size"]) == ("keep", None, "b", 2)
    assert (c["verdict"], c["duplicate_of"], c["dup_cluster"], c["dup_cluster_size"]) == ("keep", None, "c", 1)
    here("dedup.fuzzy", tmp_path / "in.jsonl", tmp_path / "out.jsonl", "threshold=0.99", "dedup.fuzzy.mode=tag")
    assert [row["verdict"] for row in read(tmp_path / "out.jsonl")] == ["keep"] * 3


def test_a_date_or_a_score_chooses_the_survivor(tmp_path: Path, here: Apply) -> None:
    rows = [{"text": "t", "date": f"2024-01-0{d}T00:00:00Z", "score": s} for d, s in ((2, 0.5), (1, 0.1), (3, 0.9))]
    source = write(tmp_path / "in.jsonl", [{"text": "u"}, *rows])  # a field that only later rows have
    for survivor, kept in (("latest", 3), ("earliest", 2), ("best:score", 3)):
        here("dedup.exact", source, tmp_path / "out.jsonl", f"survivor=['{survivor}']")
        assert [i for i, row in enumerate(read(tmp_path / "out.jsonl")) if row["verdict"] == "keep"] == [0, kept]


def test_surrogates_and_odd_types_stay_what_they_were(tmp_path: Path, here: Apply) -> None:
    lines = [
        r'{"text": "lone \ud800 and a@example.com", "x": 1}',
        r'{"text": "lone \udfff", "x": "one", "y\ud800": "\ud800"}',
        r'{"text": 5, "x": 123456789012345678901234567890}',
        r'{"text": null, "x": [1, "a", {"b": null}]}',
        r'{"text": ["a list"], "x": NaN}',
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(lines) + "\n")
    rows = read(tmp_path / "in.jsonl")
    here("pii", tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    out = read(tmp_path / "out.jsonl")
    assert out[0]["text"] == "lone \ufffd and <EMAIL_ADDRESS>"
    assert [row["text"] for row in out[1:]] == [row["text"] for row in rows[1:]]
    assert [repr(row["x"]) for row in out] == [repr(row["x"]) for row in rows]
    assert out[1]["y\ud800"] == "\ud800"
    with pytest.raises(
        ConfigError, match=r"the field 'text' does not fit into one Parquet column .*write \.jsonl instead"
    ):
        here("pii", tmp_path / "in.jsonl", tmp_path / "out.parquet")


def test_fields_that_come_late_or_change_their_width(
    tmp_path: Path, here: Apply, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline.tables, "CHUNK_ROWS", 2)
    rows: list[dict[str, Any]] = [{"text": "a"}, {"text": "b", "n": None}, {"text": "c", "n": 1, "s": {"p": 1}}]
    rows += [{"text": "d", "n": 1.5, "s": {"q": "x"}}, {"text": "e", "late": True}]
    source = write(tmp_path / "in.jsonl", rows)
    for stage in ("normalize", "dedup.exact"):
        here(stage, source, tmp_path / "out.jsonl")
        assert [
            {k: v for k, v in row.items() if k in old}
            for row, old in zip(read(tmp_path / "out.jsonl"), rows, strict=True)
        ] == rows
        here(stage, source, tmp_path / "out.parquet")
        table = pq.read_table(tmp_path / "out.parquet")
        assert table.column("n").to_pylist() == [None, None, 1.0, 1.5, None]
        assert table.column("s").to_pylist() == [None, None, {"p": 1, "q": None}, {"p": None, "q": "x"}, None]
        assert table.column("late").to_pylist() == [None] * 4 + [True]


def test_spans_of_personal_data(tmp_path: Path, here: Apply) -> None:
    texts = ["😀 é: a.b@example.com, and 192.0.2.7 too", "nothing", None]
    here("pii", write(tmp_path / "in.jsonl", [{"text": text} for text in texts]), tmp_path / "out.jsonl")
    out = read(tmp_path / "out.jsonl")
    spans = out[0]["pii_spans"]
    assert [list(span) for span in spans] == [["start", "end", "entity", "score"]] * 2
    found = [(texts[0][s["start"] : s["end"]], s["entity"]) for s in spans]  # type: ignore[index]
    assert found == [("a.b@example.com", "EMAIL_ADDRESS"), ("192.0.2.7", "IP_ADDRESS")]
    assert all(a["end"] <= b["start"] for a, b in itertools.pairwise(spans))
    assert out[0]["text"] == "😀 é: <EMAIL_ADDRESS>, and <IP_ADDRESS> too"
    assert out[1]["pii_spans"] == [] and out[2]["text"] is None


def test_html_is_a_string_or_bytes(tmp_path: Path, here: Apply) -> None:
    meta = '<meta charset="iso-8859-1">'
    page = PAGE.replace("<head>", f"<head>{meta}").replace("fox", "fuchs für")
    for kind, html in (("jsonl", page), ("parquet", page), ("parquet", page.encode("iso-8859-1"))):
        source = write(
            tmp_path / f"in.{kind}", [{"html": html, "html_charset": "x"}, {"html": None, "html_charset": "x"}]
        )
        here("extract", source, tmp_path / "out.jsonl")
        first, second = read(tmp_path / "out.jsonl")
        assert "fuchs für" in first["text"] and first["title"] == "T" and first["verdict"] == "keep"
        assert "html" not in first and second["text"] is None
    with pytest.raises(ConfigError, match="extract needs the column 'html'; the file has text"):
        here("extract", write(tmp_path / "in.jsonl", [{"text": "a"}]), tmp_path / "out.jsonl")


def test_a_refused_page_keeps_its_text(tmp_path: Path, here: Apply) -> None:
    source = write(tmp_path / "in.jsonl", [{"html": PAGE, "text": "old"}])
    here("extract", source, tmp_path / "out.jsonl", "max_bytes=10")
    (row,) = read(tmp_path / "out.jsonl")
    assert (row["text"], row["verdict"]) == ("old", "extract:too_large")


def test_knobs(tmp_path: Path, here: Apply) -> None:
    source = write(tmp_path / "in.jsonl", [{"text": "two words", "language": lang} for lang in ("en", "de", None)])
    target = tmp_path / "out.jsonl"

    def verdicts(*overrides: str) -> list[str]:
        here("quality.gopher", source, target, "min_stop_words=null", *overrides)
        return [row["verdict"] for row in read(target)]

    dropped = "quality.gopher:min_words"
    assert verdicts() == [dropped] * 3
    assert verdicts("min_words=2") == verdicts("quality.gopher.min_words=2") == ["keep"] * 3
    assert verdicts("by_language.de.min_words=1") == [dropped, "keep", dropped]
    assert verdicts("only.language=[de]") == ["keep", dropped, "keep"]
    assert verdicts("as=mine") == ["mine:min_words"] * 3
    for override, message in [
        ("min_word=3", "--set min_word=3: unknown key 'quality.gopher.min_word'; did you mean 'min_words'?"),
        (
            "quality.gopher.min_words=x",
            "--set quality.gopher.min_words=x: quality.gopher.min_words: expected a whole number",
        ),
        ("min_words", "--set min_words: expected KEY=VALUE"),
        ("quality.gopher=3", "--set quality.gopher=3: expected a knob of quality.gopher"),
        ("checkpoint=true", "--set checkpoint=true: expected a knob"),
        ("only.source=[a]", "quality.gopher needs the column 'source' for `only: {source: ...}`"),
    ]:
        with pytest.raises(ConfigError) as raised:
            verdicts(override)
        assert message in str(raised.value)
    with pytest.raises(ConfigError, match=r"unknown stage 'quality\.gophr'; did you mean 'quality\.gopher'"):
        here("quality.gophr", source, target)


def test_columns_in_the_way(tmp_path: Path, here: Apply) -> None:
    pq.write_table(pa.table({"text": [5, 6]}), tmp_path / "in.parquet")
    with pytest.raises(ConfigError, match="normalize reads the column 'text' as strings, but it holds int64"):
        here("normalize", tmp_path / "in.parquet", tmp_path / "out.parquet")
    source = write(tmp_path / "in.jsonl", [{"text": "a", "dup_cluster_size": "many"}])
    with pytest.raises(ConfigError, match="writes the column 'dup_cluster_size' as int32, but it holds string"):
        here("dedup.exact", source, tmp_path / "out.jsonl")
    pq.write_table(
        pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), tmp_path / "in.parquet"
    )
    with pytest.raises(ConfigError, match="has two columns called 'text'"):
        here("normalize", tmp_path / "in.parquet", tmp_path / "out.parquet")


def test_a_second_dedup_builds_on_the_first(tmp_path: Path, here: Apply) -> None:
    rows = [{"id": i, "text": t} for i, t in enumerate(["a b c", "a b c", "d e f"])]
    for kind in ("jsonl", "parquet"):
        here("dedup.exact", write(tmp_path / f"in.{kind}", rows), tmp_path / f"one.{kind}")
        here("dedup.fuzzy", tmp_path / f"one.{kind}", tmp_path / f"two.{kind}", "mode=tag")
        assert [row["dup_cluster_size"] for row in read(tmp_path / f"two.{kind}")] == [2, 2, 1]


def test_large_rows_come_in_small_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.tables, "CHUNK_BYTES", 10_000)
    rows = [{"text": "x" * 3_000, "n": i} for i in range(50)]
    for kind in FORMATS:
        chunks = list(pipeline.tables.read_chunks(write(tmp_path / f"in.{kind}", rows)))
        assert max(len(chunk) for chunk in chunks) <= (
            50 if kind == "parquet" else 4
        )  # Parquet's footer knows compressed pages
        assert [n for chunk in chunks for n in chunk.values("n")] == list(range(50))


# Processes


def test_a_row_that_kills_its_worker(tmp_path: Path) -> None:
    """The row at fault gets `crash`, one that raises `error`; all others are judged."""
    texts = [f"text {i}" for i in range(60)]
    texts[33], texts[34] = "CRASH", "RAISE"
    source = write(tmp_path / "in.jsonl", [{"id": i, "text": text, "test_length": -1} for i, text in enumerate(texts)])
    said: list[str] = []
    assert apply(crashing_stage.Crashing.name, source, tmp_path / "out.jsonl", [], "inline", None, said.append) == 0
    out = read(tmp_path / "out.jsonl")
    bad = {33: "test.crashing:crash", 34: "test.crashing:error"}
    assert {i: row["verdict"] for i, row in enumerate(out) if row["verdict"] != "keep"} == bad
    assert [row["test_length"] for i, row in enumerate(out) if i not in bad] == [
        len(text) for i, text in enumerate(texts) if i not in bad
    ]
    assert out[33]["text"] == "CRASH" and out[33]["test_length"] == -1
    assert said[0].split() == ["58", "keep"]


RAY = """
import sys
import ray
from pipeline.cli import main
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR", object_store_memory=80 << 20)
for stage in ("pii", "dedup.exact"):
    code = main(["apply", stage, sys.argv[1], f"{sys.argv[2]}/{stage}-ray.jsonl", "--executor", "ray", "--workers", "2"])
    assert code == 0, code
"""


@pytest.mark.slow
def test_both_executors_give_the_same_bytes(tmp_path: Path, here: Apply) -> None:
    rows = [{"id": i, "text": f"{PROSE * 3} Number {i % 400}. Write to user{i}@example.com."} for i in range(1100)]
    source = write(tmp_path / "in.jsonl", rows)
    done = subprocess.run(
        [sys.executable, "-c", RAY, str(source), str(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for stage in ("pii", "dedup.exact"):
        here(stage, source, tmp_path / f"{stage}.jsonl")
        assert (tmp_path / f"{stage}.jsonl").read_bytes() == (tmp_path / f"{stage}-ray.jsonl").read_bytes()
    assert "1,100  rows in" in done.stderr


def test_exit_codes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write(tmp_path / "in.jsonl", [{"text": "a"}])
    target = str(tmp_path / "out.jsonl")

    def code(*arguments: str) -> tuple[int, str]:
        return main(["apply", *arguments]), capsys.readouterr().err

    assert code("normalise", str(source), target)[0] == 2
    assert code("normalize", str(tmp_path / "absent.jsonl"), target)[0] == 2
    result, message = code("language", str(source), target, "--set", "model=/no/such/model.bin")
    assert (result, "the file for `model` is not there" in message) == (2, True)
    result, message = code("dedup.semantic", str(source), target, "--set", "model=/no/such/model")
    assert (result, "the file for `model` is not there" in message) == (2, True)
    result, message = code("dedup.semantic", str(source), target)
    assert (result, "give `model` (a folder) or `column`" in message) == (2, True)
    (tmp_path / "bad.bin").write_bytes(b"no model")
    result, message = code("language", str(source), target, "--set", f"model={tmp_path}/bad.bin")
    assert (result, f"{tmp_path}/bad.bin" in message and "Traceback" not in message) == (2, True)
    result, message = code("normalize", str(source), target, "--workers", "2")
    assert (result, "use --executor ray" in message) == (2, True)
    result, message = code("dedup.exact", str(source), target, "--set", "survivor=['best:x']")
    assert (result, "needs the column 'x'" in message) == (2, True)
    assert not Path(target).exists()


def test_payloads_are_compared_by_their_bytes(tmp_path: Path, here: Apply) -> None:
    rows = [{"id": str(i), "html": page} for i, page in enumerate(["<p>a", "<p>b", "<p>a", None, None])]
    here("dedup.payload", write(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl")
    assert [row["verdict"] for row in read(tmp_path / "out.jsonl")] == [
        "keep",
        "keep",
        "dedup.payload:duplicate",
        "keep",
        "keep",
    ]
    assert [row["duplicate_of"] for row in read(tmp_path / "out.jsonl")] == [None, None, "0", None, None]
