"""The launcher: builds the walls once, then forks a fresh run for each request. Started by verify/sandbox.py.

Three processes: the launcher waits for requests and never reads one, so that no run finds another's data in its memory; the
supervisor of a run reads its request, builds what is private to it, watches clock and output, and answers; the run is the
first process of its own process namespace, so that all of it ends with it.

A request or answer is a length (8 bytes, little-endian) and that much JSON. The first answer says whether the walls stand.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import random
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
import traceback
from typing import Any

from training.verify.jail import seccomp, walls
from training.verify.jail.values import encoded

# imported before the walls stand, so that a run has them at once, those with libraries of the system too
MODULES = [
    "abc", "array", "ast", "base64", "binascii", "bisect", "bz2", "calendar", "cmath", "collections", "copy", "csv",
    "ctypes", "dataclasses", "datetime", "decimal", "difflib", "enum", "fractions", "functools", "gzip", "hashlib",
    "heapq", "html", "io", "itertools", "json", "keyword", "locale", "lzma", "math", "numbers", "operator", "os",
    "pprint", "queue", "random", "re", "secrets", "shlex", "sqlite3", "statistics", "string", "struct", "textwrap",
    "threading", "time", "traceback", "types", "typing", "unicodedata", "urllib.parse", "uuid", "warnings",
    "weakref", "zlib",
]  # fmt: skip


RESULTS = 3  # the descriptor that a run writes the values of its checks to
GRACE = 0.05  # seconds between looks at what does not announce itself


def serve(parent: int, sandboxed: bool) -> None:
    """Answer requests on standard input until it ends or the parent does."""
    for name in MODULES:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    try:
        filter_program: Any = seccomp.program(seccomp.machine(), threads=True)
        if sandboxed:
            as_nobody = walls.enter_namespaces()
            if not as_nobody:
                filter_program = seccomp.program(seccomp.machine(), threads=False)
            walls.new_root(seccomp.machine())
            if problem := _probed(filter_program):
                raise OSError(problem)
        elif sys.platform == "linux" and not _probed(filter_program, alone=True):
            as_nobody = False
        else:
            filter_program, as_nobody = None, False
    except Exception as error:
        if sandboxed:
            _send({"ready": False, "reason": f"{type(error).__name__}: {error}"})
            return
        filter_program, as_nobody = None, False
    sys.path[:] = [path for path in sys.path if os.path.isdir(path)]  # noqa: PTH112
    gc.collect()
    gc.freeze()  # the runs share these pages
    _send({"ready": True})
    while True:
        ready, _, _ = select.select([0], [], [], 1.0)
        if os.getppid() != parent:
            return
        if not ready:
            continue
        supervisor = os.fork()
        if supervisor == 0:
            code = 1
            try:
                code = _supervise(sandboxed, as_nobody, filter_program)
            finally:
                os._exit(code)
        _, status = os.waitpid(supervisor, 0)
        if status:
            return  # what it left of the request is unknown, or there was none


def _probed(filter_program: bytes, alone: bool = False) -> str:
    """What of the walls of each run cannot be built, tried in a child; "" if all can. alone: the filter only."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            if not alone:
                walls.private_room(1 << 20)
            seccomp.install(filter_program)
        except BaseException as error:
            os.write(write, str(error).encode()[:500])
        finally:
            os._exit(0)
    os.close(write)
    found = os.read(read, 500).decode("utf-8", "replace")
    os.close(read)
    os.waitpid(child, 0)
    return found


def _supervise(sandboxed: bool, as_nobody: bool, filter_program: bytes | None) -> int:
    """One request to its answer. 0: answered; 1: no whole request."""
    if sandboxed:
        walls.die_with_parent()
    request = _receive()
    if request is None:
        return 1
    limits = request["limits"]
    folder = "/tmp"
    if sandboxed:
        walls.private_room(limits["disk"])
        if as_nobody and os.getuid() == 0:
            walls.give_room_to_nobody()
    else:
        folder = tempfile.mkdtemp(prefix="run-")
    try:
        _send(_watched(request, folder, sandboxed, as_nobody, filter_program))
    finally:
        if not sandboxed:
            shutil.rmtree(folder, ignore_errors=True)
    return 0


def _watched(
    request: dict[str, Any], folder: str, sandboxed: bool, as_nobody: bool, filter_program: bytes | None
) -> dict[str, Any]:
    """Start the run, collect what it writes, end it in time: the answer."""
    limits = request["limits"]
    given = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    given.write(request["stdin"].encode("utf-8", "surrogatepass"))
    given.seek(0)
    pipes = [os.pipe() for _ in range(3)]
    alive = os.pipe()  # its end tells a run that was too early for `die_with_parent` that nobody watches
    began = time.monotonic()
    run = os.fork()
    if run == 0:
        try:
            os.close(alive[1])
            _run(request, folder, [given.fileno(), *(write for _, write in pipes)], alive[0],
                 sandboxed, as_nobody, filter_program)  # fmt: skip
        finally:
            os._exit(125)
    for _, write in pipes:
        os.close(write)
    given.close()
    found = {read: bytearray() for read, _ in pipes}
    poll = select.poll()
    for read in found:
        poll.register(read, select.POLLIN)
    poll.register(0, 0)  # hangs up when whoever asked is gone
    open_pipes = set(found)
    ended: tuple[int, Any] | None = None
    why = ""
    while ended is None or open_pipes:
        left = began + limits["wall"] - time.monotonic()
        if left <= 0 and not why:
            why = "time"
            _end(run, sandboxed)
        if not open_pipes:
            time.sleep(0.0005)  # it is about to end, or has closed what it could write to
        for descriptor, event in poll.poll(1000 * max(0.001, min(GRACE, left)) if open_pipes else 0):
            if descriptor == 0:
                why = why or "abandoned"
                poll.unregister(0)
                _end(run, sandboxed)
                continue
            block = os.read(descriptor, 65536) if event & (select.POLLIN | select.POLLHUP) else b""
            if not block:
                poll.unregister(descriptor)
                open_pipes.discard(descriptor)
                continue
            room = limits["output"] - len(found[descriptor])
            found[descriptor] += block[:room]
            if len(block) > room and not why:
                why = "output"
                _end(run, sandboxed)
        if ended is None:
            pid, status, usage = os.wait4(run, os.WNOHANG)
            if pid:
                ended = status, usage
                if not sandboxed:
                    _end(run, sandboxed)  # its children
        elif left < -1:
            break  # without walls, something else may hold the pipes open
    status, usage = ended or (0, None)
    cpu = usage.ru_utime + usage.ru_stime if usage else 0.0
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    if not why and number in (signal.SIGKILL, signal.SIGXCPU) and cpu > limits["cpu"] - 0.5:
        why = "cpu"
    out, err, results = (bytes(found[read]) for read, _ in pipes)
    return {
        "stopped": why,
        "signal": number,
        "exit": os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        "stdout": out.decode("utf-8", "replace"),
        "stderr": err.decode("utf-8", "replace"),
        "results": results.decode("utf-8", "replace"),
        "seconds": time.monotonic() - began,
        "cpu": cpu,
    }


def _end(run: int, sandboxed: bool) -> None:
    """Kill a run: with walls its first process, and with it all; without, its process group."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(run, signal.SIGKILL)
    if not sandboxed:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(run, signal.SIGKILL)


def _run(
    request: dict[str, Any], folder: str, descriptors: list[int], alive: int,
    sandboxed: bool, as_nobody: bool, filter_program: bytes | None,
) -> None:  # fmt: skip
    """The run itself: give everything up, then execute. Never returns."""
    if not sandboxed:
        os.setsid()
    high = [os.dup2(descriptor, 100 + number) for number, descriptor in enumerate([*descriptors, alive])]
    for number, descriptor in enumerate(high[:-1]):
        os.dup2(descriptor, number)
    os.dup2(high[-1], 4)
    os.closerange(5, 65536 if sandboxed else 4096)
    os.chdir(folder)
    if as_nobody and os.getuid() == 0:
        walls.become_nobody()
    if sandboxed:
        walls.drop_capabilities()
        walls.hide_from_peers()
        walls.die_with_parent()
        if select.select([4], [], [], 0)[0]:
            os._exit(125)
    os.close(4)
    walls.set_limits(request["limits"], bound_processes=sandboxed and as_nobody)
    if filter_program is not None:
        seccomp.install(filter_program)
    sys.stdin, sys.stdout, sys.stderr = (
        open(number, mode, encoding="utf-8", errors="backslashreplace" if number else "replace", closefd=False)  # noqa: SIM115
        for number, mode in ((0, "r"), (1, "w"), (2, "w"))
    )
    sys.argv = ["main"]
    random.seed(0)  # equal code gives equal results
    code = 1
    try:
        _execute(request["code"], request["checks"])
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        if error.code is not None and not isinstance(error.code, int):
            print(error.code, file=sys.stderr)
    except BaseException as error:
        traceback.print_exception(type(error), error, _own_frames(error), limit=-8)
    finally:
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(BaseException):
                stream.flush()
        os._exit(code & 255)


def _own_frames(error: BaseException) -> Any:
    """The frames of the program, without those of this file."""
    frame = error.__traceback__
    while frame is not None and frame.tb_frame.f_code.co_filename == __file__:
        frame = frame.tb_next
    return frame


def _execute(code: str, checks: list[dict[str, str]]) -> None:
    """Execute as a program; then each check in its names: the value of an expression, or whether statements went through.

    Each check's result is a line on `RESULTS` at once, so that those before one that hangs are known.
    """
    names: dict[str, Any] = {"__name__": "__main__", "__builtins__": __builtins__}
    main = type(sys)("__main__")
    main.__dict__.update(names)
    sys.modules["__main__"] = main  # where dataclasses, pickle and their like look names up
    send, write, dumps, kinds = encoded, os.write, json.dumps, (eval, exec)
    exec(compile(code, "main.py", "exec", dont_inherit=True), main.__dict__)
    for number, check in enumerate(checks):
        try:
            compiled = compile(check["code"], f"check {number}", check["kind"], dont_inherit=True)
            value = kinds[check["kind"] == "exec"](compiled, main.__dict__)
            result: dict[str, Any] = {"value": send(value)}
        except BaseException as error:
            result = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
        line = dumps({"check": number, **result}).encode() + b"\n"
        while line:
            line = line[write(RESULTS, line) :]


def _receive() -> dict[str, Any] | None:
    header = _read(8)
    return json.loads(_read(struct.unpack("<Q", header)[0])) if len(header) == 8 else None


def _read(size: int) -> bytes:
    out = bytearray()
    while len(out) < size:
        block = os.read(0, size - len(out))
        if not block:
            break
        out += block
    return bytes(out)


def _send(message: dict[str, Any]) -> None:
    body = json.dumps(message).encode()
    data = struct.pack("<Q", len(body)) + body
    while data:
        data = data[os.write(1, data) :]
