"""Memory that a run frees stays with its process, and goes back to the system when the run ends."""

import json
import os
import subprocess
import sys

import pytest

# The pages that the system had to clear for 64 MiB asked for at first, mostly (the median of 60 more times) and after the run;
# resident MiB given back. Mostly, not always: a neighbour of a few bytes that glibc holds for the thread keeps a freed block from
# growing by the bytes that aligning it takes, so that a new one is taken. Seen for the first five blocks, then they are joined.
PROBE = """
import json, resource, statistics, torch
from pathlib import Path
from tempfile import TemporaryDirectory
from training.begin import begun
from training.config import resolve
def pages():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 << 20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() >> 20
with TemporaryDirectory() as folder, begun(resolve({"device": "cpu", "threads": 1}), Path(folder), ""):
    first = pages()
    again, kept = statistics.median(pages() for _ in range(60)), resident()
pages()
print(json.dumps([first, again, pages(), kept - resident()]))
"""
SET_BY_THE_USER = ("MALLOC_", "GLIBC_TUNABLES")


def probe(**environment: str) -> list[float]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(SET_BY_THE_USER)}
    done = subprocess.run(
        [sys.executable, "-c", PROBE], env={**clean, **environment}, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc's allocator")
def test_what_a_run_frees_is_not_asked_of_the_system_again_until_its_end():
    pages = (64 << 20) // os.sysconf("SC_PAGE_SIZE")
    first, again, after, given_back = probe()
    assert first > 0.9 * pages and again < 0.1 * pages
    assert after > 0.9 * pages and given_back > 50


@pytest.mark.skipif(sys.platform != "linux", reason="of glibc's allocator")
@pytest.mark.parametrize("name", ["MALLOC_ARENA_MAX", "GLIBC_TUNABLES"])
def test_an_allocator_that_the_user_has_set_up_is_left_alone(name):
    value = {"MALLOC_ARENA_MAX": "4", "GLIBC_TUNABLES": "glibc.malloc.arena_max=4"}[name]
    first, again, _, _ = probe(**{name: value})
    assert again > 0.9 * first
