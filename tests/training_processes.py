"""Several processes on this machine as torchrun would start them: gloo, CPU."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

# each job is one call of `pretrain`: {values, out, stop_at}; the group is made once, as Ray Train does
JOBS = """
import json, sys
sys.path[:0] = json.loads(sys.argv[1])
import torch.distributed as dist
from training.config import resolve
from training.pretrain import pretrain
from training.resume import Stopped
dist.init_process_group("gloo")
for job in json.loads(sys.argv[2]):
    calls = []
    stop = lambda: calls.append(1) or len(calls) == job.get("stop_at")
    try:
        pretrain(resolve(job["values"]), job["tokens"], job["tokenizer"], job["out"], log=lambda line: None, stop=stop)
    except Stopped:
        assert job.get("stop_at"), job
    dist.barrier()
"""


def environment(rank: int, world: int, port: int) -> dict[str, str]:
    """What torchrun tells a process."""
    return {
        **os.environ,
        "WORLD_SIZE": str(world),
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "PYTHONPATH": os.pathsep.join(sys.path),
    }


def start_group(command: list[str], world: int = 2, **options) -> list[subprocess.Popen]:
    """The same command as rank 0, 1, ..."""
    port = free_port()
    return [
        subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment(rank, world, port), text=True, **options)
        for rank in range(world)
    ]


def run_jobs(jobs: list[dict], folders: tuple[Path, Path], world: int = 2) -> None:
    """Carry out jobs one after the other in `world` processes."""
    given = [{"tokens": str(folders[0]), "tokenizer": str(folders[1]), **job, "out": str(job["out"])} for job in jobs]
    command = ["-c", JOBS, json.dumps(sys.path), json.dumps(given)]
    finish(start_group(command, world, stderr=subprocess.PIPE), codes=(0,) * world)


def finish(processes: list[subprocess.Popen], codes: tuple[int, ...] = (0, 0), seconds: float = 540) -> list[str]:
    """Wait for all; their stderr. None outlives the test."""
    try:
        said = [process.communicate(timeout=seconds)[1] or "" for process in processes]
        assert tuple(process.returncode for process in processes) == codes, said
        return said
    finally:
        for process in processes:
            process.kill()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
