"""The commands as a user meets them: help, exit codes, what goes to which stream."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipeline.cli import main

ROOT = Path(__file__).parents[1]
COMMANDS = ("run", "plan", "status", "report", "clean", "apply", "stages")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "a.jsonl").write_text(
        json.dumps({"text": "some text"}) + "\n" + json.dumps({"text": "more text"}) + "\n"
    )
    data = {
        "name": "cli", "input": {"source": "s", "format": "jsonl", "paths": [f"{tmp_path}/a.jsonl"]},
        "stages": ["normalize"], "engine": {"executor": "inline"},
    }  # fmt: skip
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(data))
    return path


def call(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    capsys.readouterr()
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:  # argparse's own
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def test_help_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(capsys, "--help")
    assert code == 0 and all(f"    {command} " in out for command in COMMANDS)
    for command in COMMANDS:
        code, out, _ = call(capsys, command, "--help")
        assert code == 0 and out.startswith(f"usage: python -m pipeline {command}")


def test_wrong_arguments_are_2(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    for arguments in (
        [],
        ["frobnicate"],
        ["run", "--limit", "0"],
        ["run", "--limit", "x"],
        ["plan"],
        ["stages", "nope"],
    ):
        code, out, err = call(capsys, *arguments)
        assert (code, out) == (2, "") and err
    for option, message in [
        ("--limit", "expected a number from 1, got 0"),
        ("--workers", "expected a number from 1, got 0"),
    ]:
        assert message in call(capsys, "run", config, option, "0")[2]
    code, _, err = call(capsys, "run", config, "--until", "packing")
    assert (
        code == 2
        and "--until packing: expected one of stages, mix, index, tokenizer, pack, pretrain, sft, reward, ppo, dpo, grpo, evaluate; did you mean 'pack'?"
        in err
    )


def test_config_mistakes_are_2_and_leave_nothing(
    capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    for override, message in [
        ("normalize.mojibak=true", "error: --set normalize.mojibak=true: unknown key 'normalize.mojibak'"),
        (f"input.paths=['{tmp_path}/b*.jsonl']", "matches no file"),
        ("input.paths=[/no/such/file.jsonl]", "/no/such/file.jsonl"),
        (
            "stages=[{quality.gopher: {stop_words: /no/such.json}}]",
            "the file for `stop_words` is not there: /no/such.json",
        ),
    ]:
        code, out, err = call(capsys, "run", config, "--output", output, "--set", override)
        assert (code, out) == (2, "") and message in err and "Traceback" not in err
        assert not output.exists()
    assert call(capsys, "run", tmp_path / "absent.yaml")[0] == 2
    assert call(capsys, "status", tmp_path / "absent")[0] == 2
    assert call(capsys, "clean", tmp_path)[0] == 2


def test_an_output_directory_of_another_run_or_of_something_else_is_2(
    capsys: pytest.CaptureFixture[str], config: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    assert call(capsys, "run", config, "--output", output, "--debug")[0] == 0
    code, _, err = call(capsys, "run", config, "--output", output, "--set", "name=other")
    assert code == 2 and "holds the run 'cli', not 'other'" in err
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    code, _, err = call(capsys, "run", config, "--output", tmp_path / "full")
    assert code == 2 and "is not empty and holds no run (thesis.tex, ...)" in err
    code, _, err = call(capsys, "run", config, "--output", tmp_path / "a.jsonl")
    assert code == 2 and "is a file" in err


def test_no_config_and_no_quickstart_here(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, "run")
    assert code == 2 and "no config given and no configs/quickstart.yaml here" in err


def test_several_mistakes_are_several_lines(capsys: pytest.CaptureFixture[str], config: Path) -> None:
    _, _, err = call(capsys, "plan", config, "--set", "nme=1", "--set", "normalize.x=1")
    assert [line.split(":")[0] for line in err.splitlines()] == ["error", "error"]


def test_a_reader_that_goes_away_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "pipeline", "stages"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0
