"""Accelerators by name: memory and the peak of dense bfloat16 matrix products, from the makers' data sheets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One accelerator. `flops`: dense bfloat16 (float16 where there is no bfloat16) products a second, no sparsity."""

    name: str
    memory: int  # bytes, as the maker counts them
    flops: float
    source: str


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("t4", 16 * 10**9, 65e12, "NVIDIA T4 data sheet (float16)"),
        Gpu("v100", 32 * 10**9, 125e12, "NVIDIA V100 SXM2 data sheet (float16)"),
        Gpu("rtx3090", 24 * 10**9, 71e12, "NVIDIA Ampere GA102 whitepaper (float32 accumulation)"),
        Gpu("rtx4090", 24 * 10**9, 165.2e12, "NVIDIA Ada whitepaper (float32 accumulation)"),
        Gpu("l4", 24 * 10**9, 121e12, "NVIDIA L4 data sheet"),
        Gpu("l40s", 48 * 10**9, 362e12, "NVIDIA L40S data sheet"),
        Gpu("a100", 80 * 10**9, 312e12, "NVIDIA A100 SXM 80 GB data sheet"),
        Gpu("a100-40gb", 40 * 10**9, 312e12, "NVIDIA A100 SXM 40 GB data sheet"),
        Gpu("h100", 80 * 10**9, 989.4e12, "NVIDIA H100 SXM5 data sheet"),
        Gpu("h100-pcie", 80 * 10**9, 756e12, "NVIDIA H100 PCIe data sheet"),
        Gpu("h200", 141 * 10**9, 989.4e12, "NVIDIA H200 SXM data sheet"),
        Gpu("b200", 180 * 10**9, 2250e12, "NVIDIA DGX B200 data sheet"),
        Gpu("mi300x", 192 * 10**9, 1307.4e12, "AMD Instinct MI300X data sheet"),
    )
}
