"""The recipes that ship, on the bundled sample; and the pages of stages that are written from the code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from tests.support import ROOT, pipeline


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["fineweb", "multilingual"])
def test_a_recipe_runs_on_the_sample(recipe: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = pipeline(
        "run", f"configs/{recipe}.yaml", "--output", out, "--executor", "inline", "--limit", "900", timeout=900
    )
    assert done.returncode == 0, done.stderr
    stages = {stage["stage"]: stage for stage in json.loads((out / "run.json").read_text())["stages"]}
    written = [
        name if isinstance(name, str) else next(iter(name))
        for name in yaml.safe_load((ROOT / f"configs/{recipe}.yaml").read_text())["stages"]
    ]
    assert list(stages)[1:] == written
    assert all(
        before["rows_out"] == after["rows_in"]
        for before, after in zip(list(stages.values())[:-1], list(stages.values())[1:], strict=True)
    )
    assert 50 < stages["pii"]["rows_out"] < stages["extract"]["rows_out"]
    dropped = {name: stage["rows_in"] - stage["rows_out"] for name, stage in stages.items()}
    assert dropped["quality.gopher_repetition"] > 0 and dropped["quality.fineweb"] > 0 and dropped["dedup.fuzzy"] > 0


def test_pages_of_stages_are_those_of_the_code(tmp_path: Path) -> None:
    """Written by the command, as this process knows stages that are the tests' own; stale pages go."""
    (tmp_path / "gone.md").write_text("old")
    assert pipeline("stages", "--markdown", tmp_path).returncode == 0
    written, kept = (
        {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.md")}
        for folder in (tmp_path, ROOT / "docs" / "stages")
    )
    assert "gone.md" not in written and "quality.gopher.md" in written
    assert kept == written, "run: python -m pipeline stages --markdown docs/stages"
