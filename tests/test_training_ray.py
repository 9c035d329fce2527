"""Training by Ray Train on a local cluster of two CPU workers: the steps of two processes that torchrun would start."""

import json

import pytest

from pipeline.engine.config import EngineConfig
from pipeline.engine.ray_executor import connect
from pipeline.engine.ray_train import train_on_ray
from pipeline.yamlfile import ConfigError
from tests.training_common import SMALL, make
from tests.training_processes import run_jobs
from training.config import resolve

VALUES = {**SMALL, "threads": 1, "eval_rows": 7, "parallel": "ddp"}
ENGINE = EngineConfig(train_launch="ray", train_processes=2, workers=2)


@pytest.fixture(scope="module")
def cluster():
    ray, _ = connect(ENGINE)
    yield ray
    ray.shutdown()


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["loss"], line["grad_norm"]) for line in lines if "loss" in line]


def test_ray_train_takes_the_steps_of_torchrun_and_stops_and_goes_on(cluster, tmp_path):
    folders = make(tmp_path / "data")
    run_jobs([{"values": VALUES, "out": tmp_path / "torchrun"}], folders)
    config, out = resolve(VALUES), tmp_path / "ray"
    stop, said = tmp_path / "phases" / "pretrain.stop", []
    stop.parent.mkdir()
    stop.touch()
    settings = stop.with_name("pretrain.yaml")
    settings.write_text(json.dumps(VALUES))
    arguments = ["pretrain", settings, "--tokens", folders[0], "--tokenizer", folders[1], "--output", out]
    arguments = [str(argument) for argument in arguments]
    assert train_on_ray(ENGINE, arguments, config, out, stop, said.append) == 143
    assert [step for step, _, _ in losses(tmp_path / "ray")] == [1]
    stop.unlink()
    assert train_on_ray(ENGINE, arguments, config, out, stop, said.append) == 0 and not said
    assert losses(tmp_path / "ray") == losses(tmp_path / "torchrun")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("ray", "torchrun")]
    assert weights[0] == weights[1]
    summary = json.loads((tmp_path / "ray" / "training.json").read_text())
    assert (summary["processes"], summary["parallel"]) == (2, "ddp")


def test_more_processes_than_the_cluster_has_are_refused(cluster, tmp_path):
    with pytest.raises(ConfigError, match=r"engine\.train_processes: 3 processes on a cluster with 2 cores"):
        three = ENGINE.model_copy(update={"train_processes": 3})
        train_on_ray(three, ["pretrain"], resolve({"device": "cpu"}), tmp_path, tmp_path / "stop", print)
