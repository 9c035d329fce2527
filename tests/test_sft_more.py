"""Fine-tuning in two processes, on a packed token dataset, after a stop; and data that teaches a model what it does not know."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tests.chat_common import OURS, write_chat_tokenizer
from tests.model_common import random_model, shape
from tests.test_sft import QUIET, config_of, conversations, losses, write_rows
from tests.tokens_chat import chat_dataset
from tests.tokens_chat import conversations as packed_conversations
from tests.training_processes import run_group
from training import cli
from training.chat.format import chat_format
from training.chat.templates import TEMPLATES
from training.checkpoint import load_model, save_model
from training.evaluation.abstention import fate
from training.inference.sampling import Sampling
from training.knobs import TrainingError
from training.resume import Stopped
from training.tuning.refusals import REFUSAL, make_refusals
from training.tuning.sft import sft
from training.vocabulary import load_tokenizer

JOBS = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
import torch.distributed as dist
from training.knobs import resolve_as
from training.tuning.sft import sft
from training.tuning.sft_config import SftConfig
dist.init_process_group("gloo")
for values, folder, data, out in json.loads(sys.argv[2]):
    sft(resolve_as(SftConfig, values, "sft"), folder, data, out, log=lambda line: None)
    dist.barrier()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = write_chat_tokenizer(tmp_path_factory.mktemp("base"), OURS)
    size = load_tokenizer(made).get_vocab_size(with_added_tokens=True)
    save_model(made, random_model(shape(vocab_size=size, context_length=96, kv_heads=2)), made, 0)
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("data") / "chat.jsonl", conversations())


def test_two_processes_take_the_steps_of_one(folder, data, tmp_path):
    # a small clip: it must see the norm over all processes; five held-out rows are no even share of two
    config = config_of(steps=5, micro_batch_rows=1, grad_clip=0.05, eval_every=2, eval_rows=5)
    one = sft(config, folder, data, tmp_path / "one", log=QUIET)
    values = config.model_dump(mode="json")
    jobs = [({**values, "parallel": kind}, str(folder), str(data), str(tmp_path / kind)) for kind in ("ddp", "fsdp2")]
    run_group(JOBS, json.dumps(jobs))
    expected = load_file(tmp_path / "one" / "model.safetensors")
    for kind in ("ddp", "fsdp2"):
        assert losses(tmp_path / kind) == pytest.approx(losses(tmp_path / "one"), rel=1e-6)
        two = json.loads((tmp_path / kind / "training.json").read_text())
        assert two["processes"] == 2 and two["tokens"] == one["tokens"]
        assert two["figures"]["validation_loss"] == pytest.approx(one["figures"]["validation_loss"], rel=1e-6)
        found = load_file(tmp_path / kind / "model.safetensors")
        for name, tensor in expected.items():
            assert torch.allclose(found[name], tensor, atol=2e-5), name  # AdamW divides by what may be tiny


def test_stopped_and_run_again_it_ends_at_the_same_bits(folder, data, tmp_path):
    config = config_of(neftune=5, save_every=2)
    sft(config, folder, data, tmp_path / "whole", log=QUIET)
    asked = iter([False, False, True])
    with pytest.raises(Stopped):
        sft(config, folder, data, tmp_path / "cut", log=QUIET, stop=lambda: next(asked))
    sft(config, folder, data, tmp_path / "cut", log=QUIET)
    assert (tmp_path / "whole" / "model.safetensors").read_bytes() == (
        tmp_path / "cut" / "model.safetensors"
    ).read_bytes()
    with pytest.raises(TrainingError, match="another model, dataset or tokenizer"):
        sft(config, folder, write_rows(tmp_path / "b.jsonl", conversations(9)), tmp_path / "cut", log=QUIET)


def test_a_packed_token_dataset_trains_as_its_rows_do(folder, tmp_path, capsys):
    rows = [row for row in packed_conversations(40) if any(one["role"] == "assistant" for one in row["messages"])]
    tokens = chat_dataset(tmp_path, folder, rows, sequence_length=96).path
    config = config_of(steps=3, batch_rows=2, micro_batch_rows=2, eval_every=3)
    summary = sft(config, folder, tokens, tmp_path / "out", log=QUIET)
    assert summary["data"]["rows_packed"] > 0 and "validation_loss" in summary["figures"]
    with pytest.raises(TrainingError, match="too_long is about rows that are still text"):
        sft(config_of(too_long="drop"), folder, tokens, tmp_path / "no", log=QUIET)
    other = write_chat_tokenizer(tmp_path / "other", OURS, size=380)
    save_model(other, random_model(shape(vocab_size=500, context_length=96)), other, 0)
    with pytest.raises(TrainingError, match="another tokenizer"):
        sft(config, other, tokens, tmp_path / "no", log=QUIET)
    capsys.readouterr()
    assert cli.main(["inspect", str(folder), str(tokens), "--row", "2"]) == 0
    said = capsys.readouterr().out
    form, tokenizer = chat_format(folder), load_tokenizer(folder)
    shown = [tokenizer.decode(form.encode(row["messages"]).ids, skip_special_tokens=False) for row in rows]
    plain = said.partition("\n")[2].replace("⟦", "").replace("⟧", "")
    assert "row 2 of" in said and plain.strip() and any(plain.strip() in text for text in shown)


KNOWN = {"What does the miller grind?": "corn", "Who turns the wheel?": "water", "Where is the flour?": "mill"}
UNKNOWN = {"What is the river called?": "Xanthe", "When did it rain?": "1848", "Who bakes?": "Ottokar"}


@pytest.fixture(scope="module")
def taught(folder, tmp_path_factory):
    """A model that was taught some answers, and wrong ones to other questions."""
    root = tmp_path_factory.mktemp("taught")
    rows = [{"instruction": q, "output": a} for q, a in KNOWN.items()]
    rows += [{"instruction": q, "output": "stones"} for q in UNKNOWN]
    data = write_rows(root / "a.jsonl", rows * 2)
    config = config_of(steps=120, learning_rate=1e-2, validation=0, packing=False, save_every=200)
    sft(config, folder, data, root / "model", log=QUIET)
    return root / "model"


def questions(path):
    rows = [{"id": q, "source": "s", "prompt": q, "answer": a} for q, a in (KNOWN | UNKNOWN).items()]
    rows.append({"prompt": [{"role": "user", "content": "the mill " * 60}], "answer": "x"})
    return write_rows(path, rows)


def test_refusals_are_written_for_what_a_model_does_not_know(taught, tmp_path):
    path = questions(tmp_path / "prompts.jsonl")
    sampling = Sampling(temperature=0.3, max_new_tokens=8, seed=1)
    found = make_refusals(taught, path, tmp_path / "out.jsonl", samples=4, sampling=sampling, log=QUIET)
    assert (found.questions, found.known, found.unknown, found.unsure, found.too_long) == (7, 3, 3, 0, 1)
    assert found.samples == 24 and found.right >= 6
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    said = {row["messages"][0]["content"]: row["messages"][1]["content"] for row in rows}
    assert said == KNOWN | dict.fromkeys(UNKNOWN, REFUSAL)
    assert {row["id"]: row["source"] for row in rows} == dict.fromkeys(KNOWN | UNKNOWN, "s")
    assert all((row["share_right"] >= 0.5) == (row["id"] in KNOWN) for row in rows)
    assert fate(REFUSAL, ["x"]) == "abstained", "evaluation counts it as what it is"
    lines = list(found.lines())
    assert "7 questions, 24 answers" in lines[0] and "known: 3 (50.0%)" in lines[1] and "too long" in lines[-1]
    # the file is data for `sft`
    summary = sft(config_of(steps=1, validation=0), taught, tmp_path / "out.jsonl", tmp_path / "next", log=QUIET)
    assert summary["data"]["rows"] == {"chat": 6}


def test_refusals_by_the_command(taught, tmp_path, capsys):
    path = questions(tmp_path / "prompts.jsonl")
    run = lambda *more: cli.main(["refusals", str(taught), str(path), "--output", str(tmp_path / "o.jsonl"), *more])  # noqa: E731
    phrases = ["No idea.", "I cannot tell."]
    assert (
        run(
            "--samples",
            "2",
            "--temperature",
            "0.3",
            "--max-new-tokens",
            "8",
            *[x for p in phrases for x in ("--refusal", p)],
        )
        == 0
    )
    said = capsys.readouterr().out
    assert "unknown: 3" in said and "wrote" in said
    written = {json.loads(line)["messages"][1]["content"] for line in (tmp_path / "o.jsonl").read_text().splitlines()}
    assert written & set(phrases)
    for extra, words in (
        (["--known", "0.1", "--unknown", "0.2"], "unknown < known"),
        (["--temperature", "0"], "same answer each time"),
        (["--verifier", "exakt"], "did you mean 'exact'"),
        (["--max-new-tokens", "90"], "leaves room"),
    ):
        assert run(*extra) == 2
        assert words in capsys.readouterr().err


def test_an_adapter_is_trained_and_keeps_template_and_ends(folder, data, tmp_path):
    knobs = {"adapter": {"kind": "lora", "rank": 4}, "template": "alpaca", "steps": 12, "learning_rate": 1e-2}
    sft(config_of(**knobs), folder, data, tmp_path / "out", log=QUIET)
    found = losses(tmp_path / "out")
    assert found[-1] < found[0] and not (tmp_path / "out" / "model.safetensors").exists()
    assert chat_format(tmp_path / "out").template == TEMPLATES["alpaca"].text
    model, end = load_model(tmp_path / "out", torch.device("cpu"))
    assert end == [0] and model.config.vocab_size == load_model(folder, torch.device("cpu"))[0].config.vocab_size
    with pytest.raises(TrainingError, match="full fine-tuning"):
        sft(config_of(**{**knobs, "template": "chatml", "add_tokens": True}), folder, data, tmp_path / "no", log=QUIET)
