"""What goes wrong: rotten checkpoints, full disks, bad rows, wrong vocabularies, tiny corpora, two runs in one folder."""

import errno
import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

import training.checkpoint
import training.saver
import training.step
from tests.training_common import SMALL, make
from training.checkpoint import checkpoints
from training.config import resolve
from training.data import Batches, load_batch, open_dataset, step_rows
from training.knobs import TrainingError
from training.model import Decoder
from training.pretrain import pretrain
from training.resume import Stopped
from training.watch import norm_limit, position, remember


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data"))


def small(**changes):
    return resolve({**SMALL, "threads": 1, "eval_every": 100, "eval_rows": 2, **changes})


def silent(_):
    pass


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def rollbacks(folder: Path) -> list[dict]:
    return [line for line in metrics(folder) if line.get("event") == "rollback"]


def losses(folder: Path) -> list[float]:
    return [line["loss"] for line in metrics(folder) if "loss" in line]


def steps_saved(folder: Path) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in checkpoints(folder / "trainer_state")]


def stop_after(count: int):
    asked = []
    return lambda: asked.append(1) or len(asked) == count


# Checkpoints


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors"])
@pytest.mark.parametrize("damage", ["bit", "cut", "gone"])
def test_damage_is_found_and_named_and_the_checkpoint_before_is_good(folders, tmp_path, name, damage):
    with pytest.raises(Stopped):
        pretrain(small(), *folders, tmp_path, log=silent, stop=stop_after(5))
    assert steps_saved(tmp_path) == [2, 4, 5]  # two regular ones, and the stop's
    file = tmp_path / "trainer_state" / "step-00000005" / name
    content = bytearray(file.read_bytes())
    if damage == "bit":
        content[-100] ^= 4  # among the weights, where no parser would notice
    file.write_bytes(content[: len(content) - 8] if damage == "cut" else content)
    if damage == "gone":
        file.unlink()
    with pytest.raises(
        TrainingError, match=rf"step-00000005 is broken \({name}.*remove it to go on from the one before"
    ):
        pretrain(small(), *folders, tmp_path, log=silent)
    for rest in file.parent.iterdir():
        rest.unlink()
    file.parent.rmdir()
    said = []
    pretrain(small(), *folders, tmp_path, log=said.append)
    assert any(line.startswith("going on from step 4") for line in said) and len(losses(tmp_path)) == 8


def test_kept_are_the_newest_and_every_multiple_and_exports_are_models(folders, tmp_path):
    config = small(save_every=2, keep_checkpoints=2, keep_every=3, export_kept=True)
    pretrain(config, *folders, tmp_path, log=silent)
    assert steps_saved(tmp_path) == [3, 6, 8]
    for step in (3, 6):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / f"step-{step:08d}")
        saved = load_file(tmp_path / "trainer_state" / f"step-{step:08d}" / "model.safetensors")
        for name, parameter in model.named_parameters():
            assert torch.equal(parameter, saved[name]), (step, name)
    with pytest.raises(TrainingError, match="export_kept needs keep_every"):
        small(export_kept=True)


def test_a_checkpoint_is_written_beside_the_steps_and_holds_the_state_of_its_own_step(folders, tmp_path, monkeypatch):
    """The writer of step 2 is held up until step 3 has changed the weights."""
    go_on, order = threading.Event(), []
    real_write, real_step = training.saver.write_tensors, training.step.train_step

    def late(path, tensors):
        if path.parent.name == "step-00000002.tmp":
            assert threading.current_thread() is not threading.main_thread() and go_on.wait(60)
            order.append("written")
        real_write(path, tensors)

    def step(*given):
        result = real_step(*given)
        order.append("step")
        if len(order) == 3:
            go_on.set()
        return result

    monkeypatch.setattr(training.saver, "write_tensors", late)
    monkeypatch.setattr("training.pretrain.train_step", step)
    pretrain(small(keep_checkpoints=4), *folders, tmp_path / "a", log=silent)
    assert order.index("written") >= 3
    monkeypatch.undo()
    pretrain(small(keep_checkpoints=4), *folders, tmp_path / "b", log=silent)
    for name in ("model.safetensors", "optimizer.safetensors"):
        a, b = (load_file(tmp_path / x / "trainer_state" / "step-00000002" / name) for x in "ab")
        assert all(torch.equal(a[key], b[key]) for key in b)


def test_a_write_that_fails_in_the_background_ends_the_run_and_the_one_before_is_whole(folders, tmp_path, monkeypatch):
    real = training.saver.write_tensors

    def full(path, tensors):
        if path.parent.name == "step-00000004.tmp" and path.name == "optimizer.safetensors":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, tensors)

    monkeypatch.setattr(training.saver, "write_tensors", full)
    with pytest.raises(
        OSError, match=r"cannot write the checkpoint .*step-00000004: .*No space left.*before it are whole"
    ):
        pretrain(small(), *folders, tmp_path, log=silent)
    assert steps_saved(tmp_path) == [2] and not list(tmp_path.rglob("*.tmp"))
    monkeypatch.undo()
    pretrain(small(), *folders, tmp_path, log=silent)
    assert len(losses(tmp_path)) == 8


def test_a_second_run_in_the_same_folder_is_refused_while_the_first_lives(folders, tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from training.lock import only_run\n"
        "with only_run(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(600)"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "trainer_state"], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(TrainingError, match=rf"another run writes to .*process {holder.pid} on "):
            pretrain(small(steps=1), *folders, tmp_path, log=silent)
    finally:
        holder.kill()
        holder.wait()
    pretrain(small(steps=1), *folders, tmp_path, log=silent)  # the dead one holds nothing


# The watch


def test_positions_by_hand():
    assert [position(step, ()) for step in range(3)] == [0, 1, 2]
    assert [position(step, {0, 1, 3}) for step in range(4)] == [2, 4, 5, 6]
    skipped = {5, 2, 9, 10}
    assert [position(step, skipped) for step in range(20)] == [at for at in range(24) if at not in skipped]


def test_spikes_by_hand():
    config = small(spike_factor=3.0, spike_window=3)
    norms: tuple[float, ...] = ()
    for norm in (1.0, 5.0, 2.0):
        assert norm_limit(norms, config) == float("inf")
        norms = remember(norms, norm, config)
    assert norm_limit(norms, config) == 6.0
    assert remember(norms, 7.0, config) == (5.0, 2.0, 7.0)
    assert remember((), 7.0, small()) == ()


def poison(monkeypatch, data, rows, factor):
    """The loss of these rows, and with it their gradient, is multiplied."""
    real, bad = Decoder.forward, [torch.from_numpy(data.train.row(row)[0]) for row in rows]

    def forward(self, tokens, targets=None, *given, **named):
        losses = real(self, tokens, targets, *given, **named)
        if targets is None:
            return losses
        hit = torch.stack([(tokens == row).all(dim=1) for row in bad]).any()
        return losses._replace(objective=losses.objective * torch.where(hit, factor, 1.0))

    monkeypatch.setattr(Decoder, "forward", forward)


@pytest.mark.parametrize(
    ("factor", "changes"), [(float("nan"), {}), (1000.0, {"spike_factor": 20.0, "spike_window": 3})]
)
def test_a_bad_batch_is_skipped_named_and_the_rest_is_as_without_it(folders, tmp_path, monkeypatch, factor, changes):
    """Update 5 reads a bad row: it takes the next batch instead, and all behind move up by one. Stopped and resumed too."""
    data = open_dataset(folders[0], None)
    config = small(grad_clip=0.0, **changes)
    rows = step_rows(4, len(data.train), 4, 0, True)
    read: list[list[int]] = []
    real = training.step.train_step

    def step(network, optimizer, batch, *given):
        result = real(network, optimizer, batch, *given)
        read.append(batch.rows)  # only of steps that were taken
        return result

    monkeypatch.setattr("training.pretrain.train_step", step)
    poison(monkeypatch, data, [rows[2]], factor)
    said = []
    summary = pretrain(config, *folders, tmp_path / "a", log=said.append)
    assert summary["skipped_batches"] == [4]
    assert read == [step_rows(at, len(data.train), 4, 0, True) for at in (0, 1, 2, 3, 5, 6, 7, 8)]
    (event,) = rollbacks(tmp_path / "a")
    assert (event["step"], event["position"], event["rows"]) == (5, 4, sorted(rows))
    named = {document["id"] for row in rows for document in data.documents_of(row)}
    assert {document["id"] for document in event["documents"]} == named
    assert any("going on without batch 4" in line and next(iter(named)) in " ".join(said) for line in said)
    assert len(losses(tmp_path / "a")) == 8

    for stop_at in (4, 1, 3):  # before the bad batch, right behind it, and once more
        try:
            pretrain(config, *folders, tmp_path / "b", log=silent, stop=stop_after(stop_at))
        except Stopped:
            continue
    pretrain(config, *folders, tmp_path / "b", log=silent)
    assert losses(tmp_path / "a") == losses(tmp_path / "b") and len(rollbacks(tmp_path / "b")) == 1
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()


def test_a_state_that_is_suspect_goes_back_to_the_checkpoint_and_skips_all_since(folders, tmp_path, monkeypatch):
    """From the fifth update on no batch is good until the weights of step 4 are loaded again."""
    real, seen, loaded = training.step.train_step, [], []
    real_load = training.checkpoint.load_state

    def step(network, optimizer, batch, *given):
        seen.append(batch.rows)
        if len(seen) in (6, 7):
            raise training.step.BadRows("the loss is nan", batch.rows)
        return real(network, optimizer, batch, *given)

    monkeypatch.setattr("training.pretrain.train_step", step)
    monkeypatch.setattr("training.resume.load_state", lambda *given: loaded.append(given[0].name) or real_load(*given))
    summary = pretrain(small(), *folders, tmp_path, log=silent)
    data = open_dataset(folders[0], None)
    assert loaded == ["step-00000004"]
    # updates 1 to 5 read 0 to 4; update 6 fails on 5 and on 6; back to step 4, without 4, 5 and 6
    assert seen == [step_rows(at, len(data.train), 4, 0, True) for at in (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10)]
    assert summary["skipped_batches"] == [4, 5, 6] and len(losses(tmp_path)) == 8
    assert [(event["from_step"], event["to_step"]) for event in rollbacks(tmp_path)] == [(5, 5), (5, 4)]
    assert [line["step"] for line in metrics(tmp_path) if "loss" in line] == list(range(1, 9))


def test_behind_a_stop_a_suspect_state_goes_back_to_where_an_undisturbed_run_does(folders, tmp_path, monkeypatch):
    """The sixth update fails twice. A stop's checkpoint of step 5 is newer than the regular one of step 4."""
    real = training.step.train_step
    data = open_dataset(folders[0], None)
    bad = [step_rows(at, len(data.train), 4, 0, True) for at in (5, 6)]

    def step(network, optimizer, batch, *given):
        if batch.rows in bad:
            raise training.step.BadRows("the loss is nan", batch.rows)
        return real(network, optimizer, batch, *given)

    monkeypatch.setattr("training.pretrain.train_step", step)
    pretrain(small(keep_checkpoints=1), *folders, tmp_path / "a", log=silent)
    for after, there in ((2, [2]), (3, [4, 5]), (1, [4, 5])):  # at 2, at 5, and, from 5 back to 4, at 5 once more
        with pytest.raises(Stopped):
            pretrain(small(keep_checkpoints=1), *folders, tmp_path / "b", log=silent, stop=stop_after(after))
        assert steps_saved(tmp_path / "b") == there
    pretrain(small(keep_checkpoints=1), *folders, tmp_path / "b", log=silent)
    assert rollbacks(tmp_path / "a") == rollbacks(tmp_path / "b")  # the first refusal's line too, of a step ahead
    assert [(event["from_step"], event["to_step"]) for event in rollbacks(tmp_path / "b")] == [(5, 5), (5, 4)]
    assert losses(tmp_path / "a") == losses(tmp_path / "b")
    assert (tmp_path / "a" / "model.safetensors").read_bytes() == (tmp_path / "b" / "model.safetensors").read_bytes()
    assert steps_saved(tmp_path / "b") == [8]


def test_after_max_rollbacks_the_run_ends_and_names_the_rows(folders, tmp_path, monkeypatch):
    data = open_dataset(folders[0], None)
    poison(monkeypatch, data, list(range(len(data.train))), float("nan"))
    with pytest.raises(TrainingError, match=r"step 1: .*max_rollbacks=2 batches were skipped before. Rows \["):
        pretrain(small(max_rollbacks=2), *folders, tmp_path, log=silent)
    assert [event["position"] for event in rollbacks(tmp_path)] == [0, 1]


def test_urls_of_the_sidecar_are_named(folders, tmp_path):
    tokens, _ = make(tmp_path, documents=20)
    file = tokens / "train-00000.parquet"
    table = pq.read_table(file)
    urls = [f"https://mill.example/{name}" for name in table.column("id").to_pylist()]
    pq.write_table(table.append_column("url", [urls]), file)
    found = open_dataset(tokens, None).documents_of(1)
    assert found and all(one["url"] == f"https://mill.example/{one['id']}" for one in found)
    assert all("url" not in one for one in open_dataset(folders[0], None).documents_of(1))


# Data


def test_batches_read_ahead_are_those_that_are_read_here(folders):
    data = open_dataset(folders[0], None)
    rows_at = lambda at: step_rows(at, len(data.train), 4, 0, True)  # noqa: E731
    ahead, here = (Batches(data.train, rows_at, True, threads, 3, False) for threads in (2, 0))
    for at in (0, 1, 2, 7, 8, 3, 50, 51):  # in order, and with jumps
        a, b = ahead.take(at), here.take(at)
        assert a.rows == b.rows == rows_at(at)
        assert all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))
    ahead.close()
    here.close()


def test_a_tiny_corpus_for_many_epochs_and_no_validation(tmp_path):
    """Fewer rows than a batch: each row is read as often as any other, and the run ends."""
    folders = make(tmp_path / "data", documents=2, validation=0, length=32)
    rows = len(open_dataset(folders[0], None).train)
    assert rows < 16
    summary = pretrain(small(steps=5, batch_rows=16, micro_batch_rows=16), *folders, tmp_path / "model", log=silent)
    assert summary["bits_per_byte"] is None and len(losses(tmp_path / "model")) == 5


def test_ids_beyond_the_vocabulary_name_file_and_rows(tmp_path):
    tokens, tokenizer = make(tmp_path, documents=20)
    payload = np.memmap(tokens / "train-00000.bin", "<u2", "r+")
    payload[70] = 60_000
    payload.flush()
    data = open_dataset(tokens, None)
    with pytest.raises(TrainingError, match=r"token id 60000 in rows \[0, 1\] is beyond the vocabulary"):
        load_batch(data.train, [0, 1], True)
    with pytest.raises(TrainingError, match="token id 60000"):
        pretrain(small(), tokens, tokenizer, tmp_path / "model", log=silent)


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_a_sidecar_that_is_not_whole_is_named(tmp_path, damage):
    tokens, tokenizer = make(tmp_path, documents=20)
    file = tokens / "validation-00000.parquet"
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:100])
    else:
        file.unlink()
    with pytest.raises(TrainingError, match=r"validation-00000\.parquet: .*copy the dataset again"):
        pretrain(small(), tokens, tokenizer, tmp_path / "model", log=silent)


def test_an_output_folder_that_is_a_file_is_a_mistake(folders, tmp_path):
    (tmp_path / "file").write_text("mine")
    for out in (tmp_path / "file", tmp_path / "file" / "model"):
        with pytest.raises(TrainingError, match="below a file; choose another"):
            pretrain(small(), *folders, out, log=silent)


def test_a_vocabulary_larger_than_the_tokenizers_is_refused(tmp_path):
    tokens, tokenizer = make(tmp_path, documents=20)
    facts = json.loads((tokens / "dataset.json").read_text())
    facts["vocab_size"] += 100
    (tokens / "dataset.json").write_text(json.dumps(facts))
    with pytest.raises(TrainingError, match=r"vocabulary of 500 .* tokenizer.* has 400"):
        pretrain(small(), tokens, tokenizer, tmp_path / "model", log=silent)
