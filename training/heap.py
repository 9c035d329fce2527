"""Freed memory stays with the process while a run computes on the CPU: the next step asks for as much again."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

# mallopt(3): its parameters, and glibc's first values of them, put back at the end (it no longer raises them by itself then)
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
_DURING = {_TRIM_THRESHOLD: -1, _TOP_PAD: 64 << 20, _MMAP_MAX: 0}  # never trim, grow by 64 MiB, no mapping for itself
_AFTER = {_TRIM_THRESHOLD: 128 << 10, _TOP_PAD: 128 << 10, _MMAP_MAX: 65_536}
_OF_THE_USER = ("MALLOC_", "GLIBC_TUNABLES")


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Keep what is freed inside, and give it back to the system at the end.

    By default glibc maps each large tensor anew and unmaps it when freed, so that the system clears every page again in every
    step (what it costs: docs/training-step.md). Does nothing where the C library is not glibc, or where the environment says
    how it is to allocate (`MALLOC_*`, `GLIBC_TUNABLES`).
    """
    libc = ctypes.CDLL(None)
    if any(name.startswith(_OF_THE_USER) for name in os.environ) or not hasattr(libc, "mallopt"):
        yield
        return
    for parameter, value in _DURING.items():
        libc.mallopt(parameter, value)
    try:
        yield
    finally:
        for parameter, value in _AFTER.items():
            libc.mallopt(parameter, value)
        libc.malloc_trim(0)
