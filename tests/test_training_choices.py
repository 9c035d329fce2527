# ruff: noqa: F811  # fixtures by their names
"""Choices and generation: the harness on the same folder and items; files of items that are right and wrong."""

import json
import os

import numpy as np
import pytest
import torch

os.environ["HF_DATASETS_OFFLINE"] = os.environ["HF_HUB_OFFLINE"] = "1"

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.metrics import mean_stderr
from lm_eval.tasks import TaskManager

from tests.evaluation_common import (  # noqa: F401
    CHOICES,
    CPU,
    choices_file,
    folders,
    loaded,
    long_texts,
    model_dir,
    theirs,
)
from tests.model_common import FAMILIES, random_model, shape
from tests.training_common import texts
from training.evaluation import harness as harness_module
from training.evaluation.choices import encode_pair, run_task
from training.evaluation.config import TaskConfig
from training.evaluation.harness import run_harness
from training.evaluation.harness_model import GristmillLM
from training.evaluation.items import read_task, read_tasks
from training.evaluation.scoring import Request, score
from training.inference.batch import generate_batch
from training.inference.sampling import Sampling
from training.knobs import TrainingError


@pytest.fixture(scope="module")
def yamls(choices_file, tmp_path_factory):
    """Tasks of the harness on local data: choices, a rolling likelihood, greedy generation."""
    folder = tmp_path_factory.mktemp("yamls")
    corpus = folder / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"text": text}) + "\n" for text in long_texts()))
    head = "dataset_path: json\ntest_split: train\nnum_fewshot: 0\nmetadata: {version: 1}\n"
    files = lambda path: f'dataset_kwargs: {{data_files: "{path}"}}\n'  # noqa: E731
    metric = lambda name: f"  - {{metric: {name}, aggregation: mean, higher_is_better: true}}\n"  # noqa: E731
    (folder / "choices.yaml").write_text(
        f"task: mill_choices\n{head}{files(choices_file)}output_type: multiple_choice\n"
        'doc_to_text: "{{query}}"\ndoc_to_choice: "{{choices}}"\ndoc_to_target: gold\nmetric_list:\n'
        + "".join(metric(name) for name in ("acc", "acc_norm", "acc_bytes", "acc_mutual_info"))
    )
    (folder / "rolling.yaml").write_text(
        f"task: mill_rolling\n{head}{files(corpus)}output_type: loglikelihood_rolling\n"
        'doc_to_text: ""\ndoc_to_target: "{{text}}"\nmetric_list:\n'
        "  - {metric: bits_per_byte}\n  - {metric: word_perplexity}\n  - {metric: byte_perplexity}\n"
    )
    (folder / "generate.yaml").write_text(
        f"task: mill_generate\n{head}{files(choices_file)}output_type: generate_until\n"
        'doc_to_text: "{{query}}"\ndoc_to_target: "{{choices[gold]}}"\n'
        'generation_kwargs: {until: ["corn", "\\n"], max_gen_toks: 12, do_sample: false}\n'
        "metric_list:\n  - {metric: exact_match, aggregation: mean, higher_is_better: true}\n"
    )
    return folder


@pytest.fixture(scope="module")
def harness(yamls, theirs, tmp_path_factory):
    """What the harness's own class for transformers reaches."""
    os.environ["HF_HOME"] = str(tmp_path_factory.mktemp("hf"))
    manager = TaskManager(include_path=str(yamls), include_defaults=False)
    names = ["mill_choices", "mill_rolling", "mill_generate"]
    return simple_evaluate(model=theirs, tasks=names, task_manager=manager, bootstrap_iters=1000, log_samples=True)


def test_choices_are_right_where_the_harness_says_so(loaded, choices_file, harness, yamls):
    """acc, acc_norm, acc_bytes and acc_mutual_info with their errors, from likelihoods that are equal one by one."""
    model, tokenizer, end = loaded
    task = read_task(choices_file, TaskConfig(path=str(choices_file)))
    ours = run_task(model, tokenizer, task, end=end[0], seed=0, batch_tokens=200)
    wanted = harness["results"]["mill_choices"]
    for rule, metric in {
        "raw": "acc",
        "per_character": "acc_norm",
        "per_byte": "acc_bytes",
        "pmi": "acc_mutual_info",
    }.items():
        assert ours[f"accuracy_{rule}"] == pytest.approx(wanted[f"{metric},none"])
        assert ours[f"accuracy_{rule}_stderr"] == pytest.approx(wanted[f"{metric}_stderr,none"])
    for item, sample in zip(CHOICES, harness["samples"]["mill_choices"], strict=True):
        lls = [float(response[0][0]) for response in sample["resps"]]
        pairs = [encode_pair(tokenizer, item["query"], " " + choice, end[0]) for choice in item["choices"]]
        found = [one.loglikelihood for one in score(model, pairs, 100)]
        assert found == pytest.approx(lls[: len(found)], abs=1e-4)
        free = [encode_pair(tokenizer, "", " " + choice, end[0]) for choice in item["choices"]]
        assert [one.loglikelihood for one in score(model, free, 100)] == pytest.approx(lls[len(found) :], abs=1e-4)
    assert len({ours[f"accuracy_{rule}"] for rule in ("raw", "per_byte", "per_token", "pmi")}) > 1


def test_harness_tasks_are_equal_by_our_class_and_by_theirs(loaded, harness, yamls, monkeypatch):
    model, tokenizer, end = loaded
    files = tuple(str(yamls / name) for name in ("choices.yaml", "rolling.yaml", "generate.yaml"))
    ours = run_harness(model, tokenizer, end, files)
    assert sorted(ours) == ["mill_choices", "mill_generate", "mill_rolling"]
    for name, metrics in ours.items():
        wanted = {key: value for key, value in harness["results"][name].items() if isinstance(value, int | float)}
        assert metrics.keys() == wanted.keys() and len(metrics) > 1
        for key, value in metrics.items():
            assert value == pytest.approx(wanted[key], rel=1e-5, nan_ok=True), (name, key)
    by_name = run_harness(model, tokenizer, end, ("mill_rolling",), include_path=str(yamls), limit=2)
    assert by_name["mill_rolling"]["bits_per_byte,none"] != ours["mill_rolling"]["bits_per_byte,none"]
    real = harness_module._manager  # the thousands of its own tasks take minutes to be listed on a busy machine
    monkeypatch.setattr(harness_module, "_manager", lambda folders, defaults: real(folders, False))
    with pytest.raises(TrainingError, match="no task 'mill_roling'"):
        run_harness(model, tokenizer, end, ("mill_roling",), include_path=str(yamls))
    with pytest.raises(TrainingError, match="cannot read"):
        run_harness(model, tokenizer, end, (str(yamls / "none.yaml"),))
    (yamls / "gone.yaml").write_text((yamls / "rolling.yaml").read_text().replace("corpus.jsonl", "gone.jsonl"))
    with pytest.raises(TrainingError, match="harness_online is off"):
        run_harness(model, tokenizer, end, (str(yamls / "gone.yaml"),))


def test_generation_stops_where_the_harness_stops(loaded, theirs):
    """Text-level stops, found although no token is one of them, and one that begins inside a repeated beginning."""
    contexts = ["the old mill", "der Müller", "a river carries"]
    ours = GristmillLM(loaded=loaded)
    for until in (["corn"], ["\n"], ["ill tu"], ["e c", "the w"], [" "]):
        settings = {"until": until, "max_gen_toks": 16, "do_sample": False}
        requests = [
            Instance(request_type="generate_until", doc={}, arguments=(text, dict(settings)), idx=0)
            for text in contexts
        ]
        wanted = theirs.generate_until(requests, disable_tqdm=True)
        again = [
            Instance(request_type="generate_until", doc={}, arguments=(text, dict(settings)), idx=0)
            for text in contexts
        ]
        assert ours.generate_until(again) == wanted


def likeliest(model, prompts, new_tokens, end=()):
    found = generate_batch(model, prompts, Sampling(temperature=0, max_new_tokens=new_tokens), end)
    return [one.tokens for one in found]


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_continues_and_scores_in_batches(family):
    """Through the cache as without it, and the likeliest tokens score as such."""
    model = random_model(shape(family))
    prompts = [list(range(3 + i, 9 + 2 * i)) for i in (0, 1, 1, 4)]
    found = likeliest(model, prompts, 12)
    with torch.no_grad():
        for prompt, new in zip(prompts, found, strict=True):
            row = list(prompt)
            for _ in range(12):
                row.append(int(model(torch.tensor([row]))[0, -1].argmax()))
            assert row[len(prompt) :] == new
    requests = [Request(prompt, new) for prompt, new in zip(prompts, found, strict=True)]
    scored = score(model, requests, 1000, likeliest=True)
    assert all(one.greedy for one in scored)
    for one, other in zip(scored, score(model, requests, 1), strict=True):
        assert one.nll == pytest.approx(other.nll, abs=1e-5)


def test_scores_do_not_depend_on_the_batch_and_say_what_is_greedy(loaded):
    model, tokenizer, _ = loaded
    requests = [Request([5], tokenizer.encode(text).ids[:50]) for text in texts(12, seed=9)]
    prompt = tokenizer.encode("the old mill").ids
    requests.append(Request(prompt, likeliest(model, [prompt], 10)[0]))
    together, alone = score(model, requests, 10_000, likeliest=True), score(model, requests, 1)
    for one, other in zip(together, alone, strict=True):
        assert one.nll == pytest.approx(other.nll, abs=1e-5)
    assert together[-1].greedy and not together[0].greedy
    long = Request(list(range(3, 90)), [8, 9])  # cut from the left to what fits
    assert score(model, [long], 99)[0].nll == pytest.approx(
        score(model, [Request(long.context[-63:], [8, 9])], 99)[0].nll
    )
    for bad, words in (
        (Request([1], [2] * 65), "65 tokens"),
        (Request([1], [9999]), "9999"),
        (Request([], [1]), "empty"),
    ):
        with pytest.raises(TrainingError, match=words):
            score(model, [bad], 99)


def test_schema_and_completion_tasks_by_hand(tmp_path, loaded):
    model, tokenizer, end = loaded
    prompt = "the old mill turns"
    (new,) = likeliest(model, [tokenizer.encode(prompt).ids], 6, end)
    likely = tokenizer.decode(new)
    rows = [
        {"context": prompt + " ", "continuation": likely.removeprefix(" ")},
        {"context": prompt, "continuation": "zzz"},
    ]
    (tmp_path / "lm.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    task = read_task(tmp_path / "lm.jsonl", TaskConfig(path="x"))
    found = run_task(model, tokenizer, task, end=end[0], seed=0, batch_tokens=100)
    assert likely.startswith(" ") and (found["accuracy"], found["chance"], found["centred"]) == (0.5, 0.0, 0.5)
    assert found["accuracy_stderr"] == mean_stderr([1.0, 0.0])

    rows = [
        {"context_options": ["the old mill turns", "粉屋 x x x"], "continuation": "stones;", "gold": 0},
        {"context_options": ["the old mill turns", "粉屋 x x x"], "continuation": "stones;", "gold": 1},
        {"context_options": ["qq", "der Müller mahlt"], "continuation": "das Korn.", "gold": 1},
    ]
    (tmp_path / "schema.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    task = read_task(tmp_path / "schema.jsonl", TaskConfig(path="x"))
    found = run_task(model, tokenizer, task, end=end[0], seed=0, batch_tokens=100)
    right = []
    for row in rows:
        losses = [
            -score(model, [encode_pair(tokenizer, context, " " + row["continuation"], end[0])], 99)[0].loglikelihood
            for context in row["context_options"]
        ]
        right.append(float(int(np.argmin(losses)) == row["gold"]))
    assert right[0] != right[1] and found["accuracy"] == pytest.approx(np.mean(right)) and "accuracy_pmi" not in found
    assert found["centred"] == pytest.approx((np.mean(right) - 0.5) / 0.5)


def test_solved_examples_are_drawn_by_seed_without_the_question(choices_file, loaded):
    task = read_task(choices_file, TaskConfig(path="x", shots=3))
    for number in range(len(task.items)):
        shown = task.examples(number, seed=1)
        assert len(shown) == 3 and task.items[number] not in shown and len(set(shown)) == 3
        assert shown == task.examples(number, seed=1)
    assert any(task.examples(n, 1) != task.examples(n, 2) for n in range(len(task.items)))
    model, tokenizer, end = loaded
    runs = [
        run_task(
            model,
            tokenizer,
            read_task(choices_file, TaskConfig(path="x", shots=shots)),
            end=end[0],
            seed=0,
            batch_tokens=99,
        )
        for shots in (0, 1)
    ]
    assert runs[0] != runs[1] and runs[1]["shots"] == 1
    with pytest.raises(TrainingError, match="too few for shots=7"):
        read_task(choices_file, TaskConfig(path="x", shots=7))


def test_a_bundle_as_dclm_lays_it_out(tmp_path, choices_file):
    (tmp_path / "eval_data" / "sub").mkdir(parents=True)
    (tmp_path / "eval_data" / "sub" / "mill.jsonl").write_bytes(choices_file.read_bytes())
    (tmp_path / "eval_meta_data.csv").write_text("Eval Task,Task Category,Random baseline\nmill,x,40\n")
    (tmp_path / "core.yaml").write_text(
        "icl_tasks:\n- {label: mill, dataset_uri: sub/mill.jsonl, num_fewshot: [2], icl_task_type: multiple_choice, "
        'continuation_delimiter: "\\nAnswer: "}\n- {label: other, dataset_uri: sub/mill.jsonl, num_fewshot: [0, 1]}\n'
    )
    tasks = read_tasks((TaskConfig(path=str(tmp_path / "core.yaml")),))
    assert [task.name for task in tasks] == ["mill", "other (0 shots)", "other (1 shots)"]
    assert (tasks[0].shots, tasks[0].delimiter, tasks[0].chance) == (2, "\nAnswer: ", 0.4)
    assert tasks[1].guessing(7) == pytest.approx(sum(1 / len(item["choices"]) for item in CHOICES) / 7)
    (tmp_path / "core.yaml").write_text(
        "icl_tasks:\n- {label: mill, dataset_uri: sub/mill.jsonl, icl_task_type: schema}\n"
    )
    with pytest.raises(TrainingError, match="mill is schema"):
        read_tasks((TaskConfig(path=str(tmp_path / "core.yaml")),))
    (tmp_path / "core.yaml").write_text("tasks: 3\n")
    with pytest.raises(TrainingError, match="expected icl_tasks"):
        read_tasks((TaskConfig(path=str(tmp_path / "core.yaml")),))


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"query": "a", "choices": ["b"], "gold": 0}', "choices must be a list of at least two"),
        ('{"query": "a", "choices": ["b", "c"], "gold": 2}', "gold must be a number from 0 to 1"),
        ('{"query": "a", "choices": ["b", ""], "gold": 0}', "choices must be"),
        ('{"context": "a"}', "continuation must be a text"),
        ('{"prompt": "a"}', "there are prompt"),
        ("[1]", "expected one JSON object"),
        ("", "has no items"),
        ('{"context": "a", "continuation": "b"}\n{"query": "a", "choices": ["b", "c"], "gold": 0}', "several kinds"),
    ],
)
def test_items_that_are_wrong_are_named(tmp_path, line, words):
    (tmp_path / "t.jsonl").write_text(line)
    with pytest.raises(TrainingError, match=words):
        read_task(tmp_path / "t.jsonl", TaskConfig(path="x"))
