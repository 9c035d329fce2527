"""Several processes: DDP and FSDP2 take the steps of one, checkpoints go between them, and all stop and end together."""

import json
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.training_common import SMALL, make
from tests.training_processes import finish, run_group, run_jobs, start_group
from training.checkpoint import checkpoints
from training.config import resolve
from training.device import place
from training.knobs import TrainingError
from training.model import Decoder, ModelConfig
from training.parallel import choose_parallel
from training.pretrain import pretrain
from training.resume import Stopped

VALUES = {**SMALL, "threads": 1, "grad_clip": 0.05, "micro_batch_rows": 1, "eval_rows": 7, "sample_prompts": []}
LONG = {**VALUES, "steps": 50, "save_every": 25, "eval_every": 50}
COMPILER = shutil.which("g++")
SHARES = ("ddp", "fsdp2")
GPT2 = {"architecture": "gpt2", "dtype": "bfloat16", "kv_heads": 4}
MUON, MIXTRAL = {**VALUES, "optimizer": "muon"}, {**VALUES, "architecture": "mixtral"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def runs(folders, tmp_path_factory):
    """One process and two, as they are and after a stop at step 3 under another number of processes or sharding."""
    root = tmp_path_factory.mktemp("runs")
    pretrain(resolve(VALUES), *folders, root / "one", log=silent)
    pretrain(resolve(LONG), *folders, root / "long", log=silent)
    pretrain(resolve(MUON), *folders, root / "muon", log=silent)
    pretrain(resolve(MIXTRAL), *folders, root / "mixtral", log=silent)
    pretrain(resolve({**VALUES, **GPT2}), *folders, root / "gpt2", log=silent)
    for name in ("one-then-fsdp2", "one-then-ddp"):
        stop_at_three(VALUES, folders, root / name)
    ddp, fsdp2 = {**VALUES, "parallel": "ddp"}, {**VALUES, "parallel": "fsdp2"}
    run_jobs(
        [
            {"values": {**ddp, "sample_prompts": ["The"]}, "out": root / "ddp"},
            {"values": {**fsdp2, "sample_prompts": ["The"]}, "out": root / "fsdp2"},
            {"values": {**fsdp2, **GPT2}, "out": root / "gpt2-fsdp2"},
            {"values": {**fsdp2, "reshard": False, "prefetch": 1}, "out": root / "fsdp2-whole"},
            {"values": fsdp2, "out": root / "one-then-fsdp2"},
            {"values": ddp, "out": root / "one-then-ddp"},
            {"values": fsdp2, "out": root / "fsdp2-then-one", "stop_at": 3},
            {"values": fsdp2, "out": root / "fsdp2-then-fsdp2", "stop_at": 3},
            {"values": fsdp2, "out": root / "fsdp2-then-fsdp2"},
            {"values": {**LONG, "parallel": "ddp"}, "out": root / "ddp-then-one", "stop_at": 20},
            *([{"values": {**fsdp2, "compile": True}, "out": root / "fsdp2-compiled"}] if COMPILER else []),
            {"values": {**MIXTRAL, "parallel": "fsdp2"}, "out": root / "mixtral-fsdp2"},
            {"values": {**MUON, "parallel": "fsdp2"}, "out": root / "muon-fsdp2"},
            {"values": {**MUON, "parallel": "ddp"}, "out": root / "muon-ddp"},
            {"values": {**MUON, "parallel": "fsdp2"}, "out": root / "muon-fsdp2-cut", "stop_at": 3},
            {"values": {**MUON, "parallel": "fsdp2"}, "out": root / "muon-fsdp2-cut"},
        ],
        folders,
    )
    run_jobs([{"values": {**VALUES, "parallel": kind}, "out": root / f"{kind}-of-four"} for kind in SHARES], folders, 4)
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
    ("name", "alone"),
    [
        *((name, "one") for name in ("ddp", "fsdp2", "fsdp2-whole", "one-then-fsdp2", "one-then-ddp")),
        *((name, "one") for name in ("fsdp2-then-one", "fsdp2-then-fsdp2")),
        *((f"{kind}-of-four", "one") for kind in SHARES),
        ("mixtral-fsdp2", "mixtral"),
    ],
)
def test_several_processes_take_the_steps_of_one(runs, name, alone):
    """Losses, gradient norms, held-out losses and all weights, to 1e-6; every step clips."""
    compare(runs / name, runs / alone, rel=1e-6)
    weights, expected = load_file(runs / name / "model.safetensors"), load_file(runs / alone / "model.safetensors")
    assert weights.keys() == expected.keys()
    for key, tensor in expected.items():
        assert float((weights[key] - tensor).norm()) <= 1e-6 * float(tensor.norm()), key
    assert not list((runs / name).rglob("*.tmp"))


def compare(ours: Path, alone: Path, rel: float) -> None:
    assert [line["step"] for line in metrics(ours)] == [line["step"] for line in metrics(alone)]
    for a, b in zip(metrics(ours), metrics(alone), strict=True):
        for key in ("loss", "grad_norm", "validation_loss", "bits_per_byte", "tokens"):
            assert (key in a) == (key in b)
            if key in b:
                assert a[key] == pytest.approx(b[key], rel=rel), (a["step"], key)


@pytest.mark.skipif(COMPILER is None, reason="torch.compile on the CPU needs a C++ compiler")
def test_a_sharded_model_can_be_compiled(runs):
    compare(runs / "fsdp2-compiled", runs / "one", rel=1e-5)  # other kernels than the eager ones, so other rounding
    assert json.loads((runs / "fsdp2-compiled" / "training.json").read_text())["config"]["compile"] is True


def test_norms_whose_weights_are_gathered_in_bfloat16(runs):
    compare(runs / "gpt2-fsdp2", runs / "gpt2", rel=2e-2)


def test_muon_takes_the_same_steps_in_two_processes(runs):
    """As far as its iterations in bfloat16 allow; sharded, stopped and resumed, to equal bits."""
    for name in ("muon-ddp", "muon-fsdp2"):
        compare(runs / name, runs / "muon", rel=1e-4)
    whole, cut = ((runs / name / "model.safetensors").read_bytes() for name in ("muon-fsdp2", "muon-fsdp2-cut"))
    assert whole == cut


SHARDED_START = """
import torch
from training.architectures import weights
from training.config import resolve
from training.device import place
from training.model import Decoder, model_config
from training.parallel import distribute
from training.shards import is_part
torch.distributed.init_process_group("gloo")
for values in ({"architecture": "gpt2", "pad_vocabulary": 64}, {"tie_embeddings": False}, {"architecture": "mixtral"}):
    config = resolve({"parallel": "fsdp2", "device": "cpu", "dtype": "float32", "threads": 1, "width": 32, **values})
    with place(config) as here:
        alone = Decoder(model_config(config, 97, 16)).initialise(5)
        with torch.device("meta"):
            model = Decoder(alone.config)
        assert distribute(model, config, here) == "fsdp2"
        model.tie()
        model.initialise(5)
        ours, expected = dict(model.named_parameters()), dict(alone.named_parameters())
        assert list(ours) == list(expected) and all(is_part(parameter) for parameter in ours.values())
        assert all(torch.equal(ours[name].full_tensor(), expected[name]) for name in expected)
        kept, whole = weights(model, keep=here.rank == 0), weights(alone)
        assert list(kept) == (list(whole) if here.rank == 0 else [])
        assert all(torch.equal(kept[name], whole[name]) for name in kept)
"""


def test_a_sharded_model_gets_the_weights_of_a_whole_one_and_the_first_process_alone_collects_them():
    run_group(SHARDED_START, seconds=120)


SHARED_MUON = """
import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from training import optimizer
torch.distributed.init_process_group("gloo")
world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
mesh, alone, parts, copies, done = init_device_mesh("cpu", (world,)), [], [], [], []
direction = optimizer.muon_direction
optimizer.muon_direction = lambda update: done.append(update.numel()) or direction(update)
draw = torch.Generator().manual_seed(0)
for shape in ((7, 4), (4, 7), (3, 4, 5), (8, 6), (1, 6)):  # the last leaves processes without a row
    weight = torch.randn(shape, generator=draw)
    alone.append(torch.nn.Parameter(weight.clone()))
    parts.append(torch.nn.Parameter(distribute_tensor(weight.clone(), mesh, [Shard(0)])))
    copies.append(torch.nn.Parameter(weight.clone()))
    if shape == (8, 6):
        alone[-1].row_blocks = parts[-1].row_blocks = copies[-1].row_blocks = (4, 2, 2)
knobs = {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}
one = optimizer.Muon([{"params": alone}], **knobs)
sharing = [optimizer.Muon([{"params": parts}], **knobs), optimizer.Muon([{"params": copies}], **knobs, copies=world)]
# the largest first, one to each process in turn; a fused projection is three matrices
sizes = sorted(([60], [24, 12, 12], [28], [28], [6]), key=lambda blocks: -sum(blocks))
for _ in range(3):
    for weight, part, copy in zip(alone, parts, copies):
        weight.grad = torch.randn(weight.shape, generator=draw)
        part.grad, copy.grad = distribute_tensor(weight.grad, mesh, [Shard(0)]), weight.grad.clone()
    one.step()
    for other in sharing:
        done.clear()
        other.step()
        assert done == sum(sizes[rank::world], []), (rank, done)
for weight, part, copy in zip(alone, parts, copies):
    assert torch.equal(part.full_tensor(), weight), (weight.shape, part.full_tensor() - weight)
    assert torch.equal(copy, weight), (weight.shape, copy - weight)
"""


@pytest.mark.parametrize("world", [2, 4])
def test_muons_step_of_several_processes_is_that_of_one_to_the_bit(world):
    """Of parts (rows that cannot be shared evenly, experts, fused projections) and of copies; each works on its share alone."""
    run_group(SHARED_MUON, world=world)


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
    finish(start_group(command(slow, folders, tmp_path / "whole"), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    arguments, pipes = command(slow, folders, tmp_path / "cut"), {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    pair = start_group(arguments, **pipes)
    reach(pair[0], 3)
    pair[1].send_signal(signal.SIGTERM)
    said = finish(pair, (143, 143))
    assert all("the same command goes on from there" in line for line in said)
    pair = start_group(arguments, **pipes)
    reach(pair[0], 12)
    for process in pair:
        process.kill()
    finish(pair, (-9, -9))
    assert int(checkpoints(tmp_path / "cut" / "trainer_state")[-1].name[-8:]) < 24
    finish(start_group(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE))
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert weights[0] == weights[1]


def test_when_a_process_dies_the_other_ends_with_a_message(slow, folders, tmp_path):
    values = {**slow, "steps": 100_000, "process_timeout": 30}
    pair = start_group(command(values, folders, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    reach(pair[0], 3)
    pair[1].kill()
    began = time.monotonic()
    said = finish(pair, (1, -9))
    assert time.monotonic() - began < 90
    assert "another process of this run has ended" in said[0] and "goes on from the last checkpoint" in said[0]
    assert "Traceback" not in said[0]


def test_a_process_that_the_others_never_join_ends_with_a_message(slow, folders, tmp_path):
    values = {**slow, "process_timeout": 5}
    (alone, other) = start_group(command(values, folders, tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    other.kill()
    (said, _) = finish([alone, other], (1, -9), seconds=120)
    assert "rank 0 of 2: another process of this run has ended" in said and "Traceback" not in said


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
