"""A worker process that its parent talks to over a pipe: `python -m pipeline.engine.child READ_FD WRITE_FD MEMORY`.

Pickled tasks come in, pickled results go out, each behind its length. The process may die at any task; the parent notices
by the end of the pipe and the exit code.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

from pipeline.engine.work import Failure, Task, describe, die_with_parent, first_to_go, prepare


def send(stream: IO[bytes], value: Any) -> None:
    """One pickled value behind its length."""
    content = pickle.dumps(value)
    stream.write(struct.pack("<Q", len(content)) + content)
    stream.flush()


def receive(stream: IO[bytes]) -> Any:
    """The next value. Raises `EOFError` at the end of the stream."""
    head = stream.read(8)
    if len(head) < 8:
        raise EOFError
    (size,) = struct.unpack("<Q", head)
    content = stream.read(size)
    if len(content) < size:
        raise EOFError
    return pickle.loads(content)


class Died(Exception):
    """The worker process ended without an answer; `code` is its exit code (negative: a signal)."""

    def __init__(self, code: int) -> None:
        super().__init__(f"worker ended with {code}")
        self.code = code


class Child:
    """A worker process and the two pipes to it."""

    def __init__(self, memory: int | None) -> None:
        task_read, task_write = os.pipe()
        answer_read, answer_write = os.pipe()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in [str(Path.cwd()), *sys.path] if p)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.engine.child", str(task_read), str(answer_write), str(memory or 0)],
            pass_fds=(task_read, answer_write),
            env=environment,
            stdin=subprocess.DEVNULL,
        )
        os.close(task_read)
        os.close(answer_write)
        self.tasks = os.fdopen(task_write, "wb")
        self.answers = os.fdopen(answer_read, "rb")
        self.done = 0

    def call(self, task: Task) -> Any:
        """Run a task in the child: its result, or a `Failure`. Raises `Died`."""
        try:
            send(self.tasks, task)
            self.done += 1
            return receive(self.answers)
        except (EOFError, BrokenPipeError):
            raise Died(self.process.wait()) from None

    def close(self) -> None:
        """End the child."""
        with contextlib.suppress(OSError):
            self.tasks.close()
        self.process.kill()
        self.process.wait()
        self.answers.close()


def main() -> None:
    """Serve tasks until the parent closes the pipe."""
    die_with_parent()
    first_to_go()
    prepare(int(sys.argv[3]) or None)
    tasks, answers = os.fdopen(int(sys.argv[1]), "rb"), os.fdopen(int(sys.argv[2]), "wb")
    while True:
        try:
            task: Task = receive(tasks)
        except EOFError:
            return
        result: Any | Failure
        try:
            result = task.run()
        except BaseException as error:  # the parent decides what it means
            result = describe(error)
        send(answers, result)


if __name__ == "__main__":
    main()
