"""The two commands and CI stay wired to each other."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_ci_calls_make_test() -> None:
    script = (ROOT / ".ci/run").read_text()
    assert re.search(r"^make test$", script, re.M)
    assert (ROOT / ".ci/run").stat().st_mode & 0o111


def test_make_targets_exist() -> None:
    for target in ("quickstart", "test", "lint", "bench"):
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def test_every_dependency_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    pinned = {
        re.split(r"==", line)[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    wanted = list(project["dependencies"])
    for extra in project["optional-dependencies"].values():
        wanted += extra
    for requirement in wanted:
        name = re.split(r"[\[<>=!~;, ]", requirement)[0].lower().replace("_", "-")
        assert name == "gristmill" or name in pinned, f"{name} is not in constraints.txt"
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text()
