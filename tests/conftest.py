"""Fixtures that several test files share, and what holds for all."""

import os

import pytest

from tests.tokens_dataset import dataset, tokenizer

__all__ = ["dataset", "tokenizer"]

# Tests start hundreds of processes; where no bytecode is written, each compiles all modules of the project again (a second).
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Two processes test at a time, and tensors here are small: threads would only wait for each other. Read when torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Ray runs its workers at the lowest priority but four, so beside another test they would hardly get a CPU at all.
os.environ.setdefault("RAY_worker_niceness", "0")

# With several processes (`make test`) a file is one piece of work, so the longest come first: none is left alone at the end.
LONGEST = (
    "test_training_ray.py",
    "test_training_parallel.py",
    "test_engine_reread.py",
    "test_engine_poison.py",
    "test_engine_resume.py",
    "test_engine_storage.py",
    "test_training_scaling.py",
    "test_evaluate_section.py",
    "test_training_pretrain.py",
    "test_extract.py",
    "test_recipes.py",
    "test_apply.py",
    "test_engine_cluster.py",
    "test_run_sample.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))
