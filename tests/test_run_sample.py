"""The bundled sample and a deliberately damaged copy of it, through the command line."""

from __future__ import annotations

import gzip
import json
import random
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.support import SAMPLE, pipeline, write_config


def run(folder: Path, files: Path, name: str) -> Path:
    """The cheap stages over a folder of WARC files."""
    config = write_config(
        folder / f"{name}.yaml",
        name=name,
        input={"source": "sample", "format": "warc", "paths": [str(files / "*.warc.gz")]},
        stages=["url_filter", {"extract": {"method": "resiliparse"}}, "language", "normalize"],
        engine={"executor": "inline", "shard_bytes": "1MB", "max_failed": 0.2},
    )
    done = pipeline("run", config, "--output", folder / name)
    assert done.returncode == 0, done.stderr
    return folder / name


def ledger_of(out: Path) -> list[dict]:
    return pq.read_table(out / "ledger").to_pylist()


def check_accounts(out: Path) -> list[dict]:
    """Ledger rows = records read; kept rows = rows of documents/; every fate has its reason."""
    ledger = ledger_of(out)
    facts = json.loads((out / "run.json").read_text())
    assert len(ledger) == sum(entry["records"] for entry in facts["inputs"])
    assert len({row["id"] for row in ledger}) == len(ledger)
    documents = [
        i for p in sorted((out / "documents").glob("*.parquet")) for i in pq.read_table(p).column("id").to_pylist()
    ]
    assert [row["id"] for row in ledger if row["fate"] == "kept"] == documents
    for row in ledger:
        assert (row["fate"] == "kept") == (row["stage"] is None and row["rule"] is None), row
    fates = Counter(row["fate"] for row in ledger)
    assert fates == Counter({f: n for f in ("kept", "dropped", "failed") if (n := sum(e[f] for e in facts["inputs"]))})
    return ledger


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("sample"), SAMPLE, "whole")


@pytest.mark.slow
def test_every_record_of_the_sample_is_accounted_for(whole: Path) -> None:
    ledger = check_accounts(whole)
    with gzip.open(SAMPLE / "manifest.jsonl.gz", "rt") as handle:
        written = {(row["file"], row["offset"]) for row in map(json.loads, handle)}
    read = {(row["file"], row["offset"]) for row in ledger}
    assert written <= read
    beyond = [row for row in ledger if (row["file"], row["offset"]) not in written]
    assert [(row["stage"], row["rule"]) for row in beyond] == [("read", "corrupt")]  # the garbage between two records


@pytest.mark.slow
def test_a_damaged_copy_loses_nothing_else(whole: Path, tmp_path: Path) -> None:
    files, chance = tmp_path / "in", random.Random(5)
    files.mkdir()
    first_hurt: dict[str, int] = {}
    for number, source in enumerate(sorted(SAMPLE.glob("*.warc.gz"))[:3]):
        data = bytearray(source.read_bytes())
        places = sorted(chance.randrange(len(data) // 3, len(data)) for _ in range(6))
        for place in places:
            data[place] ^= 1 << chance.randrange(8)
        first_hurt[source.name] = places[0]
        if number == 0:
            del data[-50_000:]  # the end is missing
        if number == 1:
            data += b"\0" * 3000  # the end is rubbish
        (files / source.name).write_bytes(data)
    (files / "empty.warc.gz").write_bytes(b"")
    (files / "not-an-archive.warc.gz").write_bytes(b"just some text, nothing like a WARC file\n" * 50)
    out = run(tmp_path, files, "damaged")
    ledger = check_accounts(out)
    failed = {(row["file"], row["rule"]) for row in ledger if row["fate"] == "failed"}
    assert ("empty.warc.gz", "empty_file") in failed
    assert any(file == "not-an-archive.warc.gz" for file, _ in failed)
    assert all((name, "corrupt") in failed for name in first_hurt)
    before = {row["id"]: (row["fate"], row["rule"]) for row in ledger_of(whole)}
    now = {row["id"]: (row["fate"], row["rule"]) for row in ledger}
    # nothing before the first damage changed, and of the rest all but a few records around each damage are there
    last_whole = {
        name: max((r["offset"] for r in ledger_of(whole) if r["file"] == name and r["offset"] < hurt), default=0)
        for name, hurt in first_hurt.items()
    }
    for row in ledger_of(whole):
        if row["file"] in first_hurt and row["offset"] < last_whole[row["file"]]:
            assert now[row["id"]] == (row["fate"], row["rule"]), row
    survivors = [i for i, fate in before.items() if now.get(i) == fate]
    assert len(survivors) > 0.9 * sum(1 for r in ledger_of(whole) if r["file"] in first_hurt) - 30


@pytest.mark.slow
def test_datasets_loads_documents(whole: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    import datasets

    loaded = datasets.load_dataset(str(whole / "documents"), split="train", cache_dir=str(tmp_path))
    assert loaded.num_rows == sum(1 for row in ledger_of(whole) if row["fate"] == "kept")
    assert loaded.column_names[:10] == [
        "id",
        "record_id",
        "url",
        "text",
        "source",
        "date",
        "language",
        "language_score",
        "licence",
        "repeat",
    ]
    assert {"de", "fr", "ja", "ru", "zh"} <= set(loaded["language"])


@pytest.mark.slow
def test_ledger_and_samples_hold_no_planted_personal_data(whole: Path) -> None:
    """The sample plants e-mail addresses in URLs and texts; documents keep them (no pii stage ran), ledger and samples never."""
    for part in ("ledger", "samples"):
        for path in (whole / part).glob("*.parquet"):
            for row in pq.read_table(path).to_pylist():
                shown = " ".join(str(value) for value in row.values())
                assert "@" not in shown or "example" not in shown.split("@", 1)[1][:30], row
