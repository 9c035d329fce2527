"""Python code of unknown making, run behind walls: `Sandbox.run(code) -> Ran`.

A launcher (verify/jail/) is a process of its own with an empty environment. On Linux it enters namespaces that no root is needed
for: users, mounts (a root file system with Python's standard library, read-only, and an empty /tmp of the run's own), processes,
network (none), IPC; drops all capabilities; filters system calls; and limits CPU time, memory, files, threads, output and time.
What it holds and what it does not: docs/verifiers.md.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import queue
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, TypeVar

from training.knobs import TrainingError
from training.verify.jail.values import decoded

ROOT = Path(__file__).parents[2]  # what the launcher imports `training.verify.jail` from, before its walls stand
START_SECONDS = 60.0
SLACK_SECONDS = 10.0  # beyond a run's own limit: then its launcher is given up

T = TypeVar("T")
R = TypeVar("R")


class SandboxError(TrainingError):
    """The walls cannot be built here; the message says what failed and what to do."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Of one run. Seconds and bytes. Output: of each of stdout, stderr and the checks' values."""

    wall: float = 6.0
    cpu: float = 5.0
    memory: int = 512 << 20  # of addresses, Python itself (about 50 MiB of them) included
    disk: int = 16 << 20
    output: int = 64 << 10
    threads: int = 16
    files: int = 64

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise TrainingError(f"sandbox limit {field.name} must be above 0, got {getattr(self, field.name)}")
        if self.memory < 96 << 20:
            raise TrainingError(
                f"sandbox limit memory must be at least {96 << 20} bytes (Python's own), got {self.memory}"
            )
        if self.files < 8:
            raise TrainingError(f"sandbox limit files must be at least 8, got {self.files}")


@dataclasses.dataclass(frozen=True)
class Check:
    """Looked at after the code, in its names: the value of an expression (`eval`), or statements that must not raise (`exec`)."""

    code: str
    kind: Literal["eval", "exec"] = "eval"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Of one check: its value, or why there is none."""

    value: Any = None
    error: str | None = None


@dataclasses.dataclass(frozen=True)
class Ran:
    """What became of a run. `ended`: "ok" (exit code 0), "error" (another), "time", "cpu", "output", "signal".

    checks: an outcome for each. `detail` is one line for a reader.
    """

    ended: str
    stdout: str
    stderr: str
    checks: tuple[Outcome, ...]
    seconds: float
    cpu: float
    detail: str


class Sandbox:
    """A pool of launchers; `run` may be called from several threads. Use it as a context manager, or `close` it.

    workers: launchers at most, each started when first needed (about 0.3 s). allow_unsandboxed: where the walls cannot be built, run
    with limits alone instead of refusing: such code can read and change whatever this user can. `run` raises `SandboxError` then.
    """

    def __init__(self, workers: int = 1, allow_unsandboxed: bool = False) -> None:
        if workers < 1:
            raise TrainingError(f"a sandbox needs at least 1 worker, got {workers}")
        self.workers = workers
        self.allow_unsandboxed = allow_unsandboxed
        self.sandboxed = True  # whether walls stand; known after the first run
        self._owner = os.getpid()
        self._idle: queue.LifoQueue[_Launcher | None] = queue.LifoQueue()
        for _ in range(workers):
            self._idle.put(None)

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End all launchers; a later run starts new ones."""
        if os.getpid() != self._owner:
            return  # a fork's copy: the launchers are the parent's
        found = []
        with contextlib.suppress(queue.Empty):
            while True:
                found.append(self._idle.get_nowait())
        for launcher in found:
            if launcher is not None:
                launcher.stop()
            self._idle.put(None)

    def run(self, code: str, *, stdin: str = "", checks: Sequence[Check] = (), limits: Limits | None = None) -> Ran:
        """Execute `code` as a program, then `checks`. Never raises for what the code does. Raises `SandboxError`."""
        if os.getpid() != self._owner:
            self.__init__(self.workers, self.allow_unsandboxed)  # type: ignore[misc]  # a fork's copy starts its own
        limits = limits or Limits()
        problem = ""
        try:
            f"{code}{''.join(check.code for check in checks)}".encode()
            if len(stdin.encode()) > limits.disk:
                problem = f"more than {limits.disk:,} bytes of input"
        except UnicodeEncodeError:
            problem = "lone surrogates in the code or its input"
        if problem:
            return Ran("error", "", "", tuple(Outcome(error="not run") for _ in checks), 0.0, 0.0, problem)
        request = {
            "code": code,
            "stdin": stdin,
            "checks": [dataclasses.asdict(check) for check in checks],
            "limits": dataclasses.asdict(limits),
        }
        launcher = self._idle.get()
        try:
            launcher = launcher or self._start()
            answer = launcher.ask(request, limits.wall + SLACK_SECONDS)
            if answer is None:
                launcher.stop()
                launcher = None
        except BaseException:
            if launcher is not None:
                launcher.stop()
                launcher = None
            raise
        finally:
            self._idle.put(launcher)
        return _ran(answer, len(checks), limits)

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """`function` of each item, as many at a time as there are workers, results in order."""
        if self.workers == 1:
            return [function(item) for item in items]
        with ThreadPoolExecutor(self.workers) as pool:
            return list(pool.map(function, items))

    def _start(self) -> _Launcher:
        reason = ""
        if self.sandboxed:
            launcher, reason = _Launcher.start(sandboxed=True)
            if launcher is not None:
                return launcher
            if not self.allow_unsandboxed:
                raise SandboxError(
                    f"code cannot be run behind walls here ({reason}): allow user namespaces (docs/verifiers.md), or say "
                    "allow_unsandboxed: true to run it with this user's rights"
                )
            self.sandboxed = False
        launcher, reason = _Launcher.start(sandboxed=False)
        if launcher is None:
            raise SandboxError(f"the launcher of unsandboxed runs does not start: {reason}")
        return launcher


class _Launcher:
    """One launcher process and its pipes."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process

    @staticmethod
    def start(sandboxed: bool) -> tuple[_Launcher | None, str]:
        """A launcher that is ready, or why there is none."""
        program = (
            f"import sys; sys.path.insert(0, {str(ROOT)!r}); from training.verify.jail.launcher import serve; "
            f"serve({os.getpid()}, {sandboxed})"
        )
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={"PYTHONHASHSEED": "0", "LC_ALL": "C.UTF-8", "TZ": "UTC"},
            cwd="/",
            start_new_session=True,  # a Ctrl-C is not for it
        )
        launcher = _Launcher(process)
        said = launcher._receive(START_SECONDS)
        if said and said.get("ready"):
            return launcher, ""
        launcher.stop()
        return None, said["reason"] if said else f"it ended with exit code {process.returncode}"

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any] | None:
        """The answer, or None if the launcher died or was silent for too long."""
        body = json.dumps(request).encode()
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(struct.pack("<Q", len(body)) + body)
            self.process.stdin.flush()
        except OSError:
            return None
        return self._receive(seconds)

    def stop(self) -> None:
        """End it; whatever it started ends with it."""
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        try:
            self.process.wait(0.2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _receive(self, seconds: float) -> dict[str, Any] | None:
        assert self.process.stdout is not None
        descriptor, deadline = self.process.stdout.fileno(), time.monotonic() + seconds
        data = bytearray()
        wanted = 8
        while len(data) < wanted:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([descriptor], [], [], left)[0]:
                return None
            block = os.read(descriptor, wanted - len(data))
            if not block:
                return None
            data += block
            if len(data) == 8 and wanted == 8:
                wanted += struct.unpack("<Q", data)[0]
        return json.loads(data[8:])


def _ran(answer: dict[str, Any] | None, checks: int, limits: Limits) -> Ran:
    """The answer of a launcher as what became of the run. None is a launcher that the run took along."""
    if answer is None:
        lost = tuple(Outcome(error="not reached") for _ in range(checks))
        return Ran("signal", "", "", lost, 0.0, 0.0, "the launcher was lost")
    outcomes = [Outcome(error="not reached") for _ in range(checks)]
    for expected, line in enumerate(answer["results"].split("\n")[:-1][:checks]):
        try:
            found = json.loads(line)
            if found["check"] != expected:
                break
            outcomes[expected] = (
                Outcome(error=str(found["error"])) if "error" in found else Outcome(decoded(found["value"]))
            )
        except (ValueError, KeyError, TypeError, RecursionError):
            outcomes[expected] = Outcome(error="no readable value")
            break
    ended, detail = "ok", "exit code 0"
    last = answer["stderr"].strip().split("\n")[-1][:300]
    if answer["stopped"]:
        ended = answer["stopped"]
        over = {
            "time": f"stopped after {limits.wall:g} s",
            "cpu": f"stopped after {limits.cpu:g} s of CPU time",
            "output": f"stopped after {limits.output:,} bytes of output",
            "abandoned": "stopped, as nobody waited any more",
        }
        detail = over[ended]
    elif answer["signal"] is not None:
        ended, detail = "signal", f"ended by signal {answer['signal']}"
    elif answer["exit"] != 0:
        ended, detail = "error", last or f"exit code {answer['exit']}"
    return Ran(ended, answer["stdout"], answer["stderr"], tuple(outcomes), answer["seconds"], answer["cpu"], detail)


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_shared: dict[tuple[int, bool], Sandbox] = {}
_lock = threading.Lock()


def shared_sandbox(workers: int = 1, allow_unsandboxed: bool = False) -> Sandbox:
    """One sandbox for all of this process that ask for the same kind; its launchers end with the process."""
    with _lock:
        return _shared.setdefault((workers, allow_unsandboxed), Sandbox(workers, allow_unsandboxed))
