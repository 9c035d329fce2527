"""What tests of evaluation share: a small trained model, a task of choices, and texts, in several scripts."""

import json
from pathlib import Path

import pytest
import torch

from tests.training_common import SMALL, make, texts
from training.checkpoint import load_model
from training.config import resolve
from training.pretrain import pretrain
from training.vocabulary import load_tokenizer

CPU = torch.device("cpu")


def trained(folders: tuple[Path, Path], out: Path, steps: int) -> Path:
    """A small model that has read the data a few times."""
    config = {**SMALL, "threads": 1, "steps": steps, "batch_rows": 16, "micro_batch_rows": 16, "learning_rate": 0.01}
    pretrain(resolve({**config, "save_every": steps, "eval_every": steps}), *folders, out, log=lambda line: None)
    return out


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model_dir(folders, tmp_path_factory):
    return trained(folders, tmp_path_factory.mktemp("trained") / "model", 40)


@pytest.fixture(scope="module")
def loaded(model_dir):
    model, end = load_model(model_dir, CPU)
    return model, load_tokenizer(model_dir), end


@pytest.fixture(scope="module")
def theirs(model_dir):
    """The harness's own class for transformers."""
    from lm_eval.models.huggingface import HFLM

    return HFLM(pretrained=str(model_dir), device="cpu", dtype="float32", batch_size=4)


@pytest.fixture(scope="module")
def choices_file(tmp_path_factory):
    return write_choices(tmp_path_factory.mktemp("tasks") / "mill.jsonl")


CHOICES = [
    {"query": q, "choices": c, "gold": g}
    for q, c, g in [
        ("the miller grinds", ["the corn.", "der Müller mahlt das Korn.", "water"], 0),
        ("der Müller", ["mahlt das Korn.", "x", "porte la farine… the old mill"], 0),
        ("мельник мелет", ["🌾", "зерно.", "the corn."], 1),
        ("a river carries ", ["stones;", "water\nto the wheel."], 1),
        ("la meunière porte la farine… the old mill turns", ["stones;", "das Korn.", "麦を。", "to"], 0),
        ("粉屋 挽く", ["flour 🥖", "麦を。"], 1),
        ("the old mill", ["keeps", "k", "keeps the corn. a river turns stones;"], 0),
    ]
]


def write_choices(path: Path) -> Path:
    path.write_text("".join(json.dumps(item) + "\n" for item in CHOICES))
    return path


def long_texts(count: int = 9) -> list[str]:
    """Of very different length, several windows of 64 tokens long."""
    corpus = texts(60, seed=3)
    return [" ".join(corpus[i : i + 1 + 6 * (i % 3)]) for i in range(count)] + ["x", "粉屋 🌾"]
