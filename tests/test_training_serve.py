"""The server as its clients see it: the official client, many at once, slow ones, gone ones, broken ones."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
import torch
import uvicorn

from tests.chat_model import teach, write_chat_model
from training import cli
from training.chat.format import chat_format
from training.checkpoint import load_model
from training.inference.batch import generate_batch
from training.inference.engine import Engine
from training.inference.sampling import Sampling
from training.knobs import TrainingError
from training.serve.calls import CallReader
from training.serve.config import Limits
from training.serve.run import make_server
from training.serve.tokens import TokenTexts
from training.serve.worker import Failed, Job, Mailbox, Worker
from training.vocabulary import encode_text, load_tokenizer

ROOT = Path(__file__).parent.parent
KEY = "test-key"
CALL = '<tool_call>{"name": "add", "arguments": {"a": 2, "b": [3]}}</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object", "properties": {}}}}]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory):
    """It never ends by itself, so that streams are as long as they are asked to be."""
    return write_chat_model(tmp_path_factory.mktemp("served") / "mill", context=2048, ends=False)


@contextmanager
def serving(model: Path, *arguments: str):
    """A server of its own process; its address and the process."""
    command = [sys.executable, "-m", "training", "serve", str(model), "--port", "0", "--dtype", "float32"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "GRISTMILL_API_KEY": KEY}
    process = subprocess.Popen(
        [*command, "--threads", "1", *arguments], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "http://" in line, f"the server said {line!r}"
        yield line.split(": ", 1)[1].strip(), process
    finally:
        process.kill()
        process.wait()


@contextmanager
def within(model: Path, **limits):
    """A server in a thread of this process, which is sooner there; its address."""
    app = make_server(model, Limits(**limits), api_key=KEY, dtype="float32", threads=1).app()
    running = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=running.run)
    thread.start()
    try:
        wait_for(lambda: running.started)
        yield f"http://127.0.0.1:{running.servers[0].sockets[0].getsockname()[1]}"
    finally:
        running.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def server(model_dir):
    with within(model_dir, rows=16, queue=100, body=100_000) as address:
        yield address


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server}/v1", api_key=KEY, max_retries=0, timeout=60) as found:
        yield found


@pytest.fixture(scope="module")
def loaded(model_dir):
    return load_model(model_dir, torch.device("cpu"))[0], load_tokenizer(model_dir), chat_format(model_dir)


def alone(loaded, text: str, tokens: int, seed: int | None = None) -> str:
    """What the model answers without a server."""
    model, tokenizer, form = loaded
    ids = form.encode([{"role": "user", "content": text}], prompt=True).ids
    sampling = Sampling(temperature=0 if seed is None else 1.0, max_new_tokens=tokens, seed=seed or 0)
    return generate_batch(model, [ids], sampling, [0, *form.end_ids], tokenizer=tokenizer)[0].text


def user(text: str) -> list:
    return [{"role": "user", "content": text}]


def metric(server: str, name: str) -> float:
    page = httpx.get(f"{server}/metrics", headers={"authorization": f"Bearer {KEY}"}).text
    return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if line.startswith(name))


def wait_for(what, seconds: float = 30.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


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


# many, slow, gone, broken


def streamed(server: str, text: str, tokens: int, **more) -> str:
    body = {"model": "mill", "messages": user(text), "max_tokens": tokens, "temperature": 0, "stream": True, **more}
    found = []
    headers = {"authorization": f"Bearer {KEY}"}
    with httpx.stream("POST", f"{server}/v1/chat/completions", json=body, headers=headers, timeout=120) as response:
        assert response.status_code == 200, response.read()
        for line in response.iter_lines():
            if line.startswith("data: {"):
                piece = json.loads(line[6:])
                assert "error" not in piece, piece
                found += [one["delta"].get("content") or "" for one in piece["choices"]]
        assert line == "" or line == "data: [DONE]"
    return "".join(found)


def test_many_clients_at_once_get_what_each_would_alone(server, loaded):
    prompts = [f"the mill {number}" for number in range(32)]
    with ThreadPoolExecutor(32) as pool:
        texts = list(pool.map(lambda text: streamed(server, text, 30), prompts))
    assert texts == [alone(loaded, text, 30) for text in prompts]
    assert metric(server, "gristmill_running_samples") == 0 == metric(server, "gristmill_waiting_samples")


BODY = {"model": "mill", "messages": user("x"), "max_tokens": 4}


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"null", 400),
        (b"\xff\xfe\x00", 400),
        (b"[" * 50_000, 400),
        (b'{"model": NaN}', 400),
        (b"{}", 400),
        ({**BODY, "model": 3}, 400),
        ({**BODY, "messages": []}, 400),
        ({**BODY, "messages": "x"}, 400),
        ({**BODY, "messages": [3]}, 400),
        ({**BODY, "messages": [{"role": "king", "content": "x"}]}, 400),
        ({**BODY, "messages": [{"role": "user"}]}, 400),
        ({**BODY, "messages": [{"role": "user", "content": 3}]}, 400),
        ({**BODY, "messages": [{"role": "user", "content": "\ud800"}]}, 400),
        ({**BODY, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, 400),
        ({**BODY, "messages": [{"role": "assistant", "tool_calls": [3]}]}, 400),
        ({**BODY, "messages": [{"role": "user", "content": "x", "weight": 2}]}, 400),
        ({**BODY, "max_tokens": 0}, 400),
        ({**BODY, "max_tokens": 10**9}, 400),
        ({**BODY, "max_tokens": "4"}, 400),
        ({**BODY, "max_completion_tokens": 4}, 400),
        ({**BODY, "temperature": -1}, 400),
        ({**BODY, "temperature": 1e400}, 400),
        ({**BODY, "top_p": 0}, 400),
        ({**BODY, "n": 0}, 400),
        ({**BODY, "n": 10**6}, 400),
        ({**BODY, "seed": 10**30}, 400),
        ({**BODY, "stop": [""]}, 400),
        ({**BODY, "stop": ["x"] * 99}, 400),
        ({**BODY, "stop": [3]}, 400),
        ({**BODY, "top_logprobs": 3}, 400),
        ({**BODY, "logprobs": True, "top_logprobs": 99}, 400),
        ({**BODY, "tools": [{}]}, 400),
        ({**BODY, "tool_choice": "auto"}, 400),
        ({**BODY, "tools": TOOLS, "tool_choice": "required"}, 400),
        ({**BODY, "response_format": {"type": "json_object"}}, 400),
        ({**BODY, "stream_options": {"include_usage": True}}, 400),
        ({**BODY, "functions": []}, 400),
        ({**BODY, "messages": user("x" * 200_000)}, 413),
    ],
)
def test_broken_requests_are_refused_in_openais_shape(server, body, status):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    response = httpx.post(f"{server}/v1/chat/completions", content=data, headers=headers)
    error = response.json()["error"]
    assert response.status_code == status and set(error) == {"message", "type", "param", "code"}
    assert error["message"] and "Traceback" not in error["message"]


@pytest.mark.parametrize("prompt", ["", [], [[]], [-1], [10**6], [0, "x"], [1.5], ["x"] * 99, {"a": 1}, None, "\ud800"])
def test_broken_prompts_are_refused(server, prompt):
    body = json.dumps({"model": "mill", "prompt": prompt}).encode()
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    assert httpx.post(f"{server}/v1/completions", content=body, headers=headers).status_code == 400


def test_streams_go_on_beside_broken_requests_and_clients_that_leave(server, loaded):
    """Eight streams run; meanwhile others send rubbish, or leave in the middle. Each of the eight gets its whole text."""
    host, port = server.removeprefix("http://").split(":")
    cancelled = metric(server, "gristmill_cancelled_requests_total")

    def leave(number: int) -> None:
        body = {"model": "mill", "messages": user(f"{number}"), "max_tokens": 1900, "stream": number % 2 == 0}
        data = json.dumps(body).encode()
        with socket.create_connection((host, int(port))) as connection:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
            connection.sendall(head.encode() + data)
            if number % 2 == 0:
                connection.recv(500)
            else:
                time.sleep(0.2)

    def rubbish(number: int) -> None:
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                [b"\x00\xff" * 50, b"GET / HTTP/9.9\r\n\r\n", b"POST /v1/completions HTTP/1.1\r\n"][number % 3]
            )

    prompts = [f"stay {number}" for number in range(8)]
    with ThreadPoolExecutor(24) as pool:
        staying = [pool.submit(streamed, server, text, 150) for text in prompts]
        others = [pool.submit(leave, number) for number in range(6)] + [pool.submit(rubbish, n) for n in range(6)]
        for one in others:
            one.result()
        assert [one.result() for one in staying] == [alone(loaded, text, 150) for text in prompts]
    wait_for(lambda: metric(server, "gristmill_running_samples") == 0)
    assert metric(server, "gristmill_cancelled_requests_total") == cancelled + 6
    assert metric(server, "gristmill_waiting_samples") == 0


def test_overload_is_refused_with_a_time_to_wait_and_hurts_nobody(model_dir, loaded):
    with within(model_dir, rows=2, queue=3, tokens=300) as server:
        headers = {"authorization": f"Bearer {KEY}"}
        body = {"model": "mill", "max_tokens": 100, "temperature": 0}

        def ask(number: int) -> httpx.Response:
            request = {**body, "messages": user(f"mill {number}")}
            return httpx.post(f"{server}/v1/chat/completions", json=request, headers=headers, timeout=120)

        with ThreadPoolExecutor(24) as pool:
            answers = list(pool.map(ask, range(24)))
        good = [number for number, one in enumerate(answers) if one.status_code == 200]
        assert {one.status_code for one in answers} == {200, 429} and len(good) >= 5
        for number in good:
            assert answers[number].json()["choices"][0]["message"]["content"] == alone(loaded, f"mill {number}", 100)
        for one in answers:
            if one.status_code == 429:
                assert 1 <= int(one.headers["retry-after"]) <= 60 and one.json()["error"]["code"] == "queue_full"
        # the official client waits as it is told, and gets its answer
        patient = openai.OpenAI(base_url=f"{server}/v1", api_key=KEY, max_retries=9, timeout=120)
        with ThreadPoolExecutor(9) as pool:
            jobs = [
                pool.submit(patient.chat.completions.create, model="mill", messages=user("mill 1"), max_tokens=99)
                for _ in range(9)
            ]
            assert all(job.result().choices[0].finish_reason == "length" for job in jobs)
        six = {**body, "messages": user("x"), "n": 6}  # more than could ever wait
        assert httpx.post(f"{server}/v1/chat/completions", json=six, headers=headers).status_code == 429


def test_time_limits(model_dir):
    with within(model_dir, time=0.2, stall=0.5) as server:
        headers = {"authorization": f"Bearer {KEY}"}
        body = {"model": "mill", "messages": user("x"), "max_tokens": 2000}
        late = httpx.post(f"{server}/v1/chat/completions", json=body, headers=headers)
        assert late.status_code == 504 and late.json()["error"]["code"] == "timeout"
        stream = httpx.post(f"{server}/v1/chat/completions", json={**body, "stream": True}, headers=headers).text
        events = [json.loads(line[6:]) for line in stream.splitlines() if line.startswith("data: {")]
        assert len(events) > 1 and events[-1]["error"]["code"] == "timeout" and "[DONE]" not in stream
        wait_for(lambda: metric(server, "gristmill_running_samples") == 0)
        host, port = server.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as connection:  # a body that never comes
            head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
            connection.sendall(f"{head}Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{{".encode())
            connection.settimeout(20)
            assert b"408" in connection.recv(200)


def test_a_client_that_does_not_read_is_left(model_dir, loaded):
    """What it is sent does not fit the socket's buffers, and it takes nothing: it is dropped, others are not."""
    with within(model_dir, stall=0.5, rows=20) as server:
        host, port = server.removeprefix("http://").split(":")
        body = {"model": "mill", "messages": user("x"), "max_tokens": 2000, "stream": True, "n": 16}
        data = json.dumps({**body, "logprobs": True, "top_logprobs": 20}).encode()
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((host, int(port)))
            head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
            connection.sendall(head.encode() + data)
            assert streamed(server, "beside", 60) == alone(loaded, "beside", 60)
            wait_for(lambda: metric(server, "gristmill_cancelled_requests_total") == 1, 60)
            wait_for(lambda: metric(server, "gristmill_running_samples") == 0)
        assert metric(server, "gristmill_generated_tokens_total") < 16 * 2000  # its rows were freed before their end


def test_sigterm_finishes_what_runs(model_dir, loaded):
    with serving(model_dir) as (server, process), ThreadPoolExecutor(4) as pool:
        running = [pool.submit(streamed, server, f"last {number}", 300) for number in range(4)]
        wait_for(lambda: metric(server, "gristmill_running_samples") == 4)
        process.send_signal(signal.SIGTERM)
        assert [one.result() for one in running] == [alone(loaded, f"last {number}", 300) for number in range(4)]
        assert process.wait(30) == 143
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{server}/health")


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
    for arguments in (["--max-rows", "0"], ["--max-time", "0"], ["--max-queue", "-1"]):
        with pytest.raises(SystemExit):
            cli.main(["serve", str(tmp_path), *arguments])
    with pytest.raises(TrainingError, match="no chat template is called"):
        make_server(write_chat_model(tmp_path / "m"), Limits(rows=1), template="nope")


def test_a_port_in_use(model_dir, caplog):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert cli.main(["serve", str(model_dir), "--port", str(taken.getsockname()[1]), "--max-rows", "1"]) == 1
