"""Accelerators by the names that `plan` takes: their memory, beside the peaks of training/flops.py, and this machine's CPU."""

from __future__ import annotations

from dataclasses import dataclass

from training.flops import PEAKS

CPU = "cpu"

# name -> key in PEAKS, memory in 10^9 bytes as the makers' data sheets give it
MEMORY: dict[str, tuple[str, int]] = {
    "rtx3090": ("RTX 3090", 24),
    "rtx4090": ("RTX 4090", 24),
    "rtx5090": ("RTX 5090", 32),
    "a10": ("A10", 24),
    "l4": ("L4", 24),
    "l40s": ("L40S", 48),
    "a100-40gb": ("A100", 40),
    "a100": ("A100", 80),
    "h100-pcie": ("H100 PCIe", 80),
    "h100": ("H100", 80),
    "gh200": ("GH200", 96),
    "h200": ("H200", 141),
    "b200": ("B200", 180),
    "mi300x": ("MI300X", 192),
}


@dataclass(frozen=True)
class Gpu:
    """One accelerator: bytes of memory, dense bfloat16 products a second."""

    name: str
    memory: int
    flops: float


def gpu(name: str) -> Gpu:
    """The accelerator of that name. Raises ValueError that lists the names."""
    if name not in MEMORY:
        raise ValueError(f"there is no GPU {name!r} in the table: known are {', '.join(MEMORY)}")
    key, gigabytes = MEMORY[name]
    peak = PEAKS[key][0]
    assert peak is not None  # all of these multiply bfloat16
    return Gpu(name, gigabytes * 10**9, peak * 1e12)
