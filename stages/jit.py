"""Loops over bytes and arrays compiled by numba, with a cache that can never be stale.

numba caches compiled code by the file that defines a function, and would keep it when a function that it calls, or a
constant, in another file has changed. So the cache's folder is named after the content of that file and of all files of this
project's packages of kernels (stages, tokenizer_training) that it imports, and they import.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import os
import re
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

F = TypeVar("F", bound=Callable[..., Any])


class Kernel:
    """A function over numbers and arrays that numba compiles when it is first called; `py_func` is the plain one.

    Kernels that it calls are compiled with it. Until then numba is not imported: a command that only reads a config does not wait
    for it.
    """

    def __init__(self, function: Callable[..., Any], **options: bool) -> None:
        self.py_func = function
        self._options = options  # of numba.njit
        self._compiled: Any = None
        functools.update_wrapper(self, function)

    def __call__(self, *arguments: Any) -> Any:
        if self._compiled is None:
            self.compiled()
        return self._compiled(*arguments)

    def compiled(self) -> Any:
        """numba's own object for the function."""
        if self._compiled is None:
            names = self.py_func.__globals__
            for name in self.py_func.__code__.co_names:
                if isinstance(names.get(name), Kernel):
                    names[name] = names[name].compiled()  # numba knows its own objects alone
            self._compiled = _compile(self.py_func, self._options)
        return self._compiled


def kernel(function: F) -> F:
    """A function over numbers and arrays, compiled when it is first called; `py_func` is the plain one.

    Bounds are not checked (`NUMBA_BOUNDSCHECK=1` checks them), floating point is strict, the GIL is held.
    """
    as_typed: Any = Kernel(function)
    return as_typed  # type: ignore[no-any-return]


def bare_kernel(function: F) -> F:
    """A `kernel` that makes no array and counts no references to those it is given: for small ones that others call for every
    few bytes, where the counting takes several times as long as the work. numba refuses one that makes an array.
    """
    as_typed: Any = Kernel(function, _nrt=False)
    return as_typed  # type: ignore[no-any-return]


def inlined_kernel(function: F) -> F:
    """A `bare_kernel` whose code is put into that of each kernel that calls it: for the few that take arrays and are called most,
    as every array is handed over in seven parts.
    """
    as_typed: Any = Kernel(function, _nrt=False, forceinline=True)
    return as_typed  # type: ignore[no-any-return]


def _compile(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    numba: Any = _numba()
    settings: Any = numba.config
    before = settings.CACHE_DIR
    if not os.environ.get("NUMBA_CACHE_DIR"):
        settings.CACHE_DIR = str(_cache_folder(Path(function.__code__.co_filename)))
    try:
        return numba.njit(cache=True, error_model="numpy", **options)(function)
    finally:
        settings.CACHE_DIR = before


_BLAS = "scipy.linalg.cython_blas"


@cache
def _numba() -> Any:
    """numba, which would import every package that says it extends numba (here awkward), and scipy.linalg only to learn that
    it is there: most of the second that the first kernel of a process takes. Kernels need neither; what uses BLAS asks again.
    """
    import numba
    from numba.core import entrypoints

    blocked: dict[str, Any] = sys.modules  # type: ignore[assignment]
    if "numba.np.arraymath" not in blocked and _BLAS not in blocked:
        blocked[_BLAS] = None  # importing it fails at once
        try:
            arraymath: Any = importlib.import_module("numba.np.arraymath")
        finally:
            del blocked[_BLAS]
        arraymath._HAVE_BLAS = find_spec("scipy") is not None
    entrypoints._already_initialized = True
    return numba


_ROOT = Path(__file__).parents[1]
_IMPORTED = re.compile(r"^[ \t]*(?:from|import)[ \t]+((?:stages|tokenizer_training)[\w.]*)", re.MULTILINE)


def sources(file: Path) -> list[Path]:
    """A file and those of the packages of kernels that it imports, directly or not, sorted; of a package that is imported, every file in its folder."""
    found, waiting = {file}, [file]
    while waiting:
        for name in _IMPORTED.findall(waiting.pop().read_text(encoding="utf-8")):
            module = _ROOT.joinpath(*name.split("."))
            for imported in sorted(module.glob("*.py")) or [module.with_suffix(".py")]:
                if imported not in found:
                    found.add(imported)
                    waiting.append(imported)
    return sorted(found)


@cache
def _cache_folder(file: Path) -> Path:
    """Where a file's compiled code is kept: below $XDG_CACHE_HOME (else ~/.cache), or a temporary folder where that cannot be written."""
    digest = hashlib.sha256()
    for source in sources(file):
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
