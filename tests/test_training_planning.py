"""Planning a run: parameters and memory against real models, and the refusal of what cannot fit."""

import pytest

from tests.training_common import SMALL, make
from training.config import TrainingError, resolve
from training.planning import memory
from training.planning.check import check, cpu_memory
from training.pretrain import pretrain

GIB = memory.GIB


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data"))


def test_a_run_that_cannot_fit_is_refused_before_it_starts(folders, tmp_path):
    config = resolve({**SMALL, "batch_rows": 10**7, "micro_batch_rows": 10**7})
    with pytest.raises(TrainingError, match=r"needs about .* GiB.*logits.*micro_batch_rows.*memory_check"):
        pretrain(config, *folders, tmp_path / "model", log=lambda _: None)
    assert not (tmp_path / "model" / "trainer_state").exists()


def test_memory_check_off_lets_it_start(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("training.planning.check.cpu_memory", lambda: 1)
    with pytest.raises(TrainingError, match="micro_batch_rows"):
        pretrain(resolve({**SMALL, "steps": 1}), *folders, tmp_path / "a", log=lambda _: None)
    done = pretrain(resolve({**SMALL, "steps": 1, "memory_check": False}), *folders, tmp_path / "b", log=lambda _: None)
    assert done["steps"] == 1


def test_what_fits_is_let_through():
    need = check(
        resolve({"preset": "1b"}), 128_256, 2_048, available=80 * 10**9, device="cuda", bytes_per_element=2, world=1
    )
    assert 40 * GIB < need.total < 80 * 10**9
    with pytest.raises(TrainingError, match="cuda has"):
        check(resolve({"preset": "1b"}), 128_256, 2_048, available=24 * 10**9, device="cuda", bytes_per_element=2)


def test_processes_of_one_machine_share_its_memory():
    config = resolve(SMALL)
    need = check(config, 400, 64, available=cpu_memory(), device="cpu", bytes_per_element=4).total
    check(config, 400, 64, available=2 * need, device="cpu", bytes_per_element=4, processes_here=2)
    with pytest.raises(TrainingError):
        check(config, 400, 64, available=2 * need - 2, device="cpu", bytes_per_element=4, processes_here=2)
