"""Training on a Ray cluster by Ray Train: the same loop as torchrun's, its processes started and joined by Ray."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.engine.config import EngineConfig
from pipeline.engine.ray_executor import connect
from pipeline.yamlfile import ConfigError
from training.knobs import TrainerConfig


def train_on_ray(
    engine: EngineConfig,
    arguments: list[str],
    config: TrainerConfig,
    output: Path,
    stop: Path,
    say: Callable[[str], None],
) -> int:
    """Run `python -m training ARGUMENTS` in `engine.train_processes` workers; returns 0, 1 after an error (said), or 143 if `stop` ended it.

    All that the arguments name is on a file system that all nodes share. The workers save and end once the file `stop` is there.
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
        cuda = gpus > 0 and config.device != "cpu"
        if count > (gpus if cuda else cores):
            have = f"{gpus} GPUs" if cuda else f"{cores} cores"
            raise ConfigError(f"engine.train_processes: {count} processes on a cluster with {have}")
        each = {"CPU": max(1, cores // count)} | ({"GPU": 1} if cuda else {})
        trainer = TorchTrainer(
            _train,
            train_loop_config={"arguments": arguments, "stop": str(stop)},
            scaling_config=ScalingConfig(num_workers=count, use_gpu=cuda, resources_per_worker=each),
            run_config=RunConfig(name=arguments[0], storage_path=str(stop.parent / "ray")),
            torch_config=TorchConfig(
                backend="cpu:gloo,cuda:nccl" if cuda else "gloo", timeout_s=int(config.process_timeout)
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
        return 143 if stop.exists() and not (output / "training.json").exists() else 0
    finally:
        if started:
            ray.shutdown()


def _train(job: dict[str, Any]) -> None:
    """What each worker runs, inside the process group that Ray Train has made. Errors are left to Ray, which tells them."""
    from training.cli import parser
    from training.commands.stopping import STOP_FILE

    os.environ[STOP_FILE] = job["stop"]
    options = parser().parse_args(job["arguments"])
    options.command(options)


def _last_words(error: BaseException) -> str:
    """The line of a worker's traceback that says what happened."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line for line in lines if "Error:" in line]
    return (named or lines or [type(error).__name__])[-1]
