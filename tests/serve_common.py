"""What tests of the server share: a model, servers in a process and in a thread, and what the model says without one."""

import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import openai
import pytest
import torch
import uvicorn

from tests.chat_model import write_chat_model
from training.chat.format import chat_format
from training.checkpoint import load_model
from training.inference.batch import generate_batch
from training.inference.sampling import Sampling
from training.serve.config import Limits
from training.serve.run import make_server
from training.vocabulary import load_tokenizer

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
