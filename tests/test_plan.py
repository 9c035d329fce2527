"""Config to phases, and what `plan` prints and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipeline.cli import main
from pipeline.config import RunConfig, resolve
from pipeline.plan import plan, warnings
from pipeline.yamlfile import Located


def config(*stages: object, format: str = "warc", **sections: object) -> RunConfig:
    data = {"name": "p", "input": {"source": "s", "format": format, "paths": ["x"]}, "stages": list(stages), **sections}
    return resolve(Located(data, "c.yaml", {}))


def phases(*stages: object, format: str = "jsonl") -> list[tuple[str, str, list[str], bool]]:
    return [(p.name, p.kind, [s.name for s in p.stages], p.final) for p in plan(config(*stages, format=format).stages)]


def test_map_stages_are_fused_up_to_the_next_boundary() -> None:
    assert phases(
        "url_filter", "extract", "language", "normalize", "dedup.exact", "dedup.fuzzy", "pii", format="warc"
    ) == [
        ("00-extract", "map", ["url_filter", "extract"], False),
        ("01-normalize", "map", ["language", "normalize"], False),
        ("02-dedup.exact", "group", ["dedup.exact"], False),
        ("03-apply", "map", [], False),
        ("04-dedup.fuzzy", "group", ["dedup.fuzzy"], False),
        ("05-pii", "map", ["pii"], True),
    ]


def test_the_ends() -> None:
    assert phases() == [("00-documents", "map", [], True)]
    assert phases("dedup.exact") == [
        ("00-read", "map", [], False), ("01-dedup.exact", "group", ["dedup.exact"], False), ("02-documents", "map", [], True),
    ]  # fmt: skip
    assert phases("normalize", {"quality.gopher": {"checkpoint": True}}, "pii") == [
        ("00-quality.gopher", "map", ["normalize", "quality.gopher"], False), ("01-pii", "map", ["pii"], True),
    ]  # fmt: skip
    assert [p[0] for p in phases({"pii": {"as": "first"}}, "pii")] == ["00-pii"]


def test_every_stage_is_in_one_phase_and_one_phase_is_last() -> None:
    found = plan(config("extract", "dedup.exact", "pii", "quality.c4", "dedup.fuzzy").stages)
    assert [s.name for p in found for s in p.stages] == ["extract", "dedup.exact", "pii", "quality.c4", "dedup.fuzzy"]
    assert [p.final for p in found] == [False] * (len(found) - 1) + [True]
    assert [p.index for p in found] == list(range(len(found)))


def test_warnings_of_a_wasteful_order() -> None:
    (note,) = warnings(config("extract", "dedup.exact", "quality.gopher"))
    assert note.startswith("quality.gopher may drop documents after dedup.exact")
    assert warnings(config("extract", "quality.gopher", "dedup.exact", "pii")) == []
    (note,) = warnings(config("extract", "language", format="wet"))
    assert note.startswith("extract has nothing to do: no input holds HTML")
    assert len(warnings(config("opt_out", "extract", "language", format="wet"))) == 2


@pytest.fixture
def files(tmp_path: Path) -> Path:
    for number in range(3):
        (tmp_path / f"a{number}.jsonl").write_text(json.dumps({"text": "some text"}) + "\n")
    data = {
        "name": "p", "input": {"source": "s", "format": "jsonl", "paths": [f"{tmp_path}/a*.jsonl"]},
        "stages": ["normalize", "dedup.exact"], "tokenizer": {}, "pack": {}, "engine": {"shard_bytes": "1KiB"},
    }  # fmt: skip
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(data))
    return tmp_path


def run_plan(files: Path, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, str, str]:
    code = main(["plan", str(files / "c.yaml"), "--output", str(files / "out"), *more])
    out, err = capsys.readouterr()
    return code, out, err


def test_plan_prints_phases_and_touches_nothing(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run_plan(files, capsys)
    assert code == 0
    lines = [line.strip() for line in out.splitlines()]
    assert lines[0] == "p: 3 files, 66 B as stored, in 1 shard"
    assert "00-normalize: read > normalize (1 unit)" in lines
    assert "02-documents: apply dedup.exact > write documents and ledger (1 unit)" in lines
    assert lines[-1].startswith("pack: ")
    assert not (files / "out").exists()
    code, out, _ = run_plan(files, capsys, "--set", "pack=null")
    assert code == 0 and "pack" not in out


def test_plan_refuses_what_run_would_refuse(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "bad.bin").write_bytes(b"no model")
    for override, message in [
        (f"input.paths=['{files}/b*.jsonl']", "matches no file"),
        ("stages=[normalise]", "unknown stage 'normalise'; did you mean 'normalize'?"),
        (f"stages=[{{language: {{model: {files}/absent.bin}}}}]", "the file for `model` is not there"),
        (f"stages=[{{language: {{model: {files}/bad.bin}}}}]", f"{files}/bad.bin"),
        (f"input.paths=['{files}']", "is a directory"),
    ]:
        code, _, err = run_plan(files, capsys, "--set", override)
        assert code == 2 and message in err, err
    (files / "out").mkdir()
    (files / "out" / "run.json").write_text('{"format": 1, "name": "other"}')
    code, _, err = run_plan(files, capsys)
    assert code == 2 and "holds the run 'other', not 'p'" in err
