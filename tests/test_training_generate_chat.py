"""`generate` with conversations: by the model's chat template, to the end of the assistant's turn."""

import json

import pytest

from tests.chat_model import teach, write_chat_model
from training import cli
from training.chat.format import chat_format

ANSWERS = [("the mill", "turns the corn."), ("the miller", "keeps the flour.")]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    root = tmp_path_factory.mktemp("chat")
    return teach(write_chat_model(root / "start"), root / "model", ANSWERS)


def run(*arguments: object) -> int:
    return cli.main(["generate", *(str(argument) for argument in arguments)])


@pytest.mark.parametrize("more", [[], ["--beams", 2], ["--draft", None]], ids=["engine", "beams", "draft"])
def test_what_the_user_says_and_whole_conversations_are_answered(more, model_dir, tmp_path, capsys):
    more = [model_dir if one is None else one for one in more] + ([] if "--beams" in more else ["--greedy"])
    common = ["--model", model_dir, "--max-new-tokens", 20, "--json", *more]
    asked = [[{"role": "user", "content": text}] for text, _ in ANSWERS]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": one}) + "\n" for one in asked))
    assert run("--prompts", tmp_path / "p.jsonl", *common) == 0
    lines = sorted(
        (json.loads(line) for line in capsys.readouterr().out.splitlines()), key=lambda line: str(line["prompt"])
    )
    assert [(line["prompt"], line["text"]) for line in lines] == [
        (messages, said) for messages, (_, said) in zip(asked, ANSWERS, strict=True)
    ]
    assert all(line["tokens"][-1] == chat_format(model_dir).end_ids[0] for line in lines)
    (tmp_path / "p.txt").write_text("the miller\n")
    assert run("--prompts", tmp_path / "p.txt", "--chat", *common) == 0
    line = json.loads(capsys.readouterr().out)
    assert (line["prompt"], line["text"]) == ("the miller", "keeps the flour.")


def test_the_conversation_stands_before_the_answer_on_the_terminal(model_dir, capsys):
    assert run("--model", model_dir, "--prompt", "the mill", "--chat", "--greedy", "--max-new-tokens", 20) == 0
    assert capsys.readouterr().out == "<|user|>the mill<|end|><|assistant|>turns the corn.\n"


def test_mistakes_name_the_line(model_dir, tmp_path, capsys):
    plain = write_chat_model(tmp_path / "plain", chat=False)
    assert run("--model", plain, "--prompt", "x", "--chat") == 2
    assert "chat template" in capsys.readouterr().err
    for value, words in (
        ([], "'prompt' is empty"),
        ([{"role": "user"}], "without text in content"),
        (3, "expected a text or a list"),
    ):
        (tmp_path / "p.jsonl").write_text(json.dumps({"prompt": "fine"}) + "\n" + json.dumps({"prompt": value}) + "\n")
        assert run("--model", model_dir, "--prompts", tmp_path / "p.jsonl") == 2
        assert "p.jsonl:2: " in (error := capsys.readouterr().err) and words in error
