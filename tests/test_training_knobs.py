"""Every knob of a run changes something: the weights that come out, what is written, or how it is computed."""

import hashlib
import json
import re
from functools import cache
from pathlib import Path

import pytest

from tests.training_common import SMALL, make
from training.config import PretrainConfig, resolve
from training.knobs import TrainingError
from training.pretrain import pretrain

ROOT = Path(__file__).parent.parent
# knob -> (its value, what else must be set in both runs): other weights come out. Those of the model: test_training_presets.py
RESULT = {
    "document_mask": (False, {}),
    "shuffle": (False, {}),
    "steps": (2, {}),
    "tokens": (300, {"steps": None, "tokens": 900}),
    "batch_rows": (2, {}),
    "learning_rate": (1e-4, {}),
    "schedule": ("linear", {}),
    "min_lr_ratio": (0.5, {}),
    "warmup_ratio": (0.5, {}),
    "decay_ratio": (0.7, {"schedule": "wsd"}),
    "decay_shape": ("linear", {"schedule": "wsd", "decay_ratio": 0.7}),
    "optimizer": ("muon", {}),
    "weight_decay": (5.0, {}),
    "decay_embeddings": (False, {"weight_decay": 5.0}),
    "embedding_learning_rate": (1e-2, {}),
    "head_learning_rate": (1e-2, {"tie_embeddings": False}),
    "muon_learning_rate": (1e-2, {"optimizer": "muon"}),
    "muon_momentum": (0.5, {"optimizer": "muon"}),
    "beta1": (0.5, {}),
    "beta2": (0.5, {}),
    "grad_clip": (0.01, {}),
    "z_loss": (1.0, {}),
    "seed": (1, {}),
    "dtype": ("bfloat16", {}),
}
# likewise: other files, lines of metrics.jsonl, or facts in training.json
RECORD = {
    "eval_every": (1, {}),
    "eval_rows": (2, {}),
    "save_every": (1, {"keep_checkpoints": 9}),
    "keep_checkpoints": (1, {"save_every": 1}),
    "keep_every": (1, {"save_every": 1, "keep_checkpoints": 1}),
    "export_kept": (True, {"keep_every": 1}),
    "log_every": (1, {}),
    "sample_prompts": (("the mill", "a river"), {}),
    "sample_every": (1, {}),
    "sample_tokens": (3, {}),
    "sample_temperature": (0.0, {}),
    "tracker": (("tensorboard",), {}),
    "peak_flops": (1e9, {}),
}
# these move work about, or say where and how it is done; each has tests of its own in the files named
ELSEWHERE = {
    "preset": "presets",
    "sequence_length": "data",
    "micro_batch_rows": "pretrain",
    "device": "generate",
    "tf32": "precision",
    "float8": "precision",
    "recompute": "precision",
    "recompute_every": "precision",
    "threads": "pretrain",
    "memory_check": "planning",
    "compile": "pretrain",
    "parallel": "parallel",
    "reshard": "parallel",
    "process_timeout": "parallel",
    "loader_threads": "data",
    "prefetch": "data",
    "max_rollbacks": "faults",
    "spike_factor": "faults",
    "spike_window": "faults",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def plain(folders, tmp_path_factory):
    """What a run without the knob gives; made once for all knobs that need the same beside them."""
    return cache(lambda beside: observed(folders, tmp_path_factory.mktemp("plain"), **json.loads(beside)))


def small(**changes):
    base = {**SMALL, "threads": 1, "steps": 4, "eval_every": 4, "save_every": 4, "peak_flops": 1e12, "tracker": ()}
    return resolve({**base, **{name: value for name, value in changes.items()}})


def observed(folders, out: Path, **changes) -> tuple[str, list]:
    """SHA-256 of the weights; file names, lines logged, and metrics without what depends on the clock."""
    said: list[str] = []
    summary = pretrain(small(**changes), *folders, out, log=said.append)
    names = sorted(re.sub(r"tfevents.*", "tfevents", str(path.relative_to(out))) for path in out.rglob("*"))
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    facts = [sorted((k, str(v)) for k, v in line.items() if k in ("step", "loss", "bits_per_byte")) for line in lines]
    steps = [line.split("  ")[0] for line in said]
    samples = out / "samples.jsonl"
    seen = [names, facts, steps, summary["peak_flops"], samples.read_text() if samples.exists() else ""]
    return hashlib.sha256((out / "model.safetensors").read_bytes()).hexdigest(), seen


def test_every_knob_is_in_one_list():
    names = list(PretrainConfig.model_fields)
    of_the_model = names[names.index("depth") : names.index("sequence_length")]
    assert sorted([*of_the_model, *RESULT, *RECORD, *ELSEWHERE]) == sorted(names)


@pytest.mark.parametrize("knob", RESULT)
def test_a_knob_of_the_result_changes_the_weights(folders, plain, tmp_path, knob):
    value, beside = RESULT[knob]
    other, _ = observed(folders, tmp_path, **{**beside, knob: value})
    assert plain(json.dumps(beside))[0] != other


@pytest.mark.parametrize("knob", RECORD)
def test_a_knob_of_the_record_changes_it_and_not_the_weights(folders, plain, tmp_path, knob):
    value, beside = RECORD[knob]
    weights, seen = plain(json.dumps(beside))
    same, other = observed(folders, tmp_path, **{**beside, knob: value})
    assert seen != other and weights == same


@pytest.mark.parametrize("knob", ELSEWHERE)
def test_a_knob_of_the_work_is_read_and_has_tests(knob):
    code = "".join(path.read_text() for path in (ROOT / "training").rglob("*.py") if path.name != "config.py")
    assert re.search(rf"\b(config|given)\W{{1,6}}{knob}\b", code) or knob == "preset", knob
    assert knob in (ROOT / "tests" / f"test_training_{ELSEWHERE[knob]}.py").read_text(), knob


@pytest.mark.parametrize("key", ["learning_rate", "weight_decay", "rope_theta"])
def test_a_knob_is_a_number(key):
    for value in ("inf", "nan"):
        with pytest.raises(TrainingError, match=rf"{key}: Input should be"):
            resolve({key: float(value)})


@pytest.mark.parametrize(
    "values",
    [
        {"loader_threads": 0, "prefetch": 9},
        {"spike_window": 7},
        {"experts_per_token": 3},
        {"schedule": "constant", "min_lr_ratio": 0.5},
        {"architecture": "gpt2", "rope_theta": 5e5},
        {"parallel": "ddp", "reshard": False},
        {"weight_decay": 0, "decay_embeddings": False},
        {"sample_prompts": [], "sample_every": 5},
        {"sample_prompts": [], "sample_tokens": 5},
    ],
)
def test_a_knob_that_would_change_nothing_is_refused(values):
    with pytest.raises(TrainingError, match="leave it out"):
        resolve(values)
