"""Refuse a run that cannot fit into memory before it starts, and say what would make it fit."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from training.config import PretrainConfig
from training.knobs import TrainingError
from training.planning.memory import GIB, Memory, Parallel, Way, estimate
from training.planning.shapes import Shape, count, shape_of

STATE_BYTES = 16  # a parameter: float32 weight, gradient and two moments of AdamW

if TYPE_CHECKING:
    from training.device import Place


def check(
    config: PretrainConfig,
    vocab_size: int,
    sequence_length: int,
    *,
    available: int,
    device: Literal["cpu", "cuda"],
    bytes_per_element: int,
    world: int = 1,
    processes_here: int = 1,
) -> Memory:
    """Memory that a process will need; raises `TrainingError` if that is more than there is.

    available: bytes of the device, or on the CPU of the machine, which `processes_here` processes share.
    bytes_per_element: of activations, 2 for bfloat16, 4 for float32. world: processes of the run.
    """
    shape = shape_of(config, vocab_size, sequence_length)
    parallel = parallel_of(config, shape, device, available)
    way = way_of(config, bytes_per_element=bytes_per_element, device=device, world=world, parallel=parallel)
    need = estimate(shape, way)
    share = available // processes_here
    if need.total > share:
        raise TrainingError(_refusal(config, need, share, way))
    return need


def way_of(
    config: PretrainConfig,
    *,
    bytes_per_element: int,
    device: Literal["cpu", "cuda"],
    world: int,
    parallel: Parallel,
) -> Way:
    """How a config computes in one of `world` processes."""
    mine = -(-config.batch_rows // world)
    rows = min(config.micro_batch_rows, mine)
    return Way(
        rows=rows,
        bytes_per_element=bytes_per_element,
        document_mask=config.document_mask,
        optimizer=config.optimizer,
        recompute=config.recompute,
        recompute_every=config.recompute_every,
        parallel="none" if world == 1 else parallel,
        reshard=config.reshard,
        world=world,
        micro_batches=-(-mine // rows),
        device=device,
    )


def parallel_of(config: PretrainConfig, shape: Shape, device: str, memory: int) -> Parallel:
    """What `parallel: auto` comes to, as training/parallel.py decides it: fsdp2 where half of a GPU is too little."""
    if config.parallel != "auto":
        return config.parallel
    return "fsdp2" if device == "cuda" and STATE_BYTES * count(shape).total > memory / 2 else "ddp"


def check_here(config: PretrainConfig, vocab_size: int, sequence_length: int, here: Place) -> Memory | None:
    """`check` against the device that this process computes on; None if `memory_check` is off.

    On the CPU the processes that torchrun started on this machine share its memory.
    """
    if not config.memory_check:
        return None
    from training.device import memory_of  # torch, which the rest of this file does without

    processes = 1 if here.device.type == "cuda" else int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return check(
        config,
        vocab_size,
        sequence_length,
        available=memory_of(here.device),
        device="cuda" if here.device.type == "cuda" else "cpu",
        bytes_per_element=here.dtype.itemsize,
        world=here.world,
        processes_here=processes,
    )


def cpu_memory() -> int:
    """Bytes that this process may use: the machine's memory or its control group's limit, whichever is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        try:
            total = min(total, int(limit.read_text()))
        except (OSError, ValueError):
            continue  # no such control group, or "max"
    return total


def _refusal(config: PretrainConfig, need: Memory, share: int, way: Way) -> str:
    parts = sorted(need.parts().items(), key=lambda part: -part[1])
    largest = ", ".join(f"{name.replace('_', ' ')} {size / GIB:.1f}" for name, size in parts if size >= 0.05 * GIB)
    advice = []
    if way.rows > 1:
        advice.append(f"a smaller micro_batch_rows (now {config.micro_batch_rows}; the result stays the same)")
    if way.recompute == "none":
        advice.append("recompute: selective or full (slower, the same result)")
    elif way.recompute == "selective" or way.recompute_every > 1:
        advice.append("recompute: full with recompute_every: 1")
    if way.device == "cuda" and way.parallel != "fsdp2":
        advice.append("more processes with parallel: fsdp2, each of which holds a part of the model")
    elif way.parallel == "fsdp2":
        advice.append("more processes")
    if way.optimizer == "adamw":
        advice.append("optimizer: muon, which keeps half the state")
    advice.append("a smaller model or sequence_length")
    advice.append("memory_check: false, if you know better")
    return (
        f"this run needs about {need.total / GIB:.1f} GiB in a process and {way.device} has {share / GIB:.1f} "
        f"({largest}). What helps: {'; '.join(advice)}"
    )
