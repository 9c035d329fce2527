"""The whole chain of configs/chat.yaml with a few steps each: every section's folder, one table, and what a rerun makes again."""

import json
from pathlib import Path

import pytest

from tests.support import pipeline

pytestmark = pytest.mark.slow

FEW = [
    "input.0.paths=['data/sample/crawl-00002.warc.gz']", "tokenizer.vocab_size=600", "pack.sequence_length=64", "pretrain.steps=4",
    "pretrain.sample_prompts=[]", "sft.steps=3", "reward.steps=3", "ppo.steps=2", "ppo.batch_rows=8", "ppo.micro_batch_rows=8",
    "ppo.max_new_tokens=4", "ppo.eval_rows=4", "dpo.steps=2", "grpo.steps=2", "grpo.entropy_bonus=0.1", "grpo.batch_rows=8", "grpo.max_new_tokens=4",
    "grpo.eval_rows=4", "evaluate.documents=3", "evaluate.sample_tokens=4",
]  # fmt: skip
MODELS = ("model", "sft", "reward", "ppo", "dpo", "grpo")


def run(folder: Path, *more: str):
    assignments = [part for knob in (*FEW, *more) for part in ("--set", knob)]
    return pipeline("run", "configs/chat.yaml", "--executor", "inline", "--output", folder, *assignments)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("assistant") / "run"
    done = run(folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


def weights(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name / "model.safetensors").read_bytes() for name in MODELS}


def test_every_section_leaves_its_model_and_all_are_in_one_table(folder):
    assert len(set(weights(folder).values())) == len(MODELS)
    for name in MODELS:
        assert (folder / name / "training.json").exists() and (folder / name / "metrics.jsonl").exists()
    measured = json.loads((folder / "evaluation" / "evaluation.json").read_text())["models"]
    assert list(measured) == ["model", "sft", "ppo", "dpo", "grpo"]
    facts = json.loads((folder / "run.json").read_text())["sections"]
    assert facts["evaluate"]["models"].keys() == measured.keys() and facts["grpo"]["steps"] == 2
    report = (folder / "report.html").read_text()
    assert all(f">{name}<" in report for name in measured)
    assert '<section id="tuned">' in report and all(f"<h3>{name}</h3>" in report for name in MODELS[1:])


def test_a_rerun_makes_nothing_again_and_a_changed_knob_only_what_depends_on_it(folder):
    before = weights(folder)
    again = run(folder)
    assert again.returncode == 0 and weights(folder) == before
    assert "grpo: done already" in again.stdout + again.stderr
    changed = run(folder, "dpo.beta=0.5")
    text = changed.stdout + changed.stderr
    assert changed.returncode == 0, text[-3000:]
    assert all(f"{name}: done already" in text for name in ("pretrain", "sft", "reward", "ppo", "grpo"))
    after = weights(folder)
    assert {name for name in MODELS if after[name] != before[name]} == {"dpo"}
