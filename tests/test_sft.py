"""Supervised fine-tuning: rows to packed examples and their accounts, against a plain loop over transformers' model, resume, noise."""

import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.chat_common import ASSISTANT, CALL, OURS, SCHEMAS, USER, write_chat_tokenizer
from tests.model_common import random_model, shape
from tests.training_common import texts
from training import cli
from training.chat.format import chat_format
from training.chat.grow import grow_vocabulary
from training.checkpoint import load_model, save_model
from training.data import step_rows
from training.device import Place
from training.knobs import TrainingError, resolve_as
from training.loss import IGNORED
from training.schedule import learning_rate
from training.tuning.examples import RowEncoder, read_examples
from training.tuning.packing import best_fit
from training.tuning.sft import Sft, noise_scale, sft
from training.tuning.sft_config import SftConfig
from training.vocabulary import load_tokenizer

QUIET = lambda _: None  # noqa: E731


def conversations(count=40, seed=0):
    """Rows with some structure to learn, of several turns."""
    draw, lines = random.Random(seed), texts(200, 3)
    rows = []
    for number in range(count):
        turns = []
        for _ in range(draw.randint(1, 2)):
            text = draw.choice(lines)[:40]
            turns += [{"role": "user", "content": text}, {"role": "assistant", "content": text[:12]}]
        rows.append({"id": f"row-{number}", "source": "test", "messages": turns})
    return rows


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A base model with a tokenizer that knows our template."""
    made = write_chat_tokenizer(tmp_path_factory.mktemp("base"), OURS)
    size = load_tokenizer(made).get_vocab_size(with_added_tokens=True)
    save_model(made, random_model(shape(vocab_size=size, context_length=96, kv_heads=2)), made, 0)
    return made


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("data") / "chat.jsonl", conversations())


def config_of(**knobs):
    base = {"steps": 6, "batch_rows": 4, "micro_batch_rows": 4, "learning_rate": 3e-3, "dtype": "float32", "threads": 1}
    return resolve_as(SftConfig, {**base, "device": "cpu", "eval_every": 100, "validation": 0.2, **knobs}, "sft")


def metrics(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def losses(out):
    return [line["loss"] for line in metrics(out) if "loss" in line]


def read(path, folder, capacity, **changes):
    options = {"too_long": "truncate", "bad_rows": "error", "validation": 0.0, "packing": True, "padding": 0}
    return read_examples(path, RowEncoder(folder, None, False, 0), capacity, **{**options, **changes})


def test_best_fit_holds_all_and_wastes_little():
    lengths = np.random.default_rng(0).integers(1, 65, 700)
    rows = best_fit(lengths, 64)
    assert sorted(number for row in rows for number in row) == list(range(700))
    assert all(lengths[row].sum() <= 64 for row in rows)
    assert len(rows) <= lengths.sum() / 64 * 1.06
    assert best_fit(np.array([3, 3, 2, 2, 2, 4]), 8) == [[5, 0], [1, 2, 3], [4]]
    assert best_fit(np.empty(0, np.int64), 8) == []


def test_a_batch_has_each_example_as_a_document_and_predicts_what_is_trained(folder, data):
    train, _, accounts = read(data, folder, 96)
    form = chat_format(folder)
    batch = train.batch(range(len(train)))
    assert accounts.tokens_read == accounts.tokens_kept == int((batch.documents >= 0).sum())
    found = {}
    for row in range(len(train)):
        for document in range(int(batch.documents[row].max()) + 1):
            place = batch.documents[row] == document
            ids, targets = batch.tokens[row][place].tolist(), batch.targets[row][place].tolist()
            found[tuple(ids)] = targets
    for row in conversations():
        ids, trained = form.encode(row["messages"])
        expected = [token if on else IGNORED for token, on in zip(ids[1:], trained[1:], strict=True)]
        assert found[tuple(ids)] == [*expected, IGNORED]
    assert (batch.targets != IGNORED).sum() == accounts.tokens_trained


@pytest.mark.parametrize("too_long", ["truncate", "drop", "split"])
def test_tokens_are_accounted_for_exactly(too_long, folder, tmp_path):
    rows = conversations(30)
    rows.append(
        {"messages": [{"role": "user", "content": "the mill " * 40}, ASSISTANT]}
    )  # its answer lies beyond the row
    path = write_rows(tmp_path / "a.jsonl", rows)
    train, held, accounts = read(path, folder, 24, too_long=too_long, validation=0.3)
    form = chat_format(folder)
    assert accounts.tokens_read == sum(len(form.encode(row["messages"]).ids) for row in rows)
    assert accounts.tokens_read == accounts.tokens_kept + accounts.tokens_cut + accounts.tokens_dropped
    assert accounts.tokens_kept == train.starts[-1] + held.starts[-1]
    assert accounts.tokens_trained == train.trained.sum() + held.trained.sum()
    assert accounts.held_out == len(held.starts) - 1 > 0
    assert accounts.tokens_dropped > 0 and (accounts.tokens_cut > 0) == (too_long == "truncate")
    assert (accounts.rows_split > 0) == (too_long == "split")
    lines = list(accounts.lines())
    assert f"{accounts.tokens_read:,} tokens = {accounts.tokens_kept:,} kept" in lines[1]
    for side in (train, held):
        batch = side.batch(range(len(side)))
        assert batch.tokens.shape[1] <= 24 and ((batch.targets != IGNORED).sum(dim=1) > 0).all()


def test_rows_of_every_kind_and_where_parquet_holds_them(folder, tmp_path):
    write_rows(
        tmp_path / "a.jsonl",
        [
            {"instruction": "grind", "input": "the corn", "output": "done", "system": "be kind"},
            {"instruction": "grind", "output": "done"},
            {"text": "the miller grinds <|end|>"},
            {"messages": [USER, {**ASSISTANT, "tool_calls": [CALL]}], "tools": json.dumps(SCHEMAS)},
        ],
    )
    pq.write_table(
        pa.Table.from_pylist([{"id": "p", "source": "s", "messages": [USER, ASSISTANT]}]), tmp_path / "b.parquet"
    )
    train, _, accounts = read(tmp_path, folder, 200)
    assert accounts.rows == {"instruction": 2, "text": 1, "chat": 2}
    tokenizer = load_tokenizer(folder)
    decode = lambda ids: tokenizer.decode(ids.tolist(), skip_special_tokens=False)  # noqa: E731
    said = [decode(train.tokens[a:b]) for a, b in zip(train.starts[:-1], train.starts[1:], strict=True)]
    assert said[0] == "<|system|>be kind<|end|><|user|>grind\n\nthe corn<|end|><|assistant|>done<|end|>"
    assert said[1] == "<|user|>grind<|end|><|assistant|>done<|end|>"
    assert said[2] == "the miller grinds <|end|><|endoftext|>"
    plain = train.trained[train.starts[2] : train.starts[3]]
    assert not plain[0] and plain[1:].all()
    assert train.tokens[train.starts[3] - 2] != 5, "the spelling in the text is not the token"
    assert "Tools:" in said[3] and "<tool_call>" in said[3]


BAD = [
    ({"id": "x", "messages": [USER]}, "no token of it is the assistant's"),
    ({"id": "x", "messages": []}, "no messages"),
    ({"id": "x", "messages": "hi"}, "'messages' is a str"),
    ({"id": "x", "messages": [{"role": "narrator", "content": "y"}]}, "role 'narrator'"),
    ({"id": "x", "instruction": "y"}, "without 'output'"),
    ({"id": "x", "text": " "}, "'text' is empty"),
    ({"id": "x", "prompt": "y"}, "it has id, prompt; expected messages"),
    ({"id": "x", "messages": [USER, ASSISTANT], "tools": "{"}, "'tools' is no JSON"),
]


@pytest.mark.parametrize(("row", "words"), BAD)
def test_a_bad_row_is_named_or_left_out_and_counted(row, words, folder, tmp_path):
    path = write_rows(tmp_path / "a.jsonl", [*conversations(3), row])
    with pytest.raises(TrainingError, match=rf"a\.jsonl.*4.*\(id x\).*{words}.*bad_rows: drop"):
        read(path, folder, 96)
    _, _, accounts = read(path, folder, 96, bad_rows="drop")
    assert sum(accounts.bad.values()) == 1 and accounts.pieces == 3


def test_nothing_to_train_on_is_said(folder, tmp_path):
    path = write_rows(tmp_path / "a.jsonl", conversations(3))
    with pytest.raises(TrainingError, match="nothing to train on: 3 rows, 3 of them dropped as longer than 4 tokens"):
        read(path, folder, 4, too_long="drop")
    (tmp_path / "b.jsonl").write_text("")
    with pytest.raises(TrainingError, match="nothing to train on"):
        read(tmp_path / "b.jsonl", folder, 96)
    with pytest.raises(TrainingError, match="no such file"):
        sft(config_of(), folder, tmp_path / "no", tmp_path / "out", log=QUIET)


def plain_loop(folder, data, config, packing):
    """The same run by transformers' model and tokenizer, torch's AdamW, and one example after the other: no packing, no mask."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    train, _, _ = read(data, folder, 96, validation=config.validation, packing=packing)
    made = []
    for row in (json.loads(line) for line in data.read_text().splitlines()):
        one = tokenizer.apply_chat_template(row["messages"], return_dict=True, return_assistant_tokens_mask=True)
        made.append((one["input_ids"], one["assistant_masks"]))
    known = {tuple(ids): mask for ids, mask in made}
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(config.beta1, config.beta2), weight_decay=0.0)
    found = []
    for step in range(config.steps):
        rows = step_rows(step, len(train), config.batch_rows, config.seed, True)
        examples = [
            train.tokens[train.starts[n] : train.starts[n + 1]].tolist() for row in rows for n in train.rows[row]
        ]
        total, count = 0.0, 0
        for ids in examples:
            labels = torch.tensor([[t if on else -100 for t, on in zip(ids, known[tuple(ids)], strict=True)]])
            logits = model(torch.tensor([ids])).logits
            total = total + torch.nn.functional.cross_entropy(logits[0, :-1], labels[0, 1:], reduction="sum")
            count += int((labels[0, 1:] != -100).sum())
        optimizer.zero_grad()
        (total / count).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config.steps, config)
        optimizer.step()
        found.append(float(total.detach()) / count)
    return found


@pytest.mark.parametrize("packing", [True, False])
def test_steps_have_the_losses_of_a_plain_loop_over_transformers(packing, folder, data, tmp_path):
    config = config_of(steps=20 if packing else 8, packing=packing, eval_every=5)
    summary = sft(config, folder, data, tmp_path / "out", log=QUIET)
    ours = losses(tmp_path / "out")
    assert ours == pytest.approx(plain_loop(folder, data, config, packing), abs=1e-4)
    assert ours[-1] < ours[0]
    assert (
        summary["figures"]["validation_loss"]
        == [x for x in metrics(tmp_path / "out") if "validation_loss" in x][-1]["validation_loss"]
    )
    told = summary["data"]
    assert told["rows"] == {"chat": 40} and 0 < told["held_out"] < 20 and told["row_length"] == 96
    assert (told["rows_packed"] < told["pieces"] - told["held_out"]) == packing


def test_one_times_eight_is_eight_times_one(folder, data, tmp_path):
    for name, micro in (("a", 8), ("b", 1)):
        sft(config_of(batch_rows=8, micro_batch_rows=micro, steps=4), folder, data, tmp_path / name, log=QUIET)
    assert losses(tmp_path / "a") == pytest.approx(losses(tmp_path / "b"), rel=1e-6)
    ours, theirs = (load_model(tmp_path / name, torch.device("cpu"))[0] for name in "ab")
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a, b, atol=2e-5)


def test_the_model_is_saved_with_the_ends_of_a_turn(folder, data, tmp_path):
    sft(config_of(steps=1), folder, data, tmp_path / "out", log=QUIET)
    assert load_model(tmp_path / "out", torch.device("cpu"))[1] == [5, 0]
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == [5, 0]
    assert chat_format(tmp_path / "out").end_ids == (5, 0)


def test_tokens_that_a_template_needs_are_added_and_saved(folder, data, tmp_path):
    with pytest.raises(TrainingError, match="add_tokens: true"):
        sft(config_of(template="chatml"), folder, data, tmp_path / "out", log=QUIET)
    with pytest.raises(TrainingError, match="add_tokens needs template"):
        config_of(add_tokens=True)
    said = []
    summary = sft(
        config_of(template="chatml", add_tokens=True, steps=8), folder, data, tmp_path / "out", log=said.append
    )
    assert summary["new_tokens"] == 2 and any("<|im_start|>, <|im_end|>" in line for line in said)
    theirs, model = (
        AutoTokenizer.from_pretrained(tmp_path / "out"),
        AutoModelForCausalLM.from_pretrained(tmp_path / "out"),
    )
    old = load_model(folder, torch.device("cpu"))[0]
    assert model.get_input_embeddings().num_embeddings == old.config.vocab_size + 2 == len(theirs)
    ids = theirs.apply_chat_template([USER, ASSISTANT], return_dict=True)["input_ids"]
    assert ids == chat_format(tmp_path / "out").encode([USER, ASSISTANT]).ids and max(ids) >= old.config.vocab_size
    ours = load_model(tmp_path / "out", torch.device("cpu"))[0]
    assert torch.allclose(ours(torch.tensor([ids])), model(torch.tensor([ids])).logits, atol=1e-4)


def test_new_tokens_need_embeddings_that_learn(folder, data):
    model = load_model(folder, torch.device("cpu"))[0].requires_grad_(False)
    task = Sft(config_of(template="chatml", add_tokens=True), folder, data)
    with pytest.raises(TrainingError, match="full fine-tuning"):
        task.prepare(model, Place(0, 1, torch.device("cpu"), torch.float32, 1))


@pytest.mark.parametrize("tie", [True, False])
@pytest.mark.parametrize("padded", [1, 64])
def test_grown_embeddings_keep_what_the_model_said(tie, padded):
    model = random_model(shape(vocab_size=97, tie_embeddings=tie, pad_vocabulary=padded))
    tokens = torch.arange(20)[None]
    before = model(tokens)
    assert grow_vocabulary(model, 97, 0) == 0 and grow_vocabulary(model, 100, 0) == 3
    after = model(tokens)
    assert torch.equal(before, after[..., :97]) and after.shape[-1] == 100
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tie
    fresh = model.model.embed_tokens.weight[97:100]
    assert torch.allclose(fresh, model.model.embed_tokens.weight[:97].mean(0).expand(3, -1), atol=0.05)
    assert not torch.equal(fresh[0], fresh[1])


def test_noise_is_neftunes_and_only_while_training(folder, data, tmp_path):
    documents = torch.tensor([[0, 0, 0, 1, -1, -1]])
    expected = torch.tensor([5 / (3 * 32) ** 0.5] * 3 + [5 / 32**0.5, 0, 0])
    assert torch.allclose(noise_scale(documents, 32, 5.0)[0, :, 0], expected)
    outs = {}
    for name, alpha in (("none", 0.0), ("some", 5.0), ("again", 5.0)):
        outs[name] = sft(config_of(neftune=alpha, eval_every=1, steps=2), folder, data, tmp_path / name, log=QUIET)
    first = {name: losses(tmp_path / name) for name in outs}
    assert first["some"][0] != first["none"][0] and first["some"] == first["again"]
    still = [
        sft(config_of(neftune=a, learning_rate=1e-30, steps=1), folder, data, tmp_path / f"e{a}", log=QUIET)
        for a in (0, 5)
    ]
    assert still[0]["figures"] == still[1]["figures"], "held-out examples get no noise"


def test_early_stop_gives_back_the_best(folder, data, tmp_path):
    config = config_of(
        steps=60, learning_rate=0.3, schedule="constant", warmup_ratio=0, eval_every=1, early_stop=2, grad_clip=0
    )
    summary = sft(config, folder, data, tmp_path / "out", log=QUIET)
    found = {line["step"]: line["validation_loss"] for line in metrics(tmp_path / "out") if "validation_loss" in line}
    assert summary["steps"] < 60 and summary["figures"]["validation_loss"] == pytest.approx(min(found.values()))


def test_a_context_that_is_too_short_and_ids_beyond_the_model(folder, data, tmp_path):
    with pytest.raises(TrainingError, match="more than the model's context of 96"):
        sft(config_of(sequence_length=97), folder, data, tmp_path / "out", log=QUIET)
    small = write_chat_tokenizer(tmp_path / "small", OURS)
    save_model(small, random_model(shape(vocab_size=300)), small, 0)
    with pytest.raises(TrainingError, match="do not belong together"):
        sft(config_of(), small, data, tmp_path / "out", log=QUIET)


def test_commands(folder, data, tmp_path, capsys):
    run = lambda *arguments: cli.main([str(one) for one in arguments])  # noqa: E731
    sets = ["--set", "steps=2", "--set", "batch_rows=2", "--set", "micro_batch_rows=2", "--set", "threads=1"]
    assert run("sft", "--model", folder, "--data", data, "--output", tmp_path / "out", *sets) == 0
    assert "tokens kept" not in capsys.readouterr().err and (tmp_path / "out" / "training.json").exists()
    assert run("sft", "--model", folder, "--data", data, "--output", folder, *sets) == 2
    capsys.readouterr()
    assert run("inspect", folder, data, "--id", "row-3", "--ids") == 0
    said = capsys.readouterr().out
    assert "(id row-3), chat" in said and "<|assistant|>⟦" in said and "<|end|>⟧" in said and "trained" in said
    assert run("inspect", folder, data, "--row", 2, "--count", 2, "--color", "always") == 0
    said = capsys.readouterr().out
    assert "row-1" in said and "row-2" in said and "\x1b[1;32m" in said and "⟦" not in said
    assert run("inspect", folder, data, "--html", tmp_path / "page.html") == 0
    page = (tmp_path / "page.html").read_text()
    assert 'class="on"' in page and "&lt;|assistant|&gt;" in page
    capsys.readouterr()
    for extra in (
        ["--id", "no"],
        ["--row", 99],
        ["--id", "row-1", "--row", 1],
        ["--template", "chatml"],
        ["--html", "x", "--ids"],
    ):
        assert run("inspect", folder, data, *extra) == 2
        assert capsys.readouterr().err.startswith("error: ")


def test_a_terminal_is_not_steered_by_what_is_shown(folder, tmp_path, capsys):
    path = write_rows(tmp_path / "a.jsonl", [{"messages": [{"role": "user", "content": "a\x1b[2Jb\x9b\n"}, ASSISTANT]}])
    assert cli.main(["inspect", str(folder), str(path), "--ids"]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "\x9b" not in said and "␛[2J" in said
