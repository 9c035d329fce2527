"""DPO and reinforcement learning on two gloo processes: the steps of one process, stopped and resumed alike."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.preference_common import metrics, pair_rows, write_model, write_rows
from tests.training_processes import begin_group, finish

# each job: {kind, knobs, model, data, out, stop_at}
JOBS = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
import torch
torch.set_num_threads(1)
from training.knobs import TrainingError, resolve_as
from training.preference.config import DpoConfig, RewardConfig
from training.preference.dpo import dpo
from training.preference.reward_model import reward
from training.reinforcement.config import GrpoConfig, PpoConfig
from training.reinforcement.grpo import grpo
from training.reinforcement.ppo import ppo
from training.resume import Stopped
import os
if os.environ.get("WORLD_SIZE"):
    torch.distributed.init_process_group("gloo")
kinds = {"dpo": (DpoConfig, dpo), "reward": (RewardConfig, reward), "grpo": (GrpoConfig, grpo), "ppo": (PpoConfig, ppo)}
for job in json.loads(sys.argv[2]):
    kind, train = kinds[job["kind"]]
    calls = []
    stop = lambda: calls.append(1) or len(calls) == job.get("stop_at")
    try:
        train(resolve_as(kind, job["knobs"], "x"), job["model"], job["data"], job["out"], log=lambda _: None, stop=stop)
    except Stopped:
        assert job.get("stop_at"), job
    except TrainingError as error:
        assert job.get("refused") and job["refused"] in str(error), error
"""

FAST = {"device": "cpu", "dtype": "float32", "threads": 1, "micro_batch_rows": 3, "warmup_ratio": 0, "save_every": 1}
DPO = {"batch_rows": 8, "steps": 4, "learning_rate": 1e-3, "validation": 0.2, "eval_every": 4}
RL = {"batch_rows": 16, "steps": 3, "learning_rate": 3e-3, "validation": 0.1, "eval_every": 3, "max_new_tokens": 5}
EXACT = ("loss", "grad_norm", "reward", "kl", "entropy", "length", "accuracy", "margin", "chosen_logprob")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of all runs: of one process, of two, and of two that were stopped and went on."""
    folder = tmp_path_factory.mktemp("runs")
    model = write_model(folder / "base", noise=False)
    rows = [{"prompt": f"say {n}", "answer": "a", "verifier": "regex"} for n in range(30)]
    data = {
        "prompts": write_rows(folder / "prompts.jsonl", rows),
        "pairs": write_rows(folder / "pairs.jsonl", pair_rows(40)),
    }

    def job(kind, out, **more):
        paired = kind in ("dpo", "reward")
        own = {"grpo": {"group": 4, "minibatches": 2, "dynamic_rounds": 1}, "ppo": {"kl_target": 1.0}}.get(kind, {})
        knobs = {**FAST, **(DPO if paired else RL), **own, **more.pop("knobs", {})}
        given = {"kind": kind, "knobs": knobs, "model": str(model), "data": str(data["pairs" if paired else "prompts"])}
        return {**given, "out": str(folder / out), **more}

    kinds = ("dpo", "reward", "grpo", "ppo")
    one = [job(kind, f"{kind}-one") for kind in kinds]
    two = [job(kind, f"{kind}-two") for kind in kinds]
    two += [job(kind, f"{kind}-cut", stop_at=2) for kind in ("dpo", "grpo")]
    two += [job(kind, f"{kind}-cut") for kind in ("dpo", "grpo")]
    two += [job(kind, f"{kind}-fsdp2", knobs={"parallel": "fsdp2"}) for kind in ("dpo", "reward")]
    two += [job("grpo", "refused", knobs={"parallel": "fsdp2"}, refused="use parallel=ddp")]
    pair = begin_group(JOBS, json.dumps(two))
    alone = subprocess.run([sys.executable, "-c", JOBS, json.dumps(sys.path), json.dumps(one)], check=False)
    finish([pair], (0,))
    assert alone.returncode == 0
    return folder


@pytest.mark.parametrize("kind", ["dpo", "reward", "grpo", "ppo"])
def test_two_processes_take_the_steps_of_one(kind, runs):
    compare(runs / f"{kind}-one", runs / f"{kind}-two")


@pytest.mark.parametrize("kind", ["dpo", "reward"])
def test_two_processes_with_half_of_the_model_each_take_the_steps_of_one(kind, runs):
    compare(runs / f"{kind}-one", runs / f"{kind}-fsdp2")


def compare(alone: Path, together: Path) -> None:
    one, two = metrics(alone), metrics(together)
    assert len(one) == len(two) > 3
    for ours, theirs in zip(one, two, strict=True):
        assert ours.keys() == theirs.keys()
        for name in ours.keys() & {*EXACT, "validation_loss", "validation_accuracy", "validation_reward"}:
            assert ours[name] == pytest.approx(theirs[name], rel=1e-5, abs=1e-6), (ours["step"], name)


@pytest.mark.parametrize("kind", ["dpo", "grpo"])
def test_two_processes_that_were_stopped_end_at_the_same_bits(kind, runs):
    whole, cut = ((runs / f"{kind}-{name}" / "model.safetensors").read_bytes() for name in ("two", "cut"))
    assert whole == cut


def test_samples_are_not_drawn_from_a_sharded_model(runs):
    assert not (runs / "refused" / "model.safetensors").exists()
