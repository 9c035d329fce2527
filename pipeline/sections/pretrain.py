"""The section `pretrain`: the bundled trainer, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import yaml

from pipeline.engine.journal import digest
from pipeline.engine.schedule import RunFailed, Terminated
from pipeline.engine.store import Store
from pipeline.sections.calls import Job, environment, launch


def run_pretrain(job: Job) -> tuple[dict[str, Any], list[str]]:
    """Pretrain on this machine; killed, the same run goes on from its last checkpoint."""
    assert job.config.pretrain is not None
    folder = job.local / "model"
    folder.mkdir(exist_ok=True)
    mark = folder / ".gristmill-fingerprint"  # of the data and job.config that the checkpoints in the folder belong to
    if not mark.exists() or mark.read_text() != digest(job.parts):
        Store(str(job.local)).remove("model")
        folder.mkdir()
        mark.write_text(digest(job.parts))
    settings = job.local / "phases" / "pretrain.yaml"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text(yaml.safe_dump(job.config.pretrain.model_dump(mode="json", exclude_unset=True)))
    command = [
        sys.executable,
        "-m",
        "training",
        "pretrain",
        str(settings),
        "--tokens",
        str(job.local / "tokens"),
        "--tokenizer",
        str(job.local / "tokenizer"),
        "--output",
        str(folder),
    ]
    code = launch(command)
    if code == 143:
        raise Terminated
    if code != 0:
        raise RunFailed(
            f"pretrain: ended with exit code {code}; what it said is above. The same command goes on from the last checkpoint"
        )
    facts = json.loads((folder / "training.json").read_text())
    sample = subprocess.run(
        [
            sys.executable,
            "-m",
            "training",
            "generate",
            "--model",
            str(folder),
            "--prompt",
            "The",
            "--max-new-tokens",
            "60",
            "--seed",
            "1",
        ],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    facts = {k: v for k, v in facts.items() if k != "config"}
    facts["sample"] = {"prompt": "The", "text": sample.stdout.strip()} if sample.returncode == 0 else None
    lasting = [
        p.relative_to(job.local).as_posix()
        for p in folder.rglob("*")
        if p.is_file() and p.suffix in (".json", ".safetensors") and "trainer_state" not in p.parts
    ]
    return facts, lasting
