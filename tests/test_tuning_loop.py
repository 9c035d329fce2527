"""The loop of all fine-tuning, with a task that is as small as can be: a language model on a few fixed rows."""

import json
import shutil

import pytest
import torch

from tests.model_common import random_model, shape
from tests.training_common import texts, write_tokenizer
from training.checkpoint import checkpoints, save_model
from training.data import step_rows
from training.knobs import TrainingError, resolve_as
from training.resume import Stopped
from training.tuning.config import TuneConfig
from training.tuning.run import Best, Step, Task, held_out, steps_of, tune
from training.tuning.update import NotFinite, Sums, update


class Rows(Task):
    """Next tokens of random rows; the last ones are held out."""

    kind = "rows"

    def __init__(self, config, spoil=None, validation=None):
        self.config, self.spoil, self.figures, self.count = config, spoil, validation, 0
        generator = torch.Generator().manual_seed(5)
        self.rows = torch.randint(0, 97, (24, 12), generator=generator)

    def inputs(self):
        return [str(self.rows.sum())]

    def begin(self, bench):
        self.bench = bench
        return steps_of(self.config, 20)

    def objective(self, network, rows):
        targets = torch.full_like(rows, -100)
        targets[:, :-1] = rows[:, 1:]
        losses = network(rows, targets)
        return losses.objective, {"nll": (losses.nll.sum(), int((targets >= 0).sum()))}

    def step(self, number, rate):
        here, config = self.bench.here, self.config
        mine = step_rows(number, 20, config.batch_rows, config.seed, True, here.rank, here.world)
        parts = [self.rows[mine[i : i + config.micro_batch_rows]] for i in range(0, len(mine), config.micro_batch_rows)]
        if number == self.spoil:
            with torch.no_grad():
                next(self.bench.network.parameters()).fill_(float("nan"))
        total = config.batch_rows * 11
        made = update(self.bench.network, self.bench.optimizer, parts, self.objective, total, config, here, rate)
        self.count += 1
        return Step(made, total)

    def evaluate(self):
        with torch.no_grad():
            loss = float(self.objective(self.bench.network, self.rows[20:])[0]) / 44
        return {"validation_loss": self.figures.pop(0) if self.figures else loss}

    def state(self):
        return {"count": self.count}

    def load_state(self, state):
        self.count = state["count"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    write_tokenizer(folder, texts(20), 300)
    save_model(folder, random_model(shape()), folder, 0)
    return folder


def config_of(**knobs):
    base = {"steps": 6, "batch_rows": 4, "micro_batch_rows": 2, "learning_rate": 1e-3, "dtype": "float32", "threads": 1}
    return resolve_as(TuneConfig, {**base, "save_every": 2, "eval_every": 2, **knobs}, "rows")


def bits(folder):
    return (folder / "model.safetensors").read_bytes()


def test_a_run_learns_and_leaves_what_the_contract_says(folder, tmp_path):
    said = []
    config = config_of(steps=30, learning_rate=1e-2)
    summary = tune(Rows(config), config, folder, tmp_path / "out", log=said.append)
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "nll" in line]
    assert [line["step"] for line in steps] == list(range(1, 31))
    assert steps[-1]["nll"] < 0.7 * steps[0]["nll"] and steps[0]["loss"] == pytest.approx(steps[0]["nll"])
    assert summary["figures"]["validation_loss"] == [x for x in lines if "validation_loss" in x][-1]["validation_loss"]
    assert json.loads((tmp_path / "out" / "training.json").read_text()) == summary
    from transformers import AutoModelForCausalLM

    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").num_parameters() == summary["parameters"]
    assert tune(Rows(config), config, folder, tmp_path / "out", log=said.append) == summary
    assert said[-1].endswith("nothing to do")


def test_micro_batches_change_nothing(folder, tmp_path):
    def losses(name, micro):
        config = config_of(micro_batch_rows=micro)
        tune(Rows(config), config, folder, tmp_path / name, log=lambda _: None)
        lines = [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        return [line["loss"] for line in lines if "nll" in line]

    assert losses("a", 4) == pytest.approx(losses("b", 1), rel=1e-6)


def test_stopped_and_run_again_it_ends_at_the_same_bits_with_its_own_state(folder, tmp_path):
    config = config_of()
    whole = Rows(config)
    tune(whole, config, folder, tmp_path / "whole", log=lambda _: None)
    asked = iter([False, False, True])
    with pytest.raises(Stopped, match="after step 3"):
        tune(Rows(config), config, folder, tmp_path / "cut", log=lambda _: None, stop=lambda: next(asked))
    again = Rows(config)
    tune(again, config, folder, tmp_path / "cut", log=lambda _: None)
    assert bits(tmp_path / "whole") == bits(tmp_path / "cut")
    assert again.count == whole.count == 6


def test_early_stop_keeps_the_best_also_when_it_was_stopped_between(folder, tmp_path):
    knobs = {"early_stop": 2, "eval_every": 1, "steps": 20, "save_every": 1, "keep_checkpoints": 1}
    config = config_of(**knobs)
    figures = [3.0, 2.0, 2.5, 2.6, 0.0]
    summary = tune(Rows(config, validation=figures[:]), config, folder, tmp_path / "out", log=lambda _: None)
    assert (summary["steps"], summary["best_step"]) == (4, 2)
    assert "not been better for 2" in summary["ended"]
    assert bits(tmp_path / "out") != bits(folder)
    asked = iter([False, False, True])
    with pytest.raises(Stopped):
        tune(
            Rows(config, validation=figures[:3]), config, folder, tmp_path / "cut", log=print, stop=lambda: next(asked)
        )
    tune(Rows(config, validation=figures[3:]), config, folder, tmp_path / "cut", log=lambda _: None)
    assert bits(tmp_path / "out") == bits(tmp_path / "cut")


def test_a_loss_that_is_no_number_ends_the_run_and_spoils_no_checkpoint(folder, tmp_path):
    config = config_of()
    with pytest.raises(TrainingError, match=r"step 4: the loss is nan.*learning_rate"):
        tune(Rows(config, spoil=3), config, folder, tmp_path / "out", log=lambda _: None)
    assert [path.name for path in checkpoints(tmp_path / "out" / "trainer_state")] == ["step-00000002"]


def test_what_a_folder_cannot_be_used_for(folder, tmp_path):
    config = config_of()
    tune(Rows(config), config, folder, tmp_path / "out", log=lambda _: None)
    with pytest.raises(TrainingError, match=r"holds a run of another config \(seed: 0 there, 1 now\)"):
        other = config_of(seed=1)
        tune(Rows(other), other, folder, tmp_path / "out", log=lambda _: None)
    with pytest.raises(TrainingError, match="is the model itself"):
        tune(Rows(config), config, folder, folder)
    with pytest.raises(TrainingError, match="no model folder"):
        tune(Rows(config), config, tmp_path, tmp_path / "new")
    copy = shutil.copytree(folder, tmp_path / "copy")
    (copy / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(TrainingError):
        tune(Rows(config), config, copy, tmp_path / "new")


def test_knobs_that_need_another():
    with pytest.raises(TrainingError, match="early_stop needs validation"):
        config_of(early_stop=1, validation=0)
    with pytest.raises(TrainingError, match="did you mean 'epochs'"):
        config_of(epoch=1)


def test_held_out_examples_depend_on_their_own_id_alone():
    ids = [f"id-{i}" for i in range(4000)]
    chosen = held_out(ids, 0.1)
    assert held_out(ids[::-1], 0.1) == chosen[::-1]
    assert 320 < sum(chosen) < 480
    assert not any(held_out(ids, 0.0))


def test_the_best_figure_may_be_the_largest():
    best = Best(config_of(early_stop=1))
    assert best.look(1, {"accuracy": 0.5}, ("accuracy", "max")) is None
    assert best.look(2, {"accuracy": 0.6}, ("accuracy", "max")) is None
    assert best.look(3, {"accuracy": 0.6}, ("accuracy", "max")) is not None
    assert best.step == 2


def test_sums_leave_out_what_has_no_weight():
    from training.device import Place

    here = Place(0, 1, torch.device("cpu"), torch.float32, 1)
    sums = Sums()
    sums.add({"a": (torch.tensor(2.0), 1), "b": (0.0, 0)})
    sums.add({"a": (4.0, torch.tensor(2))})
    assert sums.over(here) == {"a": 2.0}


def test_nothing_is_updated_by_a_gradient_that_is_no_number():
    from training.device import Place
    from training.optimizer import build_optimizer

    here = Place(0, 1, torch.device("cpu"), torch.float32, 1)
    network = torch.nn.Linear(2, 1)
    before = network.weight.clone()
    optimizer = build_optimizer(network, config_of())
    with pytest.raises(NotFinite):
        update(network, optimizer, [1], lambda n, _: (n.weight.sum() * float("inf"), {}), 1, config_of(), here, 1.0)
    assert torch.equal(network.weight, before)
