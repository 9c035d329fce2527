"""Reinforcement learning with tools: what a tool said is read, not learned."""

import json

import numpy as np
import pytest
import torch

from tests.test_training_tools import EOS, ROLES, TOOLS, write_tokenizer
from tokenizer_training.vocabulary.special import CHAT_TEMPLATE
from training.chat.format import chat_format
from training.checkpoint import save_model
from training.inference.batch import Completion
from training.knobs import TrainingError
from training.loss import IGNORED
from training.model import Decoder, ModelConfig
from training.reinforcement import rollouts as module
from training.reinforcement.config import GrpoConfig
from training.reinforcement.grpo import GrpoTask, grpo
from training.reinforcement.rollouts import Rollout, collate, described
from training.tools import loop, registry
from training.tools.arithmetic import arithmetic_conversations, arithmetic_prompts
from training.tools.calls import Call, call_ids

QUICK = {"batch_rows": 8, "micro_batch_rows": 4, "group": 4, "steps": 2, "max_new_tokens": 60, "eval_rows": 2, "eval_samples": 0, "eval_every": 2,
         "save_every": 2, "device": "cpu", "dtype": "float32", "threads": 1, "validation": 0.2, "learning_rate": 1e-3, "scale": "none"}  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A model folder with a chat template, and prompts with answers."""
    root = tmp_path_factory.mktemp("rl")
    tokenizer = write_tokenizer(root / "tokenizer", [EOS, *ROLES, *TOOLS])
    (tokenizer / "tokenizer_config.json").write_text(json.dumps({"eos_token": EOS, "chat_template": CHAT_TEMPLATE}))
    size = chat_format(tokenizer).tokenizer.get_vocab_size()
    save_model(root / "model", Decoder(ModelConfig(size, 512, 2, 32, 4, 2, 64, 8)).initialise(0), tokenizer, 0)
    rows = [json.dumps(row) for row in arithmetic_prompts(12, seed=3, digits=1, terms=2)]
    (root / "prompts.jsonl").write_text("\n".join(rows) + "\n")
    return root


def speaks(form, monkeypatch, right=0.5):
    """The sampler replaced by one that calls the calculator with the sum of its prompt; a share of the answers is right."""
    opening, closing = call_ids(form.tokenizer)
    sums = {
        row["messages"][0]["content"]: row["messages"]
        for row in arithmetic_conversations(12, seed=3, digits=1, terms=2)
    }
    plain = lambda text: form.tokenizer.encode(text, add_special_tokens=False).ids  # noqa: E731
    asked = []

    def generate(model, prompts, sampling, end, *, seeds, **_):
        out = []
        asked.extend(prompts)
        for prompt, seed in zip(prompts, seeds, strict=True):
            text = form.tokenizer.decode(prompt, skip_special_tokens=False)
            messages = next(found for question, found in sums.items() if f"<|user|>{question}<|end|>" in text)
            if "<|tool|>" in text:
                tokens = [*plain(messages[3]["content"] if seed % 100 < 100 * right else "#### x"), form.end_ids[0]]
            else:
                tokens = [
                    opening,
                    *plain(json.dumps({"name": "calculator", **messages[1]["tool_calls"][0]["function"]})),
                    closing,
                ]
            with torch.no_grad():
                scores = model(torch.tensor([[*prompt, *tokens]]))[0].log_softmax(-1)
            logprobs = [float(scores[len(prompt) + at - 1, token]) for at, token in enumerate(tokens)]
            out.append(Completion(tokens, logprobs, "stop"))
        return out

    monkeypatch.setattr(loop, "generate_batch", generate)
    return asked


def test_a_policy_learns_from_its_own_tokens_alone(start, tmp_path, monkeypatch):
    """The reward reads what stands behind the response; figures count the model's tokens; the sampler and the trainer agree on them."""
    form = chat_format(start / "model")
    asked = speaks(form, monkeypatch)
    kept = []
    collated = module.collate
    monkeypatch.setattr(
        "training.reinforcement.task.collate", lambda some, device: kept.append(list(some)) or collated(some, device)
    )
    config = GrpoConfig(**QUICK, tools=("calculator",), kl=0.1)
    summary = grpo(config, start / "model", start / "prompts.jsonl", tmp_path / "out", log=lambda line: None)
    assert summary["steps"] == 2
    lines = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "reward" in line]
    assert steps and all(0 < line["reward"] < 1 and line["called"] == 1 for line in steps)
    assert all(line["sampler_gap"] < 1e-4 for line in steps)
    system = form.tokenizer.decode(asked[0], skip_special_tokens=False)
    assert system.startswith("<|system|>Tools:") and '"name": "calculator"' in system
    rollout = kept[0][0]
    said = form.tokenizer.decode(rollout.tokens, skip_special_tokens=False)
    assert "<|tool|>" in said and len(rollout.actions) == sum(rollout.chosen) < len(rollout.tokens)
    own = form.tokenizer.decode(rollout.actions, skip_special_tokens=False)
    assert "<|tool|>" not in own and own.startswith("<tool_call>") and own.endswith("<|end|>")
    assert steps[0]["length"] == pytest.approx(
        np.mean([len(one.actions) for one in kept[0]] + [len(one.actions) for one in kept[1]])
    )


def test_targets_and_mask_leave_the_tools_tokens_out():
    one = Rollout((5, 6), [1, 2, 3, 4], np.zeros(4, np.float32), True, "", 1.0, 1.0, chosen=[True, False, False, True])
    two = Rollout((5,), [7, 8], np.zeros(2, np.float32), True, "", 1.0, 1.0)
    three = Rollout((5,), [1, 2], np.zeros(2, np.float32), True, "", 1.0, 1.0, masked=True, chosen=[True, False])
    rows = collate([one, two, three], torch.device("cpu"))
    assert rows.tokens[0].tolist() == [5, 6, 1, 2, 3, 4]
    assert rows.targets[0].tolist() == [IGNORED, 1, IGNORED, IGNORED, 4, IGNORED]
    assert rows.mask[0].tolist() == [False, True, False, False, True, False]
    assert rows.targets[1].tolist()[:3] == [7, 8, IGNORED] and rows.mask[1].tolist()[:3] == [True, True, False]
    assert not rows.mask[2].any() and one.actions == [1, 4] and two.actions == [7, 8]
    assert (
        described([one, three])["length"] == 1.5
        and described([one, three])["called"] == 1
        and "called" not in described([two])
    )


def test_what_a_tool_says_changes_no_gradient_but_as_context(start, tmp_path, monkeypatch):
    """With advantages of 0 everywhere nothing moves; a tool's tokens add nothing to the loss of a completion."""
    form = chat_format(start / "model")
    speaks(form, monkeypatch, right=1.0)  # all rewards of a group are equal, so no advantage
    config = GrpoConfig(**{**QUICK, "steps": 1, "weight_decay": 0.0}, tools=("calculator",))
    grpo(config, start / "model", start / "prompts.jsonl", tmp_path / "out", log=lambda line: None)
    before, after = ((folder / "model.safetensors").read_bytes() for folder in (start / "model", tmp_path / "out"))
    assert before == after


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"tools": ["calc"]}, "calculator"), ({"tools": ["search"]}, "tool_index"), ({"tool_calls": 2}, "tool_calls"), ({"list_tools": False}, "list_tools"), ({"tool_characters": 9}, "tool_characters"),
        ({"tools": ["calculator"], "tool_index": "x"}, "tool_index"), ({"tools": ["calculator"], "allow_unsandboxed": True}, "allow_unsandboxed"),
        ({"tools": ["calculator", "calculator"]}, "twice"),
    ],
)  # fmt: skip
def test_knobs_of_tools_that_are_not_there(given, word):
    with pytest.raises(ValueError, match=word):
        GrpoConfig(**{**QUICK, **given})


def test_each_knob_of_tools_changes_something(start, monkeypatch):
    task = lambda **knobs: GrpoTask(GrpoConfig(**{**QUICK, **knobs}), start, start, None).tools()  # noqa: E731
    assert task() == (None, None, None)
    box, limits, listed = task(tools=("calculator", "python"), tool_calls=2, tool_characters=9)
    assert list(box.tools) == ["calculator", "python"] and (limits.calls, limits.response_characters) == (2, 9)
    assert listed == box.schemas and task(tools=("calculator",), list_tools=False)[2] is None
    asked = []
    monkeypatch.setattr(registry, "shared_sandbox", lambda workers, allowed: asked.append(allowed))
    for allowed in (False, True):
        task(tools=("python",), allow_unsandboxed=allowed)[0].run(Call("python", {"code": ""}))
    assert asked == [False, True]
    with pytest.raises(TrainingError, match="is no index"):
        task(tools=("search",), tool_index=str(start / "none"))
