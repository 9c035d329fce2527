"""Kernels: compiled when they are first called, with those that they call; until then numba is not there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np

from stages.jit import Kernel, kernel, sources


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


def test_compiled_code_is_kept_under_what_it_depends_on(tmp_path: Path) -> None:
    stages = Path(__file__).parents[1] / "stages"
    found = [path.relative_to(stages).as_posix() for path in sources(stages / "extract" / "render.py")]
    assert {"extract/render.py", "extract/blocks.py", "extract/tags.py", "jit.py"} <= set(found), "constants, callees"
    assert not [name for name in found if name.startswith(("pii/", "quality/", "dedup/"))]
    (tmp_path / "a.py").write_text("if True:\n    from stages.quality import marks\nimport stages.words as w\n")
    found = [path.name for path in sources(tmp_path / "a.py")]
    assert {"a.py", "marks.py", "gopher.py", "words.py", "characters.py"} <= set(found), "of a package all files"


def test_commands_that_compute_nothing_do_not_import_what_is_heavy() -> None:
    code = (
        "import sys\nfrom stages.stage import registry\nregistry()\nfrom pipeline.catalogue import catalogue\ncatalogue()\n"
        "print([name for name in ('numba', 'torch', 'transformers', 'spacy', 'presidio_analyzer', 'ray', 'fasttext') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
