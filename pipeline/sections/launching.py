"""How sections that train start: `python -m training ...` here, by torchrun, or in Ray Train's workers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from pipeline.engine.executors import usable_cores
from pipeline.engine.journal import digest
from pipeline.engine.ray_train import train_on_ray
from pipeline.engine.schedule import RunFailed, Terminated
from pipeline.engine.store import Store
from pipeline.sections.calls import Job, launch, on_stop
from training.commands.stopping import END_WITH_PARENT
from training.knobs import TrainerConfig, TrainingError
from training.lock import only_run


def train(
    job: Job, section: str, config: TrainerConfig, folder: str, arguments: list[str]
) -> tuple[dict[str, Any], list[str]]:
    """Run the command `section` with its knobs and arguments into `folder` of the run directory; its facts and lasting files.

    Killed, the same run goes on from its last checkpoint. Raises `RunFailed`, or `Terminated` after SIGTERM.
    """
    output = job.local / folder
    output.mkdir(exist_ok=True)
    mark = output / ".gristmill-fingerprint"  # of the data and config that the checkpoints in the folder belong to
    parts = digest(
        {name: part for name, part in job.parts.items() if name != "torch"}
    )  # they outlive an update of torch
    if not mark.exists() or mark.read_text() != parts:
        _put_aside(job, section, folder)
        output.mkdir()
        mark.write_text(parts)
    settings = job.local / "phases" / f"{section}.yaml"
    settings.parent.mkdir(exist_ok=True)
    settings.write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
    code = _launch(job, config, output, [section, str(settings), *arguments, "--output", str(output)])
    if code == 143:
        raise Terminated
    if code != 0:
        raise RunFailed(
            f"{section}: ended with exit code {code}; what it said is above. The same command goes on from the last checkpoint"
        )
    facts = json.loads((output / "training.json").read_text())
    facts = {k: v for k, v in facts.items() if k != "config"}
    lasting = [
        p.relative_to(job.local).as_posix()
        for p in output.rglob("*")
        if p.is_file() and p.suffix in (".json", ".safetensors") and "trainer_state" not in p.parts
    ]
    return facts, lasting


def _put_aside(job: Job, section: str, folder: str) -> None:
    """Make room for a model of another config or other data; days of training are not removed without a word.

    Raises `RunFailed` if a run still writes there.
    """
    store, output = Store(str(job.local)), job.local / folder
    if (output / "trainer_state").is_dir():
        try:
            with only_run(output / "trainer_state"):
                pass
        except TrainingError as error:
            raise RunFailed(f"{section}: {error}") from None
    if any((output / "trainer_state").glob("step-*")):
        store.remove(f"{folder}.before")
        output.rename(job.local / f"{folder}.before")
        job.say(
            f"{section}: {output} holds checkpoints of another config or other data; they are in {folder}.before now, until it "
            "changes again"
        )
    store.remove(folder)


def _launch(job: Job, config: TrainerConfig, output: Path, arguments: list[str]) -> int:
    """Start it by `engine.train_launch`; returns the exit code of `python -m training`."""
    engine = job.config.engine
    if engine.train_launch == "ray":
        stop = job.local / "phases" / f"{arguments[0]}.stop"
        stop.unlink(missing_ok=True)
        asked: list[int] = []

        def ask(number: int) -> None:
            if signal.SIGINT in asked:
                raise KeyboardInterrupt  # a second time: at once
            asked.append(number)
            stop.touch()

        with on_stop(ask):
            code = train_on_ray(engine, arguments, config, output, stop, job.say)
        if code and signal.SIGINT in asked:
            raise KeyboardInterrupt
        return code
    command = ["-m", "training", *arguments]
    if engine.train_launch == "local":
        return launch([sys.executable, *command])
    count = engine.train_processes if isinstance(engine.train_processes, int) else max(1, _gpus())
    # a checkpoint may take longer than its 30 seconds; what kills this process kills torchrun, which must not leave workers behind
    extra = {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "3600", END_WITH_PARENT: "1"}
    if "OMP_NUM_THREADS" not in os.environ:  # torchrun would make it one
        extra["OMP_NUM_THREADS"] = str(max(1, usable_cores() // count))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    return launch([sys.executable, *launcher, *command], extra)


def _gpus() -> int:
    """GPUs here, asked of torch in a process that ends, since this one must not load it."""
    code = "import torch; print(torch.cuda.device_count())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    return int(done.stdout) if done.returncode == 0 else 0
