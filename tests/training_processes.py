"""Several processes on this machine as torchrun would start them: gloo, CPU."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent

# imports what all need, once, and then is one process for each rank: starting Python so often costs more than what is tested
GROUP = """
import ctypes, json, os, signal, sys, traceback
sys.path[:0] = json.loads(sys.argv[1])
import torch.distributed.checkpoint, torch.distributed.fsdp, training.pretrain
world, port, code = int(sys.argv[2]), sys.argv[3], sys.argv[4]
sys.argv[1:] = [sys.argv[1], *sys.argv[5:]]
ranks = []
for rank in range(world):
    if (child := os.fork()) == 0:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # ends with its parent
        names = {"WORLD_SIZE": world, "RANK": rank, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        os.environ.update({name: str(value) for name, value in names.items()})
        failed = 1
        try:
            exec(code, {"__name__": "__main__"})
            failed = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(failed)
    ranks.append(child)
sys.exit(int(any([os.waitpid(child, 0)[1] for child in ranks])))
"""

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
    run_group(JOBS, json.dumps(given), world=world)


def begin_group(code: str, *arguments: str, world: int = 2) -> subprocess.Popen:
    """A process that carries out Python code in `world` ranks; in it sys.argv is [.., sys.path as JSON, *arguments]."""
    command = [sys.executable, "-c", GROUP, json.dumps(sys.path), str(world), str(free_port()), code, *arguments]
    return subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)


def run_group(code: str, *arguments: str, world: int = 2, seconds: float = 540) -> None:
    """Carry out Python code in `world` ranks; all must end well."""
    finish([begin_group(code, *arguments, world=world)], (0,), seconds)


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
