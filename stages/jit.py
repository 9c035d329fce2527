"""Loops over bytes and arrays compiled by numba, with a cache that can never be stale.

numba caches compiled code by the file that defines a function, and would keep it when a function that it calls, in
another file, has changed. So the cache's folder is named after the content of every source file of this package.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


def kernel(function: F) -> F:
    """A function over numbers and arrays, compiled when it is first called; `py_func` is the plain one.

    Bounds are not checked (`NUMBA_BOUNDSCHECK=1` checks them), floating point is strict, the GIL is held.
    """
    import numba

    settings: Any = numba.config
    before = settings.CACHE_DIR
    if not os.environ.get("NUMBA_CACHE_DIR"):
        settings.CACHE_DIR = str(_cache_folder())
    try:
        compiled: Any = numba.njit(cache=True, error_model="numpy")(function)
    finally:
        settings.CACHE_DIR = before
    as_typed: F = compiled
    return as_typed


@cache
def _cache_folder() -> Path:
    """Where compiled code is kept: below $XDG_CACHE_HOME (else ~/.cache), or a temporary folder where that cannot be written."""
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(source.read_bytes())
    name = f"kernels-{digest.hexdigest()[:16]}"
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gristmill" / name
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home):
            return home
    except OSError:
        spare = Path(tempfile.gettempdir()) / f"gristmill-{os.getuid()}" / name
        spare.mkdir(parents=True, exist_ok=True)
        return spare
