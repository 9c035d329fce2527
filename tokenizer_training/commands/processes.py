"""Units of work in processes, for the commands that run without a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context

from tokenizer_training.config import TokenizerError


@contextmanager
def processes(workers: int, advice: str) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes of one thread each. Where something fails what waits is not begun any more.

    Raises `TokenizerError` with `advice` if a process was killed.
    """
    with ProcessPoolExecutor(workers, get_context("spawn"), _single_threaded) as pool:
        try:
            yield pool
        except BrokenProcessPool:
            raise TokenizerError(f"a worker was killed, mostly for want of memory: {advice}") from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _single_threaded() -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # processes already use every core
