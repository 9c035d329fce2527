"""Kernels: compiled when they are first called, with those that they call; until then numba is not there."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from stages.jit import Kernel, kernel


@kernel
def twice(value: int) -> int:
    return 2 * value


@kernel
def sum_of_twice(values: np.ndarray) -> int:
    """The sum."""
    total = 0
    for value in values:
        total += twice(value)
    return total


def test_kernels_that_call_kernels() -> None:
    assert sum_of_twice(np.arange(5)) == 20
    assert not isinstance(twice, Kernel), "where it was called from compiled code it is numba's own"
    assert twice(4) == 8
    assert isinstance(sum_of_twice, Kernel) and sum_of_twice.py_func(np.arange(3)) == 6
    assert sum_of_twice.__doc__ == "The sum."


def test_commands_that_compute_nothing_do_not_import_what_is_heavy() -> None:
    code = (
        "import sys\nfrom stages.stage import registry\nregistry()\nfrom pipeline.catalogue import catalogue\ncatalogue()\n"
        "print([name for name in ('numba', 'torch', 'transformers', 'spacy', 'presidio_analyzer', 'ray', 'fasttext') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
