"""`status` says what is done, what a rerun would recompute, and why; the run then does just that."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipeline.cli import main
from pipeline.status import changes

PROSE = "The quick fox ran over the hill and it came back to the river with all of its friends. " * 6


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 40 documents in two shards."""
    folder = tmp_path_factory.mktemp("status")
    for part in range(2):
        rows = [{"text": f"{PROSE[: 60 + 12 * i]} This is document {part} {i}."} for i in range(20)]
        (folder / f"a{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {
        "name": "st", "input": {"source": "s", "format": "jsonl", "paths": [f"{folder}/a*.jsonl"]},
        "stages": ["language", {"normalize": {"checkpoint": True}}, "quality.gopher", "dedup.exact", "pii"],
        "engine": {"shard_bytes": "6k", "executor": "inline"},
    }  # fmt: skip
    (folder / "c.yaml").write_text(yaml.safe_dump(data))
    assert main(["run", str(folder / "c.yaml"), "--output", str(folder / "out"), "--debug"]) == 0
    return folder


def status(run: Path, capsys: pytest.CaptureFixture[str], *more: str) -> list[str]:
    capsys.readouterr()
    code = main(["status", str(run / "out"), *more])
    out, err = capsys.readouterr()
    assert code == 0, err
    return [line.strip() for line in out.splitlines()]


def test_a_finished_run_is_done(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = status(run, capsys)
    assert lines[0] == "st: done"
    assert [line.split(": ")[1].split(" (")[0] for line in lines[1:]] == ["done"] * 4
    assert status(run, capsys, "--config", str(run / "c.yaml")) == lines


def test_a_late_threshold_touches_only_what_depends_on_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = status(run, capsys, "--set", "quality.gopher.min_words=20")
    text = (run / "c.yaml").read_text().replace("- quality.gopher", "- quality.gopher: {min_words: 20}")
    (run / "changed.yaml").write_text(text)
    assert status(run, capsys, "--config", str(run / "changed.yaml")) == lines
    assert lines[1] == "changed: quality.gopher.min_words: 50 -> 20"
    assert lines[2].startswith("00-normalize: done")
    assert lines[3].startswith("01-quality.gopher: would run") and "stage quality.gopher changed" in lines[3]
    assert lines[4].startswith("02-dedup.exact: would run") and "01-quality.gopher will run again" in lines[4]
    assert lines[5].startswith("03-pii: would run")
    lines = status(run, capsys, "--set", "pii.policy=mask")
    assert [": done" in line for line in lines[2:]] == [True, True, True, False]


def test_other_changes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = status(run, capsys, "--set", "engine.workers=1", "--set", "engine.executor=ray")
    assert lines[1:3] == ['changed: engine.executor: "inline" -> "ray"', 'changed: engine.workers: "auto" -> 1']
    assert all(": done" in line for line in lines[3:])  # neither changes the output
    assert all(": would run" in line for line in status(run, capsys, "--set", "engine.shard_bytes=3k")[2:])
    lines = status(run, capsys, "--set", "pii=null", "--set", "tokenizer={}")
    assert lines[1:3] == ["changed: pii: left out", "changed: tokenizer: added"]
    assert lines[-2] == "03-documents: would run (2 units): not done yet"
    assert lines[-1] == "tokenizer: would run: not done yet"


def test_what_status_refuses(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, message in [
        ([str(run)], "holds no run (there is no run.json)"),
        ([str(run / "c.yaml")], "is a file; give a run directory"),
        ([str(run / "absent")], "no such directory; give a run directory"),
        ([str(run / "out"), "--set", "quality.gopher.min_word=3"], "did you mean 'min_words'?"),
        ([str(run / "out"), "--set", "name=other"], "holds the run 'st', but the config is called 'other'"),
        ([str(run / "out"), "--config", str(run / "absent.yaml")], "no such config file"),
    ]:
        assert main(["status", *arguments]) == 2
        assert message in capsys.readouterr().err


def test_differences_of_configs() -> None:
    old = {"a": {"x": 1, "y": [1, 2]}, "b": None, "c": {"z": 1}, "same": {"q": 1}}
    new = {"a": {"x": 2, "y": [1]}, "b": {"k": 1}, "c": None, "same": {"q": 1}}
    assert changes(old, new) == ["a.x: 1 -> 2", "a.y: [1, 2] -> [1]", "b: added", "c: left out"]
