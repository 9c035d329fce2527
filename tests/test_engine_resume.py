"""Runs that survive anything give the same bytes: kills, restarts, workers, executors, order of files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from tests.support import pipeline, sample_pages, start_pipeline, tree, write_config, write_warc

PROMISED = ("documents", "ledger", "samples", "tokens")  # byte-identical whatever happens
STAGES = [
    "url_filter",
    {"extract": {"method": "resiliparse"}},
    {"language": {"min_score": 0.2}},
    "normalize",
    {"quality.gopher": {"min_words": 20}},
    "dedup.exact",
    {"dedup.fuzzy": {"threshold": 0.7}},
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three WARC files of real pages with repeats among them, and a config that runs as far as tokens."""
    folder = tmp_path_factory.mktemp("corpus")
    pages = sample_pages(150)
    repeated = [(url + "?again", body) for url, body in pages[::7]]
    cut = (pages + repeated)[::-1]
    for number in range(3):
        write_warc(folder / f"in/part-{number}.warc.gz", cut[number::3])
    write_config(
        folder / "config.yaml",
        name="resume",
        input={"source": "crawl", "format": "warc", "paths": [str(folder / "in/*.warc.gz")]},
        stages=STAGES,
        tokenizer={"vocab_size": 512},
        pack={"sequence_length": 128, "validation": 0.05},
        engine={"shard_bytes": "64kB", "partitions": 3},
    )
    return folder


@pytest.fixture(scope="module")
def undisturbed(corpus: Path) -> dict[str, str]:
    """Hashes of an inline run that nothing disturbed."""
    out = corpus / "undisturbed"
    done = pipeline("run", corpus / "config.yaml", "--executor", "inline", "--output", out)
    assert done.returncode == 0, done.stderr
    facts = json.loads((out / "run.json").read_text())
    assert len(facts["phases"]) == 6
    assert len(list((out / "documents").glob("*.parquet"))) >= 5, "too few shards to disturb anything"
    assert facts["inputs"][0]["kept"] > 50
    return tree(out, *PROMISED)


def committed(out: Path) -> int:
    """Units that a run has committed so far."""
    return sum(1 for _ in (out / "journal").rglob("*.json")) if (out / "journal").is_dir() else 0


def wait_for_units(out: Path, process, units: int) -> None:
    deadline = time.monotonic() + 240
    while committed(out) < units and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.005)


def kill_group(process) -> None:
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_killed_driver_inline(corpus: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    """Four times, in the first phase, in later ones, and behind the stages."""
    out = tmp_path / "out"
    arguments = ("run", corpus / "config.yaml", "--executor", "inline", "--output", out)
    for units in (1, 20, 45, 80):
        process = start_pipeline(*arguments)
        wait_for_units(out, process, units)
        assert process.poll() is None, "the run ended before it could be killed"
        process.kill()  # only the driver: its worker must not go on writing
        process.wait()
    again = pipeline(*arguments)
    assert again.returncode == 0, again.stderr
    assert tree(out, *PROMISED) == undisturbed
    assert not list(out.rglob(".tmp-*"))


def test_killed_worker_inline(corpus: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start_pipeline("run", corpus / "config.yaml", "--executor", "inline", "--output", out)
    for units in (2, 14, 30):
        wait_for_units(out, process, units)
        for child in psutil.Process(process.pid).children():
            child.kill()
    assert process.wait() == 0
    assert tree(out, *PROMISED) == undisturbed


@pytest.mark.slow
def test_killed_driver_ray(corpus: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    arguments = ("run", corpus / "config.yaml", "--workers", "2", "--output", out)
    killed = []
    for units in (4, 30):
        process = start_pipeline(*arguments)
        wait_for_units(out, process, units)
        assert process.poll() is None
        process.kill()
        process.wait()
        killed.append(process.pid)
    again = pipeline(*arguments)
    assert again.returncode == 0, again.stderr
    assert tree(out, *PROMISED) == undisturbed
    for pid in killed:
        kill_leftovers(pid)


@pytest.mark.slow
def test_killed_worker_ray(corpus: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "out"
    process = start_pipeline("run", corpus / "config.yaml", "--workers", "2", "--output", out)
    killed = 0
    for units in (2, 10, 40):
        wait_for_units(out, process, units)
        for child in psutil.Process(process.pid).children(recursive=True):
            if "ray::ray_work" in child.name() or "ray::ray_work" in " ".join(child.cmdline()):
                child.kill()
                killed += 1
                break
    assert process.wait() == 0
    assert killed, "no worker was found to kill"
    assert tree(out, *PROMISED) == undisturbed


def kill_leftovers(pid: int) -> None:
    """Processes that a killed driver's Ray may have left for a moment."""
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == pid:
                process.kill()
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue


@pytest.mark.slow
def test_ray_with_one_worker(corpus: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    """With two it is killed, above."""
    done = pipeline("run", corpus / "config.yaml", "--workers", "1", "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "out", *PROMISED) == undisturbed


def test_order_of_files_and_partitions(corpus: Path, undisturbed: dict[str, str], tmp_path: Path) -> None:
    paths = [str(corpus / f"in/part-{n}.warc.gz") for n in (2, 0, 1)]
    done = pipeline(
        "run", corpus / "config.yaml", "--executor", "inline", "--output", tmp_path / "out",
        "--set", f"input.paths={json.dumps(paths)}", "--set", "engine.partitions=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "out", *PROMISED) == undisturbed


def test_every_record_is_in_the_ledger(corpus: Path, undisturbed: dict[str, str]) -> None:
    out = corpus / "undisturbed"
    ledger = pq.read_table(out / "ledger").to_pylist()
    documents = pq.read_table(sorted((out / "documents").glob("*.parquet"))).to_pylist()
    assert len(ledger) == 150 + 22 == json.loads((out / "run.json").read_text())["inputs"][0]["records"]
    assert len({row["id"] for row in ledger}) == len(ledger)
    kept = [row["id"] for row in ledger if row["fate"] == "kept"]
    assert kept == [row["id"] for row in documents]
    assert [(r["file"], r["offset"]) for r in ledger] == sorted((r["file"], r["offset"]) for r in ledger)
    for row in ledger:
        assert (row["fate"] == "kept") == (row["stage"] is None and row["rule"] is None)
    duplicates = [row for row in ledger if row["stage"] == "dedup.exact"]
    assert len(duplicates) >= 15
    assert all(row["kept_id"] in {r["id"] for r in ledger} and row["similarity"] == 1.0 for row in duplicates)


def test_a_late_threshold_recomputes_only_what_depends_on_it(
    corpus: Path, undisturbed: dict[str, str], tmp_path: Path
) -> None:
    out = corpus / "undisturbed"
    status = pipeline("status", out, "--set", "dedup.fuzzy.threshold=0.9").stdout.splitlines()
    by_name = {line.split(":")[0].strip(): line for line in status[1:]}
    for phase in ("00-extract", "01-quality.gopher", "02-dedup.exact", "03-apply"):
        assert "done (" in by_name[phase], status
    assert "stage dedup.fuzzy changed" in by_name["04-dedup.fuzzy"]
    assert "would run" in by_name["05-documents"] and "would run" in by_name["tokenizer"]

    changed = tmp_path / "changed"
    config = corpus / "config.yaml"
    shutil.copytree(out, changed)
    before = {p: p.stat().st_mtime_ns for p in (changed / "journal/01-quality.gopher").iterdir()}
    late = ("--set", "dedup.fuzzy.threshold=0.9", "--until", "stages")
    assert pipeline("run", config, "--executor", "inline", "--output", changed, *late).returncode == 0
    assert {p: p.stat().st_mtime_ns for p in (changed / "journal/01-quality.gopher").iterdir()} == before
    fresh = tmp_path / "fresh"
    assert pipeline("run", config, "--executor", "inline", "--output", fresh, *late).returncode == 0
    assert tree(changed, "documents", "ledger", "samples") == tree(fresh, "documents", "ledger", "samples")


def test_a_finished_run_does_nothing(corpus: Path, undisturbed: dict[str, str]) -> None:
    out = corpus / "undisturbed"
    before = {p: p.stat().st_mtime_ns for p in (out / "journal").rglob("*.json")}
    done = pipeline("run", corpus / "config.yaml", "--executor", "inline", "--output", out)
    assert done.returncode == 0 and "everything is done already" in done.stderr
    assert {p: p.stat().st_mtime_ns for p in (out / "journal").rglob("*.json")} == before


@pytest.mark.parametrize("limit", [1, 40, 100_000])
def test_limit_takes_the_first_records(corpus: Path, undisturbed: dict[str, str], tmp_path: Path, limit: int) -> None:
    out = tmp_path / "out"
    done = pipeline(
        "run",
        corpus / "config.yaml",
        "--executor",
        "inline",
        "--output",
        out,
        "--limit",
        str(limit),
        "--until",
        "stages",
    )
    assert done.returncode == 0, done.stderr
    every = [row["id"] for row in pq.read_table(corpus / "undisturbed" / "ledger").to_pylist()]
    assert [row["id"] for row in pq.read_table(out / "ledger").to_pylist()] == every[:limit]
