"""The talk on the terminal."""

import io

import pytest
import torch

from tests.chat_model import teach, write_chat_model
from training import cli
from training.chat.format import chat_format
from training.checkpoint import load_model
from training.inference.engine import Engine
from training.inference.sampling import Sampling
from training.serve.terminal_chat import fitting, stream, talk
from training.vocabulary import load_tokenizer


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("talk")
    return teach(write_chat_model(folder / "base", context=96), folder / "m", [("say hi", "hi there"), ("more", "no")])


def test_lines_are_answered(model_dir, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO("say hi\n\n/new\nmore\n/quit\nnever read\n"))
    assert cli.main(["chat", str(model_dir), "--temperature", "0", "--dtype", "float32", "--max-new-tokens", "9"]) == 0
    assert capsys.readouterr().out == "hi there\nno\n"
    monkeypatch.setattr("sys.stdin", io.StringIO("say hi\n"))
    assert cli.main(["chat", str(model_dir), "--temperature", "0", "--max-new-tokens", "1"]) == 0
    assert capsys.readouterr().out != "hi there\n"
    assert cli.main(["chat", str(model_dir), "--temperature", "-1"]) == 2
    assert cli.main(["chat", str(model_dir), "--template", "nope"]) == 2


def test_turns_are_remembered_until_they_no_longer_fit(model_dir):
    form = chat_format(model_dir)
    model, end = load_model(model_dir, torch.device("cpu"))
    seen = []

    class Watched(Engine):
        def add(self, prompt, *arguments, **more):
            seen.append(list(prompt))
            return super().add(prompt, *arguments, **more)

    engine = Watched(model, [*end, *form.end_ids], load_tokenizer(model_dir), max_rows=1)
    lines = iter(["say hi", "say hi", *["say hi " * 3] * 4, "mill " * 200, "say hi", None])
    out = io.StringIO()
    talk(engine, form, Sampling(temperature=0, max_new_tokens=20), "be kind", lambda: next(lines), out)
    said = [{"role": "user", "content": "say hi"}, {"role": "assistant", "content": "hi there"}]
    system = [{"role": "system", "content": "be kind"}]
    assert seen[0] == form.encode([*system, said[0]], prompt=True).ids
    first = out.getvalue().splitlines()[0]
    told = [{"role": "user", "content": "say hi"}, {"role": "assistant", "content": first}]
    assert seen[1] == form.encode([*system, *told, said[0]], prompt=True).ids
    assert "are forgotten" in out.getvalue() and "leaves no room" in out.getvalue()
    assert len(seen) == 7 and all(len(one) + 20 <= 96 for one in seen)
    turns = [*said, *said, said[0]]
    assert fitting(form, [], turns, 96, 1) == (form.encode(turns, prompt=True).ids, 0)


def test_ctrl_c_ends_an_answer(model_dir):
    model, end = load_model(model_dir, torch.device("cpu"))
    engine = Engine(model, end, load_tokenizer(model_dir), max_rows=1)
    step = engine.step
    count = iter(range(5))

    def interrupted():
        if next(count) == 3:
            raise KeyboardInterrupt
        return step()

    engine.step = interrupted
    with pytest.raises(KeyboardInterrupt):
        list(stream(engine, [5, 6], Sampling(temperature=0, max_new_tokens=50)))
    assert not engine.busy


def test_what_a_stop_says_is_no_part_of_the_talk(model_dir, monkeypatch):
    model, end = load_model(model_dir, torch.device("cpu"))
    form, prompts, out = chat_format(model_dir), [], io.StringIO()
    engine = Engine(model, [*end, *form.end_ids], load_tokenizer(model_dir), max_rows=1)

    def answer(engine, prompt, sampling):
        prompts.append(form.tokenizer.decode(prompt, skip_special_tokens=False))
        yield "half"
        raise KeyboardInterrupt

    monkeypatch.setattr("training.serve.terminal_chat.stream", answer)
    lines = iter(["one", "two", None])
    talk(engine, form, Sampling(), None, lambda: next(lines), out)
    assert out.getvalue() == "half (stopped)\n" * 2 and "half" in prompts[1] and "stopped" not in prompts[1]


def test_a_short_context_remembers_more_than_the_last_message(model_dir):
    form = chat_format(model_dir)
    turns = [{"role": role, "content": "hi"} for role in ("user", "assistant", "user")]
    assert fitting(form, [], turns, 96, 512) == (form.encode(turns, prompt=True).ids, 0)
