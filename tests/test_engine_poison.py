"""Records that end their worker: each fails alone, in its stage, with its rule; every other record is unharmed."""

from __future__ import annotations

import json
import shutil
import signal
import struct
from pathlib import Path
from unittest import mock

import pyarrow.parquet as pq
import pytest

from pipeline.config import stage_spec
from pipeline.engine.isolate import READING, Isolate, Scan, UnitUnreadable
from pipeline.engine.map_unit import MapTask
from pipeline.engine.store import Store
from pipeline.engine.work import MEMORY_EXIT
from pipeline.yamlfile import Located
from tests.support import tree, write_config
from tests.toy_stages import run_toy, toy_pipeline, write_rows

PROMISED = ("documents", "ledger", "samples")
RULES = {  # how a text ends its worker -> the rule in the ledger
    "raise": "error",
    "oserror": "error",
    "sysexit": "error",
    "loop": "timeout",
    "native": "timeout",
    "segv": "crash",
    "exit": "crash",
    "memory": "memory",
}
# The first record and the last, two in one unit, and one that an earlier stage of the same phase ends.
PLACES = {0: "segv", 30: "raise", 31: "oserror", 32: "sysexit", 70: "loop", 90: "native", 92: "memory", 149: "exit"}


def texts(places: dict[int, str]) -> list[str]:
    words = ["one", "two", "three", "four", "five"]
    marks = {place: f"[[{kind}]]" for place, kind in places.items()}
    return [f"{words[n % 5]} text {n} " + "word " * (n % 13) + marks.get(n, "") for n in range(150)]


def config(folder: Path, stages: list, rows: list[str], **engine: object) -> Path:
    write_rows(folder / "in.jsonl", rows)
    return write_config(
        folder / "config.yaml",
        name="poison",
        input={"source": "toy", "format": "jsonl", "paths": [str(folder / "in.jsonl")]},
        stages=stages,
        engine={
            "record_seconds": 1.0, "shard_bytes": "4kB", "max_failed": 1.0, "unit_memory": "500MB", "partitions": 2,
            **engine,
        },
    )  # fmt: skip


def documents(out: Path) -> list[dict]:
    return [row for path in sorted((out / "documents").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def failed(out: Path) -> dict[int, tuple[str, str]]:
    return {
        row["offset"]: (row["stage"], row["rule"])
        for row in pq.read_table(out / "ledger").to_pylist()
        if row["fate"] == "failed"
    }


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished inline run of a corpus with every kind of poison."""
    folder = tmp_path_factory.mktemp("poison")
    stages = ["toy.length", {"toy.poison": {"antidote": str(folder / "antidote")}}, "dedup.exact"]
    path = config(folder, stages, texts(PLACES))
    code, said = run_toy(path, folder / "out")
    assert code == 0, said
    return folder


@pytest.fixture(scope="module")
def cured(poisoned: Path) -> dict[str, str]:
    """The same corpus where the marked texts do no harm."""
    (poisoned / "antidote").touch()
    code, said = run_toy(poisoned / "config.yaml", poisoned / "cured", debug=True)
    (poisoned / "antidote").unlink()
    assert code == 0, said
    return tree(poisoned / "cured", *PROMISED)


def test_each_fails_alone_with_its_rule(poisoned: Path, cured: dict[str, str]) -> None:
    out = poisoned / "out"
    assert failed(out) == {place: ("toy.poison", RULES[kind]) for place, kind in PLACES.items()}
    every = documents(poisoned / "cured")
    bad = {row["id"] for row in pq.read_table(out / "ledger").to_pylist() if row["fate"] == "failed"}
    assert documents(out) == [row for row in every if row["id"] not in bad]
    assert len(every) == 150
    shards = [path.read_bytes() for path in sorted((out / "documents").glob("*.parquet"))]
    assert len(shards) == 3


def test_counted_and_sampled(poisoned: Path) -> None:
    facts = json.loads((poisoned / "out/run.json").read_text())
    stages = {stage["stage"]: stage for stage in facts["stages"]}
    assert stages["toy.poison"]["failed"] == {"crash": 2, "error": 3, "memory": 1, "timeout": 2}
    assert stages["toy.length"]["rows_out"] == stages["toy.poison"]["rows_in"] == 150
    assert stages["toy.poison"]["rows_out"] == stages["dedup.exact"]["rows_in"] == 142
    assert facts["inputs"][0]["failed"] == 8 and facts["inputs"][0]["kept"] == 142
    assert len([r for r in pq.read_table(poisoned / "out/samples").to_pylist() if r["stage"] == "toy.poison"]) == 8
    details = {r["rule"]: (r["threshold"], r["detail"]) for r in pq.read_table(poisoned / "out/ledger").to_pylist()}
    assert details["timeout"] == (1.0, "more CPU time than engine.record_seconds")


def test_the_verdict_is_final(poisoned: Path) -> None:
    """A rerun does nothing; a unit that must run again takes the journalled poison and looks for none."""
    out = poisoned / "out"
    before = tree(out, *PROMISED, "journal")
    for unit in (out / "journal" / "00-toy.poison").iterdir():
        unit.unlink()
    with mock.patch("pipeline.engine.schedule.can_be_isolated", side_effect=AssertionError("looked for poison again")):
        code, said = run_toy(poisoned / "config.yaml", out)
    assert code == 0, said
    after = tree(out, *PROMISED, "journal")
    assert {path for path in before if before[path] != after[path]} <= {
        path for path in before if path.startswith("journal/00-toy.poison/")
    }, "bytes changed"
    assert set(after) == set(before)
    code, said = run_toy(poisoned / "config.yaml", out)
    assert "everything is done already" in said


def test_retry_failed(poisoned: Path, cured: dict[str, str]) -> None:
    out = poisoned / "retried"
    shutil.copytree(poisoned / "out", out)
    (poisoned / "antidote").touch()
    try:
        code, said = run_toy(poisoned / "config.yaml", out, debug=True, retry_failed=True)
    finally:
        (poisoned / "antidote").unlink()
    assert code == 0, said
    assert tree(out, *PROMISED) == cured


def test_behind_and_inside_a_group_stage(tmp_path: Path) -> None:
    """A record that ends the worker while its messages are made fails in the group stage; a later phase has its own."""
    antidote = {"antidote": str(tmp_path / "antidote")}
    stages = [{"toy.first": {**antidote, "only": {"source": ["toy"]}}}, {"toy.poison": antidote}]
    rows = [
        f"key{n} number {n}"
        + {4: "[[group]][[segv]]", 5: "[[group]][[raise]]", 60: "[[exit]]", 61: "[[raise]]"}.get(n, "")
        for n in range(80)
    ] + ["key7 again", "key4 again"]
    path = config(tmp_path, stages, rows, shard_bytes="1MB")
    code, said = run_toy(path, tmp_path / "out")
    assert code == 0, said
    assert failed(tmp_path / "out") == {
        4: ("toy.first", "crash"),
        5: ("toy.first", "error"),
        60: ("toy.poison", "crash"),
        61: ("toy.poison", "error"),
    }
    ledger = pq.read_table(tmp_path / "out/ledger").to_pylist()
    assert [row["offset"] for row in ledger if row["fate"] == "dropped"] == [
        80
    ]  # 81 is the first that was read with its key
    (tmp_path / "antidote").touch()
    code, said = run_toy(path, tmp_path / "out", debug=True, retry_failed=True)
    assert code == 0, said
    assert failed(tmp_path / "out") == {}
    assert run_toy(path, tmp_path / "fresh", debug=True)[0] == 0
    assert tree(tmp_path / "out", *PROMISED) == tree(tmp_path / "fresh", *PROMISED)


def test_rows_too_heavy_together(tmp_path: Path) -> None:
    """No record is at fault where a batch as a whole takes too much: fewer rows are measured at a time."""
    rows = [f"row {n} [[heavy]]" for n in range(60)]
    path = config(tmp_path, ["toy.poison"], rows, shard_bytes="1MB")
    code, said = run_toy(path, tmp_path / "out")
    assert code == 0, said
    assert failed(tmp_path / "out") == {}
    assert len(documents(tmp_path / "out")) == 60


class Sick:
    """Scans of ten rows by imagined workers: some records kill, some deaths come from what piled up, reading may end them."""

    def __init__(self, kill: dict[int, int], unreadable: int | None = None, lives: int = 100) -> None:
        self.kill, self.unreadable, self.lives = kill, unreadable, lives
        self.processes = 0

    def __call__(self, isolate: Isolate, scan: Scan) -> int | None:
        self.processes += 1
        note = Path(scan.marker)
        for lived, row in enumerate(range(scan.first, 10 if scan.last is None else scan.last)):
            if row == self.unreadable:
                return -signal.SIGSEGV
            if row in scan.task.poison:
                continue
            note.write_bytes(struct.pack("<qq", row, 0))
            if row in self.kill:
                return self.kill[row]
            if lived >= self.lives:
                return MEMORY_EXIT
            note.write_bytes(struct.pack("<qq", row, READING))
        return None


def isolate(monkeypatch: pytest.MonkeyPatch, sick: Sick) -> dict[int, tuple[str, str]]:
    monkeypatch.setattr(Isolate, "_scan", lambda self, scan: sick(self, scan))
    spec = stage_spec("toy.poison", {}, Located({}, "test", {}), ())
    task = MapTask(Store("/nowhere"), "00-x", 0, (spec,), (spec,), False, "", {}, {})
    return {place: (found.stage, found.rule) for place, found in Isolate(task, None).run().items()}


def test_isolation(monkeypatch: pytest.MonkeyPatch) -> None:
    sick = Sick({0: -signal.SIGSEGV, 4: -signal.SIGVTALRM, 5: 3, 9: MEMORY_EXIT})
    found = isolate(monkeypatch, sick)
    assert {place: rule for place, (_, rule) in found.items()} == {0: "crash", 4: "timeout", 5: "crash", 9: "memory"}
    assert {stage for stage, _ in found.values()} == {"toy.poison"}
    assert sick.processes == 4 + 3 + 1, "each record costs two processes, a time-out one, and one comes through"


def test_isolation_of_what_piles_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isolate(monkeypatch, Sick({}, lives=3)) == {}
    assert isolate(monkeypatch, Sick({7: 1}, lives=2)) == {7: ("toy.poison", "crash")}


def test_isolation_where_reading_ends_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """No record is blamed for what cannot be read behind it."""
    sick = Sick({}, unreadable=6)
    with pytest.raises(UnitUnreadable, match="while the rows behind place 5 are read"):
        isolate(monkeypatch, sick)
    with pytest.raises(UnitUnreadable):
        isolate(monkeypatch, Sick({}, unreadable=0))
    assert sick.processes < 8


def test_reader_failures_are_tried_again(tmp_path: Path) -> None:
    path = config(tmp_path, ["toy.length"], ["good"] * 50)
    with (tmp_path / "in.jsonl").open("a") as file:
        file.write("{broken\n")
    assert run_toy(path, tmp_path / "out", debug=True)[0] == 0
    assert failed(tmp_path / "out") == {50: ("read", "bad_row")}
    before = tree(tmp_path / "out", *PROMISED)
    code, said = run_toy(path, tmp_path / "out", debug=True, retry_failed=True)
    assert code == 0 and "everything is done already" not in said
    assert tree(tmp_path / "out", *PROMISED) == before


@pytest.mark.slow
def test_ray_gives_the_same(poisoned: Path, tmp_path: Path) -> None:
    done = toy_pipeline(
        "run", poisoned / "config.yaml", "--executor", "ray", "--workers", "2", "--output", tmp_path / "out"
    )
    assert done.returncode == 0, done.stderr
    assert tree(tmp_path / "out", *PROMISED) == tree(poisoned / "out", *PROMISED)
