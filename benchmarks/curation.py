"""The quickstart's curation, stage by stage: documents per CPU-second of each, on one worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def measure(command: list[str]) -> tuple[float, str]:
    """CPU seconds of a command and its children, and what it printed."""
    before = os.times()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    after = os.times()
    return (after.children_user + after.children_system) - (before.children_user + before.children_system), done.stdout


def main() -> None:
    """Print what each stage takes."""
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "quickstart")
        command = [sys.executable, "-m", "pipeline", "run", "configs/quickstart.yaml", "--until", "stages"]
        seconds, _ = measure([*command, "--executor", "inline", "--output", out])
        facts = json.loads((Path(out) / "run.json").read_text())
        print(f"quickstart, stages only: {seconds:.1f} CPU-s in all")
        for stage in facts["stages"]:
            if stage["seconds"]:
                print(f"  {stage['stage']}: {stage['rows_in'] / stage['seconds']:,.0f} documents/CPU-s")
