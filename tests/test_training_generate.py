"""Generation against transformers, and the command line."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM

from tests.evaluation_common import trained
from tests.training_common import SMALL, make
from training import cli
from training.checkpoint import load_model, save_model
from training.commands.knobs import knobs, markdown
from training.config import resolve
from training.inference.batch import generate_batch
from training.inference.sampling import Sampling
from training.model import Decoder, ModelConfig
from training.presets import PRESETS
from training.vocabulary import load_tokenizer

ROOT = Path(__file__).parent.parent
EOS_ID = 0


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return make(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def model_dir(folders, tmp_path_factory):
    """A model that has learnt when documents end."""
    return trained(folders, tmp_path_factory.mktemp("trained") / "model", 60)


def test_cache_gives_the_greedy_text_of_no_cache_and_of_transformers(model_dir):
    model, end = load_model(model_dir, torch.device("cpu"))
    prompt = load_tokenizer(model_dir).encode("the old mill").ids
    greedy = Sampling(temperature=0, max_new_tokens=30)
    ours = generate_batch(model, [prompt], greedy, [])[0].tokens
    slow = list(prompt)
    with torch.no_grad():
        for _ in range(30):
            slow.append(int(model(torch.tensor([slow]))[0, -1].argmax()))
    assert ours == slow[len(prompt) :]
    theirs = AutoModelForCausalLM.from_pretrained(model_dir)
    whole = theirs.generate(torch.tensor([prompt]), max_new_tokens=30, do_sample=False)[0].tolist()[len(prompt) :]
    assert generate_batch(model, [prompt], greedy, end)[0].tokens == whole


def test_generation_stops_at_the_end_of_a_document(model_dir):
    """Each of several samples ends by itself, with the end token as its last and without it in the text."""
    model, end = load_model(model_dir, torch.device("cpu"))
    assert end == [EOS_ID]
    tokenizer = load_tokenizer(model_dir)
    prompts = [tokenizer.encode("the old mill turns the corn.").ids] * 12
    sampling = Sampling(max_new_tokens=45)
    found = generate_batch(model, prompts, sampling, end, tokenizer=tokenizer, special=True)
    assert len({len(one.tokens) for one in found}) > 2
    blind = generate_batch(model, prompts, sampling, [])
    for stopped, through in zip(found, blind, strict=True):
        ended = EOS_ID in through.tokens
        cut = through.tokens[: through.tokens.index(EOS_ID) + 1] if ended else through.tokens
        assert (stopped.tokens, stopped.finish) == (cut, "stop" if ended else "length")
        assert "<|endoftext|>" not in stopped.text and bool(stopped.text) == (cut != [EOS_ID])


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_command_line_generates(model_dir, capsys):
    assert run("generate", "--model", model_dir, "--prompt", "the miller", "--greedy", "--max-new-tokens", 12) == 0
    first = capsys.readouterr().out
    assert first.startswith("the miller") and len(first) > 12
    sampling = ["--samples", 3, "--temperature", 1.2, "--top-k", 50, "--top-p", 0.9, "--seed", 4]
    assert run("generate", "--model", model_dir, "--prompt", "der Müller", *sampling) == 0
    assert capsys.readouterr().out.count("der Müller") >= 3


def test_a_special_token_in_the_prompt_is_text_and_bad_prompts_are_errors(model_dir, tmp_path, capsys):
    for prompt in ("der Müller mahlt", "a <|endoftext|> b", "粉屋", "x" * 20):
        command = ["generate", "--model", model_dir, "--prompt", prompt, "--max-new-tokens", 8, "--samples", 2]
        assert run(*command, "--seed", 3) == 0
        said = capsys.readouterr().out
        assert said.count(prompt) >= 2 and len(said) > 2 * len(prompt) + 24
        assert run(*command, "--seed", 3) == 0 and capsys.readouterr().out == said
    (tmp_path / "p.txt").write_text("fine\n" + "the mill " * 80)
    (tmp_path / "p.jsonl").write_text('{"prompt": "fine"}\n{"text": "x"}\n')
    (tmp_path / "empty.txt").write_text("\n")
    for source, word in (
        (["--prompt", ""], "empty"),
        (["--prompt", "the mill " * 80], "context"),
        (["--prompt", "\udcff"], "surrogate"),
        (["--prompts", tmp_path / "p.txt"], "prompt 2"),
        (["--prompts", tmp_path / "p.jsonl"], "p.jsonl:2"),
        (["--prompts", tmp_path / "empty.txt"], "no prompts"),
        (["--prompts", tmp_path / "none.txt"], "none.txt"),
    ):
        assert run("generate", "--model", model_dir, *source) == 2
        assert word in capsys.readouterr().err


def test_json_lines_have_every_token_with_its_logprob(model_dir, tmp_path, capsys):
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": text}) + "\n" for text in ("the", "der Müller")))
    command = ["generate", "--model", model_dir, "--prompts", tmp_path / "p.jsonl", "--samples", 2, "--json"]
    assert run(*command, "--top-logprobs", 3, "--max-new-tokens", 6, "--temperature", 0.7, "--rows", 2) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert sorted((line["prompt"], line["sample"]) for line in lines) == [
        ("der Müller", 0), ("der Müller", 1), ("the", 0), ("the", 1),
    ]  # fmt: skip
    model, tokenizer = load_model(model_dir, torch.device("cpu"))[0], load_tokenizer(model_dir)
    for line in lines:
        ids = tokenizer.encode(line["prompt"]).ids
        with torch.no_grad():
            logits = model(torch.tensor([ids + line["tokens"]]))[0, len(ids) - 1 : -1]
        scores = (logits / 0.7).log_softmax(-1)
        for step, (token, score, top) in enumerate(
            zip(line["tokens"], line["logprobs"], line["top_logprobs"], strict=True)
        ):
            assert score == pytest.approx(float(scores[step, token]), abs=1e-4)
            assert [one["token"] for one in top] == scores[step].topk(3).indices.tolist()
    assert run(*command[:5], "--top-logprobs", 3) == 2 and "--json" in capsys.readouterr().err


def test_command_line_trains_from_yaml_and_overrides(folders, tmp_path, capsys):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({**SMALL, "steps": 50, "layers": 1}))
    tail = ["--tokens", folders[0], "--tokenizer", folders[1], "--output", tmp_path / "m"]
    assert run("pretrain", tmp_path / "c.yaml", *tail, "--set", "steps=2", "--set", "learning_rate=1e-3") == 0
    summary = json.loads((tmp_path / "m" / "training.json").read_text())
    assert (summary["steps"], summary["config"]["layers"], summary["config"]["learning_rate"]) == (2, 1, 1e-3)
    assert "bits per byte" in capsys.readouterr().out
    before = (tmp_path / "m" / "model.safetensors").stat().st_mtime_ns
    assert run("pretrain", tmp_path / "c.yaml", *tail, "--set", "steps=2", "--set", "learning_rate=1e-3") == 0
    assert "nothing to do" in capsys.readouterr().out
    assert (tmp_path / "m" / "model.safetensors").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--set", "layer=3"], "unknown key 'layer'; did you mean 'layers'"),
        (["--set", "layers=many"], "layers"),
        (["--set", "layers"], "KEY=VALUE"),
        (["--set", "layers=[1"], "not YAML"),
        (["--set", "heads=3"], "whole number"),
        (["--set", "kv_heads=3"], "multiple of kv_heads"),
        (["--set", "tokens=5", "--set", "steps=5"], "either steps or tokens"),
        (["--preset", "cpu-tin"], "did you mean 'cpu-tiny'"),
        (["/no/such.yaml"], "/no/such.yaml"),
        (["--tokens", "/no/such"], "/no/such"),
        (["--tokenizer", "/no/such"], "/no/such/tokenizer.json"),
        (["--set", "sequence_length=99"], "not packed for sequence length 99"),
        pytest.param(
            ["--set", "device=cuda"], "finds none", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="CUDA here")
        ),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_exit_2(arguments, words, folders, tmp_path, capsys):
    base = ["pretrain", "--tokens", folders[0], "--tokenizer", folders[1], "--output", tmp_path / "m"]
    assert run(*base, *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ") and said.count("\n") == 1 and words in said
    assert not (tmp_path / "m" / "training.json").exists()


def test_sampling_options_that_would_change_nothing_are_refused(model_dir, capsys):
    for extra in (["--top-k", 5], ["--seed", 1], ["--samples", 2]):
        assert run("generate", "--model", model_dir, "--prompt", "a", "--greedy", *extra) == 2
        assert extra[0] in capsys.readouterr().err
    assert run("generate", "--model", "/no/such", "--prompt", "a") == 2
    assert "/no/such" in capsys.readouterr().err


def test_without_torch_the_config_works_and_the_rest_says_what_to_install(tmp_path):
    code = f"""
import sys
sys.path[:0] = {sys.path!r}
sys.modules["torch"] = None
import training.config, training.cli
training.config.resolve({{}})
code = training.cli.main(["pretrain", "--tokens", "x", "--tokenizer", "x", "--output", "x"])
assert training.cli.main(["knobs"]) == 0
sys.exit(code)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert done.stderr == "error: torch is not installed; pip install 'gristmill[train]'\n"


def test_presets_and_shipped_configs_resolve():
    for name in PRESETS:
        config = resolve({"preset": name})
        assert (config.steps is None) != (config.tokens is None)
        assert resolve({"preset": name, "tokens": 10_000}).total_steps(100) == -(-100 // config.batch_rows)
        assert resolve({"preset": name, "steps": 7}).total_steps(100) == 7
    files = sorted((ROOT / "configs" / "train").glob("*.yaml"))
    assert files
    for file in files:
        resolve(yaml.safe_load(file.read_text()), str(file))
    assert (ROOT / "docs" / "training-knobs.md").read_text() == markdown(), "python -m training knobs --markdown"
    assert all(meaning for _, _, meaning, _ in knobs())


def test_saved_specials_parse_as_transformers_does(folders, tmp_path):
    """An exported folder keeps the tokenizer as it was given, byte for byte."""
    config = ModelConfig(400, 64, 1, 16, 2, 2, 32, 8)
    save_model(tmp_path, Decoder(config).initialise(0), folders[1], EOS_ID)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (folders[1] / name).read_bytes()
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".tmp")]
