"""PPO and GRPO from prompts to folders: rollouts, credit, what is learned, watched, resumed, refused."""

import json

import numpy as np
import pytest
import torch

from tests.preference_common import bits, metrics, quiet, write_model, write_rows
from training.chat.format import chat_format
from training.checkpoint import load_model
from training.device import Place
from training.inference.batch import generate_batch
from training.knobs import TrainingError, resolve_as
from training.preference.reward_model import Scorer, save_scorer
from training.reinforcement.best_of_n import best_of_n, best_of_n_kl
from training.reinforcement.config import GrpoConfig, PpoConfig
from training.reinforcement.grpo import GrpoTask, grpo
from training.reinforcement.losses import Counts
from training.reinforcement.ppo import Judged, PpoTask, ppo
from training.reinforcement.prompts import Prompt, encode_prompts, read_prompts
from training.reinforcement.rewards import RewardModel, Rewards
from training.reinforcement.rollouts import Rollout, collate, row_seed, sampling_of
from training.reinforcement.watch import Watch, repetition_share
from training.resume import Stopped

FAST = {
    "dtype": "float32",
    "device": "cpu",
    "threads": 1,
    "batch_rows": 16,
    "micro_batch_rows": 8,
    "warmup_ratio": 0,
    "max_new_tokens": 6,
    "learning_rate": 3e-3,
    "steps": 3,
    "save_every": 1,
    "eval_every": 3,
    "validation": 0.1,
    "eval_samples": 2,
}
KINDS = [(GrpoConfig, grpo), (PpoConfig, ppo)]
HERE = Place(0, 1, torch.device("cpu"), torch.float32, 1)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("base"), noise=False)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    """Any answer with an `a` in it is right."""
    rows = [{"id": str(n), "prompt": f"say {n}", "answer": "a", "verifier": "regex"} for n in range(40)]
    return write_rows(tmp_path_factory.mktemp("prompts") / "prompts.jsonl", rows)


@pytest.fixture(scope="module")
def reward_model(base, tmp_path_factory):
    """Of random weights."""
    folder = tmp_path_factory.mktemp("reward")
    model, end = load_model(base, torch.device("cpu"))
    save_scorer(folder, Scorer(model, 1.0, 7), base, end, chat_format(base).end_ids[0], HERE)
    return folder


def config_of(kind, **knobs):
    return resolve_as(kind, {**FAST, **knobs}, "x")


def steps(folder):
    return [line for line in metrics(folder) if "reward" in line]


# learning


@pytest.mark.parametrize(
    ("kind", "train", "knobs"),
    [(GrpoConfig, grpo, {}), (PpoConfig, ppo, {"kl": 0.0, "batch_rows": 32})],
)
def test_a_reward_is_learned(kind, train, knobs, base, prompts, tmp_path):
    config = config_of(kind, steps=14, learning_rate=1e-2, micro_batch_rows=32, **knobs)
    summary = train(config, base, prompts, tmp_path / "out", log=quiet)
    lines = steps(tmp_path / "out")
    assert np.mean([x["reward"] for x in lines[-3:]]) > np.mean([x["reward"] for x in lines[:3]]) + 0.3
    for name in ("kl", "entropy", "length", "ended", "repetition", "sampler_gap", "clipped", "loss", "grad_norm"):
        assert name in lines[-1]
    assert lines[0]["kl"] == 0 and lines[-1]["kl"] > 0.1
    assert all(line["sampler_gap"] < 1e-5 for line in lines)
    assert 0 <= summary["figures"]["validation_sampled_reward"] <= summary["figures"]["validation_best_of_2"] <= 1
    import transformers

    assert transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.vocab_size


@pytest.mark.parametrize(("kind", "train"), KINDS)
def test_stopped_and_run_again_it_ends_at_the_same_bits(kind, train, base, prompts, tmp_path):
    more = {"dynamic_rounds": 1} if kind is GrpoConfig else {"kl_target": 0.5, "kl_horizon": 50.0}
    config = config_of(kind, **more)
    train(config, base, prompts, tmp_path / "whole", log=quiet)
    asked = iter([False, True])
    with pytest.raises(Stopped):
        train(config, base, prompts, tmp_path / "cut", log=quiet, stop=lambda: next(asked))
    train(config, base, prompts, tmp_path / "cut", log=quiet)
    assert bits(tmp_path / "whole") == bits(tmp_path / "cut") != bits(base)
    timed = {"seconds", "tokens_per_second", "seconds_left", "memory_bytes"}
    plain = lambda name: [{k: v for k, v in x.items() if k not in timed} for x in metrics(tmp_path / name)]  # noqa: E731
    assert plain("whole") == plain("cut")


@pytest.mark.parametrize(("kind", "train"), KINDS)
def test_micro_batches_change_nothing(kind, train, base, prompts, tmp_path):
    for name, rows in (("a", 16), ("b", 1)):
        config = config_of(kind, steps=1, micro_batch_rows=rows, entropy_bonus=0.01, validation=0)
        train(config, base, prompts, tmp_path / name, log=quiet)
    one, other = (steps(tmp_path / name)[0] for name in "ab")
    for name in ("loss", "grad_norm", "reward", "kl", "entropy"):
        assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-6)


PLAIN = {"kl": 0.1, "temperature": 0.9, "clip_high": 0.2}
GRPO_KNOBS = [
    {"baseline": "rloo"},
    {"scale": "none"},
    {"scale": "batch"},
    {"loss": "grpo"},
    {"loss": "dr_grpo"},
    {"loss": "sequence"},
    {"kl": 0.5},
    {"kl_estimator": "k2"},
    {"kl_in": "reward"},
    {"overlong_tokens": 4},
    {"missing_end_penalty": 0.5},
    {"truncated": "mask"},
    {"group": 8},
    {"dynamic_rounds": 2},
    {"minibatches": 2},
    {"passes": 2},
    {"entropy_bonus": 0.1},
    {"temperature": 0.5},
    {"top_k": 20},
    {"top_p": 0.5},
    {"min_p": 0.9},
    {"max_new_tokens": 5},
]
PPO_KNOBS = [
    {"value_coefficient": 2.0},
    {"value_clip": None},
    {"value_warmup": 1},
    {"value_learning_rate": 3e-3},
    {"discount": 0.9},
    {"gae_decay": 0.5},
    {"whiten_advantages": False},
    {"whiten_rewards": True},
    {"truncated": "bootstrap"},
    {"kl": 0.5},
    {"kl_estimator": "k3"},
    {"kl_target": 0.001, "kl_horizon": 20.0},
    {"missing_end_penalty": 0.5},
    {"clip_low": 0.001, "clip_high": 0.001},
]


@pytest.mark.parametrize(
    ("kind", "train", "knobs", "common"),
    [
        (GrpoConfig, grpo, GRPO_KNOBS, {**PLAIN, "group": 4, "passes": 1, "learning_rate": 3e-2}),
        (PpoConfig, ppo, PPO_KNOBS, {"kl": 0.1, "learning_rate": 3e-2, "value_clip": 0.01}),
    ],
)
def test_every_knob_changes_the_model(kind, train, knobs, common, base, prompts, tmp_path):
    """Two steps each; no two settings lead to one model."""
    seen = {}
    for number, changes in enumerate([{}, *knobs]):
        config = config_of(kind, **{**common, "steps": 2, "validation": 0, "save_every": 9, **changes})
        train(config, base, prompts, tmp_path / str(number), log=quiet)
        weights = bits(tmp_path / str(number))
        assert weights not in seen, (changes, seen[weights])
        seen[weights] = changes


@pytest.mark.parametrize(
    "knobs", [{}, {"clip_low": 0.5}, {"clip_high": 0.5}, {"clip_ratio": 1.3}, {"loss": "bnpo"}, {"loss": "grpo"}]
)
def test_what_is_clipped_and_how_it_is_weighed(knobs, base):
    """The task's loss is that of its knobs, once the policy has moved since it sampled."""
    config = config_of(GrpoConfig, batch_rows=8, **knobs)
    task = GrpoTask(config, base, base, Rewards([], None, {}))
    rollouts = [rollout(tokens=(20, 21, 6)[n % 2 :], reward=float(n % 3 == 0)) for n in range(8)]
    task.credit(rollouts, 0)
    rows = collate(rollouts, torch.device("cpu"))
    moved = rows.old + torch.linspace(-0.6, 0.6, rows.old.numel()).view_as(rows.old)
    found = Judged(moved, torch.zeros_like(moved), rows.values)
    loss, figures = task.objective(lambda *_, **__: found, rows, Counts(8, 20, 30), 0)
    ratio = (moved - rows.old).exp()
    clip = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    free = ratio.clamp(max=config.clip_ratio) if config.clip_ratio else ratio
    each = -torch.minimum(free * rows.advantages, clip * rows.advantages) * rows.mask
    lengths = rows.mask.sum(dim=1)
    expected = {"dapo": each.sum() / 30, "bnpo": each.sum() / 20, "grpo": (each.sum(dim=1) / lengths).mean()}
    assert float(loss) == pytest.approx(float(expected[config.loss]), abs=1e-6)
    assert 0 < float(figures["clipped"][0]) < 20


def test_reward_models_reward_and_judge(base, reward_model, prompts, tmp_path):
    config = config_of(GrpoConfig, steps=2, validation=0.3, eval_every=2)
    bare = write_rows(tmp_path / "bare.jsonl", [{"prompt": f"say {n}"} for n in range(20)])
    grpo(config, base, bare, tmp_path / "model", reward_models=[reward_model], judge=reward_model, log=quiet)
    line = steps(tmp_path / "model")[0]
    assert line["judge"] == pytest.approx(line["reward"], abs=1e-5) and line["reward_deviation"] > 1e-3
    assert "validation_judge" in metrics(tmp_path / "model")[-1]
    ppo(config_of(PpoConfig, steps=1), base, bare, tmp_path / "ppo", reward_models=[reward_model], log=quiet)
    assert steps(tmp_path / "ppo")[0]["first_value"] != 0  # the value model began as the reward model
    ppo(
        config_of(PpoConfig, steps=1, value_from="policy"),
        base, bare, tmp_path / "policy", reward_models=[reward_model], log=quiet,
    )  # fmt: skip
    assert steps(tmp_path / "policy")[0]["first_value"] == 0
    both = config_of(GrpoConfig, steps=1)
    grpo(both, base, prompts, tmp_path / "both", reward_models=[reward_model], log=quiet)
    grpo(both, base, prompts, tmp_path / "rule", log=quiet)
    assert steps(tmp_path / "both")[0]["reward"] != steps(tmp_path / "rule")[0]["reward"]


def test_a_reward_model_scores_what_ended_with_its_end_token_and_what_did_not_without(reward_model):
    model, form = RewardModel(reward_model, HERE, 2), chat_format(reward_model)
    asked = Prompt([{"role": "user", "content": "say"}], None, None, "x")
    ids = form.encode([*asked.messages, {"role": "assistant", "content": "seven"}]).ids
    assert ids[-1] == form.end_ids[0]
    with torch.no_grad():
        expected = [float(model.scorer(torch.tensor([one]))[0, -1]) for one in (ids, ids[:-1], ids)]
    assert model.score([asked] * 3, ["seven"] * 3, [True, False, True]) == pytest.approx(expected, abs=1e-5)
    assert expected[0] != expected[1]


def test_verifiers_get_the_options_of_their_name():
    asked = [Prompt([], "7", "number", "x")] * 2
    texts = ["it is 7", r"it is \boxed{7}"]
    found = {name: Rewards([], None, options).score(asked, texts, [True] * 2) for name, options in (
        ("any", {}), ("boxed", {"number": {"marker": "boxed"}, "integer": {"marker": "any"}}))}  # fmt: skip
    assert found == {"any": [1.0, 1.0], "boxed": [0.0, 1.0]}


# rollouts and credit


def rollout(prompt=(2, 9, 4), tokens=(20, 21, 6), ended=True, reward=1.0, **more):
    count = len(tokens)
    numbers = {name: np.linspace(-2, -1, count, dtype=np.float32) for name in ("old", "reference")}
    made = Rollout(prompt, list(tokens), numbers["old"], ended, "", reward, reward, **numbers)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def test_numbers_stand_where_their_token_is_predicted():
    short = rollout(tokens=(20, 6), advantages=np.array([5, 7], np.float32))
    rows = collate([rollout(), short], torch.device("cpu"))
    assert rows.tokens.tolist() == [[2, 9, 4, 20, 21, 6], [2, 9, 4, 20, 6, 0]]
    assert rows.targets.tolist() == [[-100, -100, 20, 21, 6, -100], [-100, -100, 20, 6, -100, -100]]
    assert rows.mask.tolist() == [[False, False, True, True, True, False], [False, False, True, True, False, False]]
    assert rows.advantages[1].tolist() == [0, 0, 5, 7, 0, 0]
    assert rows.last.tolist() == [5, 4]
    assert not collate([rollout(masked=True)], torch.device("cpu")).mask.any()


class Bench:
    """What the credit of a task needs to know."""

    here = HERE


def test_the_end_token_of_a_completion_gets_a_gradient(base):
    """From the loss of a task to the logits: the position that predicts the end token, like every other action."""
    for task in (
        GrpoTask(config_of(GrpoConfig, batch_rows=8), base, base, Rewards([], None, {})),
        PpoTask(config_of(PpoConfig, kl=0.0), base, base, Rewards([], None, {})),
    ):
        rollouts = [rollout(reward=float(n % 2), values=np.full(4, 0.3, np.float32)) for n in range(8)]
        task.kl = 0.0
        task.credit(rollouts, 0)
        rows = collate(rollouts, torch.device("cpu"))
        logprobs = rows.old.clone().requires_grad_()

        found = Judged(logprobs, torch.zeros_like(logprobs), rows.values)

        def network(*_, found=found, **__):
            return found

        loss, _ = task.objective(network, rows, Counts(8, 24, 24), 0)
        (gradient,) = torch.autograd.grad(loss, logprobs)
        assert (gradient[rows.mask].abs() > 0).all() and (gradient[~rows.mask] == 0).all()
        assert (gradient[:, 4].abs() > 0).all()  # the end token's own


def test_ppo_credits_by_gae_with_the_kl_in_each_token(base):
    task = PpoTask(config_of(PpoConfig, whiten_advantages=False, gae_decay=1.0), base, base, Rewards([], None, {}))
    task.kl = 0.1
    values = np.array([0.5, 0.4, 0.3, 0.2], np.float32)
    whole = rollout(values=values, reference=np.array([-2.5, -1.5, -2.0], np.float32))
    task.credit([whole, rollout(ended=False, values=values)], 0)
    kl = 0.1 * (np.array([-2, -1.5, -1]) - np.array([-2.5, -1.5, -2.0]))
    returns = [1 - kl[at:].sum() for at in range(3)]
    assert whole.returns == pytest.approx(returns, abs=1e-6)
    assert whole.advantages == pytest.approx(np.array(returns) - values[:3], abs=1e-6)
    task.config = config_of(PpoConfig, truncated="bootstrap", whiten_advantages=False, gae_decay=1.0)
    cut = rollout(ended=False, values=values, reward=99.0)
    task.credit([cut], 0)
    assert cut.returns == pytest.approx([0.2] * 3, abs=1e-6)  # the value of the last state, not the reward


def test_a_completion_depends_on_its_own_seed_alone(base):
    model, _ = load_model(base, torch.device("cpu"))
    form = chat_format(base)
    prompts = [form.encode([{"role": "user", "content": f"say {n}"}], prompt=True).ids for n in range(4)]
    seeds = [row_seed(0, 3, at) for at in range(4)]
    sampling = sampling_of(config_of(GrpoConfig))
    whole = generate_batch(model, prompts, sampling, form.end_ids, seeds=seeds)
    alone = generate_batch(model, prompts[2:3], sampling, form.end_ids, seeds=seeds[2:3])
    assert whole[2].tokens == alone[0].tokens
    assert len({row_seed(*numbers) for numbers in [(0, 1, 2), (0, 12), (0, 1, 3), (1, 0, 2)]}) == 4


def test_dynamic_sampling_replaces_groups_without_a_difference(base, prompts):
    """Of groups of which every other one is all right, a full step of groups that differ is found, and the stream moves on."""
    task = GrpoTask(config_of(GrpoConfig, group=4, dynamic_rounds=5), base, prompts, Rewards([], None, {}))
    task.train = list(range(100))
    asked = []

    def roll_out(prompts, seeds, temperature=None):
        asked.extend(seeds)
        return [rollout(reward=float(at % 4 == 0) if prompt % 2 else 1.0) for at, prompt in enumerate(prompts)]

    task.roll_out = roll_out
    found = task.collect(0)
    groups = [[one.reward for one in found[at : at + 4]] for at in range(0, 16, 4)]
    assert len(found) == 16 and all(0 < sum(group) < 4 for group in groups)
    assert task.position == task.tried > 4 and len(set(asked)) == len(asked)
    assert task.describe(found)["equal_groups"] == pytest.approx(task.even / task.tried)
    assert task.even > 0


# best of n and the watch


def test_best_of_n_is_the_mean_over_all_draws():
    from itertools import combinations

    scores, truth = [0.1, 0.9, 0.4, 0.9, 0.2], [1.0, 0.0, 0.5, 1.0, 0.0]
    for n in range(1, 6):
        drawn = []
        for some in combinations(range(5), n):
            most = max(scores[at] for at in some)
            drawn.append([truth[at] for at in some if scores[at] == most])
        assert best_of_n(scores, n) == pytest.approx(
            np.mean([max(scores[at] for at in some) for some in combinations(range(5), n)])
        )
        if n in (1, 5):
            assert best_of_n(scores, n, truth) == pytest.approx(np.mean([np.mean(group) for group in drawn]))
    assert best_of_n_kl(1) == 0 and best_of_n_kl(4) == pytest.approx(np.log(4) - 0.75)


def test_repetition_share():
    assert repetition_share([1, 2, 3]) == 0
    assert repetition_share([1, 2, 3, 4, 5, 6]) == 0
    assert repetition_share([7] * 8) == pytest.approx(4 / 5)


@pytest.mark.parametrize(
    ("knob", "figure", "fine", "bad"),
    [
        ("stop_kl", "kl", 1.0, 50.0),
        ("stop_entropy", "entropy", 2.0, 0.01),
        ("stop_repetition", "repetition", 0.1, 0.9),
        ("stop_length", "length", 5.0, 100.0),
    ],
)
def test_each_stop_rule_speaks_of_a_window_and_names_its_knob(knob, figure, fine, bad):
    limit = {"stop_kl": 20.0, "stop_entropy": 0.5, "stop_repetition": 0.5, "stop_length": 50.0}[knob]
    watch = Watch(config_of(GrpoConfig, **{knob: limit, "watch_window": 3}))
    calm = {"kl": 0.0, "entropy": 2.0, "repetition": 0.0, "length": 4.0, "reward": 1.0}
    assert [watch.look({**calm, figure: fine}) for _ in range(5)] == [None] * 5
    assert watch.calm({**calm, figure: fine}) and not watch.calm({**calm, figure: bad})
    said = [watch.look({**calm, figure: bad}) for _ in range(3)]
    assert knob in said[-1] and figure in said[-1]
    idle = Watch(config_of(GrpoConfig, watch_window=1))
    assert idle.look({**calm, figure: bad}) is None


def test_a_judge_that_falls_while_the_reward_rises_ends_the_run():
    watch = Watch(config_of(GrpoConfig, stop_judge=0.5, watch_window=2))
    said = [watch.look({"reward": 0.1 * n, "judge": 1.0 if n < 4 else -1.0}) for n in range(8)]
    assert said[:4] == [None] * 4 and "stop_judge" in said[4]
    other = Watch(config_of(GrpoConfig, stop_judge=0.5, watch_window=2))
    assert not any(other.look({"reward": -0.1 * n, "judge": 1.0 if n < 4 else -1.0}) for n in range(8))
    again = Watch(config_of(GrpoConfig, stop_judge=0.5, watch_window=2))
    again.load_state(json.loads(json.dumps(watch.state())))
    assert again.look({"reward": 1.0, "judge": -1.0})


def test_a_run_that_runs_away_ends_with_the_last_good_model(base, prompts, tmp_path):
    said = []
    config = config_of(GrpoConfig, steps=40, learning_rate=3e-2, stop_kl=3.0, watch_window=2, eval_every=50)
    summary = grpo(config, base, prompts, tmp_path / "out", log=said.append)
    assert summary["steps"] < 40 and "stop_kl=3" in summary["ended"]
    lines = steps(tmp_path / "out")
    assert 0 < summary["best_step"] < summary["steps"]
    assert lines[summary["best_step"] - 1]["kl"] <= 3 < lines[-1]["kl"]
    assert any("the last good checkpoint" in line for line in said)
    good = resolve_as(GrpoConfig, {**config.model_dump(), "steps": summary["best_step"], "stop_kl": None}, "x")
    grpo(good, base, prompts, tmp_path / "good", log=quiet)
    assert bits(tmp_path / "good") == bits(tmp_path / "out")


# rows


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"prompt": "a"}, "nothing rewards this prompt"),
        ({"prompt": "a", "verifier": "number"}, "no answer to check by"),
        ({"prompt": "a", "verifier": "number", "answer": "seven"}, "holds no number"),
        ({"prompt": "a", "verifier": "nubmer", "answer": "7"}, "did you mean 'number'"),
        ({"prompt": "a", "verifier": "number", "answer": 7}, "'answer' is a int"),
        ({"answer": "7", "verifier": "number"}, "'prompt' is missing"),
    ],
)
def test_a_row_that_cannot_be_rewarded_is_named(row, why, base, tmp_path):
    path = write_rows(tmp_path / "prompts.jsonl", [{"prompt": "b", "answer": "7", "verifier": "number"}, row])
    with pytest.raises(TrainingError, match=rf"prompts.jsonl:2.*{why}"):
        grpo(config_of(GrpoConfig), base, path, tmp_path / "out", log=quiet)


def test_knobs_that_do_not_fit(base, prompts, tmp_path):
    with pytest.raises(TrainingError, match="multiple of group"):
        config_of(GrpoConfig, group=5)
    with pytest.raises(TrainingError, match="multiple of minibatches"):
        config_of(PpoConfig, minibatches=3)
    with pytest.raises(TrainingError, match="scale means something with baseline: group"):
        config_of(GrpoConfig, baseline="rloo", scale="none")
    with pytest.raises(TrainingError, match="no reward model is given"):
        ppo(config_of(PpoConfig, value_from="reward"), base, prompts, tmp_path / "out", log=quiet)


def test_prompts_without_room_are_left_out_and_counted(base, tmp_path):
    rows = [{"prompt": text, "answer": "7"} for text in ("short", "x" * 100, "other")]
    read = read_prompts(write_rows(tmp_path / "prompts.jsonl", rows), "number")
    assert [one.verifier for one in read] == ["number"] * 3
    said = []
    train, held = encode_prompts(read, chat_format(base), 64, 6, 0.0, said.append)
    assert len(train) == 2 and not held and "left out: 1 that leave less" in said[0]
    with pytest.raises(TrainingError, match="no prompt is left"):
        encode_prompts(read, chat_format(base), 8, 6, 0.0, said.append)
