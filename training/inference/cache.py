"""Keys and values of the positions seen so far, in buffers of a fixed size whose rows have lengths of their own.

`model(tokens, cache=cache)` puts the tokens of each row behind what that row holds. Rows of several lengths need no padding
on the left: a query at position p sees the keys up to p of its own row, so what stands behind a row's length is never seen,
and the row's next tokens are written over it.

Virtual tokens (adapters/prompt.py) stand in front of what a row holds, and are not counted in its length.
"""

from __future__ import annotations

import copy
import math

import torch
from torch import Tensor

from training.attention import Sight, sight_of_positions
from training.device import memory_of
from training.knobs import TrainingError
from training.model import ModelConfig
from training.rotary import frequencies, rotary


class KeyValueCache:
    """`keys` and `values` are `[layers, rows, K, positions, D]`; `lengths`, int64 `[rows]` on the CPU, how much is real."""

    def __init__(
        self, config: ModelConfig, rows: int, positions: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        positions += config.virtual_tokens
        shape = (config.layers, rows, config.kv_heads, positions, config.head_width)
        size, room = 2 * math.prod(shape) * dtype.itemsize, memory_of(device)
        if size > room:
            raise TrainingError(
                f"keys and values of {rows:,} rows of {positions:,} tokens take {size / 2**30:,.1f} GiB, {device} has "
                f"{room / 2**30:,.1f}: decode fewer rows side by side, or give a shorter context"
            )
        # zeros, not whatever is there: a masked key still is multiplied by 0, and 0 times infinity is no number
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths = torch.zeros(rows, dtype=torch.int64)
        self.front = torch.zeros(rows, dtype=torch.int64)  # virtual tokens in front of each row
        self.positions = positions
        self.table: Tensor | None = None  # cosines and sines of all positions, [2, positions, D]
        if config.positions == "rotary":
            frequency, factor = frequencies(
                config.head_width,
                config.rope_theta,
                config.rope_scaling,
                config.context_length + config.virtual_tokens,
                device,
            )
            cos, sin = rotary(torch.arange(positions, device=device)[None], frequency, factor, dtype)
            self.table = torch.stack((cos[0, 0], sin[0, 0]))

    def part(self, first: int, last: int) -> KeyValueCache:
        """The rows from `first` to before `last`, as a cache that shares their memory."""
        one = copy.copy(self)
        one.keys, one.values = self.keys[:, first:last], self.values[:, first:last]
        one.lengths, one.front = self.lengths[first:last], self.front[first:last]
        return one

    def copy_row(self, source: int, target: int) -> None:
        """Make row `target` what `source` is."""
        length = int(self.lengths[source] + self.front[source])
        self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]
        self.lengths[target], self.front[target] = self.lengths[source], self.front[source]

    def reorder(self, sources: list[int]) -> None:
        """Make row i what row `sources[i]` was."""
        order = torch.tensor(sources)
        end, place = int((self.lengths + self.front).max()), order.to(self.keys.device)
        for table in (self.keys, self.values):
            table[:, :, :, :end] = table[:, place, :, :end]
        self.lengths.copy_(self.lengths[order])
        self.front.copy_(self.front[order])

    # what the decoder calls

    @property
    def fresh(self) -> bool:
        """Whether the rows are empty. Raises `ValueError` if only some are: virtual tokens come to all rows at once."""
        empty = (self.lengths == 0).tolist()
        if any(empty) and not all(empty):
            raise ValueError("some rows of the cache are empty and some are not")
        return all(empty)

    def begin(self, length: int, window: int | None, virtual: int = 0) -> tuple[Tensor, Sight]:
        """The positions of `length` new tokens in each row, int64 `[B or 1, length]`, and what they see.

        The first `virtual` of them, which come to empty rows alone, stay in front and are not counted in `lengths`.
        """
        before = torch.where(self.lengths == 0, 0, self.lengths + self.front)
        self.front[self.lengths == 0] = virtual
        lengths = before.tolist()
        low, high = min(lengths), max(lengths)
        self.end = high + length
        if self.end > self.positions:
            raise ValueError(f"a cache of {self.positions} positions cannot hold {self.end}")
        # keys that no query sees any more, since they lie before every window
        self.start = 0 if window is None else max(0, low - window + 1)
        new = torch.arange(length)
        self.even = low == high
        at = new[None] + low if self.even else before[:, None] + new
        at = at.to(self.keys.device)
        self.at = at
        return at, sight_of_positions(at, self.start, self.end, low if self.even else None, window)

    def turn(self, at: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines of positions `[B, L]` as `rotary.rotary` gives them: two `[B, 1, L, D]`."""
        assert self.table is not None
        if self.even:
            found = self.table[:, None, None, self.end - at.shape[1] : self.end]
        else:
            found = self.table[:, at][:, :, None]
        return found[0], found[1]

    def extend(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Store `[B, K, L, D]` behind what is there; give back all positions that may be seen."""
        keys, values = self.keys[layer], self.values[layer]
        if self.even:
            span = slice(self.end - key.shape[2], self.end)
            keys[:, :, span], values[:, :, span] = key, value
        else:
            rows = torch.arange(keys.shape[0], device=keys.device)[:, None]
            keys[rows, :, self.at], values[rows, :, self.at] = key.transpose(1, 2), value.transpose(1, 2)
        return keys[:, :, self.start : self.end], values[:, :, self.start : self.end]

    def advance(self, length: int) -> None:
        """Count `length` new positions in each row; whoever padded sets `lengths` back."""
        self.lengths += length
