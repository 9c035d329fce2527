"""One live run a folder."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.knobs import TrainingError

try:
    import fcntl
except ImportError:  # no such locks on this system: two runs in one folder are not noticed there
    fcntl = None  # type: ignore[assignment]


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold a folder for this process; the system lets go when the process ends, however it ends.

    Raises `TrainingError` that names the process which holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise TrainingError(f"{error.filename} is or lies below a file; choose another output folder") from None
    with (folder / ".lock").open("a+", encoding="utf-8") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise TrainingError(
                    f"another run writes to {folder} ({file.read().strip() or 'unknown process'}); wait for it, stop it, "
                    f"or choose another output folder"
                ) from None
            except OSError:
                pass  # a file system without locks
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield
