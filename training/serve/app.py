"""The routes of the server. Nothing here computes: the model runs in the worker's thread."""

from __future__ import annotations

import asyncio
import hmac
import logging
import math
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from tokenizers import Tokenizer

from training.chat.format import ChatFormat
from training.inference.sampling import Sampling
from training.knobs import TrainingError
from training.serve.config import Limits
from training.serve.counters import Counters
from training.serve.errors import ApiError
from training.serve.page import page
from training.serve.replies import Reply, event_of
from training.serve.requests import ChatRequest, CompletionRequest, messages_of, read, tokens_of, tools_of
from training.serve.stream import EventStream, unless_gone
from training.serve.tokens import TokenTexts
from training.serve.worker import Failed, Job, Mailbox, Worker
from training.vocabulary import encode_text

log = logging.getLogger("gristmill.serve")


@dataclass(frozen=True)
class Served:
    """The model that a server has."""

    name: str
    tokenizer: Tokenizer
    end: frozenset[int]
    chat: ChatFormat | None  # None: the folder has no chat template
    context: int
    created: int


class Server:
    """What the routes share."""

    def __init__(self, served: Served, worker: Worker, limits: Limits, api_key: str | None) -> None:
        self.served, self.worker, self.limits, self.api_key = served, worker, limits, api_key
        self.counters = Counters()
        self.texts = TokenTexts(served.tokenizer)

    def app(self) -> FastAPI:
        """The ASGI application."""

        @asynccontextmanager
        async def alive(app: FastAPI) -> AsyncIterator[None]:
            self.worker.start()
            yield
            self.worker.stop()

        app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=alive)
        app.add_api_route("/v1/chat/completions", self.chat, methods=["POST"])
        app.add_api_route("/v1/completions", self.completions, methods=["POST"])
        app.add_api_route("/v1/models", self.models)
        app.add_api_route("/v1/models/{name:path}", self.model)
        app.add_api_route("/health", self.health)
        app.add_api_route("/metrics", self.metrics)
        app.add_api_route("/", self.chat_page)
        app.add_exception_handler(ApiError, _refused)
        app.add_exception_handler(HTTPException, _http)
        app.add_exception_handler(Exception, _broken)
        app.add_middleware(Counted, counters=self.counters)
        return app

    # what is read only

    async def health(self) -> Response:
        """Whether the engine's thread is alive."""
        return JSONResponse({"status": "ok"}) if self.worker.alive else JSONResponse({"status": "dead"}, 503)

    async def chat_page(self) -> Response:
        """The page for people."""
        nonce = secrets.token_urlsafe(16)
        policy = f"default-src 'none'; connect-src 'self'; img-src data:; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'"
        text = page(self.served.name, self.served.chat is not None, self.api_key is not None, nonce)
        return HTMLResponse(text, headers={"content-security-policy": f"{policy}; frame-ancestors 'none'"})

    async def models(self, request: Request) -> Response:
        """The one model."""
        self._authorise(request)
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def model(self, request: Request, name: str) -> Response:
        """The same by name."""
        self._authorise(request)
        if name != self.served.name:
            raise ApiError(404, f"the model {name[:100]!r} does not exist", code="model_not_found", param="model")
        return JSONResponse(self._card())

    def _card(self) -> dict[str, Any]:
        served = self.served
        return {
            "id": served.name,
            "object": "model",
            "created": served.created,
            "owned_by": "gristmill",
            "max_model_len": served.context,
        }

    async def metrics(self, request: Request) -> Response:
        """Counters for Prometheus."""
        self._authorise(request)
        worker = self.worker
        running = worker.running
        gauges = {"running_samples": running, "waiting_samples": max(0, worker.open - running)}
        totals = {"generated_tokens": worker.generated, "steps": worker.steps, "engine_failures": worker.failures}
        return PlainTextResponse(self.counters.text(gauges, totals), media_type="text/plain; version=0.0.4")

    # what the model is needed for

    async def completions(self, request: Request) -> Response:
        """`/v1/completions`."""
        body = await self._body(request)
        asked = read(CompletionRequest, body, self.served.name, self.limits)
        prompts = asked.prompts()
        sampling = asked.sampling(tokens_of(asked, self.limits), secrets.randbits(62))
        encoded = await asyncio.to_thread(self._encode, prompts)
        options = {"logprobs": asked.logprobs is not None}
        return await self._answer(request, "completion", encoded, sampling, asked, asked.logprobs or 0, options)

    def _encode(self, prompts: Sequence[str] | Sequence[list[int]]) -> list[list[int]]:
        try:
            return [encode_text(self.served.tokenizer, one) if isinstance(one, str) else one for one in prompts]
        except TrainingError as error:
            raise ApiError(400, str(error), param="prompt") from None

    async def chat(self, request: Request) -> Response:
        """`/v1/chat/completions`."""
        body = await self._body(request)
        asked = read(ChatRequest, body, self.served.name, self.limits)
        form = self.served.chat
        if form is None:
            raise ApiError(400, "this model has no chat template; use /v1/completions", code="no_chat_template")
        if asked.top_logprobs is not None and not asked.logprobs:
            raise ApiError(400, "top_logprobs: only with logprobs", param="top_logprobs")
        tools = tools_of(asked)
        messages = messages_of(asked)
        sampling = asked.sampling(tokens_of(asked, self.limits), secrets.randbits(62))
        try:
            encoded = await asyncio.to_thread(form.encode, messages, prompt=True, tools=tools)
        except (TrainingError, RecursionError) as error:
            raise ApiError(400, str(error), param="messages") from None
        options = {"logprobs": bool(asked.logprobs), "tools": tools is not None}
        return await self._answer(request, "chat", [encoded.ids], sampling, asked, asked.top_logprobs or 0, options)

    async def _answer(
        self,
        request: Request,
        kind: str,
        prompts: list[list[int]],
        sampling: Sampling,
        asked: ChatRequest | CompletionRequest,
        top: int,
        options: dict[str, bool],
    ) -> Response:
        """Queue the samples and reply, whole or as a stream."""
        started = time.monotonic()
        total = len(prompts) * asked.n
        if total > self.limits.samples:
            raise ApiError(400, f"{total} samples in one request: this server allows {self.limits.samples}", param="n")
        if total > self.worker.capacity:
            why = f"{total} samples in one request: this server holds {self.worker.capacity} that run or wait"
            raise ApiError(400, why, param="n")
        for prompt in prompts:
            try:
                self.worker.check(prompt, sampling)
            except TrainingError as error:
                code = "context_length_exceeded" if len(prompt) >= self.served.context else None
                raise ApiError(400, str(error), code=code, param="messages" if kind == "chat" else "prompt") from None
        if not self.worker.room_for(total):
            wait = math.ceil(self.worker.seconds * max(1, self.worker.open) / self.worker.rows)
            raise ApiError(
                429,
                f"{self.worker.open} samples run or wait, the queue is full; try again later",
                kind="rate_limit_error",
                code="queue_full",
                headers={"retry-after": str(min(60, max(1, wait)))},
            )
        mailbox = Mailbox()
        jobs = [
            Job(
                mailbox,
                number * asked.n,
                prompt,
                replace(sampling, seed=sampling.seed + number * asked.n),
                asked.n,
                top,
            )
            for number, prompt in enumerate(prompts)
        ]
        usage = asked.stream_options is not None and asked.stream_options.include_usage
        tokens = sum(map(len, prompts))
        reply = Reply(kind, self.served.name, total, tokens, self.texts, end=self.served.end, usage=usage, **options)
        self.counters.prompt_tokens += tokens
        self.worker.submit(jobs)

        def closed(whole: bool) -> None:
            for job in jobs:
                self.worker.cancel(job)
            if not whole:
                self.counters.cancelled += 1

        if asked.stream:
            stream = EventStream(self._pieces(reply, mailbox, started), self.limits.stall, closed)
            return _Raw(stream)
        whole = False
        try:
            whole, _ = await unless_gone(self._collect(reply, mailbox, started), request.receive)
        finally:
            closed(whole)
        return JSONResponse(reply.whole()) if whole else Response(status_code=499)

    async def _events(self, reply: Reply, mailbox: Mailbox, started: float) -> AsyncIterator[bytes]:
        """Pieces until every sample has ended. Raises `ApiError` when time is up, and when the engine has failed."""
        first = True
        try:
            while not reply.done:
                # around the waiting alone: what is sent between has a limit of its own
                async with asyncio.timeout(started + self.limits.time - time.monotonic()):
                    events = await mailbox.take()
                if first and events:
                    self.counters.first_token.add(time.monotonic() - started)
                    first = False
                yield reply.add(events)
        except TimeoutError:
            raise ApiError(
                504, f"the time limit of {self.limits.time:g} s is over", kind="timeout_error", code="timeout"
            ) from None
        except Failed as failure:
            raise ApiError(500, f"the engine failed: {failure}", kind="server_error") from None

    async def _collect(self, reply: Reply, mailbox: Mailbox, started: float) -> None:
        async for _ in self._events(reply, mailbox, started):
            pass

    async def _pieces(self, reply: Reply, mailbox: Mailbox, started: float) -> AsyncIterator[bytes]:
        """The same for a stream, in which mistakes are events too."""
        try:
            async for piece in self._events(reply, mailbox, started):
                yield piece
        except ApiError as error:
            yield event_of(error.body())
            return
        yield reply.last_pieces()

    # requests

    def _authorise(self, request: Request) -> None:
        if self.api_key is None:
            return
        given = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not hmac.compare_digest(given.encode(), self.api_key.encode()):
            raise ApiError(
                401,
                "the API key is wrong or missing; send it as 'Authorization: Bearer KEY'",
                kind="authentication_error",
                code="invalid_api_key",
                headers={"www-authenticate": "Bearer"},
            )

    async def _body(self, request: Request) -> bytes:
        """The body of an authorised request, within the limits."""
        self._authorise(request)
        if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            # also what keeps other sites' pages in the user's browser from asking without leave
            raise ApiError(415, "send the body with 'Content-Type: application/json'")
        limit = self.limits.body
        body = bytearray()
        try:
            async with asyncio.timeout(self.limits.stall):
                async for part in request.stream():
                    body += part
                    if len(body) > limit:
                        raise ApiError(413, f"the body has more than {limit:,} bytes", headers={"connection": "close"})
        except TimeoutError:
            raise ApiError(408, "the body did not come in time", headers={"connection": "close"}) from None
        except ClientDisconnect:
            raise ApiError(499, "the client has left") from None
        return bytes(body)


class _Raw(Response):
    """Lets an ASGI callable stand for a response."""

    def __init__(self, call: Callable[[Any, Any, Any], Awaitable[None]]) -> None:
        super().__init__()
        self._call = call

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        await self._call(scope, receive, send)


class Counted:
    """Counts requests by path and status, and their times."""

    KNOWN = ("/v1/chat/completions", "/v1/completions", "/v1/models", "/health", "/metrics", "/")

    def __init__(self, app: Any, counters: Counters) -> None:
        self.app, self.counters = app, counters

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass everything on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, started = 500, time.monotonic()

        async def noted(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted)
        finally:
            path = scope["path"] if scope["path"] in self.KNOWN else "other"
            self.counters.requests[path, status] += 1
            if path.endswith("completions"):
                self.counters.whole.add(time.monotonic() - started)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return JSONResponse(error.body(), error.status, headers=error.headers)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse(ApiError(error.status_code, str(error.detail)).body(), error.status_code)


async def _broken(request: Request, error: Exception) -> Response:
    return JSONResponse(ApiError(500, "the server failed at this request", kind="server_error").body(), 500)
