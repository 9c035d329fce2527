# ruff: noqa: F811  # fixtures by their names
"""The server among many clients, slow ones, gone ones, broken ones: no stream loses a token by another's fault."""

import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import openai
import pytest

from tests.serve_common import (  # noqa: F401
    KEY,
    TOOLS,
    alone,
    loaded,
    metric,
    model_dir,
    server,
    serving,
    streamed,
    user,
    wait_for,
    within,
)


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
                pool.submit(patient.chat.completions.create, **{**body, "messages": user("mill 1"), "max_tokens": 99})
                for _ in range(9)
            ]
            assert all(job.result().choices[0].finish_reason == "length" for job in jobs)
        six = {**body, "messages": user("x"), "n": 6}  # more than could ever wait
        assert httpx.post(f"{server}/v1/chat/completions", json=six, headers=headers).status_code == 400


def test_a_connection_without_a_whole_request_is_closed(model_dir):
    with serving(model_dir, "--max-stall", "1") as (server, _):
        host, port = server.removeprefix("http://").split(":")
        for sent in (b"", b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"):
            with socket.create_connection((host, int(port))) as connection:
                connection.settimeout(20)
                connection.sendall(sent)
                assert connection.recv(200) == b""
        with httpx.Client(base_url=server) as client:  # not one that asks again
            for _ in range(4):
                assert client.get("/health").status_code == 200
                time.sleep(0.5)


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
