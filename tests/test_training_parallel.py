"""Several processes: DDP and FSDP2 take the steps of one, checkpoints go between them, and all stop and end together."""

import json
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training_common import SMALL, make
from tests.training_processes import finish, run_jobs, start_pair
from training.checkpoint import checkpoints
from training.config import resolve
from training.device import place
from training.knobs import TrainingError
from training.model import Decoder, ModelConfig
from training.parallel import choose_parallel
from training.pretrain import pretrain
from training.resume import Stopped

VALUES = {**SMALL, "threads": 1, "grad_clip": 0.05, "micro_batch_rows": 1, "eval_rows": 7}
LONG = {**VALUES, "steps": 50, "save_every": 25, "eval_every": 50}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def runs(folders, tmp_path_factory):
    """One process and two, as they are and after a stop at step 3 under another number of processes or sharding."""
    root = tmp_path_factory.mktemp("runs")
    pretrain(resolve(VALUES), *folders, root / "one", log=silent)
    pretrain(resolve(LONG), *folders, root / "long", log=silent)
    for name in ("one-then-fsdp2", "one-then-ddp"):
        stop_at_three(VALUES, folders, root / name)
    ddp, fsdp2 = {**VALUES, "parallel": "ddp"}, {**VALUES, "parallel": "fsdp2"}
    run_jobs(
        [
            {"values": ddp, "out": root / "ddp"},
            {"values": fsdp2, "out": root / "fsdp2"},
            {"values": {**fsdp2, "reshard": False, "prefetch": 1}, "out": root / "fsdp2-whole"},
            {"values": fsdp2, "out": root / "one-then-fsdp2"},
            {"values": ddp, "out": root / "one-then-ddp"},
            {"values": fsdp2, "out": root / "fsdp2-then-one", "stop_at": 3},
            {"values": fsdp2, "out": root / "fsdp2-then-fsdp2", "stop_at": 3},
            {"values": fsdp2, "out": root / "fsdp2-then-fsdp2"},
            {"values": {**LONG, "parallel": "ddp"}, "out": root / "ddp-then-one", "stop_at": 20},
        ],
        folders,
    )
    pretrain(resolve(VALUES), *folders, root / "fsdp2-then-one", log=silent)
    pretrain(resolve(LONG), *folders, root / "ddp-then-one", log=silent)
    return root


def silent(_):
    pass


def stop_at_three(values, folders, out):
    asked = iter([False, False, True])
    with pytest.raises(Stopped):
        pretrain(resolve(values), *folders, out, log=silent, stop=lambda: next(asked))


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "name", ["ddp", "fsdp2", "fsdp2-whole", "one-then-fsdp2", "one-then-ddp", "fsdp2-then-one", "fsdp2-then-fsdp2"]
)
def test_two_processes_take_the_steps_of_one(runs, name):
    """Losses, gradient norms, held-out losses and all weights, to 1e-6; every step clips."""
    ours, alone = metrics(runs / name), metrics(runs / "one")
    assert [line["step"] for line in ours] == [line["step"] for line in alone]
    for a, b in zip(ours, alone, strict=True):
        for key in ("loss", "grad_norm", "validation_loss", "bits_per_byte", "tokens"):
            assert (key in a) == (key in b)
            if key in b:
                assert a[key] == pytest.approx(b[key], rel=1e-6), (a["step"], key)
    weights, expected = load_file(runs / name / "model.safetensors"), load_file(runs / "one" / "model.safetensors")
    assert weights.keys() == expected.keys()
    for key, tensor in expected.items():
        assert float((weights[key] - tensor).norm()) <= 1e-6 * float(tensor.norm()), key
    assert not list((runs / name).rglob("*.tmp"))


def test_from_two_processes_to_one_the_batches_are_the_same(runs):
    ours, alone = metrics(runs / "ddp-then-one"), metrics(runs / "long")
    losses = [[line["loss"] for line in lines if "loss" in line] for lines in (ours, alone)]
    assert len(losses[0]) == 50 and losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert [line["tokens"] for line in ours if "loss" in line] == [line["tokens"] for line in alone if "loss" in line]


def test_a_sharded_checkpoint_is_safetensors_of_each_process_and_checksums(runs):
    newest = checkpoints(runs / "fsdp2" / "trainer_state")[-1]
    shards = sorted(path.name for path in newest.glob("*.safetensors"))
    assert len(shards) == 2 and all(name.startswith("shard-") for name in shards)
    assert sorted(json.loads((newest / "state.json").read_text())["files"]) == shards
    assert {path.suffix for path in newest.iterdir()} == {".safetensors", ".json"}  # nothing that must be unpickled
    sizes = [sum(t.numel() for t in load_file(newest / name).values()) for name in shards]
    assert max(sizes) < 0.6 * sum(sizes)
    summary = json.loads((runs / "fsdp2" / "training.json").read_text())
    assert (summary["parallel"], summary["processes"]) == ("fsdp2", 2)


def command(values: dict, folders, out) -> list[str]:
    parts = ["-m", "training", "pretrain", "--tokens", folders[0], "--tokenizer", folders[1], "--output", out]
    return [str(p) for p in [*parts, *(x for k, v in values.items() for x in ("--set", f"{k}={v}"))]]


def reach(process: subprocess.Popen, step: int) -> None:
    while not process.stdout.readline().startswith(f"step {step}/"):
        assert process.poll() is None, process.stderr.read()


@pytest.fixture(scope="module")
def slow(folders):
    """Steps long enough that a signal falls between them."""
    return {**VALUES, "steps": 24, "save_every": 5, "eval_every": 24, "log_every": 1, "parallel": "ddp"}


def test_sigterm_and_kill_nine_then_equal_bits_on_two_processes(slow, folders, tmp_path):
    """One process is asked to stop: both save the same step and exit 143. Then both are killed. Then they finish."""
    finish(start_pair(command(slow, folders, tmp_path / "whole"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    arguments, pipes = command(slow, folders, tmp_path / "cut"), {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    pair = start_pair(arguments, **pipes)
    reach(pair[0], 3)
    pair[1].send_signal(signal.SIGTERM)
    said = finish(pair, (143, 143))
    assert all("the same command goes on from there" in line for line in said)
    pair = start_pair(arguments, **pipes)
    reach(pair[0], 12)
    for process in pair:
        process.kill()
    finish(pair, (-9, -9))
    assert int(checkpoints(tmp_path / "cut" / "trainer_state")[-1].name[-8:]) < 24
    finish(start_pair(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_when_a_process_dies_the_other_ends_with_a_message(slow, folders, tmp_path):
    values = {**slow, "steps": 100_000, "process_timeout": 30}
    pair = start_pair(command(values, folders, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    reach(pair[0], 3)
    pair[1].kill()
    began = time.monotonic()
    said = finish(pair, (1, -9))
    assert time.monotonic() - began < 90
    assert "another process of this run has ended" in said[0] and "goes on from the last checkpoint" in said[0]
    assert "Traceback" not in said[0]


def test_rows_that_cannot_be_shared_evenly_are_refused_with_the_numbers(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(
        TrainingError, match=r"batch_rows=4 .* 3 processes: some would get 1 rows and some 2; take 3 or 6"
    ):
        place(resolve({"batch_rows": 4, "device": "cpu"})).__enter__()


def test_auto_shards_what_fills_more_than_half_of_a_gpu(monkeypatch):
    shape = ModelConfig(1000, 64, 1, 64, 2, 2, 128, 32)
    with torch.device("meta"):
        model = Decoder(shape)
    needed = 16 * sum(parameter.numel() for parameter in model.parameters())

    class Here:
        def __init__(self, world, device):
            self.world, self.device = world, torch.device(device)

    class Gpu:
        total_memory = 0

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: Gpu)
    auto = resolve({})
    for memory, expected in ((2 * needed, "ddp"), (2 * needed - 2, "fsdp2")):
        Gpu.total_memory = memory
        assert choose_parallel(auto, model, Here(2, "cuda")) == expected
    assert choose_parallel(auto, model, Here(2, "cpu")) == "ddp"
    assert choose_parallel(auto, model, Here(1, "cuda")) == "none"
    assert choose_parallel(resolve({"parallel": "fsdp2"}), model, Here(2, "cpu")) == "fsdp2"
