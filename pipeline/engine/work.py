"""What a worker process does: one task at a time, one thread, its memory watched."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import psutil
import pyarrow as pa

MEMORY_EXIT = 137  # exit code of a worker that took more memory than its unit may
LOOK = 0.05  # seconds between looks at a worker's memory: native code fills gigabytes in a second


class Task(Protocol):
    """A picklable unit of work."""

    def run(self) -> Any:
        """Carry the work out; the result must be picklable."""
        ...

    @property
    def label(self) -> str:
        """How messages call it."""
        ...


@dataclass(frozen=True)
class Call:
    """A function of an importable module with its arguments, as a task."""

    label: str
    function: Callable[..., Any]
    arguments: dict[str, Any]

    def run(self) -> Any:
        """Call it."""
        return self.function(**self.arguments)


@dataclass(frozen=True)
class Failure:
    """An exception on its way back from a worker: what to tell the user, and the trace for the log."""

    kind: str  # class name
    message: str
    trace: str
    user_error: bool  # the user's config, files or disk are at fault, not the code


_watched: dict[str, float] = {"limit": 0.0}


def prepare(memory: int | None) -> None:
    """Once a process: one thread a library, and a watch on memory."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    pa.set_cpu_count(1)
    pa.set_io_thread_count(2)
    spare_pandas()
    if memory and not _watched["limit"]:
        _watched["limit"] = float(memory)
        threading.Thread(target=_watch_memory, daemon=True).start()


class _NoPandas:
    """A finder that finds no pandas."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Raise `ImportError` for pandas; know nothing of any other module."""
        if name == "pandas":
            raise ImportError("pyarrow needs no pandas for its first array")


def spare_pandas() -> None:
    """Have pyarrow make its first array where pandas cannot be found: it would import it, if it is there, for half a second.

    pyarrow looks once a process whether an array's values may be pandas' own. pandas can be imported after that, and pyarrow
    still finds it where it is asked for a data frame.
    """
    if "pandas" not in sys.modules:
        finder: Any = _NoPandas
        sys.meta_path.insert(0, finder)
        try:
            pa.array([0])
        finally:
            sys.meta_path.remove(finder)


def _watch_memory() -> None:
    process = psutil.Process()
    while True:
        if process.memory_info().rss > _watched["limit"]:
            os._exit(MEMORY_EXIT)  # the driver finds the record at fault
        time.sleep(LOOK)


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends, so that no orphan goes on writing (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def first_to_go() -> None:
    """Where the machine's memory ends all the same, have the kernel end this process and not the one that started it (Linux)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def describe(error: BaseException) -> Failure:
    """An exception as plain data."""
    import traceback

    from pipeline.yamlfile import ConfigError
    from stages.stage import StageError
    from tokenizer_training.config import TokenizerError

    user = isinstance(error, StageError | ConfigError | TokenizerError | OSError)
    return Failure(
        type(error).__name__, str(error) or type(error).__name__, "".join(traceback.format_exception(error)), user
    )
