"""Arithmetic of a model by formula, the peak of the machine, and the share of it that a run uses (MFU). Imports no torch early.

FLOPs count a multiplication and an addition as two. Counted are matrix products: forward once, backward twice (Kaplan et al. 2020,
section 2.1); norms, rotations, activations and the optimizer are left out, and so is what recomputation repeats: MFU is of the
model's FLOPs, not of the hardware's (Chowdhery et al. 2022, PaLM, appendix B).
"""

from __future__ import annotations

import re
import time
from functools import cache
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    import torch

    from training.data import Rows


class Dimensions(Protocol):
    """What the arithmetic of a decoder depends on: `model.ModelConfig`, or a shape that is only planned."""

    @property
    def architecture(self) -> str: ...
    @property
    def layers(self) -> int: ...
    @property
    def width(self) -> int: ...
    @property
    def heads(self) -> int: ...
    @property
    def kv_heads(self) -> int: ...
    @property
    def head_width(self) -> int: ...
    @property
    def mlp_width(self) -> int: ...
    @property
    def experts(self) -> int: ...
    @property
    def experts_per_token(self) -> int: ...
    @property
    def embedding_rows(self) -> int: ...


SAMPLED_ROWS = 1024  # of which the mean number of visible keys is measured


def matrix_parameters(config: Dimensions) -> int:
    """Weights that a token is multiplied with: in its layers, and the output projection, tied or not; no embeddings, biases, norms.

    Of experts only those that a token goes through, and the router. GPT-2's MLP has two matrices, the gated ones three.
    """
    queries, keys = config.heads * config.head_width, config.kv_heads * config.head_width
    attention = config.width * (queries + 2 * keys) + queries * config.width
    mlp = (2 if config.architecture == "gpt2" else 3) * config.width * config.mlp_width
    if config.experts:
        mlp = config.experts_per_token * mlp + config.width * config.experts
    return config.layers * (attention + mlp) + config.width * config.embedding_rows


def flops_per_token(config: Dimensions, keys: float) -> float:
    """FLOPs of training on one token, forward and backward, when a query sees `keys` keys on average.

    6 for each weight in a matrix product, and for each layer 12 x heads x head width x keys (the products with keys and with
    values). `keys` is the row's length by the convention of PaLM, nanoGPT and torchtitan, which counts keys that the mask hides;
    `visible_keys` is what must be computed.
    """
    return 6 * matrix_parameters(config) + 12 * config.layers * config.heads * config.head_width * keys


def visible_keys(documents: np.ndarray, document_mask: bool, window: int | None = None) -> int:
    """Pairs (query, key) that a causal model computes in rows of document numbers int `[B, L]` (-1: padding, counted as nothing).

    A query sees itself and what stands before it: in its row, or with `document_mask` in its document; at most `window` keys.
    """
    padded = documents < 0
    index = np.broadcast_to(np.arange(documents.shape[1]), documents.shape)
    if document_mask:
        starts = np.ones(documents.shape, bool)
        starts[:, 1:] = documents[:, 1:] != documents[:, :-1]
        index = index - np.maximum.accumulate(np.where(starts, index, 0), axis=1)
    seen = index + 1 if window is None else np.minimum(index + 1, window)
    return int(seen[~padded].sum())


def mean_visible_keys(split: Rows, document_mask: bool, window: int | None = None) -> float:
    """Mean keys that a token of a split sees, measured on up to `SAMPLED_ROWS` rows, evenly spread."""
    pairs = tokens = 0
    for row in np.unique(np.linspace(0, len(split) - 1, SAMPLED_ROWS).astype(np.int64)).tolist():
        documents = split.row(row)[1][None]
        pairs += visible_keys(documents, document_mask, window)
        tokens += int((documents >= 0).sum())
    return pairs / tokens if tokens else 0.0


def utilisation(tokens_per_second: float, flops_a_token: float, peak: float | None) -> float | None:
    """Model FLOPs utilisation: tokens/s x FLOPs a token / peak FLOP/s of all devices; None where the peak is not known."""
    return tokens_per_second * flops_a_token / peak if peak else None


# Dense peaks (no 2:4 sparsity), in TFLOP/s, of products accumulated in float32: (bfloat16, fp8, TF32, float32). Sources: NVIDIA's data
# sheets of A100, H100 (SXM, PCIe, NVL), H200, HGX B200, L4, L40, L40S, A10, A40, RTX A6000, V100; white papers of the architectures Ada,
# GA102 and RTX Blackwell; AMD's data sheets of MI300X, MI325X and MI250X (half: torch sees each of its two dies). Sparse figures there are
# halved. None: the device has no such units.
PEAKS: dict[str, tuple[float | None, float | None, float | None, float]] = {
    "V100": (None, None, None, 15.7),
    "A100": (312.0, None, 156.0, 19.5),
    "A10": (125.0, None, 62.5, 31.2),
    "A40": (149.7, None, 74.8, 37.4),
    "RTX A6000": (154.8, None, 77.4, 38.7),
    "RTX 3090": (71.0, None, 35.6, 35.6),
    "RTX 4090": (165.2, 330.3, 82.6, 82.6),
    "RTX 5090": (209.5, 419.0, 104.8, 104.8),
    "L4": (121.0, 242.5, 60.0, 30.3),
    "L40": (181.0, 362.0, 90.5, 90.5),
    "L40S": (362.0, 733.0, 183.0, 91.6),
    "H100": (989.5, 1979.0, 494.5, 67.0),
    "H100 PCIe": (756.5, 1513.0, 378.0, 51.0),
    "H100 NVL": (835.5, 1670.5, 417.5, 60.0),
    "GH200": (989.5, 1979.0, 494.5, 67.0),
    "H200": (989.5, 1979.0, 494.5, 67.0),
    "H200 NVL": (835.5, 1670.5, 417.5, 60.0),
    "B200": (2250.0, 4500.0, 1100.0, 75.0),
    "MI250X": (191.5, None, None, 47.9),
    "MI300X": (1307.4, 2614.9, 653.7, 163.4),
    "MI325X": (1307.4, 2614.9, 653.7, 163.4),
}
NOT_WHOLE = {
    "MIG",
    "LAPTOP",
    "MOBILE",
    "MAX",
    "D",
}  # words of names of slices and slower devices, which the table does not know


def device_peak(name: str, dtype: str) -> float | None:
    """Peak FLOP/s of a device by the name that torch gives it ("NVIDIA H100 80GB HBM3"); None where it is not known.

    dtype: bfloat16, fp8, tf32 or float32. Of several entries whose words are all in the name, the longest is taken.
    """
    words = set(re.split(r"[^A-Z0-9]+", name.upper()))
    known = [key for key in PEAKS if words.issuperset(key.upper().split())]
    if not known or words & NOT_WHOLE:
        return None
    peak = PEAKS[max(known, key=len)][("bfloat16", "fp8", "tf32", "float32").index(dtype)]
    return None if peak is None else peak * 1e12


def peak_flops(device: torch.device, dtype: str, threads: int) -> float | None:
    """Peak FLOP/s of one process's device: of the table on CUDA, measured on the CPU."""
    import torch

    if device.type == "cuda":
        return device_peak(torch.cuda.get_device_name(device), dtype)
    return measured_peak(dtype, threads)


SECONDS = 0.5  # that a product may take to be measured


@cache
def measured_peak(dtype: str, threads: int) -> float:
    """FLOP/s of the fastest of a few square matrix products on the CPU, measured once in a process, in a few tenths of a second.

    What the machine can do beside its other work now: it differs from one start to the next.
    """
    small = _products(dtype, 256, times=2)
    # where bfloat16 is emulated, larger ones would be no faster, and take seconds each
    return small if 2 * 1024**3 / small > SECONDS else max(small, _products(dtype, 1024, times=7))


def _products(dtype: str, size: int, times: int) -> float:
    import torch

    generator = torch.Generator().manual_seed(0)  # the run's own random state is not touched
    left, right = (
        torch.randn(size, size, generator=generator).to(torch.bfloat16 if dtype == "bfloat16" else torch.float32)
        for _ in range(2)
    )
    out = torch.empty_like(left)
    took = []
    for _ in range(times):
        began = time.perf_counter()
        torch.mm(left, right, out=out)
        took.append(time.perf_counter() - began)
    return 2 * size**3 / min(took)
