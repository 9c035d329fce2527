"""Counts tables against a plain Counter over the pre-tokens of `tokenizers` itself."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers

from tests.tokens_corpus import ARTICLES, NASTY, python_texts
from tokenizer_training.cli import main
from tokenizer_training.config import TokenizerError
from tokenizer_training.corpus.documents import Fields, document_tables
from tokenizer_training.corpus.files import stretches
from tokenizer_training.corpus.pieces import cut_runs
from tokenizer_training.vocabulary import counts_merge, counts_read
from tokenizer_training.vocabulary.count_table import PretokenTable
from tokenizer_training.vocabulary.counts import (
    GROUPING,
    CountConfig,
    count_documents,
    counts_facts,
    part_path,
)
from tokenizer_training.vocabulary.counts_merge import merge_counts
from tokenizer_training.vocabulary.counts_read import read_counts, read_counts_by
from tokenizer_training.vocabulary.pretokenize import library_pre_tokenizer

TEXTS = [*ARTICLES.values(), *python_texts(12), *(text for text in NASTY if isinstance(text, str))]
FIELDS = Fields(domain="site")
SOURCES, SITES, LANGUAGES = ["web", "books", None], ["a.org", "b.org"], ["en", "de", None]


def rows(seed: int = 0, count: int = 120) -> list[dict]:
    generator = random.Random(seed)
    return [
        {
            "id": f"{seed}-{number}",
            "text": generator.choice([*TEXTS, None, ""]),
            "source": generator.choice(SOURCES),
            "site": generator.choice(SITES),
            "language": generator.choice(LANGUAGES),
            "repeat": generator.choice([1, 3]),
        }
        for number in range(count)
    ]


def clean(text: str | None) -> str:
    return (text or "").encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def write(path: Path, some: list[dict]) -> Path:
    some = [{**row, "text": None if row["text"] is None else clean(row["text"])} for row in some]
    pq.write_table(pa.Table.from_pylist(some), path, row_group_size=17)
    return path


def plainly(some: list[dict], config: CountConfig) -> Counter:
    """The definition: a Counter over the library's pre-tokens of the pieces between the cuts."""
    split = library_pre_tokenizer(config.rules)
    found: Counter = Counter()
    for row in some:
        text = clean(row["text"])
        if config.normalization == "nfc":
            text = normalizers.NFC().normalize_str(text)
        group = (row["source"] or "", row.get("site") or "", row["language"] or "")
        for piece in cut_runs(text):
            for _, (start, stop) in split.pre_tokenize_str(piece):
                found[(*group, piece[start:stop])] += 1
    return found


def table_of(path: Path) -> dict:
    table = pq.read_table(path)
    keys = list(zip(*(table.column(name).to_pylist() for name in (*GROUPING, "pretoken")), strict=True))
    assert keys == sorted(keys) and len(set(keys)) == len(keys)
    return dict(zip(keys, table.column("count").to_pylist(), strict=True))


@pytest.mark.parametrize(
    "config",
    [
        CountConfig(),
        CountConfig(pattern="gpt2"),
        CountConfig(pattern="o200k", digits=1, normalization="nfc"),
        CountConfig(pattern="tekken"),
        CountConfig(pattern="custom", regex=r"\p{L}+|\p{N}{2}"),
    ],
    ids=lambda config: f"{config.pattern}-{config.normalization}",
)
def test_counts_are_those_of_a_counter_over_the_library_s_pretokens(tmp_path, config):
    some = rows()
    facts = count_documents([write(tmp_path / "d.parquet", some)], config, tmp_path / "c.parquet", FIELDS)
    expected = plainly(some, config)
    assert table_of(tmp_path / "c.parquet") == dict(expected)
    assert counts_facts(tmp_path / "c.parquet") == facts
    assert facts["documents"] == len(some) and facts["pretokens"] == sum(expected.values())
    assert facts["bytes"] == sum(len(key[3].encode()) * count for key, count in expected.items())


def test_the_same_from_jsonl_with_other_names(tmp_path):
    some = [row for row in rows(4) if row["text"]]
    write(tmp_path / "d.parquet", some)
    lines = [json.dumps({"body": clean(row["text"]), "source": row["source"], "lang": row["language"]}) for row in some]
    (tmp_path / "d.jsonl").write_text("\n".join(lines))
    count_documents([tmp_path / "d.parquet"], CountConfig(), tmp_path / "p.parquet")
    count_documents([tmp_path / "d.jsonl"], CountConfig(), tmp_path / "j.parquet", Fields(text="body", language="lang"))
    assert (tmp_path / "p.parquet").read_bytes() == (tmp_path / "j.parquet").read_bytes()


def test_what_does_not_fit_is_spilled_and_merged_to_the_same_bytes(tmp_path, monkeypatch):
    generator = random.Random(8)
    words = ["".join(generator.choices("abcdeéя漢", k=generator.randint(1, 14))) for _ in range(60_000)]
    some = [{**row, "text": " ".join(generator.choices(words, k=1500))} for row in rows(1, 60)]
    path = write(tmp_path / "d.parquet", some)
    whole = count_documents([path], CountConfig(), tmp_path / "whole.parquet", FIELDS)
    monkeypatch.setattr(counts_merge, "MOST_OPEN", 2)
    monkeypatch.setattr(counts_merge, "BATCH_ROWS", 1000)
    seen = []
    clear = PretokenTable.clear
    monkeypatch.setattr(PretokenTable, "clear", lambda self: (seen.append(1), clear(self))[1])
    assert count_documents([path], CountConfig(memory_bytes=1 << 20), tmp_path / "spilled.parquet", FIELDS) == whole
    assert len(seen) > 5
    assert (tmp_path / "spilled.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert table_of(tmp_path / "whole.parquet") == dict(plainly(some, CountConfig()))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d.parquet", "spilled.parquet", "whole.parquet"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Tables of five files, and all their rows."""
    folder = tmp_path_factory.mktemp("parts")
    every = []
    for number in range(5):
        some = rows(number, 30)
        every += some
        count_documents(
            [write(folder / f"d{number}.parquet", some)], CountConfig(), folder / f"{number}.parquet", FIELDS
        )
    return [folder / f"{number}.parquet" for number in range(5)], every


@pytest.mark.parametrize("pattern", ["gpt2", "llama3", "o200k", "tekken", "qwen3.5"])
def test_words_about_as_long_as_what_is_read_at_once(tmp_path, pattern):
    generator = random.Random(pattern)
    words = ["a" * n for n in range(1, 26)] + [
        "Ab",
        "aB" * 4,
        "ABCDEFGH",
        "ABCDEFGHi" * 2,
        "don't",
        "we'LL",
        "x'\u017f",
    ]
    between = [" ", "  ", "_", "@", "\n", "\t", "'", "\u00e9", "\u0301", "7", " (", "/", "", "\x7f", "\x80"]
    texts = ["".join(generator.choice(words) + generator.choice(between) for _ in range(200)) for _ in range(40)]
    some = [{"id": str(n), "text": text} for n, text in enumerate(texts)]
    config = CountConfig(pattern=pattern)
    count_documents([write(tmp_path / "d.parquet", some)], config, tmp_path / "c.parquet")
    expected = {
        pretoken: n
        for (*_, pretoken), n in plainly(
            [{**row, "source": "", "site": "", "language": ""} for row in some], config
        ).items()
    }
    data, offsets, counts = read_counts(tmp_path / "c.parquet")
    raw = data.tobytes()
    pretokens = [raw[a:b].decode() for a, b in itertools.pairwise(offsets.tolist())]
    assert dict(zip(pretokens, counts.tolist(), strict=True)) == expected


@pytest.mark.parametrize("weight", [None, 1.0, 0.3, 2.5])
def test_a_table_of_one_group_is_read_as_any_other(tmp_path, monkeypatch, weight):
    some = [{"id": str(n), "text": text, "source": "web"} for n, text in enumerate(TEXTS)]
    count_documents([write(tmp_path / "d.parquet", some)], CountConfig(), tmp_path / "c.parquet")
    weights = None if weight is None else {"source": {"web": weight}}
    monkeypatch.setattr(counts_read, "BATCH_ROWS", 100)
    at_once = read_counts(tmp_path / "c.parquet", weights)
    monkeypatch.setattr(counts_read, "_only_group", lambda path: None)
    for one, other in zip(at_once, read_counts(tmp_path / "c.parquet", weights), strict=True):
        assert one.dtype == other.dtype
        assert (one == other).all()


def test_merges_in_any_order_and_grouping_give_equal_bytes(parts, tmp_path, monkeypatch):
    tables, every = parts
    merge_counts(tables, tmp_path / "all.parquet")
    assert table_of(tmp_path / "all.parquet") == dict(plainly(every, CountConfig()))
    expected = (tmp_path / "all.parquet").read_bytes()
    documents = [path.with_name(f"d{path.name}") for path in tables]
    count_documents(documents, CountConfig(), tmp_path / "once.parquet", FIELDS)
    assert (tmp_path / "once.parquet").read_bytes() == expected
    monkeypatch.setattr(counts_merge, "BATCH_ROWS", 37)
    monkeypatch.setattr(counts_merge, "MOST_OPEN", 2)
    a, b, c, d, e = tables
    merge_counts([d, b], tmp_path / "bd.parquet")
    merge_counts([e, tmp_path / "bd.parquet", a], tmp_path / "abde.parquet")
    merge_counts([c, tmp_path / "abde.parquet"], tmp_path / "again.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == expected


def test_a_minimum_count_states_its_loss(parts, tmp_path):
    tables, every = parts
    facts = merge_counts(tables, tmp_path / "m.parquet", minimum_count=5)
    expected = plainly(every, CountConfig())
    kept = {key: count for key, count in expected.items() if count >= 5}
    assert table_of(tmp_path / "m.parquet") == kept
    assert facts["dropped_rows"] == len(expected) - len(kept)
    assert facts["dropped_pretokens"] == sum(expected.values()) - sum(kept.values())
    assert facts["pretokens"] == sum(kept.values()) and facts["minimum_count"] == 5


def as_counter(counts) -> dict:
    raw, ends = counts.data.tobytes(), counts.offsets.tolist()
    keys = [raw[a:b].decode() for a, b in itertools.pairwise(ends)]
    assert keys == sorted(keys) and counts.counts.dtype == np.int64
    return dict(zip(keys, counts.counts.tolist(), strict=True))


def weighed(every: Counter, weights: dict) -> dict:
    sums: dict = {}
    for (*group, pretoken), count in sorted(every.items()):
        factor = 1.0
        for column, name in zip(GROUPING, group, strict=True):
            factor *= weights.get(column, {}).get(name, 1.0)
        sums[pretoken] = sums.get(pretoken, 0) + count * factor
    return {pretoken: round(total) for pretoken, total in sums.items() if round(total)}


@settings(max_examples=25, deadline=None)
@given(
    st.fixed_dictionaries(
        {
            "source": st.dictionaries(
                st.sampled_from(["web", "books", ""]), st.sampled_from([0, 0.3, 1, 2.5]), max_size=2
            ),
            "domain": st.dictionaries(st.sampled_from(SITES), st.sampled_from([0.1, 7]), max_size=2),
            "language": st.dictionaries(st.sampled_from(["en", "de", ""]), st.sampled_from([0, 1e3]), max_size=2),
        }
    )
)
def test_weights_multiply_counts(merged, weights):
    path, every = merged
    assert as_counter(read_counts(path, weights)) == weighed(every, weights)


@pytest.fixture(scope="module")
def merged(parts, tmp_path_factory):
    path = tmp_path_factory.mktemp("merged") / "all.parquet"
    merge_counts(parts[0], path)
    return path, plainly(parts[1], CountConfig())


def test_counts_by_language(merged):
    path, every = merged
    found = read_counts_by(path, "language", {"source": {"web": 2}})
    assert list(found) == ["", "de", "en"]
    for name, counts in found.items():
        own = Counter({key: count for key, count in every.items() if key[2] == name})
        assert as_counter(counts) == weighed(own, {"source": {"web": 2}})
    assert as_counter(read_counts(path)) == weighed(every, {})


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"source": {"Web": 1}}, "has no such source; it holds '', 'books', 'web'"),
        ({"language": {"en": -1}}, "expected a number of at least 0"),
        ({"language": {"en": float("nan")}}, "expected a number of at least 0"),
        ({"site": {"a.org": 1}}, "expected source, domain, language"),
        ({"domain": {"a.org": 0, "b.org": 0}}, "the weights leave no pre-token"),
        ({"domain": {"a.org": 1e300}}, "exceeds 2"),
    ],
)
def test_wrong_weights_are_named(merged, weights, message):
    with pytest.raises(TokenizerError, match=message):
        read_counts(merged[0], weights)


def test_counts_beyond_32_bits(tmp_path, merged):
    path = merged[0]
    for _ in range(28):
        merge_counts([path, path], tmp_path / "next.parquet")
        path = (tmp_path / "next.parquet").replace(tmp_path / "doubled.parquet")
    assert as_counter(read_counts(path)) == {
        key: count << 28 for key, count in as_counter(read_counts(merged[0])).items()
    }


def test_tables_of_unlike_settings_do_not_merge(parts, tmp_path):
    documents = parts[0][0].with_name("d0.parquet")
    for name, config in (("regex", CountConfig(digits=1)), ("normalization", CountConfig(normalization="nfc"))):
        count_documents([documents], config, tmp_path / "other.parquet")
        with pytest.raises(TokenizerError, match=f"counted with {name}"):
            merge_counts([parts[0][0], tmp_path / "other.parquet"], tmp_path / "m.parquet")
    count_documents([documents], CountConfig(pattern="cl100k"), tmp_path / "other.parquet", FIELDS)
    facts = merge_counts([parts[0][0], tmp_path / "other.parquet"], tmp_path / "m.parquet")
    assert facts["pattern"] == "cl100k"  # another name of the same expression


def test_what_is_no_counts_table_is_refused(tmp_path):
    path = write(tmp_path / "d.parquet", rows(0, 3))
    with pytest.raises(TokenizerError, match="no column domain, pretoken, count"):
        read_counts(path)
    pq.write_table(pa.table({name: ["x"] for name in (*GROUPING, "pretoken")} | {"count": [1]}), path)
    with pytest.raises(TokenizerError, match="not a counts table"):
        read_counts(path)
    with pytest.raises(TokenizerError, match="no counts table to merge"):
        merge_counts([], path)
    count_documents(
        [write(tmp_path / "e.parquet", [{**rows()[0], "text": None}])], CountConfig(), tmp_path / "c.parquet"
    )
    with pytest.raises(TokenizerError, match="the table holds no pre-token"):
        read_counts(tmp_path / "c.parquet")


def test_bytes_that_are_not_utf8_and_endless_runs(tmp_path):
    raw = [b"ok \xff\xfe bad", b"\0\0 nul", b"x" * 1_000_000, b" " * 1_000_000 + b"y", "é".encode()[:1]]
    pq.write_table(pa.table({"id": list("abcde"), "text": pa.array(raw, pa.binary())}), tmp_path / "d.parquet")
    count_documents([tmp_path / "d.parquet"], CountConfig(), tmp_path / "c.parquet")
    some = [{"text": text.decode("utf-8", "replace"), "source": "", "language": ""} for text in raw]
    assert table_of(tmp_path / "c.parquet") == dict(plainly(some, CountConfig()))


def corpus(folder: Path) -> Path:
    folder.mkdir()
    generator = random.Random(9)
    words = ["".join(generator.choices("abcdefghij", k=generator.randint(1, 9))) for _ in range(5000)]
    for number in range(6):
        some = [{**row, "text": " ".join(generator.choices(words, k=400))} for row in rows(number, 500)]
        write(folder / f"{number}.parquet", some)
    return folder


def test_killed_and_resumed_gives_the_same_bytes(tmp_path):
    documents = corpus(tmp_path / "documents")
    arguments = ["count", str(documents), "--workers", "1", "--domain-field", "site"]
    assert main([*arguments, "--output", str(tmp_path / "whole.parquet")]) == 0
    out = tmp_path / "killed.parquet"
    folder = tmp_path / ".killed.parquet.parts"
    command = [sys.executable, "-m", "tokenizer_training", *arguments, "--output", str(out)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
    while not list(folder.glob("*.parquet")):
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.parquet")}
    assert 1 <= len(before) <= 6 and not out.exists()
    (folder / "half.tmp").write_bytes(b"of the run that was killed")
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert f"{len(before)} of 6 parts were counted before" in ended.stderr
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert not folder.exists()


def test_stretches_are_the_file(tmp_path):
    """Lines and row groups each in one stretch, wherever the cuts fall; the same table as of the whole."""
    some = [{**row, "text": clean(row["text"]) or "x"} for row in rows(6, 40)]
    write(tmp_path / "d.parquet", some)
    lines = [json.dumps({"text": row["text"][:90], "source": row["source"]}, ensure_ascii=False) for row in some]
    (tmp_path / "d.jsonl").write_text("\n".join(lines) + "\n\n")
    (tmp_path / "e.jsonl").write_text("\r\n".join(lines))
    for name in ("d.parquet", "d.jsonl", "e.jsonl"):
        whole = count_documents([tmp_path / name], CountConfig(), tmp_path / "whole.parquet")
        for size in (1, 37, 700, 5000):
            found = stretches(tmp_path / name, size)
            assert name == "d.parquet" or size == 5000 or len(found) > 2
            tables = []
            for number, stretch in enumerate(found[: None if len(found) < 60 else 0]):
                tables.append(tmp_path / f"{number}.counts.parquet")
                count_documents([tmp_path / name], CountConfig(), tables[-1], stretch=stretch)
            if tables:
                assert merge_counts(tables, tmp_path / "merged.parquet") == whole
                assert (tmp_path / "merged.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()
            texts = [
                text
                for stretch in found
                for table in document_tables(tmp_path / name, ["text"], stretch=stretch)
                for text in table["text"].to_pylist()
            ]
            assert texts == [row["text"] if name == "d.parquet" else row["text"][:90] for row in some]
    assert stretches(tmp_path / "d.parquet") == stretches(tmp_path / "d.jsonl") == [None]


def test_a_wrong_line_of_a_stretch_is_named(tmp_path):
    (tmp_path / "d.jsonl").write_text('{"text": "a"}\n' * 20 + '{"text": 1\n' + '{"text": "b"}\n' * 9)
    bad = []
    for stretch in stretches(tmp_path / "d.jsonl", 50):
        try:
            list(document_tables(tmp_path / "d.jsonl", ["text"], stretch=stretch))
        except TokenizerError as error:
            bad.append(str(error))
    assert len(bad) == 1 and "line 21:" in bad[0]


def test_an_output_among_the_documents_is_no_document(tmp_path, capsys):
    write(tmp_path / "d.parquet", rows(0, 3))
    write(tmp_path / "e.parquet", rows(1, 4))
    for workers in "12":
        assert main(["count", str(tmp_path), "--output", str(tmp_path / "counts.parquet"), "--workers", workers]) == 0
        assert "7 documents" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["counts.parquet", "d.parquet", "e.parquet"]


def test_a_worker_that_dies_is_explained(tmp_path, capsys, monkeypatch):
    def die(*_):
        raise BrokenProcessPool

    monkeypatch.setattr("tokenizer_training.commands.processes.ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
    monkeypatch.setattr("tokenizer_training.vocabulary.counts.count_documents", die)
    for name in "de":
        write(tmp_path / f"{name}.parquet", rows(0, 3))
    assert main(["count", str(tmp_path), "--output", str(tmp_path / "c.parquet"), "--workers", "2"]) == 2
    assert "run again with fewer --workers" in capsys.readouterr().err


def test_parts_are_named_by_all_that_matters(tmp_path):
    file = write(tmp_path / "d.parquet", rows(0, 3))
    names = {part_path(tmp_path, file, CountConfig()).name}
    names.add(part_path(tmp_path, file, CountConfig(memory_bytes=1 << 21)).name)
    assert len(names) == 1
    names.add(part_path(tmp_path, file, CountConfig(pattern="gpt2")).name)
    names.add(part_path(tmp_path, file, CountConfig(), FIELDS).name)
    os.utime(file, ns=(1, 1))
    names.add(part_path(tmp_path, file, CountConfig()).name)
    names.add(part_path(tmp_path, file, CountConfig(), stretch=(0, 1)).name)
    assert len(names) == 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--pattern", "lama"], "expected one of gpt2"),
        (["--digits", "4"], "--digits 4"),
        (["--workers", "0"], "--workers 0"),
        (["--minimum-count", "0"], "--minimum-count 0"),
        (["--pattern", "custom", "--regex", "(a"], "unmatched"),
        (["--domain-field", "nowhere"], "no column nowhere"),
    ],
)
def test_wrong_flags_are_named(tmp_path, capsys, flags, message):
    write(tmp_path / "d.parquet", rows(0, 3))
    assert main(["count", str(tmp_path / "d.parquet"), "--output", str(tmp_path / "c.parquet"), *flags]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "c.parquet").exists()
