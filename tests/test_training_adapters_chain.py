"""Adapters in every kind of fine-tuning: SFT, a reward model, DPO, GRPO and PPO, each on the folder that the one before left."""

import copy

import pytest
import torch

from tests.preference_common import metrics, pair_rows, quiet, write_model, write_rows
from training.chat.format import chat_format
from training.checkpoint import is_adapter, load_model
from training.knobs import TrainingError, resolve_as
from training.model import Decoder
from training.preference.config import DpoConfig, RewardConfig
from training.preference.dpo import dpo
from training.preference.reward_model import load_scorer, reward
from training.reinforcement.config import GrpoConfig, PpoConfig
from training.reinforcement.grpo import grpo
from training.reinforcement.ppo import ppo
from training.tuning.sft import sft
from training.tuning.sft_config import SftConfig

LORA = {"rank": 4, "alpha": 8.0}
SAMPLED = {"batch_rows": 8, "micro_batch_rows": 8, "max_new_tokens": 4, "verifier": "number", "validation": 0.0, "learning_rate": 1e-2}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("chain")
    write_model(root / "base")
    write_rows(root / "pairs.jsonl", pair_rows())
    turns = [("user", "prompt"), ("assistant", "chosen")]
    chats = [
        {"id": row["id"], "messages": [{"role": role, "content": row[key]} for role, key in turns]}
        for row in pair_rows()
    ]
    write_rows(root / "chats.jsonl", chats)
    sums = [
        {"id": f"s{i}", "prompt": f"what is {i} and 1", "answer": str(i + 1), "verifier": "number"} for i in range(9)
    ]
    write_rows(root / "sums.jsonl", sums)
    sft(of(SftConfig), root / "base", root / "chats.jsonl", root / "sft", log=quiet)
    return root


def of(kind, **knobs):
    base = {"steps": 3, "eval_every": 3, "save_every": 3, "learning_rate": 1e-3, "threads": 1, "dtype": "float32"}
    return resolve_as(kind, {**base, "device": "cpu", "adapter": LORA, **knobs}, "x")


def test_sft_leaves_an_adapter_with_tokenizer_and_template(root):
    assert is_adapter(root / "sft") and (root / "sft" / "chat_template.jinja").exists()
    _, end = load_model(root / "sft", torch.device("cpu"))
    assert set(chat_format(root / "sft").end_ids) <= set(end)


def test_tokens_that_are_new_to_the_model_are_refused_beside_an_adapter(root, tmp_path):
    config = of(SftConfig, template="llama3", add_tokens=True)
    with pytest.raises(TrainingError, match="must learn; leave adapter out"):
        sft(config, root / "base", root / "chats.jsonl", tmp_path / "out", log=quiet)


def test_a_reward_model_with_an_adapter_is_saved_whole(root, tmp_path):
    for adapter in (LORA, {"kind": "prompt"}):
        with pytest.raises(TrainingError, match="saved whole"):
            of(RewardConfig, adapter=adapter)
    summary = reward(of(RewardConfig, merge=True), root / "sft", root / "pairs.jsonl", tmp_path / "reward", log=quiet)
    assert summary["learning"] < 0.5 * summary["parameters"]
    scorer, (before, _) = (
        load_scorer(tmp_path / "reward", torch.device("cpu")),
        load_model(root / "sft", torch.device("cpu")),
    )
    name = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(scorer.decoder.get_parameter(name), before.get_parameter(name))


def test_dpo_begins_at_the_reference(root, tmp_path):
    dpo(of(DpoConfig), root / "sft", root / "pairs.jsonl", tmp_path / "dpo", log=quiet)
    losses = [line["loss"] for line in metrics(tmp_path / "dpo") if "loss" in line]
    assert losses[0] == pytest.approx(0.6931, abs=1e-4) and losses[-1] < losses[0]
    assert is_adapter(tmp_path / "dpo") and load_model(tmp_path / "dpo", torch.device("cpu"))


@pytest.mark.parametrize(("kind", "train"), [(GrpoConfig, grpo), (PpoConfig, ppo)])
def test_the_reference_of_rl_is_the_model_without_its_adapter(kind, train, root, tmp_path, monkeypatch):
    """The divergence is 0 before the first update and grows; no second copy of the policy is made for it."""
    copied, real = [], copy.deepcopy
    monkeypatch.setattr(
        copy, "deepcopy", lambda one, *rest: (isinstance(one, Decoder) and copied.append(one), real(one, *rest))[1]
    )
    extra = {"group": 4} if "group" in kind.model_fields else {}
    train(of(kind, **{**SAMPLED, **extra, "kl": 0.1}), root / "sft", root / "sums.jsonl", tmp_path / "out", log=quiet)
    lines = [line for line in metrics(tmp_path / "out") if "kl" in line]
    assert abs(lines[0]["kl"]) < 1e-6
    assert len(copied) == (1 if kind is PpoConfig else 0)  # PPO's value model begins as the policy
    assert is_adapter(tmp_path / "out")
