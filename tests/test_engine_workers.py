"""Workers are replaced after as much input as the config says, whatever the size of a unit."""

import os
import subprocess
import sys

import pytest

from pipeline.engine.config import EngineConfig
from pipeline.engine.executors import make_executor
from pipeline.engine.work import Call
from tests.support import ROOT

TWO_UNITS = EngineConfig(shard_bytes=1 << 10, recycle_bytes=2 << 10, workers=1)


def workers_of(engine: EngineConfig, units: int) -> list[int]:
    """The process of each of so many units."""
    executor = make_executor(engine, debug=False)
    found = []
    try:
        for number in range(units):
            executor.submit(Call(str(number), os.getpid, {}))
            answers = []
            while not answers:
                answers = executor.wait(10)
            found += [answer.result for answer in answers]
    finally:
        executor.close()
    return found


def test_inline() -> None:
    pids = workers_of(TWO_UNITS.model_copy(update={"executor": "inline"}), 5)
    assert [pids.index(pid) for pid in pids] == [0, 0, 2, 2, 4]


@pytest.mark.slow
def test_ray() -> None:
    code = "from tests.test_engine_workers import *\nprint(*workers_of(TWO_UNITS, 5))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pids = done.stdout.split()
    assert len(pids) == 5 and max(pids.count(pid) for pid in pids) == 2, pids


@pytest.mark.parametrize(
    ("recycle", "shard", "units"), [(4 << 30, 128 << 20, 32), (4 << 30, 64 << 10, 1 << 16), (1 << 20, 128 << 20, 1)]
)
def test_small_units_do_not_wear_a_worker_out(recycle: int, shard: int, units: int) -> None:
    assert EngineConfig(recycle_bytes=recycle, shard_bytes=shard).units_per_worker == units
