"""Where a run computes: processes, device, dtype, threads, and what must be set for equal numbers each time."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from training.knobs import TrainerConfig, TrainingError
from training.planning.check import cpu_memory

T = TypeVar("T")
# how the libraries below report a process that is gone: they have no class of error for it
_LOST = re.compile(r"gloo|NCCL|Connection (closed|reset|refused)|[Tt]imed out|DistNetworkError|Broken pipe")


@dataclass(frozen=True)
class Place:
    """One process's share of the work. `rank` of `world` processes; `threads` on the CPU."""

    rank: int
    world: int
    device: torch.device
    dtype: torch.dtype
    threads: int
    patient: Any = (
        None  # all processes as a group that waits for a day, for what the first one does alone (writing a large model)
    )

    def describe(self) -> str:
        """One line for the log."""
        name = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else f"cpu, {self.threads} threads"
        return f"{name}, {str(self.dtype).removeprefix('torch.')}, {self.world} process{'es' * (self.world > 1)}"

    def about(self) -> dict[str, Any]:
        """What results depend on beside knobs and data, as a checkpoint keeps it."""
        return {"threads": self.threads, "processes": self.world, "dtype": str(self.dtype).removeprefix("torch.")}

    def warning(self) -> str | None:
        """What the log should say beside that, if anything."""
        if self.dtype != torch.bfloat16 or native_bfloat16(self.device):
            return None
        return "dtype=bfloat16 is emulated here, many times slower than float32: leave dtype at auto unless the rounding is what you want"

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Add a tensor up over all processes, in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def gather(self, value: Any) -> list[Any]:
        """A small picklable value of every process, in the order of their ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def any(self, flag: bool) -> bool:
        """Whether it holds in any process: what all must do at the same step is decided so."""
        return bool(self.sum(torch.tensor(int(flag), device=self.device))) if self.world > 1 else flag

    def alike(self, action: Callable[[], T]) -> T:
        """Let every process act; if it is a mistake for one, all raise that mistake instead of waiting for each other."""
        result: T | None = None
        mistake: TrainingError | None = None
        try:
            result = action()
        except TrainingError as error:
            mistake = error
        for theirs in self.gather(mistake):
            if theirs is not None:
                raise theirs
        return result  # type: ignore[return-value]

    def first(self, action: Callable[[], T]) -> T:
        """What the first process found, however long it took, or its mistake: in all processes."""
        if self.world == 1:
            return action()
        said: list[Any] = [None, None]
        if self.rank == 0:
            try:
                said[0] = action()
            except TrainingError as error:
                said[1] = error
        dist.broadcast_object_list(said, 0, self.patient)
        if said[1] is not None:
            raise said[1]
        result: T = said[0]
        return result

    def wait_for_all(self) -> None:
        """Go on only when every process has come here.

        Before any may leave: gloo's threads must be done with their last sum, since torch 2.13 takes the process group
        apart with Python's lock held, for which such a thread would wait for ever.
        """
        if self.world > 1:
            dist.barrier(self.patient)


def choose_device(wanted: str, local_rank: int = 0) -> torch.device:
    """`auto` is CUDA where there is one. Raises `TrainingError` if CUDA is asked for and missing."""
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    if wanted == "cuda" and not torch.cuda.is_available():
        raise TrainingError("device is cuda, but torch finds none here; use device=cpu or install torch with CUDA")
    return torch.device("cuda", local_rank) if wanted == "cuda" else torch.device("cpu")


@cache
def native_bfloat16(device: torch.device) -> bool:
    """Whether the hardware multiplies bfloat16: CUDA from Ampere on, CPUs with AMX or AVX512-BF16. Others emulate it, at a twentieth
    of float32's speed and less.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    ask = getattr(torch.cpu, "get_capabilities", None)  # newer than the oldest torch we take
    known: dict[str, Any] = ask() if ask else {}
    return bool(known.get("amx_bf16") or known.get("avx512_bf16"))


def memory_of(device: torch.device) -> int:
    """Bytes of a device, or on the CPU those that this process may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return cpu_memory()


def choose_dtype(wanted: str, device: torch.device) -> torch.dtype:
    """`auto` is bfloat16 where it is native."""
    if wanted != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16}[wanted]
    return torch.bfloat16 if native_bfloat16(device) else torch.float32


def available_threads() -> int:
    """CPUs that this process may use: its affinity or its control group's quota, whichever is less."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no control group of version 2, so no quota
    return count


def choose_threads(wanted: int | None) -> int:
    """As many as wanted, else OMP_NUM_THREADS (torchrun sets it), else all; never more than are available."""
    if wanted is None:
        preset = os.environ.get("OMP_NUM_THREADS", "")
        wanted = int(preset) if preset.isdigit() and int(preset) else available_threads()
    return min(wanted, available_threads())


@contextmanager
def place(config: TrainerConfig) -> Iterator[Place]:
    """Take this process's place, alone or among those that torchrun started; leave torch's settings as they were.

    On the CPU equal input at an equal number of threads gives equal bits; deterministic algorithms are asked for there,
    where they cost nothing, and not on CUDA, where they cost speed.
    """
    world, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    device = choose_device(config.device, int(os.environ.get("LOCAL_RANK", "0")))
    if config.batch_rows % world:
        below = config.batch_rows // world * world
        raise TrainingError(
            f"batch_rows={config.batch_rows} cannot be shared evenly by {world} processes: some would get "
            f"{config.batch_rows // world} rows and some {config.batch_rows // world + 1}; take "
            + (f"{below} or " if below else "")
            + f"{below + world}"
        )
    threads = choose_threads(config.threads)
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    deterministic: Any = torch.utils.deterministic
    filled = deterministic.fill_uninitialized_memory
    started = world > 1 and not dist.is_initialized()
    try:
        torch.set_num_threads(threads)
        if device.type == "cpu":
            torch.use_deterministic_algorithms(True)
            deterministic.fill_uninitialized_memory = False  # it would write every new tensor twice
        else:
            if (device.index or 0) >= torch.cuda.device_count():
                raise TrainingError(
                    f"{os.environ.get('LOCAL_WORLD_SIZE', world)} processes were started on this machine, which has "
                    f"{torch.cuda.device_count()} GPUs: start one for each"
                )
            torch.cuda.set_device(device)
        try:
            if started:
                # gloo for what is on the CPU (objects, checkpoints), also where CUDA computes
                dist.init_process_group(
                    "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
                    timeout=timedelta(seconds=config.process_timeout),
                )
            patient = dist.new_group(backend="gloo", timeout=timedelta(days=1)) if world > 1 else None
            yield Place(rank, world, device, choose_dtype(config.dtype, device), threads, patient)
        except (RuntimeError, dist.DistError) as error:
            if world > 1 and (isinstance(error, dist.DistError) or _LOST.search(str(error))):
                raise ConnectionError(
                    f"rank {rank} of {world}: another process of this run has ended or did not answer within "
                    f"process_timeout={config.process_timeout:g} seconds; look at what it said. The same command goes on "
                    f"from the last checkpoint ({' '.join(str(error).split())[:200]})"
                ) from error
            raise
        if started:  # not after an error: another process may still be in the middle of a sum
            dist.destroy_process_group()
    finally:
        torch.set_num_threads(before[0])
        torch.use_deterministic_algorithms(before[1])
        deterministic.fill_uninitialized_memory = filled


def seed_step(seed: int, step: int, rank: int) -> None:
    """Set torch's generators for one step: they depend on the step and the process alone, so that no draw is lost."""
    torch.manual_seed((seed * 0x9E3779B97F4A7C15 + step * 1_000_003 + rank) % 2**63)
