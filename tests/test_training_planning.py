"""Planning a run: parameters and memory against real models, and the refusal of what cannot fit."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training_common import SMALL, make
from training import flops, loss
from training.cli import main
from training.config import resolve
from training.device import choose_dtype
from training.knobs import TrainingError
from training.model import Decoder, model_config
from training.planning import memory
from training.planning.check import check, cpu_memory
from training.planning.laws import BESIROGLU, LAWS
from training.planning.shapes import count, matrices, shape_of, training_flops
from training.pretrain import pretrain
from training.recompute import recompute_layers

ROOT = Path(__file__).parent.parent
GIB = memory.GIB


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data"))


def test_a_run_that_cannot_fit_is_refused_before_it_starts(folders, tmp_path):
    config = resolve({**SMALL, "batch_rows": 10**7, "micro_batch_rows": 10**7})
    with pytest.raises(TrainingError, match=r"needs about .* GiB.*activations.*micro_batch_rows.*memory_check"):
        pretrain(config, *folders, tmp_path / "model", log=lambda _: None)
    assert not list((tmp_path / "model" / "trainer_state").glob("step-*"))


def test_memory_check_off_lets_it_start(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("training.device.cpu_memory", lambda: 1)
    with pytest.raises(TrainingError, match="micro_batch_rows"):
        pretrain(resolve({**SMALL, "steps": 1}), *folders, tmp_path / "a", log=lambda _: None)
    values = {
        **SMALL,
        "steps": 1,
        "memory_check": False,
        "sample_prompts": [],
    }  # whose keys and values have a limit of their own
    done = pretrain(resolve(values), *folders, tmp_path / "b", log=lambda _: None)
    assert done["steps"] == 1


def test_what_fits_is_let_through():
    need = check(
        resolve({"preset": "1b"}), 128_256, 2_048, available=80 * 10**9, device="cuda", bytes_per_element=2, world=1
    )
    assert 35 * GIB < need.total < 80 * 10**9
    with pytest.raises(TrainingError, match="cuda has"):
        check(resolve({"preset": "1b"}), 128_256, 2_048, available=24 * 10**9, device="cuda", bytes_per_element=2)


def test_processes_of_one_machine_share_its_memory():
    config = resolve(SMALL)
    need = check(config, 400, 64, available=cpu_memory(), device="cpu", bytes_per_element=4).total
    check(config, 400, 64, available=2 * need, device="cpu", bytes_per_element=4, processes_here=2)
    with pytest.raises(TrainingError):
        check(config, 400, 64, available=2 * need - 2, device="cpu", bytes_per_element=4, processes_here=2)


FAMILIES = ("llama", "gpt2", "qwen3", "mistral", "mixtral")


def of_family(architecture, **changes):
    kv_heads = 4 if architecture == "gpt2" else 2
    shape = {"layers": 3, "width": 64, "heads": 4, "kv_heads": kv_heads, "mlp_width": 160}
    return resolve({"architecture": architecture, **shape, **changes})


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("tied", [True, False])
def test_parameters_gradients_and_optimizer_states_are_exact(architecture, tied):
    config = of_family(architecture, tie_embeddings=tied, pad_vocabulary=64)
    model = Decoder(model_config(config, 500, 32)).initialise(0)
    shape = shape_of(config, 500, 32)
    numbers = sum(parameter.numel() for parameter in model.parameters())
    assert count(shape).total == numbers
    in_layers = [p for name, p in model.named_parameters() if ".layers." in name and p.dim() == 2]
    assert matrices(shape) == sum(parameter.numel() for parameter in in_layers)
    unused = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name)
    assert count(shape).active == numbers - unused * (config.experts - config.experts_per_token) // max(
        1, config.experts
    )

    optimizer = torch.optim.AdamW(model.parameters())
    tokens = torch.arange(64).view(2, 32)
    model(tokens, tokens).objective.backward()
    optimizer.step()
    need = memory.estimate(shape, memory.Way(rows=2, bytes_per_element=4, device="cpu"))
    assert need.weights == sum(parameter.nbytes for parameter in model.parameters())
    assert need.gradients == sum(parameter.grad.nbytes for parameter in model.parameters())
    moments = [tensor for state in optimizer.state.values() for name, tensor in state.items() if name != "step"]
    assert need.optimizer == sum(tensor.nbytes for tensor in moments)


def test_muon_keeps_one_number_for_each_element_of_a_matrix():
    shape = shape_of(of_family("llama"), 500, 32)
    vectors_and_tables = count(shape).total - matrices(shape)
    assert memory.optimizer_states(shape, "muon") == 4 * (matrices(shape) + 2 * vectors_and_tables)


def saved_bytes(config, dtype, rows, length, vocabulary):
    """What autograd keeps after the forward pass, each storage once, parameters left out."""
    model = Decoder(model_config(config, vocabulary, length), dtype).initialise(0)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    seen, kept = {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        kept.append(tensor)
        return tensor

    tokens = torch.randint(0, vocabulary, (rows, length), generator=torch.Generator().manual_seed(0))
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(tokens, tokens, None)
    return sum(seen.values())


@pytest.mark.parametrize("architecture", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_activations_of_a_layer_are_those_that_autograd_keeps(architecture, dtype):
    """Two depths apart, so that only what a layer keeps is compared: within 5%, with the copies of its matrices."""
    rows, length = 4, 128
    sizes = []
    for layers in (2, 4):
        config = of_family(architecture, layers=layers)
        shape = shape_of(config, 300, length)
        way = memory.Way(rows=rows, bytes_per_element=dtype.itemsize, document_mask=False, device="cpu")
        expected = memory.activations(shape, way) + memory.cast_weights(shape, way)
        sizes.append((saved_bytes(config, dtype, rows, length, 300), expected))
    (shallow, less), (deep, more) = sizes
    assert (more - less) / (deep - shallow) == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("policy", [("full", 1), ("selective", 1), ("full", 2)])
@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_recomputing_keeps_what_is_planned(architecture, policy):
    """By torch's tracker of living tensors, which sees what a checkpoint hides from autograd's hooks; within 3%."""
    from torch.distributed._tools.mem_tracker import MemTracker

    sizes, rows, length = [], 4, 128
    for layers in (2, 6):
        config = of_family(architecture, layers=layers, recompute=policy[0], recompute_every=policy[1])
        model = Decoder(model_config(config, 300, length)).initialise(0)
        recompute_layers(model, config)
        tokens = torch.randint(0, 300, (rows, length), generator=torch.Generator().manual_seed(0))
        tracker = MemTracker()
        tracker.track_external(model)
        with tracker:
            losses = model(tokens, tokens, None)
            alive = tracker.get_tracker_snapshot("current")[torch.device("cpu")]["Total"]
        assert losses.objective.requires_grad
        shape = shape_of(config, 300, length)
        way = memory.Way(
            rows=rows, bytes_per_element=4, document_mask=False, device="cpu",
            recompute=policy[0], recompute_every=policy[1],
        )  # fmt: skip
        sizes.append((alive - 4 * count(shape).total, memory.activations(shape, way)))
    (shallow, less), (deep, more) = sizes
    assert (more - less) / (deep - shallow) == pytest.approx(1, abs=0.03)


def test_chunks_of_the_loss_are_those_of_the_loss():
    assert (memory.LOSS_CHUNK, memory.LOSS_CHUNK_CPU) == (loss.CHUNK_ROWS, loss.CACHED_ROWS)


def test_what_makes_memory_smaller_does():
    shape = shape_of(of_family("llama", layers=8), 500, 128)
    way = memory.Way(rows=4, micro_batches=2, world=8, parallel="ddp")
    plain = memory.estimate(shape, way)
    for changes, part in (
        ({"rows": 2}, "activations"),
        ({"recompute": "selective"}, "activations"),
        ({"recompute": "full"}, "activations"),
        ({"recompute": "full"}, "cast_weights"),
        ({"optimizer": "muon"}, "optimizer"),
        ({"parallel": "fsdp2"}, "weights"),
        ({"parallel": "fsdp2"}, "optimizer"),
        ({"world": 1, "parallel": "none"}, "communication"),
    ):
        other = memory.estimate(shape, replace(way, **changes))
        assert other.parts()[part] < plain.parts()[part], changes
    full, selective, half = (
        memory.activations(shape, replace(way, **changes))
        for changes in ({"recompute": "full"}, {"recompute": "selective"}, {"recompute": "full", "recompute_every": 2})
    )
    assert full < selective < plain.activations and full < half < plain.activations
    sharded = memory.estimate(shape, replace(way, parallel="fsdp2"))
    assert sharded.weights * 8 == plain.weights


def run_plan(capsys, *arguments):
    assert main(["plan", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_a_budget_is_spent_whole(capsys):
    found = run_plan(capsys, "--flops", "1e21", "--corpus-tokens", "2e10", "--inference-tokens", "1e12")
    model = found["model"]
    assert model["flops"] == pytest.approx(1e21)
    assert model["parameters"]["total"] == pytest.approx(BESIROGLU.allocate(1e21).parameters, rel=0.1)
    assert [law["name"] for law in found["laws"]] == [law.name for law in LAWS]
    assert found["repeats"]["epochs"] == pytest.approx(model["tokens"] / 2e10)
    assert found["inference"]["flops"] < found["inference"]["compute_optimal_flops"]
    hours = found["time"][0]["gpu_hours"]
    assert hours == pytest.approx(1e21 / (989.5e12 * 0.4) / 3600)
    # the same budget in hours, and in money
    assert run_plan(capsys, "--gpu-hours", str(hours))["budget_flops"] == pytest.approx(1e21)
    paid = run_plan(capsys, "--money", str(2.5 * hours), "--price-per-hour", "2.5")
    assert paid["budget_flops"] == pytest.approx(1e21)
    assert paid["time"][0]["cost"] == pytest.approx(2.5 * hours)


def test_sizes_and_token_counts_are_kept(capsys):
    assert run_plan(capsys, "--tokens", "1e11")["model"]["tokens"] == 1e11
    found = run_plan(capsys, "--parameters", "1e9", "--tokens", "3e10")["model"]
    assert found["tokens"] == 3e10 and found["parameters"]["total"] == pytest.approx(1e9, rel=0.15)
    alone = run_plan(capsys, "--parameters", "1e9")["model"]
    assert 15 < alone["tokens"] / 1e9 < 25


def test_a_model_of_another_size_than_was_asked_for_is_said(capsys):
    notes = [run_plan(capsys, "--parameters", count)["notes"] for count in ("1e9", "1e5", "1e15")]
    assert [any("parameters were asked for" in note for note in one) for one in notes] == [False, True, True]


@pytest.mark.parametrize("flops", ["5e22", "1e24"])
def test_the_fewest_gpus_are_those_of_the_table(capsys, flops):
    """A large batch is many micro-batches, over which fsdp2 adds up whole gradients."""
    least = run_plan(capsys, "--flops", flops)["least"][0]["fsdp2"]
    assert least is not None and least["gpus"] > 2
    for gpus, enough in ((least["gpus"], True), (least["gpus"] // 2, False)):
        table = run_plan(capsys, "--flops", flops, "--gpus", str(gpus))["memory"]
        fits = {row["recompute"] for row in table if row["parallel"] == "fsdp2" and row["fits"]}
        assert (least["recompute"] in fits) == enough and bool(fits) == enough


def test_depth_takes_the_length_of_a_row(capsys):
    asked = ("--depth", "4", "--gpu", "h100")  # else this machine's CPU is measured, which takes seconds
    assert run_plan(capsys, *asked)["model"]["parameters"]["total"] > 0
    short, long = (run_plan(capsys, *asked, "--sequence-length", str(n))["model"] for n in (128, 512))
    assert short["tokens"] / short["steps"] == pytest.approx(
        long["tokens"] / long["steps"], rel=0.3
    )  # in tokens, not rows


def test_the_plan_of_a_config_is_the_run(folders, tmp_path, capsys):
    """Steps, tokens and parameters are those of the run, and its speed gives the time."""
    settings = {**SMALL, "threads": 1}
    config = tmp_path / "run.json"  # JSON is YAML
    config.write_text(json.dumps(settings))
    done = pretrain(resolve(settings), *folders, tmp_path / "model", log=lambda _: None)
    found = run_plan(capsys, str(config), "--tokens", str(folders[0]), "--like", str(tmp_path / "model"))
    assert found["model"]["parameters"]["total"] == done["parameters"]
    assert found["model"]["steps"] == done["steps"]
    assert found["model"]["tokens"] == done["steps"] * 4 * 64
    took = found["model"]["tokens"] / done["tokens_per_second"] / 3600
    assert found["measured"]["hours"] == pytest.approx(took)
    assert [row["gpu"] for row in found["memory"]] == ["cpu"] * 3
    assert found["memory"][0]["available"] == cpu_memory()
    # `auto` is what the run would take here
    dtype = str(choose_dtype("auto", torch.device("cpu"))).removeprefix("torch.")
    auto, given = (run_plan(capsys, str(config), "--set", f"dtype={one}") for one in ("auto", dtype))
    assert auto["memory"] == given["memory"]
    assert auto["time"][0]["peak_flops"] == pytest.approx(given["time"][0]["peak_flops"], rel=0.5)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "one budget"),
        (["--flops", "1e20", "--tokens", "1e9"], "one budget"),
        (["--money", "100"], "--price-per-hour"),
        (["--flops", "1e20", "--gpu", "abacus"], "h100"),
        (["--flops", "1e20", "--law", "murphy"], "besiroglu"),
        (["--flops", "1e20", "--mfu", "40"], "at most 1"),
        (["--tokens", "somewhere"], "number such as"),
        (["--preset", "cpu-tiny", "--flops", "1e20"], "its own budget"),
        (["--preset", "cpu-tiny", "--tokens", "/nowhere"], "token dataset"),
        (["--preset", "cpu-tiny", "--law", "kaplan"], "leave it out"),
        (["--preset", "cpu-tiny", "--tokens", "/nowhere", "--corpus-tokens", "1e9"], "leave one out"),
        (["--flops", "1e20", "--like", "/nowhere"], "finished run"),
    ],
)
def test_mistakes_are_named(arguments, why, capsys):
    assert main(["plan", *arguments]) == 2
    assert why in capsys.readouterr().err


def test_the_table_is_printed(capsys):
    assert main(["plan", "--flops", "1e21", "--gpu", "h100", "--gpu", "rtx4090", "--corpus-tokens", "1e9"]) == 0
    said = capsys.readouterr().out
    for law in LAWS:
        assert f"\n  {law.name}" in said
    assert "fsdp2" in said and "rtx4090" in said and "epochs" in said and "NO" in said


def test_planning_needs_no_torch():
    code = "import sys; sys.modules['torch'] = None; from training.cli import main; sys.exit(main(['plan', '--flops', '1e20']))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_arithmetic_agrees_with_the_monitors():
    """What `plan` forecasts and what a run reports as MFU must count alike."""
    shape = shape_of(of_family("llama"), 500, 128)
    assert training_flops(shape) == flops.flops_per_token(model_config(of_family("llama"), 500, 128), 128)
