"""Ways to keep the documents of a row apart, and grouped heads: CPU time of attention, forward and backward, one thread.

    python -m benchmarks.training.attention [--repeats 9]

Prints a Markdown table: medians in milliseconds of runs that take turns.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from training.attention import Sight, attend, document_lengths, document_segments, row_mask

SHAPES = ((2, 4, 2, 512, 32), (12, 6, 6, 256, 64), (2, 12, 4, 1024, 64))  # rows, heads, kv heads, length, head width
DOCUMENTS = (1, 2, 8, 32)  # of equal length in a row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(1)
    print("| dtype | rows, heads, kv heads, length, head width | documents a row | causal | mask | mask, heads repeated |"
          " one by one |\n|---|---|---|---|---|---|---|")  # fmt: skip
    for dtype in (torch.float32, torch.bfloat16):
        for shape in SHAPES:
            for documents in DOCUMENTS:
                times = measure(shape, documents, dtype, repeats)
                print(
                    f"| {str(dtype)[6:]} | {', '.join(map(str, shape))} | {documents} | {' | '.join(times)} |",
                    flush=True,
                )


def measure(shape: tuple[int, ...], documents: int, dtype: torch.dtype, repeats: int) -> list[str]:
    """Median CPU milliseconds of each way, in the order of the table."""
    rows, heads, kv_heads, length, width = shape
    tensors = [torch.randn(rows, h, length, width, dtype=dtype) for h in (heads, kv_heads, kv_heads)]
    segment = document_segments((torch.arange(length) // (length // documents)).expand(rows, length))
    mask = Sight(mask=row_mask(segment, length, None, torch.device("cpu")))

    def repeated(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        key, value = (x.repeat_interleave(heads // kv_heads, dim=1) for x in (key, value))
        return attend(query, key, value, mask)

    ways: list[Callable[[Tensor, Tensor, Tensor], Tensor]] = [
        lambda q, k, v: attend(q, k, v, Sight()),
        lambda q, k, v: attend(q, k, v, mask),
        repeated,
        lambda q, k, v: attend(q, k, v, Sight(lengths=document_lengths(segment))),
    ]
    times: list[list[float]] = [[] for _ in ways]
    for turn in range(repeats + 1):
        for way, found in zip(ways, times, strict=True):
            leaves = [tensor.clone().requires_grad_() for tensor in tensors]
            began = time.process_time()
            y = way(*leaves)
            y.backward(y.detach())
            if turn:
                found.append(1e3 * (time.process_time() - began))
    return [f"{statistics.median(found):.1f}" for found in times]


if __name__ == "__main__":
    main()
