"""Reward models and DPO, from rows to folders: what is learned, saved, resumed, refused."""

import json
from itertools import pairwise

import pytest
import torch

from tests.preference_common import bits, metrics, pair_rows, quiet, write_model, write_rows
from training.chat.format import chat_format
from training.checkpoint import load_model
from training.knobs import TrainingError, resolve_as
from training.preference.config import DpoConfig, RewardConfig
from training.preference.dpo import dpo
from training.preference.pairs import encode_answer, encode_pairs, pad, read_pairs
from training.preference.reward_model import Scorer, load_scorer, reward, save_scorer
from training.resume import Stopped

FAST = {"dtype": "float32", "device": "cpu", "threads": 1, "batch_rows": 8, "micro_batch_rows": 4, "warmup_ratio": 0}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("base"), noise=False)


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("pairs") / "pairs.jsonl", pair_rows())


def config_of(kind, **knobs):
    return resolve_as(kind, {**FAST, "steps": 4, "learning_rate": 1e-3, "save_every": 2, "eval_every": 2, **knobs}, "x")


# reward models


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral", "gpt2", "rotary", "post-norm"])
def test_a_saved_reward_model_is_transformers_reward_model(family, tmp_path):
    import transformers

    write_model(tmp_path / "base", family)
    model, end = load_model(tmp_path / "base", torch.device("cpu"))
    scorer = Scorer(model, 0.5, 1)
    from training.device import Place

    here = Place(0, 1, torch.device("cpu"), torch.float32, 1)
    save_scorer(tmp_path / "reward", scorer, tmp_path / "base", end, chat_format(tmp_path / "base").end_ids[0], here)
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    assert theirs.config.num_labels == 1 and type(theirs).__name__.endswith("ForSequenceClassification")
    lengths = [5, 19, 12]
    ids = torch.randint(6, 200, (3, 19), generator=torch.Generator().manual_seed(0))
    padded = ids.where(torch.arange(19)[None] < torch.tensor(lengths)[:, None], theirs.config.pad_token_id)
    with torch.no_grad():
        expected = theirs(padded, attention_mask=(padded != 0).long()).logits[:, 0]
        at = torch.tensor(lengths)[:, None] - 1
        assert torch.allclose(scorer.eval()(padded).gather(1, at)[:, 0], expected, atol=2e-5)
        again = load_scorer(tmp_path / "reward", torch.device("cpu"))
        assert torch.equal(again(padded), scorer(padded))


def test_a_reward_model_learns_which_answers_are_better(base, pairs, tmp_path):
    config = config_of(RewardConfig, steps=40, learning_rate=3e-3, validation=0.3, eval_every=20)
    summary = reward(config, base, pairs, tmp_path / "out", log=quiet)
    lines = [line for line in metrics(tmp_path / "out") if "validation_accuracy" in line]
    assert lines[-1]["validation_accuracy"] > 0.95
    assert lines[-1]["validation_loss"] < 0.3
    assert 0 <= lines[-1]["validation_calibration_error"] < 0.5
    held_out = summary["held_out"]
    assert sum(one["pairs"] for one in held_out["reliability"]) == held_out["pairs"] > 10
    scorer = load_scorer(tmp_path / "out", torch.device("cpu"))
    form = chat_format(tmp_path / "out")
    better, worse = (
        encode_answer(
            [{"role": "user", "content": "what is 7 and 7"}], [{"role": "assistant", "content": text}], form, "x"
        )
        for text in ("kind words: 7 and 7", "go away, 7 and 7")
    )
    with torch.no_grad():
        assert scorer(torch.tensor([better.ids]))[0, -1] > scorer(torch.tensor([worse.ids]))[0, -1]


def test_margins_and_centring_change_what_is_learned(base, tmp_path):
    rows = [{**row, "margin": 3.0} for row in pair_rows(40)]
    path = write_rows(tmp_path / "pairs.jsonl", rows)
    for name, knobs in {
        "plain": {"margins": False},
        "margin": {},
        "centred": {"margins": False, "centring": 0.1},
    }.items():
        reward(config_of(RewardConfig, steps=2, **knobs), base, path, tmp_path / name, log=quiet)
    losses = {name: metrics(tmp_path / name)[0]["loss"] for name in ("plain", "margin", "centred")}
    assert losses["margin"] == pytest.approx(losses["plain"] + 3.0 - 0.6, abs=0.2)
    assert losses["centred"] > losses["plain"] - 1e-6 and bits(tmp_path / "centred") != bits(tmp_path / "plain")


@pytest.mark.parametrize(("kind", "train"), [(RewardConfig, reward), (DpoConfig, dpo)])
def test_stopped_and_run_again_it_ends_at_the_same_bits(kind, train, base, pairs, tmp_path):
    config = config_of(kind)
    train(config, base, pairs, tmp_path / "whole", log=quiet)
    asked = iter([False, False, True])
    with pytest.raises(Stopped):
        train(config, base, pairs, tmp_path / "cut", log=quiet, stop=lambda: next(asked))
    train(config, base, pairs, tmp_path / "cut", log=quiet)
    assert bits(tmp_path / "whole") == bits(tmp_path / "cut") != bits(base)


@pytest.mark.parametrize(("kind", "train"), [(RewardConfig, reward), (DpoConfig, dpo)])
def test_micro_batches_change_nothing(kind, train, base, pairs, tmp_path):
    for name, rows in (("a", 8), ("b", 1)):
        train(config_of(kind, steps=3, micro_batch_rows=rows), base, pairs, tmp_path / name, log=quiet)
    ours, theirs = ([x["loss"] for x in metrics(tmp_path / name) if "loss" in x] for name in "ab")
    assert ours == pytest.approx(theirs, rel=1e-4)


# DPO


def test_dpo_prefers_what_was_chosen_and_starts_at_the_reference(base, pairs, tmp_path):
    config = config_of(DpoConfig, steps=25, validation=0.3, eval_every=25)
    dpo(config, base, pairs, tmp_path / "out", log=quiet)
    lines = [line for line in metrics(tmp_path / "out") if "loss" in line]
    assert lines[0]["loss"] == pytest.approx(0.6931, abs=1e-3)  # the model is its own reference: log 2
    assert lines[0]["chosen_gain_per_token"] == pytest.approx(0, abs=1e-5)
    last = metrics(tmp_path / "out")[-1]
    assert last["validation_accuracy"] > 0.95 and last["validation_margin"] > 0.1
    assert last["validation_loss"] < 0.65
    for name in ("chosen_reward", "rejected_reward", "chosen_logprob", "rejected_logprob", "margin"):
        assert name in lines[-1] and f"validation_{name}" in last
    assert lines[-1]["chosen_logprob"] > lines[-1]["rejected_logprob"]


def test_every_knob_of_dpo_changes_the_loss(base, pairs, tmp_path):
    def loss(name, **knobs):
        dpo(config_of(DpoConfig, steps=2, validation=0, **knobs), base, pairs, tmp_path / name, log=quiet)
        return metrics(tmp_path / name)[1]["loss"]

    runs = {
        "plain": {},
        "ipo": {"loss": "ipo"},
        "beta": {"beta": 0.5},
        "smoothed": {"label_smoothing": 0.2},
        "free": {"reference": False},
        "by token": {"by_token": True},
        "ipo of sums": {"loss": "ipo", "by_token": False},
    }
    losses = sorted(loss(name, **knobs) for name, knobs in runs.items())
    assert min(b - a for a, b in pairwise(losses)) > 1e-5


def test_the_reference_is_that_of_the_start_also_in_a_resumed_run(base, pairs, tmp_path):
    """The reference's log-probabilities come from the model folder, not from the checkpoint that is loaded later."""
    config = config_of(DpoConfig, steps=6, validation=0)
    dpo(config, base, pairs, tmp_path / "whole", log=quiet)
    asked = iter([False, True])
    with pytest.raises(Stopped):
        dpo(config, base, pairs, tmp_path / "cut", log=quiet, stop=lambda: next(asked))
    dpo(config, base, pairs, tmp_path / "cut", log=quiet)
    gains = [[x["chosen_gain_per_token"] for x in metrics(tmp_path / name) if "loss" in x] for name in ("whole", "cut")]
    assert gains[0] == gains[1] and abs(gains[0][-1]) > 1e-3


def test_a_warning_is_given_once_when_chosen_answers_grow_unlikely(base, tmp_path):
    """Both answers nearly alike: their difference grows while both sink."""
    rows = [
        {"prompt": row["prompt"], "chosen": row["chosen"], "rejected": row["chosen"] + "."} for row in pair_rows(40)
    ]
    path = write_rows(tmp_path / "pairs.jsonl", rows)
    said = []
    config = config_of(DpoConfig, steps=30, learning_rate=2e-2, beta=0.1, collapse_warning=0.2)
    dpo(config, base, path, tmp_path / "out", log=said.append)
    warnings = [line for line in said if line.startswith("warning: chosen answers")]
    gains = [x["chosen_gain_per_token"] for x in metrics(tmp_path / "out") if "loss" in x]
    assert len(warnings) == (min(gains) < -0.2) == 1


# rows


def test_the_answers_own_tokens_are_wanted_and_no_others(base):
    form = chat_format(base)
    talk = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "an old answer"},
        {"role": "user", "content": "b"},
    ]
    answer = encode_answer(talk, [{"role": "assistant", "content": "kind"}], form, "x")
    shown = [token for token, wanted in zip(answer.ids, answer.wanted, strict=True) if wanted]
    assert shown == [*form.tokenizer.encode("kind").ids, form.end_ids[0]]
    tokens, targets = pad([answer, answer], torch.device("cpu"))
    assert targets[0][targets[0] >= 0].tolist() == shown
    assert tokens.shape == targets.shape == (2, len(answer.ids))


def test_pairs_of_one_prompt_are_held_out_together_and_long_or_equal_ones_left_out(base, tmp_path):
    rows = pair_rows(60) + [{**row, "chosen": "kind"} for row in pair_rows(60)]
    rows += [
        {"prompt": "long", "chosen": "x" * 500, "rejected": "y"},
        {"prompt": "same", "chosen": "x", "rejected": "x"},
    ]
    pairs = read_pairs(write_rows(tmp_path / "pairs.jsonl", rows))
    said = []
    train, held_out = encode_pairs(pairs, chat_format(base), 64, 0.3, said.append)
    assert len(train) + len(held_out) == 120 and 10 < len(held_out) < 70
    assert "left out: 1 of more than 64 tokens, 1 with equal answers" in said[0]
    prefix = lambda one: tuple(one.chosen.ids[: one.chosen.wanted.index(True)])  # noqa: E731
    assert not {prefix(one) for one in train} & {prefix(one) for one in held_out}


def test_parquet_folders_of_messages_are_read_as_texts_are(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    said = lambda role, text: [{"role": role, "content": text}]  # noqa: E731
    rows = [
        {
            "id": row["id"],
            "source": "test",
            "prompt": said("user", row["prompt"]),
            "chosen": said("assistant", row["chosen"]),
            "rejected": said("assistant", row["rejected"]),
        }
        for row in pair_rows(9)
    ]
    (tmp_path / "folder").mkdir()
    pq.write_table(pa.Table.from_pylist(rows[:5]), tmp_path / "folder" / "part-0.parquet")
    pq.write_table(pa.Table.from_pylist(rows[5:]), tmp_path / "folder" / "part-1.parquet")
    strip = lambda pairs: [pair[:4] for pair in pairs]  # noqa: E731
    assert strip(read_pairs(tmp_path / "folder")) == strip(
        read_pairs(write_rows(tmp_path / "pairs.jsonl", pair_rows(9)))
    )


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "a", "chosen": "b"}, "'rejected' is missing"),
        ({"prompt": "", "chosen": "b", "rejected": "c"}, "'prompt' is empty"),
        ({"prompt": [{"role": "user"}], "chosen": "b", "rejected": "c"}, "without text in content"),
        ({"prompt": "a", "chosen": [{"role": "user", "content": "b"}], "rejected": "c"}, "ends with 'user'"),
        ({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "x"}, "margin is 'x'"),
        ({"prompt": [{"role": "judge", "content": "x"}], "chosen": "b", "rejected": "c"}, "judge"),
        ([1], "expected one JSON object"),
    ],
)
def test_a_row_that_is_no_pair_is_named(row, why, base, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(pair_rows(1)[0]) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(TrainingError, match=rf"pairs.jsonl:2.*{why}"):
        dpo(config_of(DpoConfig), base, path, tmp_path / "out", log=quiet)


def test_nothing_to_train_on_is_said(base, tmp_path):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(TrainingError, match="no preference pair"):
        reward(config_of(RewardConfig), base, empty, tmp_path / "out", log=quiet)
    with pytest.raises(TrainingError, match=r"no pair is left .* 1 of 1 have more than 8 tokens"):
        path = write_rows(tmp_path / "long.jsonl", [{"prompt": "a", "chosen": "b" * 99, "rejected": "c"}])
        reward(config_of(RewardConfig, sequence_length=8, validation=0), base, path, tmp_path / "out", log=quiet)
    with pytest.raises(TrainingError, match="no such file"):
        dpo(config_of(DpoConfig), base, tmp_path / "nowhere", tmp_path / "out", log=quiet)


def test_a_folder_that_is_no_reward_model_is_refused(base):
    with pytest.raises(TrainingError, match=r"LlamaForCausalLM.*LlamaForSequenceClassification"):
        load_scorer(base, torch.device("cpu"))


def test_label_smoothing_is_for_the_sigmoid_loss():
    with pytest.raises(TrainingError, match="label_smoothing means something with loss: sigmoid"):
        config_of(DpoConfig, loss="ipo", label_smoothing=0.1)
