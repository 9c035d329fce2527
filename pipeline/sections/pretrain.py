"""The section `pretrain`: the bundled trainer, in processes of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from pipeline.engine.executors import usable_cores
from pipeline.engine.journal import digest
from pipeline.engine.ray_train import train_on_ray
from pipeline.engine.schedule import RunFailed, Terminated
from pipeline.engine.store import Store
from pipeline.sections.calls import Job, launch, on_sigterm


def run_pretrain(job: Job) -> tuple[dict[str, Any], list[str]]:
    """Pretrain as `engine.train_launch` says; killed, the same run goes on from its last checkpoint."""
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
    code = _train(job, settings, folder)
    if code == 143:
        raise Terminated
    if code != 0:
        raise RunFailed(
            f"pretrain: ended with exit code {code}; what it said is above. The same command goes on from the last checkpoint"
        )
    facts = json.loads((folder / "training.json").read_text())
    facts = {k: v for k, v in facts.items() if k != "config"}
    lasting = [
        p.relative_to(job.local).as_posix()
        for p in folder.rglob("*")
        if p.is_file() and p.suffix in (".json", ".safetensors") and "trainer_state" not in p.parts
    ]
    return facts, lasting


def _train(job: Job, settings: Path, folder: Path) -> int:
    """Train by `engine.train_launch`; returns the exit code of `python -m training pretrain`."""
    engine = job.config.engine
    arguments = {"--tokens": job.local / "tokens", "--tokenizer": job.local / "tokenizer", "--output": folder}
    if _has_languages(job.local / "documents"):
        arguments["--documents"] = job.local / "documents"
    if engine.train_launch == "ray":
        assert job.config.pretrain is not None
        knobs = job.config.pretrain.model_dump(mode="json")
        folders = {name.removeprefix("--"): str(path) for name, path in arguments.items()}
        stop = job.local / "phases" / "pretrain.stop"
        stop.unlink(missing_ok=True)
        with on_sigterm(lambda number: stop.touch()):
            return train_on_ray(engine, knobs, folders, stop, job.say)
    command = ["-m", "training", "pretrain", str(settings)]
    command += [str(part) for pair in arguments.items() for part in pair]
    if engine.train_launch == "local":
        return launch([sys.executable, *command])
    count = engine.train_processes if isinstance(engine.train_processes, int) else max(1, _gpus())
    extra = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "3600"}  # a checkpoint may take longer than its 30 seconds
    if "OMP_NUM_THREADS" not in os.environ:  # torchrun would make it one
        extra["OMP_NUM_THREADS"] = str(max(1, usable_cores() // count))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return launch([sys.executable, *launcher, *command], extra)


def _has_languages(documents: Path) -> bool:
    """Whether held-out losses can be told by language."""
    return all("language" in pq.read_schema(part).names for part in documents.glob("*.parquet"))


def _gpus() -> int:
    """GPUs here, asked of torch in a process that ends, since this one must not load it."""
    code = "import torch; print(torch.cuda.device_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else 0
