"""Training on a Ray cluster by Ray Train: the same loop as torchrun's, its processes started and joined by Ray."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.config import EngineConfig
from pipeline.engine.ray_executor import connect
from pipeline.yamlfile import ConfigError


def train_on_ray(
    engine: EngineConfig, knobs: dict[str, Any], folders: dict[str, str], stop: Path, say: Callable[[str], None]
) -> int:
    """Pretrain in `engine.train_processes` workers; returns 0, 1 after an error (said), or 143 if `stop` ended it.

    folders: `tokens`, `tokenizer`, `output` and perhaps `documents`, on a file system that all nodes share. The workers save
    and end once the file `stop` is there.
    """
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "600")  # a busy machine needs longer than 60
    ray, started = connect(engine, log_to_driver=True)
    try:
        from ray.train import RunConfig, ScalingConfig
        from ray.train.torch import TorchConfig, TorchTrainer

        logging.getLogger("ray.train").setLevel(logging.ERROR)
        resources = ray.cluster_resources()
        gpus, cores = int(resources.get("GPU", 0)), int(resources.get("CPU", 0))
        count = engine.train_processes if isinstance(engine.train_processes, int) else max(1, gpus)
        cuda = gpus > 0 and knobs["device"] != "cpu"
        if count > (gpus if cuda else cores):
            have = f"{gpus} GPUs" if cuda else f"{cores} cores"
            raise ConfigError(f"engine.train_processes: {count} processes on a cluster with {have}")
        each = {"CPU": max(1, cores // count)} | ({"GPU": 1} if cuda else {})
        trainer = TorchTrainer(
            _train,
            train_loop_config={"knobs": knobs, "folders": folders, "stop": str(stop)},
            scaling_config=ScalingConfig(num_workers=count, use_gpu=cuda, resources_per_worker=each),
            run_config=RunConfig(name="pretrain", storage_path=str(stop.parent / "ray")),
            torch_config=TorchConfig(
                backend="cpu:gloo,cuda:nccl" if cuda else "gloo", timeout_s=int(knobs["process_timeout"])
            ),
        )
        try:
            trainer.fit()
        except ray.exceptions.RayError as error:
            say(f"error: {_last_words(error)}")
            return 1
        except Exception as error:  # Ray Train's own, whose place has moved between versions
            if type(error).__module__.split(".")[0] != "ray":
                raise
            say(f"error: {_last_words(error)}")
            return 1
        return 143 if stop.exists() and not (Path(folders["output"]) / "training.json").exists() else 0
    finally:
        if started:
            ray.shutdown()


def _train(job: dict[str, Any]) -> None:
    """What each worker runs, inside the process group that Ray Train has made."""
    from training.config import resolve
    from training.pretrain import pretrain
    from training.resume import Stopped

    folders, stop = job["folders"], Path(job["stop"])
    documents = folders.get("documents")
    log = lambda line: print(line, flush=True)  # noqa: E731
    try:
        pretrain(
            resolve(job["knobs"]), folders["tokens"], folders["tokenizer"], folders["output"], documents, log=log,
            stop=stop.exists,
        )  # fmt: skip
    except Stopped as stopped:
        print(stopped, flush=True)


def _last_words(error: BaseException) -> str:
    """The line of a worker's traceback that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "Error:" in line]
    return (named or lines or [type(error).__name__])[-1]
