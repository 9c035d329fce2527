"""The training loop: accumulation, exact resume, stops, refusals, processes, metrics, and that it learns."""

import hashlib
import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, get_cosine_with_min_lr_schedule_with_warmup

from tests.training_common import SMALL, make
from training.checkpoint import checkpoints, state_text
from training.config import resolve
from training.data import load_batch, open_dataset, step_rows
from training.device import place
from training.held_out import validate
from training.knobs import TrainingError
from training.loss import IGNORED
from training.metrics import TIMED, bits_per_byte
from training.model import Decoder, document_positions
from training.optimizer import build_optimizer
from training.pretrain import _shape, pretrain
from training.resume import Stopped
from training.schedule import learning_rate
from training.step import BadRows, train_step
from training.vocabulary import token_bytes

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data"))


def small(**changes):
    return resolve({**SMALL, "threads": 1, **changes})


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def silent(_):
    pass


@pytest.fixture(scope="module")
def undisturbed(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "model"
    return out, pretrain(small(), *folders, out, log=silent)


def first_step(config, folders, **batch_changes):
    """Gradients and result of one step from initial weights."""
    data = open_dataset(folders[0], None)
    with place(config) as here:
        model = Decoder(_shape(config, data)).initialise(config.seed)
        optimizer = build_optimizer(model, config)
        batch = load_batch(data.train, list(range(8)), config.document_mask)
        result = train_step(model, optimizer, batch._replace(**batch_changes), config, here, 1e-3)
        return result, {name: parameter.grad for name, parameter in model.named_parameters()}, model


def test_eight_micro_batches_of_one_row_are_one_of_eight(folders):
    """Rows have different numbers of targets: a mean of means would differ."""
    data = open_dataset(folders[0], None)
    counts = {int((load_batch(data.train, [row], True).targets != IGNORED).sum()) for row in range(8)}
    assert len(counts) > 3
    one, gradient_one, model_one = first_step(small(micro_batch_rows=8), folders)
    for rows in (1, 3):
        many, gradient_many, model_many = first_step(small(micro_batch_rows=rows), folders)
        assert many.loss == pytest.approx(one.loss, rel=1e-6) and many.tokens == one.tokens
        for name, gradient in gradient_one.items():
            assert torch.allclose(gradient, gradient_many[name], atol=1e-6 * float(gradient.norm()), rtol=0), name
        for a, b in zip(model_one.parameters(), model_many.parameters(), strict=True):
            assert torch.allclose(a, b, atol=1e-5)


def test_loss_is_the_mean_over_all_targets_and_the_gradient_is_clipped(folders):
    data = open_dataset(folders[0], None)
    config = small(grad_clip=0.01)
    result, gradients, _ = first_step(config, folders)
    fresh = Decoder(_shape(config, data)).initialise(config.seed)
    batch = load_batch(data.train, list(range(8)), True)
    with torch.no_grad():
        logits = fresh(batch.tokens, documents=batch.documents)
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED)
    assert result.loss == pytest.approx(float(expected), rel=1e-6)
    norm = math.sqrt(sum(float(g.pow(2).sum()) for g in gradients.values()))
    assert norm == pytest.approx(0.01, rel=1e-3) and result.grad_norm > 0.1
    unclipped, gradients, _ = first_step(small(grad_clip=0), folders)
    norm = math.sqrt(sum(float(g.pow(2).sum()) for g in gradients.values()))
    assert norm == pytest.approx(unclipped.grad_norm, rel=1e-5) == pytest.approx(result.grad_norm, rel=1e-5)


def test_end_of_document_is_learnt(folders):
    """The end token is predicted like any other: with only those targets left there is still a gradient."""
    data = open_dataset(folders[0], None)
    batch = load_batch(data.train, list(range(8)), True)
    only_ends = torch.where(batch.targets == data.tokens.eos_id, batch.targets, IGNORED)
    assert 5 < int((only_ends != IGNORED).sum()) < 100
    result, gradients, _ = first_step(small(), folders, targets=only_ends)
    assert result.loss > 1 and float(gradients["model.norm.weight"].norm()) > 0


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.35])
def test_schedule_is_that_of_transformers(warmup):
    """Ours is theirs one step on: the first update moves, the last stands on the floor."""
    config = small(learning_rate=0.7, warmup_ratio=warmup, min_lr_ratio=0.2)
    dummy = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.7)
    theirs = get_cosine_with_min_lr_schedule_with_warmup(dummy, round(40 * warmup), 40, min_lr_rate=0.2)
    rates = []
    for _ in range(40):
        dummy.step()
        theirs.step()
        rates.append(theirs.get_last_lr()[0])
    assert [learning_rate(step, 40, config) for step in range(40)] == pytest.approx(rates, rel=1e-9)
    assert rates[-1] == pytest.approx(0.14)


def test_matrices_decay_and_norms_do_not(folders):
    config = small(weight_decay=0.3, beta1=0.8, beta2=0.9)
    model = Decoder(_shape(config, open_dataset(folders[0], None)))
    decay = {
        id(p): group["weight_decay"] for group in build_optimizer(model, config).param_groups for p in group["params"]
    }
    assert {name: decay[id(p)] for name, p in model.named_parameters()} == {
        name: 0.0 if "norm" in name else 0.3 for name, _ in model.named_parameters()
    }
    assert build_optimizer(model, config).param_groups[0]["betas"] == (0.8, 0.9)


def test_a_finished_run(undisturbed, folders):
    out, summary = undisturbed
    lines = metrics(out)
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 9))
    assert [line["step"] for line in lines if "bits_per_byte" in line] == [4, 8]
    assert summary["bits_per_byte"] == lines[-1]["bits_per_byte"] and summary["steps"] == 8
    # speeds are what they say: tokens of the step by seconds of the step
    for before, after in zip([{"tokens": 0, "seconds": 0.0}, *steps], steps, strict=False):
        speed = (after["tokens"] - before["tokens"]) / (after["seconds"] - before["seconds"])
        assert after["tokens_per_second"] == pytest.approx(speed, rel=1e-6)
    data = open_dataset(folders[0], None)
    assert 0 < summary["tokens"] <= 8 * 4 * 64 and summary["tokens"] == steps[-1]["tokens"]
    assert [path.name for path in checkpoints(out / "trainer_state")] == ["step-00000006", "step-00000008"]
    assert not list(out.rglob("*.tmp"))
    stamp = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    assert pretrain(small(), *folders, out, log=silent) == summary
    assert stamp == {path: path.stat().st_mtime_ns for path in out.rglob("*")}

    # bits per byte, again, by transformers on the first rows
    model = AutoModelForCausalLM.from_pretrained(out)
    lengths, nats, size = token_bytes(folders[1], data.tokens.vocab_size), 0.0, 0
    for row in range(8):
        batch = load_batch(data.validation, [row], True)
        with torch.no_grad():
            positions = document_positions(batch.documents)
            scores = model(batch.tokens, position_ids=positions, use_cache=False).logits[0].log_softmax(-1)
        for score, target in zip(scores, batch.targets[0].tolist(), strict=True):
            if target >= 0 and lengths[target]:
                nats -= float(score[target])
                size += int(lengths[target])
    assert summary["bits_per_byte"] == pytest.approx(bits_per_byte(nats, size), rel=1e-5)


def test_stop_saves_and_the_run_goes_on_to_equal_bits(undisturbed, folders, tmp_path):
    asked = iter([False, False, True])
    with pytest.raises(Stopped, match="after step 3 of 8"):
        pretrain(small(), *folders, tmp_path, log=silent, stop=lambda: next(asked))
    assert not (tmp_path / "model.safetensors").exists()
    # knobs that only move work may change; each stop and start is one more chance to lose something
    for _ in range(2):
        with pytest.raises(Stopped):
            pretrain(small(save_every=7, keep_checkpoints=1), *folders, tmp_path, log=silent, stop=lambda: True)
    pretrain(small(), *folders, tmp_path, log=silent)
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert sha256(tmp_path / name) == sha256(undisturbed[0] / name)
    lines = [
        [{k: v for k, v in line.items() if k not in TIMED} for line in metrics(f)] for f in (tmp_path, undisturbed[0])
    ]
    assert lines[0] == lines[1]


def test_resume_is_bitwise_in_bfloat16_and_with_two_threads_too(folders, tmp_path):
    config = small(dtype="bfloat16", threads=2, steps=3, micro_batch_rows=3, eval_rows=2)
    pretrain(config, *folders, tmp_path / "one", log=silent)
    with pytest.raises(Stopped):
        pretrain(config, *folders, tmp_path / "two", log=silent, stop=lambda: True)
    pretrain(config, *folders, tmp_path / "two", log=silent)
    assert sha256(tmp_path / "one" / "model.safetensors") == sha256(tmp_path / "two" / "model.safetensors")


def test_compiled_steps_are_the_same_steps(undisturbed, folders, tmp_path, monkeypatch):
    """Traced by torch.compile but not turned into C++, which takes a minute."""
    used = []
    real = torch.compile
    monkeypatch.setattr(torch, "compile", lambda region: used.append(region) or real(region, backend="eager"))
    summary = pretrain(small(compile=True), *folders, tmp_path, log=silent)
    assert len(used) == small().layers + 1 and summary["bits_per_byte"] == pytest.approx(
        undisturbed[1]["bits_per_byte"], rel=1e-4
    )
    assert AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)[1]["unexpected_keys"] == set()


def test_a_full_disk_is_an_error_that_leaves_the_checkpoint_before(undisturbed, folders, tmp_path):
    with pytest.raises(Stopped):
        pretrain(small(), *folders, tmp_path, log=silent, stop=lambda: True)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # less than the weights
        with pytest.raises(OSError, match=r"(?i)file.*large|cannot write"):
            pretrain(small(), *folders, tmp_path, log=silent)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert [path.name for path in checkpoints(tmp_path / "trainer_state")] == ["step-00000001"]
    pretrain(small(), *folders, tmp_path, log=silent)
    assert sha256(tmp_path / "model.safetensors") == sha256(undisturbed[0] / "model.safetensors")
    assert not list(tmp_path.rglob("*.tmp"))


RUN = """
import sys, time
sys.path[:0] = {path!r}
from training.config import resolve
import training.pretrain as t
real = t.train_step
def slow(*a):
    result = real(*a)
    print("STEP", flush=True)
    time.sleep(0.15)
    return result
t.train_step = slow
t.pretrain(resolve({values!r}), {tokens!r}, {tokenizer!r}, {out!r}, log=lambda line: None)
"""


def test_kill_nine_and_run_again_gives_equal_bits(undisturbed, folders, tmp_path):
    """Killed in the sixth step, with the newest checkpoint of the fourth and metrics of the fifth."""
    values = {**SMALL, "threads": 1}
    code = RUN.format(
        path=sys.path, values=values, tokens=str(folders[0]), tokenizer=str(folders[1]), out=str(tmp_path)
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    for _ in range(5):
        assert process.stdout.readline() == "STEP\n"
    time.sleep(0.2)
    process.kill()
    process.wait()
    assert checkpoints(tmp_path / "trainer_state")[-1].name == "step-00000004"
    assert 4 <= max(line["step"] for line in metrics(tmp_path)) <= 6
    (tmp_path / "trainer_state" / "step-00000006.tmp").mkdir()  # as a kill in the middle of saving leaves it
    pretrain(small(), *folders, tmp_path, log=silent)
    assert sha256(tmp_path / "model.safetensors") == sha256(undisturbed[0] / "model.safetensors")
    assert [line["step"] for line in metrics(tmp_path) if "loss" in line] == list(range(1, 9))


def test_sigterm_saves_and_exits_143(undisturbed, folders, tmp_path):
    command = [sys.executable, "-m", "training", "pretrain", "--tokens", folders[0], "--tokenizer", folders[1]]
    command += ["--output", tmp_path]
    long = {**SMALL, "threads": 1, "steps": 100_000, "log_every": 1}
    command += [part for key, value in long.items() for part in ("--set", f"{key}={value}")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
    while not process.stdout.readline().startswith("step 3/"):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.stdout.read()
    assert process.wait(30) == 143
    newest = json.loads((checkpoints(tmp_path / "trainer_state")[-1] / "state.json").read_text())
    assert newest["step"] == metrics(tmp_path)[-1]["step"] >= 3


@pytest.mark.parametrize(("key", "value"), [("step", 7), ("skipped", None), ("tokens", 0)])
def test_a_state_that_was_changed_is_named(folders, tmp_path, key, value):
    with pytest.raises(Stopped):
        pretrain(small(), *folders, tmp_path, log=silent, stop=lambda: True)
    path = checkpoints(tmp_path / "trainer_state")[-1] / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(TrainingError, match=r"step-0000000\d is broken \(state.json is not what was written"):
        pretrain(small(), *folders, tmp_path, log=silent)


def test_going_on_in_another_dtype_is_said(folders, tmp_path):
    with pytest.raises(Stopped):
        pretrain(small(dtype="auto"), *folders, tmp_path, log=silent, stop=lambda: True)
    path, said = checkpoints(tmp_path / "trainer_state")[-1] / "state.json", []
    state = json.loads(path.read_text())
    here = state["dtype"]
    del state["xxh3"]
    path.write_text(state_text({**state, "dtype": "float16"}))
    pretrain(small(dtype="auto"), *folders, tmp_path, log=said.append)
    assert any(line.startswith(f"this run was begun in float16, and goes on in {here}") for line in said)


def test_a_checkpoint_has_no_name_before_its_export_is_there(folders, tmp_path, monkeypatch):
    """Else a run that is killed in between would never make it."""
    values = {"steps": 4, "save_every": 2, "keep_every": 2, "export_kept": True}
    monkeypatch.setattr("training.pretrain.save_model", lambda *_: (_ for _ in ()).throw(OSError("no room")))
    with pytest.raises(OSError, match="no room"):
        pretrain(small(**values), *folders, tmp_path, log=silent)
    assert checkpoints(tmp_path / "trainer_state") == []


def test_an_old_checkpoint_that_cannot_be_removed_does_not_end_the_run(folders, tmp_path, monkeypatch):
    remove = shutil.rmtree

    def refuse(path, *arguments, **options):
        if "step-00000002" in str(path) and not options.get("ignore_errors"):
            raise OSError(39, "Directory not empty")
        remove(path, *arguments, **options)

    monkeypatch.setattr("training.saver.shutil.rmtree", refuse)
    pretrain(small(steps=6, save_every=2, keep_checkpoints=1), *folders, tmp_path, log=silent)
    assert [path.name for path in checkpoints(tmp_path / "trainer_state")] == ["step-00000006"]


def test_another_config_or_data_or_tokenizer_is_refused(undisturbed, folders, tmp_path):
    with pytest.raises(
        TrainingError, match=rf"another config \(learning_rate: {small().learning_rate} there, 0.0001 now\)"
    ):
        pretrain(small(learning_rate=1e-4), *folders, undisturbed[0], log=silent)
    with pytest.raises(Stopped):
        pretrain(small(), *folders, tmp_path / "model", log=silent, stop=lambda: True)
    with pytest.raises(TrainingError, match=r"another config \(.*seed: .* there, 1 now"):
        pretrain(small(seed=1, beta1=0.5, beta2=0.6, z_loss=0.1), *folders, tmp_path / "model", log=silent)
    tokens, tokenizer = make(tmp_path / "other", documents=60)
    with pytest.raises(TrainingError, match="another model, dataset or tokenizer"):
        pretrain(small(), tokens, tokenizer, tmp_path / "model", log=silent)
    with pytest.raises(TrainingError, match="another tokenizer"):
        pretrain(small(), tokens, folders[1], tmp_path / "new", log=silent)


def test_broken_checkpoints_are_refused_by_name(folders, tmp_path):
    with pytest.raises(Stopped):
        pretrain(small(), *folders, tmp_path, log=silent, stop=lambda: True)
    newest = checkpoints(tmp_path / "trainer_state")[-1]
    for name in ("optimizer.safetensors", "model.safetensors", "state.json"):
        whole = (newest / name).read_bytes()
        (newest / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(TrainingError, match="step-00000001"):
            pretrain(small(), *folders, tmp_path, log=silent)
        (newest / name).write_bytes(whole)
    pretrain(small(), *folders, tmp_path, log=silent)


def test_a_loss_that_is_no_number_names_step_and_documents(folders, tmp_path, monkeypatch):
    data = open_dataset(folders[0], None)
    read = [row for step in range(4) for row in step_rows(step, len(data.train), 4, 0, True)]
    bad_row = read[-1]
    step = 1 + read.index(bad_row) // 4
    assert step > 2
    expected = data.documents_of(bad_row)
    real = Decoder.forward

    def poisoned(self, tokens, targets=None, documents=None, cache=None, **more):
        losses = real(self, tokens, targets, documents, cache, **more)
        poison = torch.from_numpy(data.train.row(bad_row)[0])
        hit = (tokens == poison).all(dim=1)
        return losses._replace(nll=losses.nll * torch.where(hit, torch.nan, 1.0)[:, None])

    monkeypatch.setattr(Decoder, "forward", poisoned)
    with pytest.raises(TrainingError) as error:
        pretrain(small(eval_every=100, max_rollbacks=0), *folders, tmp_path, log=silent)
    assert metrics(tmp_path)[-1]["step"] == step - 1
    assert f"step {step}:" in str(error.value) and f"Rows [{bad_row}]" in str(error.value)
    assert all(document["id"] in str(error.value) for document in expected)


def test_nothing_to_predict_is_an_error_not_a_division_by_zero(folders):
    with pytest.raises(BadRows, match="nothing to predict"):
        first_step(small(), folders, targets=torch.full((8, 64), IGNORED))


def test_no_validation_rows(tmp_path):
    folders = make(tmp_path / "data", documents=30, validation=0)
    said = []
    summary = pretrain(small(steps=2), *folders, tmp_path / "model", log=said.append)
    assert summary["bits_per_byte"] is None and summary["validation_loss"] is None
    assert any("no validation" in line for line in said)
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "model").config.vocab_size == summary_vocab(folders[0])


def summary_vocab(tokens: Path) -> int:
    return json.loads((tokens / "dataset.json").read_text())["vocab_size"]


def test_validation_does_not_depend_on_micro_batches(undisturbed, folders):
    data = open_dataset(folders[0], None)
    config = small()
    model = Decoder(_shape(config, data)).initialise(0)
    lengths = token_bytes(folders[1], data.tokens.vocab_size)
    with place(config) as here:
        results = [validate(model, data.validation, lengths, small(micro_batch_rows=n), here) for n in (1, 3, 8)]
        fewer = validate(model, data.validation, lengths, small(eval_rows=2), here)
    assert np.ptp([result.bits_per_byte for result in results]) < 1e-6
    assert abs(fewer.bits_per_byte - results[0].bits_per_byte) > 1e-4


def test_it_learns_well_below_the_unigram_baseline_over_many_epochs(folders, tmp_path):
    config = small(steps=60, learning_rate=0.01, batch_rows=16, micro_batch_rows=16, eval_every=60, save_every=60)
    summary = pretrain(config, *folders, tmp_path, log=silent)
    assert summary["bits_per_byte"] < 0.6 * summary["unigram_bits_per_byte"]
