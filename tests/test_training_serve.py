# ruff: noqa: F811  # fixtures by their names
"""The server as its clients see it: the official client, tools, models without a template; and its parts."""

import asyncio
import json
import socket

import httpx
import openai
import pytest

from tests.chat_model import teach, write_chat_model
from tests.serve_common import (  # noqa: F401
    CALL,
    KEY,
    TOOLS,
    alone,
    client,
    loaded,
    model_dir,
    server,
    user,
    within,
)
from training import cli
from training.inference.batch import generate_batch
from training.inference.engine import Engine
from training.inference.sampling import Sampling
from training.knobs import TrainingError
from training.serve.calls import CallReader
from training.serve.config import Limits
from training.serve.run import make_server
from training.serve.tokens import TokenTexts
from training.serve.worker import Failed, Job, Mailbox, Worker
from training.vocabulary import encode_text

# the official client


def test_a_chat_is_what_the_model_says(client, loaded):
    answer = client.chat.completions.create(model="mill", messages=user("the old mill"), max_tokens=12, temperature=0)
    choice = answer.choices[0]
    assert choice.message.content == alone(loaded, "the old mill", 12) and choice.finish_reason == "length"
    assert choice.message.role == "assistant" and answer.object == "chat.completion" and answer.model == "mill"
    prompt = loaded[2].encode(user("the old mill"), prompt=True).ids
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (len(prompt), 12)
    seeded = client.chat.completions.create(model="mill", messages=user("a"), max_completion_tokens=9, seed=5)
    assert seeded.choices[0].message.content == alone(loaded, "a", 9, seed=5)


def test_a_stream_is_the_same_text_in_pieces(client, loaded):
    pieces = list(
        client.chat.completions.create(
            model="mill",
            messages=user("the old mill"),
            max_tokens=40,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(one.choices[0].delta.content or "" for one in pieces if one.choices)
    assert text == alone(loaded, "the old mill", 40) and len(pieces) > 20
    assert pieces[0].choices[0].delta.role == "assistant"
    assert [one.choices[0].finish_reason for one in pieces[:-1]][-1] == "length"
    assert pieces[-1].usage.completion_tokens == 40 and not pieces[-1].choices
    assert all(one.usage is None for one in pieces[:-1])


def test_samples_stops_and_logprobs(client, loaded):
    request = {"model": "mill", "messages": user("the"), "max_tokens": 16}
    several = client.chat.completions.create(**request, n=3, seed=1)
    texts = [one.message.content for one in several.choices]
    assert texts == [alone(loaded, "the", 16, seed=1 + i) for i in range(3)] and len(set(texts)) == 3
    assert [one.index for one in several.choices] == [0, 1, 2]
    whole = alone(loaded, "the", 16)
    stop = whole[5:7]
    cut = client.chat.completions.create(**request, temperature=0, stop=stop).choices[0]
    assert cut.message.content == whole[: whole.index(stop)] and cut.finish_reason == "stop"
    found = client.chat.completions.create(**request, temperature=0, logprobs=True, top_logprobs=3).choices[0].logprobs
    assert len(found.content) == 16 and all(len(one.top_logprobs) == 3 for one in found.content)
    assert b"".join(bytes(one.bytes) for one in found.content).decode(errors="replace") == whole
    assert found.content[0].logprob == pytest.approx(found.content[0].top_logprobs[0].logprob, abs=1e-6)
    model, _, form = loaded
    ids = form.encode(user("the"), prompt=True).ids
    wanted = generate_batch(model, [ids], Sampling(temperature=0, max_new_tokens=16), [0])[0].logprobs
    assert [one.logprob for one in found.content] == pytest.approx(wanted, abs=1e-4)
    for knob, value in (("frequency_penalty", 2.0), ("presence_penalty", 2.0)):
        changed = client.chat.completions.create(**{**request, "max_tokens": 60}, temperature=0, **{knob: value})
        assert changed.choices[0].message.content != alone(loaded, "the", 60)
    for extra in ({"top_k": 1}, {"min_p": 1.0}, {"top_p": 1e-6}, {"typical_p": 1e-6, "top_k": 1}):
        sharp = client.chat.completions.create(**request, extra_body=extra)
        assert sharp.choices[0].message.content == whole
    again = client.chat.completions.create(
        **{**request, "max_tokens": 60}, temperature=0, extra_body={"repetition_penalty": 3.0}
    )
    assert again.choices[0].message.content != alone(loaded, "the", 60)


def test_completions(client, loaded):
    model, tokenizer, _ = loaded
    ids = encode_text(tokenizer, "the mill")
    wanted = generate_batch(model, [ids], Sampling(temperature=0, max_new_tokens=16), [0], tokenizer=tokenizer)[0].text
    for prompt in ("the mill", ids, ["the mill"], [ids]):
        answer = client.completions.create(model="mill", prompt=prompt, temperature=0)
        assert answer.choices[0].text == wanted  # of 16 tokens, as at OpenAI
    two = client.completions.create(
        model="mill", prompt=["the mill", "a"], temperature=0, n=2, max_tokens=4, logprobs=2
    )
    assert [one.index for one in two.choices] == [0, 1, 2, 3]
    assert two.choices[0].text == two.choices[1].text != two.choices[2].text
    assert len(two.choices[0].logprobs.tokens) == 4 and len(two.choices[0].logprobs.top_logprobs[0]) <= 2
    pieces = list(client.completions.create(model="mill", prompt="the mill", temperature=0, stream=True))
    assert "".join(one.choices[0].text for one in pieces) == wanted and pieces[-1].choices[0].finish_reason == "length"
    odd = {"model": "mill", "prompt": "粉 🌾", "temperature": 1.5, "seed": 3, "max_tokens": 24, "logprobs": 0}
    whole = client.completions.create(**odd).choices[0].logprobs  # characters of several tokens among them
    parts = [one.choices[0].logprobs for one in client.completions.create(**odd, stream=True)]
    assert [at for part in parts if part for at in part.text_offset] == whole.text_offset


def test_models_and_mistakes_have_openais_shape(client, server):
    assert [one.id for one in client.models.list()] == ["mill"] and client.models.retrieve("mill").id == "mill"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.chat.completions.create(model="other", messages=user("x"))
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")
    with pytest.raises(openai.AuthenticationError, match="API key"):
        openai.OpenAI(base_url=f"{server}/v1", api_key="wrong", max_retries=0).models.list()
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="mill", messages=user("mill " * 3000), max_tokens=5)
    assert caught.value.code == "context_length_exceeded" and caught.value.param == "messages"
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="mill", messages=user("x"), logit_bias={"1": 5})
    assert caught.value.param == "logit_bias"  # not done here, so it is not taken in silence
    assert httpx.get(f"{server}/health").json() == {"status": "ok"}
    for path in ("/v1/models", "/metrics"):
        assert httpx.get(server + path).status_code == 401


# tools


@pytest.fixture(scope="module")
def caller(tmp_path_factory):
    """A server of a model that has learnt to call a tool."""
    folder = tmp_path_factory.mktemp("caller")
    base = write_chat_model(folder / "base", context=512)
    taught = teach(base, folder / "caller", [("add 2 and 3", CALL), ("say hi", "hi there")])
    with within(taught) as address, openai.OpenAI(base_url=f"{address}/v1", api_key=KEY, max_retries=0) as client:
        yield client


def test_calls_of_tools(caller):
    request = {"model": "caller", "messages": user("add 2 and 3"), "temperature": 0, "max_tokens": 90}
    plain = caller.chat.completions.create(**request).choices[0]
    assert plain.message.content == CALL and plain.message.tool_calls is None and plain.finish_reason == "stop"
    # with tool_choice none the model is not told of them, and a call is text
    assert caller.chat.completions.create(**request, tools=TOOLS, tool_choice="none").choices[0].message.content == CALL


def test_calls_are_read_in_pieces():
    text = f"first {CALL} then <tool_call>broken</tool_call> < and {CALL}"
    for size in (1, 2, 3, 7, 1000):
        reader, out, calls = CallReader(), "", []
        pieces = [text[at : at + size] for at in range(0, len(text), size)]
        for number, piece in enumerate(pieces):
            new, found = reader.add(piece, last=number == len(pieces) - 1)
            out += new
            calls += found
        assert out == "first  then <tool_call>broken</tool_call> < and "
        assert [one["function"]["name"] for one in calls] == ["add", "add"] and [one["index"] for one in calls] == [
            0,
            1,
        ]
        assert json.loads(calls[0]["function"]["arguments"]) == {"a": 2, "b": [3]} and calls[0]["id"] != calls[1]["id"]
    for open_ended in ("<tool_call>{", "<tool_", "<tool_call>"):
        assert CallReader().add(open_ended, last=True) == (open_ended, [])
    assert CallReader().add("a <tool_") == ("a ", [])
    for bad in ("[]", '{"name": 3}', '{"name": "x", "arguments": []}', "3", "{" * 99999):
        assert CallReader().add(f"<tool_call>{bad}</tool_call>")[1] == []


# parts


def test_an_engine_that_fails_is_replaced(model_dir, loaded):
    model, tokenizer, _ = loaded
    made = []

    def make() -> Engine:
        engine = Engine(model, [0], tokenizer, max_rows=4, positions=64)
        step = engine.step
        if not made:
            engine.step = lambda: step() if engine.requests < 2 else 1 / 0
        made.append(engine)
        return engine

    async def run() -> None:
        worker = Worker(make, 4, 4)
        worker.start()
        first, second, third = Mailbox(), Mailbox(), Mailbox()
        sampling = Sampling(temperature=0, max_new_tokens=40)
        worker.submit([Job(first, 0, [5, 6], sampling, 2, 0)])
        assert await first.take()
        worker.submit([Job(second, 0, [5, 6], sampling, 1, 0)])
        with pytest.raises(Failed, match="ZeroDivisionError"):
            while True:
                await first.take()
        with pytest.raises(Failed):
            await second.take()
        assert worker.open == 0 and worker.failures == 1 and len(made) == 2
        worker.submit([Job(third, 0, [5, 6], sampling, 1, 0)])
        events = []
        while not events or events[-1][1].finish is None:
            events += await third.take()
        assert len(events) == 40 and worker.open == 0
        await asyncio.to_thread(worker.stop)
        assert not worker.alive

    asyncio.run(asyncio.wait_for(run(), 60))


def test_tokens_have_their_bytes(loaded):
    tokenizer = loaded[1]
    texts = TokenTexts(tokenizer)
    text = "das Korn 粉屋 🌾\n"
    assert b"".join(map(texts.bytes, tokenizer.encode(text).ids)) == text.encode()
    assert texts.text(1) == "<|system|>" and texts.bytes(10**6) == b""


def test_a_model_without_a_template_completes_texts(tmp_path):
    from fastapi.testclient import TestClient

    plain = write_chat_model(tmp_path / "plain", chat=False)
    with TestClient(
        make_server(plain, Limits(rows=2), name="p", dtype="float32", context=32, threads=1).app()
    ) as client:
        refused = client.post("/v1/chat/completions", json={"model": "p", "messages": user("x")})
        assert refused.status_code == 400 and refused.json()["error"]["code"] == "no_chat_template"
        assert client.get("/v1/models").json()["data"][0]["max_model_len"] == 32
        assert client.post("/v1/completions", json={"model": "p", "prompt": "the", "max_tokens": 3}).status_code == 200
        assert client.post("/v1/completions", content=b"{}", headers={"content-type": "text/plain"}).status_code == 415
        assert client.get("/nope").json()["error"]["message"] == "Not Found"
        assert client.get("/v1/completions").status_code == 405
        page = client.get("/")
        assert '"chat": false' in page.text and "default-src 'none'" in page.headers["content-security-policy"]
    named = make_server(plain, Limits(rows=2), template="gristmill", dtype="float32", threads=1)
    assert named.served.chat is not None and named.served.name == "plain"


def test_mistakes_on_the_command_line(tmp_path, capsys):
    assert cli.main(["serve", str(tmp_path)]) == 2
    assert "config.json" in capsys.readouterr().err
    for arguments in (["--max-rows", "0"], ["--max-time", "0"], ["--max-queue", "-1"], ["--port", "99999"]):
        with pytest.raises(SystemExit):
            cli.main(["serve", str(tmp_path), *arguments])
    with pytest.raises(TrainingError, match="no chat template is called"):
        make_server(write_chat_model(tmp_path / "m"), Limits(rows=1), template="nope")


def test_a_port_in_use(model_dir, caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert cli.main(["serve", str(model_dir), "--port", str(taken.getsockname()[1]), "--max-rows", "1"]) == 1
