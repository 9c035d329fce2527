"""The bodies of requests, checked: what OpenAI's API knows and this server does, and nothing that would be ignored."""

from __future__ import annotations

import json
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from training.inference.sampling import Sampling
from training.knobs import TrainingError
from training.serve.config import Limits
from training.serve.errors import ApiError

TOP_LOGPROBS = 20
COMPLETION_TOKENS = 16  # of /v1/completions without max_tokens, as at OpenAI


class StreamOptions(BaseModel):
    """Of a stream."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False


class _Request(BaseModel):
    """What both kinds have in common. `user` and `metadata` are notes of the client's, without effect at OpenAI too."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str
    stream: bool = False
    stream_options: StreamOptions | None = None
    n: int = Field(1, ge=1)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stop: str | list[str] | None = None
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    frequency_penalty: float | None = Field(None, ge=-2, le=2)
    presence_penalty: float | None = Field(None, ge=-2, le=2)
    # not OpenAI's, as vLLM has them
    top_k: int | None = Field(None, ge=-1)
    min_p: float | None = Field(None, ge=0, le=1)
    typical_p: float | None = Field(None, gt=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=10)
    user: str | None = None
    metadata: dict[str, str] | None = None

    def sampling(self, tokens: int, seed: int) -> Sampling:
        """The settings of the first sample. Raises `ApiError`."""
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if len(stops) > 16 or sum(map(len, stops)) > 4096:
            raise ApiError(400, "stop: at most 16 texts of 4,096 characters together", param="stop")
        try:
            return Sampling(
                temperature=1.0 if self.temperature is None else self.temperature,
                top_k=self.top_k if self.top_k and self.top_k > 0 else None,
                top_p=self.top_p,
                min_p=self.min_p,
                typical_p=self.typical_p,
                repetition_penalty=1.0 if self.repetition_penalty is None else self.repetition_penalty,
                frequency_penalty=self.frequency_penalty or 0.0,
                presence_penalty=self.presence_penalty or 0.0,
                max_new_tokens=tokens,
                stop=tuple(stops),
                seed=(seed if self.seed is None else self.seed) % 2**63,
            )
        except TrainingError as error:
            raise ApiError(400, str(error)) from None


class CompletionRequest(_Request):
    """`POST /v1/completions`."""

    prompt: str | list[str] | list[int] | list[list[int]]
    max_tokens: int | None = Field(None, ge=1)
    logprobs: int | None = Field(None, ge=0, le=TOP_LOGPROBS)
    echo: Literal[False, None] = None  # these two may be sent, as clients do, with the value that changes nothing
    best_of: int | None = Field(None, ge=1, le=1)

    def prompts(self) -> list[str] | list[list[int]]:
        """Each a text or token ids."""
        given: Any = self.prompt
        if isinstance(given, str) or (given and isinstance(given[0], int)):
            given = [given]
        if not given:
            raise ApiError(400, "prompt: is empty", param="prompt")
        return given


class ChatRequest(_Request):
    """`POST /v1/chat/completions`."""

    messages: list[dict[str, Any]] = Field(min_length=1)
    max_tokens: int | None = Field(None, ge=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=TOP_LOGPROBS)
    tools: list[dict[str, Any]] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    parallel_tool_calls: Literal[True] | None = None
    response_format: dict[str, Any] | None = None


R = TypeVar("R", bound=_Request)


def read(kind: type[R], body: bytes, model: str, limits: Limits) -> R:
    """A request's body. Raises `ApiError`."""
    try:
        values = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        why = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ApiError(400, f"the body is not JSON: {why}") from None
    if not isinstance(values, dict):
        raise ApiError(400, "the body must be a JSON object")
    try:
        request = kind.model_validate(values)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0]) if problem["loc"] else None
        if problem["type"] == "extra_forbidden":
            message = f"{name}: this server does not know this parameter, or does not do what it asks for"
        else:
            message = f"{name}: {problem['msg'].removeprefix('Value error, ')}"
        raise ApiError(400, message[:500], param=name) from None
    if request.model != model:
        raise ApiError(
            404,
            f"the model {request.model[:100]!r} does not exist; this server has {model!r}",
            code="model_not_found",
            param="model",
        )
    if request.n > limits.samples:
        raise ApiError(400, f"n: at most {limits.samples}", param="n")
    if request.stream_options is not None and not request.stream:
        raise ApiError(400, "stream_options: only with stream", param="stream_options")
    return request


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def tokens_of(request: CompletionRequest | ChatRequest, limits: Limits) -> int:
    """New tokens that a sample may have. Raises `ApiError` for more than the server allows."""
    wanted = request.max_tokens
    if isinstance(request, ChatRequest):
        if request.max_completion_tokens is not None and wanted is not None:
            raise ApiError(400, "max_tokens and max_completion_tokens are the same: give one", param="max_tokens")
        wanted = request.max_completion_tokens or wanted or limits.tokens
    elif wanted is None:
        wanted = min(COMPLETION_TOKENS, limits.tokens)
    if wanted > limits.tokens:
        raise ApiError(400, f"max_tokens: this server allows {limits.tokens}, got {wanted}", param="max_tokens")
    return wanted


def messages_of(request: ChatRequest) -> list[dict[str, Any]]:
    """The messages as a chat template takes them: text parts joined, `developer` a system, arguments as objects."""
    out = []
    for number, message in enumerate(request.messages):
        where = f"messages[{number}]"
        role, content = message.get("role"), message.get("content")
        if role not in ("system", "developer", "user", "assistant", "tool"):
            raise ApiError(400, f"{where}.role: expected system, user, assistant or tool", param="messages")
        known = {"role", "content", "name", "tool_calls", "tool_call_id", "refusal"}
        if unknown := sorted(key for key, value in message.items() if key not in known and value is not None):
            raise ApiError(400, f"{where}: unknown key {unknown[0][:100]!r}", param="messages")
        if isinstance(content, list):
            content = "".join(_part(part, where) for part in content)
        if content is not None and not isinstance(content, str):
            raise ApiError(400, f"{where}.content: expected a text", param="messages")
        row: dict[str, Any] = {"role": "system" if role == "developer" else role, "content": content}
        for key in ("name", "tool_call_id"):
            if message.get(key) is not None:
                row[key] = message[key]
        if message.get("tool_calls"):
            row["tool_calls"] = _calls(message["tool_calls"], where)
        if content is None and "tool_calls" not in row:
            raise ApiError(400, f"{where}.content: is missing", param="messages")
        out.append(row)
    return out


def _part(part: Any, where: str) -> str:
    if isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str):
        return part["text"]
    raise ApiError(400, f"{where}.content: only parts of type text are understood", param="messages")


def _calls(calls: Any, where: str) -> list[dict[str, Any]]:
    try:
        out = []
        for call in calls:
            function = call["function"]
            arguments = function["arguments"]
            arguments = json.loads(arguments) if isinstance(arguments, str) and arguments.strip() else arguments or {}
            out.append({"type": "function", "function": {"name": str(function["name"]), "arguments": arguments}})
        return out
    except (KeyError, TypeError, ValueError, RecursionError):
        raise ApiError(
            400, f"{where}.tool_calls: expected functions with name and JSON arguments", param="messages"
        ) from None


def tools_of(request: ChatRequest) -> list[dict[str, Any]] | None:
    """The tools that the template is told of."""
    if request.response_format not in (None, {"type": "text"}):
        raise ApiError(400, "response_format: only text is possible", param="response_format")
    if request.tool_choice is not None and not request.tools:
        raise ApiError(400, "tool_choice: only with tools", param="tool_choice")
    for number, tool in enumerate(request.tools or []):
        function = tool.get("function")
        if (
            tool.get("type") != "function"
            or not isinstance(function, dict)
            or not isinstance(function.get("name"), str)
        ):
            raise ApiError(400, f"tools[{number}]: expected type function with a name", param="tools")
    return None if request.tool_choice == "none" else request.tools or None
