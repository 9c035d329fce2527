"""Tools by name: what a model is told of them, and how its calls are carried out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from training.knobs import TrainingError
from training.tools.calculator import CalculatorError, calculate
from training.tools.calls import Call, CallError
from training.verify.sandbox import Limits, Sandbox, SandboxError, cores, shared_sandbox

KINDS: dict[str, tuple[type, ...]] = {
    "string": (str,), "number": (int, float), "integer": (int,), "boolean": (bool,), "array": (list,), "object": (dict,),
}  # fmt: skip


@dataclass(frozen=True)
class Tool:
    """A function that a model may call.

    parameters: name -> JSON schema, of which `type` is checked and `description` told; `required`: those that must be given.
    function: takes the arguments by name, returns text; what it raises as `CallError` is told to the model. parallel: whether several
    calls may run at a time.
    """

    name: str
    description: str
    parameters: Mapping[str, Mapping[str, Any]]
    required: tuple[str, ...]
    function: Callable[..., str]
    parallel: bool = False

    @property
    def schema(self) -> dict[str, Any]:
        """As chat templates and OpenAI's API take it."""
        inner = {"type": "object", "properties": {name: dict(one) for name, one in self.parameters.items()}, "required": list(self.required)}  # fmt: skip
        return {
            "type": "function",
            "function": {"name": self.name, "description": self.description, "parameters": inner},
        }


@dataclass(frozen=True)
class Response:
    """What a tool answered. failed: the text says why there is no answer."""

    text: str
    failed: bool
    seconds: float


class Toolbox:
    """The tools of a run, by name."""

    def __init__(self, tools: Iterable[Tool]) -> None:
        self.tools: dict[str, Tool] = {}
        for tool in tools:
            if tool.name in self.tools:
                raise TrainingError(f"two tools are called {tool.name!r}")
            self.tools[tool.name] = tool
        if not self.tools:
            raise TrainingError("no tool is given")

    @property
    def schemas(self) -> list[dict[str, Any]]:
        """What to tell a model: `ChatFormat.encode(..., tools=box.schemas)`."""
        return [tool.schema for tool in self.tools.values()]

    def run(self, call: Call, characters: int = 2000) -> Response:
        """Carry out a call. Whatever goes wrong with it is the response; `SandboxError` alone is raised: no call could go better."""
        began = time.monotonic()
        try:
            text, failed = self._run(call), False
        except SandboxError:
            raise
        except CallError as error:
            text, failed = f"error: {error}", True
        except Exception as error:  # a tool's own mistake must not end the run of all others
            text, failed = f"error: {type(error).__name__}: {error}", True
        text = text.encode("utf-8", "replace").decode()  # no lone surrogates
        if len(text) > characters:
            text = text[: characters - 1] + "…"
        return Response(text, failed, time.monotonic() - began)

    def _run(self, call: Call) -> str:
        tool = self.tools.get(call.name)
        if tool is None:
            raise CallError(f"no tool is called {call.name[:40]!r}; there are {', '.join(self.tools)}")
        for name in tool.required:
            if name not in call.arguments:
                raise CallError(f"{tool.name} needs {name}")
        for name, value in call.arguments.items():
            if name not in tool.parameters:
                raise CallError(f"{tool.name} takes {', '.join(tool.parameters) or 'nothing'}, not {name[:40]!r}")
            kind = tool.parameters[name].get("type", "string")
            if not isinstance(value, KINDS[kind]) or (isinstance(value, bool) and kind != "boolean"):
                raise CallError(f"{name} must be a {kind}")
        return tool.function(**call.arguments)


# Tools that come along


def calculator_tool() -> Tool:
    """`calculator(expression)`."""

    def run(expression: str) -> str:
        try:
            return calculate(expression)
        except CalculatorError as error:
            raise CallError(str(error)) from None

    about = {"type": "string", "description": "arithmetic, such as (17 + 4) * 3 or sqrt(2)"}
    return Tool("calculator", "Computes arithmetic exactly.", {"expression": about}, ("expression",), run)


def python_tool(sandbox: Sandbox | None = None, limits: Limits | None = None, allow_unsandboxed: bool = False) -> Tool:
    """`python(code)`: what a program prints, in the sandbox; each call begins anew."""

    def run(code: str) -> str:
        ran = (sandbox or shared_sandbox(cores(), allow_unsandboxed)).run(code, limits=limits)
        if ran.ended != "ok":
            raise CallError(f"{ran.detail}; printed before: {ran.stdout}" if ran.stdout else ran.detail)
        return ran.stdout.rstrip("\n") or "(nothing was printed)"

    about = {"type": "string", "description": "a program of Python's standard library; print what you want to see"}
    return Tool(
        "python", "Runs a Python program and returns what it prints.", {"code": about}, ("code",), run, parallel=True
    )


NAMES = ("calculator", "python", "search")


def toolbox(names: Sequence[str], index: str | None = None, allow_unsandboxed: bool = False) -> Toolbox:
    """A box of tools by name: calculator; python; search, which needs the folder of an index (training/tools/retrieval.py)."""
    found = []
    for name in names:
        if name == "search":
            from training.tools.retrieval import Index, search_tool

            if index is None:
                raise TrainingError(
                    "the tool search needs the folder of an index: python -m training index DOCUMENTS --output FOLDER"
                )
            found.append(search_tool(Index.load(index)))
        elif name == "python":
            found.append(python_tool(allow_unsandboxed=allow_unsandboxed))
        elif name == "calculator":
            found.append(calculator_tool())
        else:
            raise TrainingError(f"no tool is called {name!r}; there are {', '.join(NAMES)}")
    return Toolbox(found)
